"""Times the same GSPO steps here and in TRL's GRPOTrainer, one after the other, on two cores.

    scripts/bench/gspo                               all three workloads
    scripts/bench/gspo --out                         and write scripts/bench/results/gspo.md
    scripts/bench/gspo --workloads short --trl hf-2  one workload against one mode
    scripts/bench/gspo --scale small --steps 1       a sixteenth of the prompts: does it run?

Both sides start from the same random tiny Keye-VL-1.5 and get the same prompts, response lengths,
reward function, number of optimiser steps and of threads (two). A side's processes stay up and
sleep while the other one works. First TRL is tried in every mode and with several micro-batch
sizes. Then its fastest way and our side, both warmed up by one step, take turns, and medians are
compared. The run fails when the sides didn't sample the same number of tokens or standardised their
advantages differently.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.bench.gspo_bench import report
from scripts.bench.gspo_bench.report import Comparison
from scripts.bench.gspo_bench.search import TrlPool, search
from scripts.bench.gspo_bench.trl_side import MODES, Checkpoints
from scripts.bench.gspo_bench.workloads import WORKLOADS, Workload

if TYPE_CHECKING:
    from scripts.bench.gspo_bench.ours import Ours

RESULT = Path(__file__).resolve().parents[1] / "results" / "gspo.md"


def main() -> None:
    """Run the workloads and print a table for each."""
    started = time.monotonic()
    chosen = parse(sys.argv[1:])
    os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}  # TRL's processes set their own
    from pretrain.run.ray_cluster import ray_session
    from scripts.bench.gspo_bench import ours

    header = {
        "machine": report.machine(),
        "versions": report.versions(),
        "keye-rl": ours.settings(),
        "TRL": report.TRL_SETTINGS,
    }
    print("\n".join(f"{key}: {value}" for key, value in header.items()), flush=True)
    workloads = [WORKLOADS[name].scaled(chosen.scale) for name in chosen.workloads]
    comparisons: list[Comparison] = []
    with tempfile.TemporaryDirectory() as folder, ray_session(cpus=4, object_store_mb=256):
        checkpoints = write_checkpoints(Path(folder))
        pool = TrlPool([MODES[mode] for mode in chosen.trl], checkpoints, Path(folder) / "trl")
        side = None
        try:
            side = ours.Ours(checkpoints.keye)
            pool.ready()
            for workload in workloads:
                comparisons.append(compare(side, pool, workload, chosen.steps))
        finally:
            pool.close()
            if side is not None:
                side.close()
    minutes = (time.monotonic() - started) / 60
    print("\nwhat differs:\n" + "\n".join(f"   {line}" for line in report.DIFFERENCES))
    print(f"\n{minutes:.1f} minutes")
    if chosen.out:
        command = shlex.join(["scripts/bench/gspo", *sys.argv[1:]])
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(report.markdown(command, header, comparisons, minutes))
        print(f"written: {chosen.out}")


def parse(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench/gspo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    parser.add_argument("--trl", nargs="+", default=list(MODES), choices=MODES, metavar="MODE")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each side")
    parser.add_argument("--scale", choices=("full", "small"), default="full")
    parser.add_argument("--out", nargs="?", type=Path, const=RESULT, help=f"default: {RESULT.name}")
    return parser.parse_args(words)


def write_checkpoints(folder: Path) -> Checkpoints:
    """A random tiny Keye-VL-1.5, and its language model as Qwen3 for TRL."""
    from transformers.utils import logging

    from pretrain.data.world import corpus
    from pretrain.keye_vl.create import ModelConfig, create_checkpoint
    from scripts.bench.gspo_bench.trl_models import write_qwen3

    logging.disable_progress_bar()
    keye, qwen3 = folder / "keye", folder / "qwen3"
    create_checkpoint(keye, ModelConfig(), corpus(2000), seed=0)
    write_qwen3(keye, qwen3)
    return Checkpoints(keye, qwen3)


def compare(ours: Ours, pool: TrlPool, workload: Workload, steps: int) -> Comparison:
    """Find TRL's fastest way, then let the sides take turns."""
    print(f"\n== {workload.name}: {report.describe(workload)}", flush=True)
    trials = search(pool, workload)
    trl = pool.side(trials[0].job.mode)
    trl.open(trials[0].job)
    ours.open(workload)
    theirs, mine = [], []
    try:
        for step in range(steps + 1):
            theirs.append(trl.step(step))
            mine.append(ours.step(step, pool.pids))
            note = "" if step else " (not counted)"
            print(
                f"   step {step}: TRL {theirs[-1].wall:.2f} s, keye-rl {mine[-1].wall:.2f} s{note}",
                flush=True,
            )
    finally:
        ours.close_workload()
    comparison = Comparison(workload, trials, theirs[1:], mine[1:])
    report.check(comparison)
    for rows in (report.table(comparison), report.numbers_table(comparison)):
        print(report.console(rows))
    print(f"   {report.verdict(comparison)}", flush=True)
    return comparison


if __name__ == "__main__":
    main()
