"""Does GSPO help more than fine-tuning on the same policy's correct responses?

From one pre-trained checkpoint, for each seed: a cold start (its own data), then three arms:

* `gspo`: the method;
* `rejection_sampling`: the control with the same information and compute — the same number of
  prompts, responses and optimiser steps at the same learning rate, but maximum likelihood of the
  correct responses (of each group's correct ones, those of the highest reward, so that the format
  counts here too);
* `sft`: more supervised steps on the generator's perfect traces. It knows the right reasoning,
  which the other two don't: a ceiling, not a control.

Everything is measured on held-out digits in think mode, before and after, with paired intervals.
Run it again after an interruption: what is finished is kept.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pretrain.run.command import compose
from pretrain.run.console import say
from pretrain.run.directory import RunDir, StageDir
from pretrain.run.errors import KeyeError
from pretrain.run.metrics import read_rows
from rl.config import RlConfig
from rl.evaluate import Evaluation, mean_values
from rl.recipes import RUNS, run_recipe
from rl.stages import load_evaluation
from rl.statistics import Estimate, leaf, mean_interval, paired_difference

RESULTS = Path(__file__).resolve().parent / "results"
STAGE_OF = {"gspo": "gspo", "rejection_sampling": "gspo", "sft": "cold_start"}
"""Arm → the stage that trains it."""
ARMS = tuple(STAGE_OF)
KINDS = ("greedy", "sampled", "pass_at_8")
MODE = "think"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="runs/quickstart/fuse/checkpoint", help="pre-trained")
    parser.add_argument("--run", default="reproduce_rl", help="folder under runs/")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300, help="GSPO steps")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def start(args: argparse.Namespace, seed: int) -> Path:
    """Cold start of one seed and its evaluation; returns the run's folder."""
    name = f"{args.run}/seed{seed}/start"
    run(
        f"run={name}",
        f"checkpoint={args.base}",
        "stages=[cold_start,evaluate_before]",
        f"cold_start.seed={100 + seed}",
    )
    return RUNS / name


def arm(args: argparse.Namespace, seed: int, name: str, checkpoint: Path) -> RunDir:
    """One arm from the seed's cold start."""
    folder = f"{args.run}/seed{seed}/{name}"
    common = [f"run={folder}", f"checkpoint={checkpoint}"]
    if name == "sft":
        # As many optimiser steps as the other arms make (two a batch of rollouts).
        run(
            *common,
            "stages=[cold_start,evaluate_after]",
            f"cold_start.seed={200 + seed}",
            "cold_start.modes.no_think=0",
            "cold_start.modes.auto_think=0",
            f"cold_start.sft.steps={2 * args.steps}",
        )
    else:
        run(
            *common,
            "stages=[gspo,evaluate_after]",
            f"learner.algorithm={name}",
            f"gspo.steps={args.steps}",
            "gspo.save_every=25",
            f"gspo.seed={seed}",
            f"learner.seed={seed}",
            f"data.seed={10 + seed}",
        )
    return RunDir(RUNS / folder)


def run(*overrides: str) -> None:
    """One recipe in think mode, measured on the digits."""
    chosen = [
        "data.modes.auto_think=0",
        f"evaluation.modes=[{MODE}]",
        "evaluation.tasks={video/order: 0}",
    ]
    run_recipe(compose("rl", RlConfig, ["recipe=quickstart", *chosen, *overrides]))


def over_seeds(before: list[Evaluation], after: list[Evaluation], kind: str) -> Estimate:
    """Paired change: averaged over seeds for each prompt, interval over prompts."""
    return paired_difference(mean_values(before, MODE, kind), mean_values(after, MODE, kind))


