"""What does every stage after pre-training change, per task and mode?

From one pre-trained checkpoint SFT → MPO, once; then for each seed cold start → LongCoT → experts
and their merge → GSPO with hints → one round of iterated RL → alignment. The stages and their
numbers are `recipe=full`'s, without the reward model. After each the same held-out prompts are
asked; a change is paired over them, answers averaged over the seeds.

Alignment has held-out prompts of its own, of each of its sources: they are asked before and after.
Whether a stage does what it is for is decided by one measure, `CLAIMS`, written before the
committed results (a run broken off earlier had shown its evaluation after the cold start, on other
tasks).
Run it again after an interruption: what is finished is kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pretrain.run.command import compose
from pretrain.run.console import say
from pretrain.run.directory import RunDir
from pretrain.run.errors import KeyeError
from rl.alignment.measure import columns
from rl.alignment.measure import load as load_alignment
from rl.config import RlConfig
from rl.evaluate import Evaluation, mean_values
from rl.recipes import RUNS, run_recipe
from rl.stages import load_evaluation
from rl.statistics import Estimate, leaf, mean_interval, paired_difference, verdict

RESULTS = Path(__file__).resolve().parent / "results"
SHARED = {"base": "evaluate_base", "SFT": "evaluate_sft", "MPO": "evaluate_mpo"}
BY_SEED = {
    "cold start": "evaluate_cold_start",
    "LongCoT": "evaluate_long_cot",
    "merged": "evaluate_before",
    "RL": "round0/evaluate",
    "iterated": "round1/evaluate",
    "aligned SFT": "evaluate_alignment_sft",
    "aligned": "evaluate_aligned",
}
"""What is measured → the stage that measures it."""
KINDS = ("greedy", "sampled")
ALL = "all tasks"
CLAIMS = {
    "SFT": ("no_think", "greedy"),
    "MPO": ("no_think", "greedy"),
    "cold start": ("think", "greedy"),
    "LongCoT": ("think", "greedy"),
    "merged": ("no_think", "greedy"),
    "RL": ("think", "sampled"),
    "iterated": ("think", "sampled"),
}
"""Stage → mode and measure, over all tasks, that must rise from the stage before."""
ALIGNED_CLAIMS = {
    mode: (f"format/{mode}", f"instructions/{mode}/correct") for mode in ("think", "no_think")
}
"""Mode → figures of alignment's own prompts that must all rise."""
ALIGNMENT = ("alignment_before", "alignment_after")
SOURCES = ("general", "instructions", "formats", "steps")
"""Alignment's sources in `recipe=full` without a reward model."""


def parse(words: Sequence[str] | None = None, about: str = __doc__) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--base", default="runs/quickstart/fuse/checkpoint", help="pre-trained")
    parser.add_argument("--run", default="reproduce_stages", help="folder under runs/")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], help="overrides of recipe=full")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args(words)


def run(
    args: argparse.Namespace, name: str, checkpoint: Path, stages: list[str], *more: str
) -> RunDir:
    """Some stages of `recipe=full` from a checkpoint."""
    folder = f"{args.run}/{name}"
    overrides = [
        "recipe=full",
        f"run={folder}",
        f"checkpoint={checkpoint}",
        f"stages=[{','.join(stages)}]",
        "alignment.preference.weight=0",
        *more,
        *args.set,
    ]
    run_recipe(compose("rl", RlConfig, overrides))
    return RunDir(RUNS / folder)


def run_shared(args: argparse.Namespace) -> RunDir:
    """What all seeds start from: SFT and MPO."""
    stages = ["evaluate_base", "sft", "evaluate_sft", "mpo", "evaluate_mpo"]
    return run(args, "shared", Path(args.base), stages)


def run_seed(
    args: argparse.Namespace,
    shared: RunDir,
    seed: int,
    *more: str,
    folder: str = "",
    last: str = "evaluate_aligned",
) -> RunDir:
    """One seed's stages from the cold start to `last`, with overrides `more`, in a `folder`."""
    full = compose("rl", RlConfig, ["recipe=full"])
    own = full.stages[full.stages.index("cold_start") : full.stages.index(last) + 1]
    return run(
        args,
        folder or f"seed{seed}",
        shared.stage(f"mpo/round{full.mpo.rounds}/train").checkpoint,
        own,
        f"cold_start.seed={100 + seed}",
        f"long_cot.enhance.world_seed={141 + seed}",
        *(f"experts.{name}.seed={200 + 10 * k + seed}" for k, name in enumerate(full.experts)),
        f"iterated.seed={300 + seed}",
        *(f"alignment.{name}.seed={400 + 10 * k + seed}" for k, name in enumerate(SOURCES)),
        f"data.seed={10 + seed}",
        f"gspo.seed={seed}",
        f"learner.seed={seed}",
        *more,
    )


def report(shared: RunDir, seeds: dict[int, RunDir]) -> dict[str, Any]:
    """`{seeds, columns, modes: {mode: {kind: {task: {column: {value, low, high, n, step}}}}},
    alignment}`; `step` is the paired change from the column before."""
    evaluations = {name: [load_evaluation(shared, stage)] for name, stage in SHARED.items()}
    evaluations |= {
        name: [load_evaluation(folder, stage) for folder in seeds.values()]
        for name, stage in BY_SEED.items()
    }
    first = evaluations["base"][0]
    tasks = [ALL, *sorted({record["task_type"] for record in first.records})]
    modes = {
        mode: {
            kind: {task: _row(evaluations, mode, kind, task) for task in tasks} for kind in KINDS
        }
        for mode in first.modes()
    }
    alignment = alignment_changes(list(seeds.values()))
    return {
        "seeds": list(seeds),
        "columns": list(evaluations),
        "relations": relations(modes, alignment),
        "modes": modes,
        "alignment": alignment,
    }


