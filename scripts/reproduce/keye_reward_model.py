"""How good does a tiny reward model get, how biased is it, and what does it take?

For each seed `recipe=reward_model`: SFT → annealing on shorter-is-better pairs → GSPO, each
measured on the same held-out pairs. Then, for each number of SFT steps in `--curve` and each base,
SFT alone (no example is seen twice: steps × batch size is the size of the data). Writes
`results/reward_model.json` and `.png`. Run it again after an interruption: what is finished is
kept.
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
from pretrain.run.console import say, table
from pretrain.run.directory import RunDir, atomic_write
from pretrain.run.errors import KeyeError
from rl.config import RlConfig
from rl.recipes import RUNS, run_recipe

RESULTS = Path(__file__).resolve().parent / "results"
MODES = ("no_think", "think")
PHASES = ("reward_sft", "reward_anneal", "reward_gspo")
MEASURES = (
    "accuracy", "position_bias", "length_bias", "length_bias_matched", "malformed",
    "dimension_found", "tokens",
)  # fmt: skip
HELDOUT_SEED = 50_000
"""Not the recipe's own held-out pairs: those were looked at while it was made."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--bases",
        nargs="+",
        default=["runs/quickstart/fuse/checkpoint"],
        help="pre-trained checkpoints; the first is trained in full, all stand in the curve",
    )
    parser.add_argument("--run", default="reproduce_reward_model", help="folder under runs/")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=0, help="SFT steps; 0: the recipe's")
    parser.add_argument("--curve", type=int, nargs="*", default=[], help="SFT steps of the curve")
    parser.add_argument("--pairs", type=int, default=600, help="held-out pairs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def train(args: argparse.Namespace, name: str, base: str, seed: int, *overrides: str) -> RunDir:
    """One run of the recipe; the held-out pairs are the same for all."""
    run = f"{args.run}/{name}"
    run_recipe(
        compose(
            "rl",
            RlConfig,
            [
                "recipe=reward_model",
                f"run={run}",
                f"checkpoint={base}",
                f"reward_training.heldout.pairs={args.pairs}",
                f"reward_training.heldout.world.seed={HELDOUT_SEED}",
                f"reward_training.sft.pairs.world.seed={1000 + seed}",
                f"reward_training.anneal.pairs.world.seed={2000 + seed}",
                f"reward_training.pairs.world.seed={3000 + seed}",
                f"gspo.seed={seed}",
                f"learner.seed={seed}",
                *overrides,
            ],
        )
    )
    return RunDir(RUNS / run)


def measured(folder: RunDir, phase: str) -> dict[str, Any]:
    """The report of one phase of one run."""
    return folder.stage(f"{phase}_measured").summary()["metrics"]


def run_all(args: argparse.Namespace) -> dict[str, Any]:
    """Every seed in full, then the curve."""
    steps = [f"reward_training.sft.sft.steps={args.steps}"] if args.steps else []
    seeds = {}
    for seed in args.seeds:
        folder = train(args, f"seed{seed}", args.bases[0], seed, *steps)
        seeds[str(seed)] = {phase: measured(folder, phase) for phase in PHASES} | {
            "seconds": {stage["name"]: stage["seconds"] for stage in folder.stage_summaries()}
        }
    curve = []
    for base in args.bases:
        for count in args.curve:
            folder = train(
                args,
                f"curve/{Path(base).parent.parent.name}/{count}",
                base,
                args.seeds[0],
                "stages=[reward_sft,reward_sft_measured]",
                f"reward_training.sft.sft.steps={count}",
            )
            examples = folder.stage("reward_sft").summary()["metrics"]["examples"]
            found = measured(folder, "reward_sft")
            curve.append({"base": base, "steps": count, "examples": examples, "report": found})
    return {"bases": args.bases, "pairs": args.pairs, "seeds": seeds, "curve": curve}


def summary(result: dict[str, Any]) -> list[list[Any]]:
    """Rows `[phase, mode, measure, mean over seeds, each seed]`."""
    rows = []
    for phase in PHASES:
        for mode in MODES:
            for measure in MEASURES:
                leaves = [
                    own[phase]["modes"][mode].get(measure) for own in result["seeds"].values()
                ]
                if all(leaf is not None for leaf in leaves):
                    values = [leaf["value"] for leaf in leaves]
                    shown = " ".join(f"{value:.3f}" for value in values)
                    rows.append([phase, mode, measure, float(np.mean(values)), shown])
    return rows


def draw(result: dict[str, Any], path: Path) -> None:
    """Accuracy by violated dimension of the first seed's last phase, and the curve, if measured."""
    last = next(iter(result["seeds"].values()))["reward_gspo"]
    panels = 2 if result["curve"] else 1
    figure = Figure(figsize=(5.5 * panels, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, *others = figure.subplots(1, panels, squeeze=False)[0]
    names = sorted(last["modes"]["no_think"]["violated"])
    for shift, mode in enumerate(MODES):
        leaves = [last["modes"][mode]["violated"][name] for name in names]
        values = [leaf["value"] for leaf in leaves]
        error = np.abs([[leaf["low"], leaf["high"]] for leaf in leaves] - np.array(values)[:, None])
        place = np.arange(len(names)) + 0.4 * shift
        left.bar(place, values, 0.38, yerr=error.T, capsize=2, label=mode)
    left.axhline(last["baselines"]["length"]["value"], color="black", ls=":", label="length only")
    left.set_xticks(np.arange(len(names)) + 0.2, names, rotation=40, ha="right")
    left.set(ylabel="held-out accuracy", ylim=(0, 1), title="by violated dimension, after GSPO")
    left.legend(loc="lower right")
    for right in others:
        _draw_curve(right, result)
    figure.savefig(path, dpi=100)


def _draw_curve(axes: Any, result: dict[str, Any]) -> None:
    for base in result["bases"]:
        points = [point for point in result["curve"] if point["base"] == base]
        for mode in MODES:
            leaves = [point["report"]["modes"][mode]["accuracy"] for point in points]
            values = np.array([leaf["value"] for leaf in leaves])
            bounds = np.array([[leaf["low"], leaf["high"]] for leaf in leaves]).reshape(-1, 2)
            error = np.abs(bounds - values[:, None]).T
            label = f"{mode}, {Path(base).parent.parent.name}"
            axes.errorbar([p["examples"] for p in points], values, error, marker="o", label=label)
    axes.set(xlabel="training pairs", ylabel="held-out accuracy", title="SFT alone")
    axes.legend(loc="lower right")


def main() -> None:
    args = parse()
    result = run_all(args)
    args.out.mkdir(parents=True, exist_ok=True)
    atomic_write(args.out / "reward_model.json", json.dumps(result, indent=1) + "\n")
    draw(result, args.out / "reward_model.png")
    table("Reward model", ["phase", "mode", "measure", "mean", "by seed"], summary(result))
    say(f"results: {args.out / 'reward_model.json'}")


if __name__ == "__main__":
    try:
        main()
    except KeyeError as error:
        sys.exit(f"error: {error}")