def report(args: argparse.Namespace) -> dict[str, Any]:
    """Numbers of all seeds and arms."""
    folders = {seed: RUNS / args.run / f"seed{seed}" for seed in args.seeds}
    before = [load_evaluation(RunDir(f / "start"), "evaluate_before") for f in folders.values()]
    result: dict[str, Any] = {"seeds": args.seeds, "steps": args.steps, "arms": {}}
    afters = {
        name: [load_evaluation(RunDir(f / name), "evaluate_after") for f in folders.values()]
        for name in ARMS
    }
    result["before"] = {
        kind: mean_interval(mean_values(before, MODE, kind)).to_dict() for kind in KINDS
    }
    for name, after in afters.items():
        result["arms"][name] = {
            kind: {
                "after": mean_interval(mean_values(after, MODE, kind)).to_dict(),
                "change": over_seeds(before, after, kind).to_dict(),
                "change_by_seed": [
                    paired_difference(b.values(MODE, kind), a.values(MODE, kind)).value
                    for b, a in zip(before, after, strict=True)
                ],
                "gspo_ahead": over_seeds(after, afters["gspo"], kind).to_dict(),
            }
            for kind in KINDS
        }
        stages = [RunDir(f / name).stage(STAGE_OF[name]) for f in folders.values()]
        result["arms"][name]["seconds"] = [training_seconds(stage) for stage in stages]
    return result


def training_seconds(stage: StageDir) -> float:
    """What an unbroken training takes: the median step times the steps, where steps are timed."""
    steps = [row["time/step"] for row in read_rows(stage.metrics_file) if "time/step" in row]
    return float(np.median(steps)) * len(steps) if steps else stage.summary()["seconds"]


def markdown(result: dict[str, Any], args: argparse.Namespace) -> str:
    """The committed table."""
    seeds = ", ".join(map(str, result["seeds"]))
    lines = [
        "# GSPO and its controls",
        "",
        f"Command: `./scripts/reproduce/rl --seeds {' '.join(map(str, args.seeds))} "
        f"--steps {args.steps}` (tiny model, think mode, held-out digits).",
        "",
        f"Seeds {seeds} vary everything from the cold start on; {result['steps']} steps of 64 "
        "prompts × 8 responses, two optimiser steps each. Intervals: 95 %, over "
        f"{result['before']['greedy']['n']} held-out prompts, averaged over the seeds, paired.",
        "",
        "| arm | measure | before | after | change | change by seed | GSPO ahead by | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, arm_result in result["arms"].items():
        for kind in KINDS:
            cell = arm_result[kind]
            by_seed = " ".join(f"{value:+.3f}" for value in cell["change_by_seed"])
            ahead = "" if name == "gspo" else leaf(cell["gspo_ahead"], sign=True)
            seconds = f"{np.mean(arm_result['seconds']):.0f}"
            lines.append(
                f"| {name} | {kind} | {result['before'][kind]['value']:.3f} "
                f"| {leaf(cell['after'])} | {leaf(cell['change'], sign=True)} | {by_seed} "
                f"| {ahead} | {seconds} |"
            )
    lines += ["", "![rollout accuracy over steps](rl.png)", ""]
    return "\n".join(lines)


def draw(args: argparse.Namespace, out: Path) -> None:
    """Rollout accuracy over steps, mean of the seeds and each of them."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, colour in (("gspo", "#2166ac"), ("rejection_sampling", "#d6604d")):
        curves = []
        for seed in args.seeds:
            stage = RunDir(RUNS / args.run / f"seed{seed}" / name).stage("gspo")
            values = [row[f"reward/accuracy/{MODE}"] for row in read_rows(stage.metrics_file)]
            curves.append(np.convolve(values, np.ones(15) / 15, "valid"))
            axes.plot(np.arange(len(curves[-1])) + 15, curves[-1], color=colour, alpha=0.3)
        axes.plot(np.arange(len(curves[0])) + 15, np.mean(curves, 0), color=colour, label=name)
    axes.set_xlabel("step")
    axes.set_ylabel("accuracy of training rollouts (temperature 1)")
    axes.legend()
    figure.savefig(out, dpi=110)


def main() -> int:
    args = parse()
    try:
        for seed in args.seeds:
            folder = start(args, seed)
            for name in ARMS:
                arm(args, seed, name, folder / "cold_start" / "checkpoint")
    except KeyeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result = report(args)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "rl.json").write_text(json.dumps(result, indent=2) + "\n")
    (args.out / "rl.md").write_text(markdown(result, args))
    draw(args, args.out / "rl.png")
    say((args.out / "rl.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