def relations(modes: dict[str, Any], alignment: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """`{relation: {verdict, evidence: {measure: change}}}`."""
    evidence = {
        f"{column} improves on the stage before": {
            f"{mode}, {kind}": modes[mode][kind][ALL][column]["step"]
        }
        for column, (mode, kind) in CLAIMS.items()
    }
    for mode, figures in ALIGNED_CLAIMS.items():
        found = {name: alignment[name]["change"] for name in figures if name in alignment}
        evidence[f"alignment helps in {mode}"] = found
    return {
        name: {"verdict": verdict([Estimate(**own) for own in found.values()]), "evidence": found}
        for name, found in evidence.items()
        if found
    }


def _row(
    evaluations: dict[str, list[Evaluation]], mode: str, kind: str, task: str
) -> dict[str, Any]:
    row: dict[str, Any] = {}
    before: list[float] = []
    chosen = None if task == ALL else task
    for name, own in evaluations.items():
        values = mean_values(own, mode, kind, chosen)
        row[name] = mean_interval(values).to_dict()
        if before:
            row[name]["step"] = paired_difference(before, values).to_dict()
        if len(own) > 1:
            row[name]["by_seed"] = [float(np.mean(e.values(mode, kind, chosen))) for e in own]
        before = values
    return row


def alignment_changes(folders: list[RunDir]) -> dict[str, dict[str, Any]]:
    """`{figure: {before, after, change}}` at temperature 1, over the prompts that all have."""
    sides = [
        [columns(load_alignment(folder.stage(name).path), "sampled") for folder in folders]
        for name in ALIGNMENT
    ]
    found = {}
    everywhere = [own for side in sides for own in side]
    for figure in sorted(set.intersection(*(set(own) for own in everywhere))):
        # A prompt whose rewards failed somewhere is no pair.
        prompts = sorted(set.intersection(*(set(own[figure]) for own in everywhere)))
        if not prompts:
            continue
        values = [
            np.mean([[own[figure][prompt] for prompt in prompts] for own in side], axis=0)
            for side in sides
        ]
        found[figure] = {
            "before": mean_interval(values[0]).to_dict(),
            "after": mean_interval(values[1]).to_dict(),
            "change": paired_difference(values[0].tolist(), values[1].tolist()).to_dict(),
        }
    return found


def markdown(result: dict[str, Any], args: argparse.Namespace) -> str:
    """The committed tables."""
    words = " ".join(map(str, result["seeds"]))
    columns = result["columns"]
    lines = [
        "# What every stage changes",
        "",
        f"Command: `./scripts/reproduce/stages --seeds {words}{set_words(args)}` (tiny model). "
        "Base, SFT and MPO are shared by the seeds, which vary everything from the cold start on. "
        "In brackets the paired change from the column before, over held-out prompts, answers "
        "averaged over the seeds; **bold** where its 95 % interval excludes 0.",
        "",
    ]
    lines += ["| relation | verdict | change |", "|---|---|---|"]
    for name, own in result["relations"].items():
        changes = "; ".join(f"{what} {leaf(cell, True)}" for what, cell in own["evidence"].items())
        lines.append(f"| {name} | **{own['verdict']}** | {changes} |")
    lines.append("")
    for mode, kinds in result["modes"].items():
        for kind, tasks in kinds.items():
            lines += [f"## {mode}, {kind}", "", f"| task | {' | '.join(columns)} |"]
            lines.append("|---" * (len(columns) + 1) + "|")
            for task, row in tasks.items():
                lines.append(f"| {task} | {' | '.join(_cell(row[name]) for name in columns)} |")
            lines.append("")
    lines += ["## Alignment: its own held-out prompts, temperature 1", ""]
    lines += ["| figure | before | after | change |", "|---|---|---|---|"]
    for figure, cell in result["alignment"].items():
        values = [leaf(cell["before"]), leaf(cell["after"]), leaf(cell["change"], sign=True)]
        lines.append(f"| {figure} | {' | '.join(values)} |")
    return "\n".join([*lines, "", "![accuracy after each stage](stages.png)", ""])


def set_words(args: argparse.Namespace) -> str:
    """` --set …` as it was given; empty if it was not."""
    return " ".join(["", "--set", *args.set]) if args.set else ""


def _cell(cell: dict[str, Any]) -> str:
    if "step" not in cell:
        return f"{cell['value']:.3f}"
    step = cell["step"]
    change = f"{step['value']:+.3f}"
    sure = step["low"] > 0 or step["high"] < 0
    return f"{cell['value']:.3f} ({f'**{change}**' if sure else change})"


def draw(result: dict[str, Any], path: Path) -> None:
    """Greedy accuracy after each stage, a line a mode."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for mode, kinds in result["modes"].items():
        cells = [kinds["greedy"][ALL][name] for name in result["columns"]]
        values = np.array([cell["value"] for cell in cells])
        error = np.abs([[cell["low"], cell["high"]] for cell in cells] - values[:, None]).T
        axes.errorbar(range(len(values)), values, error, marker="o", capsize=2, label=mode)
    axes.set_xticks(range(len(result["columns"])), result["columns"], rotation=20)
    axes.set(ylabel="held-out accuracy, greedy", ylim=(0, 1))
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)


def main() -> int:
    args = parse()
    try:
        shared = run_shared(args)
        seeds = {seed: run_seed(args, shared, seed) for seed in args.seeds}
    except KeyeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result = report(shared, seeds)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "stages.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / "stages.md").write_text(markdown(result, args))
    draw(result, args.out / "stages.png")
    say((args.out / "stages.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
