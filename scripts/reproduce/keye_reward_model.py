"""How good does a tiny reward model get, how biased is it, and what does it take?

For each seed `recipe=reward_model`: SFT → annealing on shorter-is-better pairs → GSPO, each
measured on the same held-out pairs. Then, for each number of SFT steps in `--curve`, SFT alone (no
example is seen twice: steps × batch size is the size of the data), from the base as it is and from
its first layers alone (`--layers`); what the first seed's SFT reached is the curve's last point of
the base as it is. Writes `results/reward_model.json`, `.md` and `.png`. Run it
again after an interruption: what is finished is kept.
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

from pretrain.keye_vl.checkpoint import load_config, load_model
from pretrain.run.command import compose
from pretrain.run.console import say, table
from pretrain.run.directory import RunDir, atomic_write
from pretrain.run.errors import KeyeError
from pretrain.run.metrics import read_rows
from pretrain.training.checkpoint import write_checkpoint
from rewards.keye_rm.measures import baselines, first_share, is_right, mean
from rl.config import RlConfig
from rl.recipes import RUNS, run_recipe
from rl.reward_model.stages import RECORDS
from rl.statistics import leaf

RESULTS = Path(__file__).resolve().parent / "results"
MODES = ("no_think", "think")
PHASES = ("reward_sft", "reward_anneal", "reward_gspo")
MEASURES = (
    "accuracy", "position_bias", "length_bias", "length_bias_matched", "malformed",
    "dimension_found", "tokens",
)  # fmt: skip
HELDOUT_SEED = 95_000
"""Not the recipe's own held-out pairs, nor those of 50,000, 60,000, 70,000, 80,000 and 90,000: they
were looked at while it was made."""


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="runs/quickstart/fuse/checkpoint", help="pre-trained")
    parser.add_argument("--run", default="reproduce_reward_model", help="folder under runs/")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=0, help="SFT steps; 0: the recipe's")
    parser.add_argument("--curve", type=int, nargs="*", default=[], help="SFT steps of the curve")
    parser.add_argument(
        "--layers", type=int, nargs="*", default=[], help="depths of smaller models in the curve"
    )
    parser.add_argument("--pairs", type=int, default=600, help="held-out pairs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args(words)


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
        folder = train(args, f"seed{seed}", args.base, seed, *steps)
        seeds[str(seed)] = {phase: measured(folder, phase) for phase in PHASES} | {
            "seconds": {stage["name"]: stage["seconds"] for stage in folder.stage_summaries()}
        }
    result = {"base": args.base, "pairs": args.pairs, "seeds": seeds, "pooled": pooled(args)}
    return result | {"curve": run_curve(args)}


def run_curve(args: argparse.Namespace) -> list[dict[str, Any]]:
    """SFT alone of models of several depths, on several amounts of data: a point each."""
    whole = load_config(args.base).num_hidden_layers
    curve = []
    for layers in dict.fromkeys([whole, *args.layers]):
        base = args.base if layers == whole else cut(args, layers)
        for count in args.curve:
            folder = train(
                args,
                f"curve/{layers}_layers/{count}",
                base,
                args.seeds[0],
                "stages=[reward_sft,reward_sft_measured]",
                f"reward_training.sft.sft.steps={count}",
            )
            examples = folder.stage("reward_sft").summary()["metrics"]["examples"]
            found = measured(folder, "reward_sft")
            curve.append({"layers": layers, "steps": count, "examples": examples, "report": found})
    if curve:
        folder = RunDir(RUNS / args.run / f"seed{args.seeds[0]}")
        trained = folder.stage("reward_sft").summary()["metrics"]
        last = {"layers": whole, "steps": trained["steps"], "examples": trained["examples"]}
        curve.append(last | {"report": measured(folder, "reward_sft")})
    return curve


def cut(args: argparse.Namespace, layers: int) -> str:
    """The base with its first `layers` decoder layers alone; SFT has to heal the cut."""
    target = RUNS / args.run / f"base_{layers}_layers"
    if not target.exists():
        model = load_model(args.base)
        del model.model.layers[layers:]
        model.config.num_hidden_layers = layers
        model.config.layer_types = model.config.layer_types[:layers]
        target.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(model, target, Path(args.base))
    return str(target)


def pooled(args: argparse.Namespace) -> dict[str, Any]:
    """`{phase: {mode: {accuracy, position_bias}}}` and the length-only baseline: of each held-out
    pair the mean over seeds, intervals over pairs."""
    found: dict[str, Any] = {}
    for phase in PHASES:
        by_seed = []
        for seed in args.seeds:
            stage = RunDir(RUNS / args.run / f"seed{seed}").stage(f"{phase}_measured")
            by_seed.append([r for r in read_rows(stage.path / RECORDS) if not r["length_pair"]])
        found[phase] = {}
        for mode in MODES:
            own = [[r for r in records if r["mode"] == mode] for records in by_seed]
            right = np.mean([[is_right(r) for r in records] for records in own], axis=0)
            first = np.mean([[first_share(r) - 0.5 for r in records] for records in own], axis=0)
            found[phase][mode] = {"accuracy": mean(right), "position_bias": mean(first)}
    found["length_only"] = baselines(own[0])["length"]  # the pairs are always the same
    return found


def summary(result: dict[str, Any]) -> list[list[Any]]:
    """Rows `[phase, mode, measure, mean over seeds, each seed]`."""
    rows = []
    for phase in PHASES:
        for mode in MODES:
            for measure in MEASURES:
                leaves = [
                    own[phase]["modes"][mode].get(measure) for own in result["seeds"].values()
                ]
                if all(found is not None for found in leaves):
                    values = [found["value"] for found in leaves]
                    shown = " ".join(f"{value:.3f}" for value in values)
                    rows.append([phase, mode, measure, float(np.mean(values)), shown])
    return rows


def markdown(result: dict[str, Any], args: argparse.Namespace) -> str:
    """The committed tables."""
    words = [f"--seeds {' '.join(map(str, args.seeds))}"]
    words += [f"--steps {args.steps}"] if args.steps else []
    words += [f"--curve {' '.join(map(str, args.curve))}"] if args.curve else []
    words += [f"--layers {' '.join(map(str, args.layers))}"] if args.layers else []
    whole = result["pooled"]
    lines = [
        "# The Keye reward model",
        "",
        f"Command: `./scripts/reproduce/reward_model {' '.join(words)}` (tiny model). Seeds "
        f"vary the training pairs and GSPO. {args.pairs} held-out pairs, both orders; 95 % "
        "intervals over pairs, of the mean over seeds.",
        "",
        "| after | accuracy no_think | think | position bias no_think | think |",
        "|---|---|---|---|---|",
    ]
    for phase in PHASES:
        cells = [leaf(whole[phase][mode]["accuracy"]) for mode in MODES]
        cells += [leaf(whole[phase][mode]["position_bias"], sign=True) for mode in MODES]
        lines.append(f"| {phase} | {' | '.join(cells)} |")
    lines.append(f"| always the longer (or shorter) one | {leaf(whole['length_only'])} | | | |")
    lines += ["", "| after | mode | measure | mean | by seed |", "|---|---|---|---|---|"]
    lines += [f"| {a} | {b} | {c} | {d:.3f} | {e} |" for a, b, c, d, e in summary(result)]
    if result["curve"]:
        lines += ["", "SFT alone, one seed:", "", "| layers | pairs | no_think | think |"]
        lines.append("|---|---|---|---|")
        for point in result["curve"]:
            found = [leaf(point["report"]["modes"][mode]["accuracy"]) for mode in MODES]
            lines.append(f"| {point['layers']} | {point['examples']:,} | {' | '.join(found)} |")
    return "\n".join([*lines, "", "![what is seen, biases, and the curve](reward_model.png)", ""])


def draw(result: dict[str, Any], path: Path) -> None:
    """Accuracy by violated dimension of the first seed's last phase; the liking for length after
    each phase; and the curve, if measured."""
    panels = 3 if result["curve"] else 2
    figure = Figure(figsize=(5.2 * panels, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels)
    _draw_dimensions(axes[0], next(iter(result["seeds"].values()))["reward_gspo"])
    _draw_length(axes[1], result["seeds"])
    if result["curve"]:
        _draw_curve(axes[2], result["curve"])
    figure.savefig(path, dpi=100)


def _draw_dimensions(axes: Any, last: dict[str, Any]) -> None:
    names = sorted(last["modes"]["no_think"]["violated"])
    for shift, mode in enumerate(MODES):
        leaves = [last["modes"][mode]["violated"][name] for name in names]
        place = np.arange(len(names)) + 0.4 * shift
        values = [one["value"] for one in leaves]
        axes.bar(place, values, 0.38, yerr=_error(leaves), capsize=2, label=mode)
    axes.axhline(last["baselines"]["length"]["value"], color="black", ls=":", label="length only")
    axes.set_xticks(np.arange(len(names)) + 0.2, names, rotation=40, ha="right")
    axes.set(ylabel="held-out accuracy", ylim=(0, 1.15), title="by violated dimension, after GSPO")
    axes.legend(loc="upper center", ncols=3, fontsize="small")


def _draw_length(axes: Any, seeds: dict[str, Any]) -> None:
    for mode, colour in zip(MODES, ("#2166ac", "#d6604d"), strict=True):
        for number, own in enumerate(seeds.values()):
            leaves = [own[phase]["modes"][mode]["length_bias_matched"] for phase in PHASES]
            values = [one["value"] for one in leaves]
            label = mode if not number else None
            axes.errorbar(PHASES, values, _error(leaves), color=colour, marker="o", label=label)
    axes.axhline(0, color="black", lw=0.8)
    axes.set(ylabel="accuracy longer − shorter", title="liking for length, a line a seed")
    axes.legend()


def _draw_curve(axes: Any, curve: list[dict[str, Any]]) -> None:
    for layers in dict.fromkeys(point["layers"] for point in curve):
        points = sorted(
            (point for point in curve if point["layers"] == layers),
            key=lambda point: point["steps"],
        )
        for mode in MODES:
            leaves = [point["report"]["modes"][mode]["accuracy"] for point in points]
            values = [one["value"] for one in leaves]
            label = f"{mode}, {layers} layers"
            places = [point["examples"] for point in points]
            axes.errorbar(places, values, _error(leaves), marker="o", label=label)
    axes.set(xlabel="training examples", ylabel="held-out accuracy", title="SFT alone")
    axes.legend(loc="lower right")


def _error(leaves: list[dict[str, Any]]) -> np.ndarray:
    return np.array(
        [[x["value"] - x["low"] for x in leaves], [x["high"] - x["value"] for x in leaves]]
    )


def main() -> None:
    args = parse()
    result = run_all(args)
    args.out.mkdir(parents=True, exist_ok=True)
    atomic_write(args.out / "reward_model.json", json.dumps(result, indent=1) + "\n")
    atomic_write(args.out / "reward_model.md", markdown(result, args))
    draw(result, args.out / "reward_model.png")
    table("Reward model", ["phase", "mode", "measure", "mean", "by seed"], summary(result))
    say(f"results: {args.out / 'reward_model.json'}")


if __name__ == "__main__":
    try:
        main()
    except KeyeError as error:
        sys.exit(f"error: {error}")
