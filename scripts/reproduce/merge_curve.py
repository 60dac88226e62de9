"""Does an OCR expert merged with its base beat both on OCR, and for how many of its steps?

From one checkpoint, for each seed: an expert is fine-tuned on a finite OCR corpus, checkpoints are
kept along its steps, and each is averaged with the base (equal weights). Base, experts and merges
answer held-out OCR questions and all other direct tasks, greedily.

Two relations are checked, with paired 95 % intervals over prompts (answers averaged over seeds):

* merged > base and merged > expert on OCR, at the step where merging does best;
* merged quality rises from the base's (step 0) and falls again by the last step;

and, at the same step, what an expert costs on all other tasks and how much a merge gives back (a
figure added after the first results had been seen).

That step is chosen on validation prompts, so nothing is chosen on the test prompts; corpus, rate
and steps were fixed before the first run. Run it again after an interruption: what is finished is
kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pretrain.data.stream import heldout
from pretrain.data.world import TASKS
from pretrain.keye_vl.checkpoint import load_model, load_processor
from pretrain.keye_vl.prompt import PromptEncoder
from pretrain.run.command import compose, config_hash
from pretrain.run.console import say
from pretrain.run.directory import RunDir
from pretrain.run.errors import KeyeError
from pretrain.stages.heldout import greedy_correct
from rl.config import RlConfig
from rl.experts.merging import merge_checkpoints
from rl.recipes import RUNS, run_recipe
from rl.row_log import RowLog
from rl.sft.training import snapshot
from rl.statistics import leaf, mean_interval, paired_difference, verdict

RESULTS = Path(__file__).resolve().parent / "results"
OCR = ("text/ocr", "digits/read", "digits/locate")
SLOW = ("shapes/grounding", "video/grounding", "shapes/caption")
"""Left out: their answers are decoded token by token, or have no single right form."""
OTHERS = tuple(task for task in sorted(TASKS) if task not in OCR + SLOW)
SETS = {"test": 9101, "validation": 9102}
"""Seeds of both sets of held-out prompts; their digits, words and sums are never trained on."""
BATCH = 100


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="runs/quickstart/fuse/checkpoint")
    parser.add_argument("--run", default="reproduce_merge", help="folder under runs/")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20, 40, 80, 160, 320])
    parser.add_argument("--corpus", type=int, default=600, help="rows of the expert's corpus")
    parser.add_argument("--lr", type=float, default=5e-4, help="the expert's peak learning rate")
    parser.add_argument("--prompts", type=int, default=400, help="held-out prompts an OCR task")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(words)
    args.steps = sorted(args.steps)
    return args


def train_expert(args: argparse.Namespace, seed: int) -> dict[int, Path]:
    """Trains one seed's expert; step → its checkpoint."""
    name = f"{args.run}/seed{seed}"
    mix = ", ".join(f"{task}: 1" for task in OCR)
    last = args.steps[-1]
    overrides = [
        "recipe=experts",
        f"run={name}",
        f"checkpoint={args.base}",
        "stages=[experts]",
        "~experts.math",
        "~experts.text",
        f"experts.ocr.tasks={{{mix}}}",
        f"experts.ocr.pool={args.corpus}",
        f"experts.ocr.seed={700 + seed}",
        f"experts.ocr.checkpoints={args.steps}",
        f"experts.ocr.sft.steps={last}",
        f"experts.ocr.sft.lr={args.lr}",
        f"experts.ocr.sft.warmup_steps={min(10, last)}",
    ]
    run_recipe(compose("rl", RlConfig, overrides))
    stage = RunDir(RUNS / name).stage("experts/ocr")
    return {step: snapshot(stage, step) for step in args.steps}


def measure(checkpoint: Path, prompts: int) -> dict[str, dict[str, list[int]]]:
    """`{test or validation: {task: [1 if right, …]}}` of greedy answers; validation is OCR's."""
    model = load_model(checkpoint, torch.float32).eval()
    encoder = PromptEncoder(load_processor(checkpoint), 512)
    found: dict[str, dict[str, list[int]]] = {}
    for name, seed in SETS.items():
        counts = dict.fromkeys(OCR, prompts)
        if name == "test":
            counts |= dict.fromkeys(OTHERS, max(prompts // 4, 1))
        found[name] = {}
        for task, count in counts.items():
            samples = heldout({task: 1.0}, count, seed)
            with torch.no_grad():
                right = [
                    greedy_correct(model, encoder, samples[start : start + BATCH])
                    for start in range(0, count, BATCH)
                ]
            found[name][task] = [int(value) for part in right for value in part]
    return found


def measure_seed(args: argparse.Namespace, seed: int, log: RowLog) -> None:
    """Base, expert and merge at every step, each once."""

    def add(kind: str, step: int, checkpoint: Path) -> None:
        started = time.perf_counter()
        row = {"id": f"{seed}/{kind}/{step}", "seed": seed, "kind": kind, "step": step}
        row |= measure(checkpoint, args.prompts)
        log.append([row])
        seconds = time.perf_counter() - started
        ocr = np.mean([row["test"][task] for task in OCR])
        say(f"seed {seed}, {kind} after {step} steps: OCR {ocr:.3f} ({seconds:.0f} s)")

    if f"{seed}/base/0" not in log.ids:
        add("base", 0, Path(args.base))
    wanted = [f"{seed}/{kind}/{step}" for step in args.steps for kind in ("expert", "merged")]
    if set(wanted) <= log.ids:
        return
    for step, expert in train_expert(args, seed).items():
        if f"{seed}/expert/{step}" not in log.ids:
            add("expert", step, expert)
        if f"{seed}/merged/{step}" not in log.ids:
            target = RUNS / args.run / f"seed{seed}" / "merged" / str(step)
            target.parent.mkdir(parents=True, exist_ok=True)
            merge_checkpoints("uniform", Path(args.base), {"ocr": expert}, target, weights={})
            add("merged", step, target)


Curves = dict[tuple[str, int], list[float]]
"""(kind, step) → per-prompt values `[n]`, averaged over seeds."""


def curves(rows: Sequence[Mapping[str, Any]], which: str, tasks: Sequence[str]) -> Curves:
    """Per-prompt values of some tasks, one after the other, averaged over seeds."""
    found: dict[tuple[str, int], list[list[int]]] = {}
    for row in rows:
        values = [value for task in tasks for value in row[which][task]]
        found.setdefault((row["kind"], row["step"]), []).append(values)
    return {key: np.mean(values, axis=0).tolist() for key, values in found.items()}


def best_step(validation: Curves) -> int:
    """The expert's steps with the best merge, on validation prompts; the fewest of equals."""
    means = {step: np.mean(v) for (kind, step), v in validation.items() if kind == "merged"}
    return min(means, key=lambda step: (-means[step], step))


def relations(test: Curves, others: Curves, step: int, last: int) -> dict[str, Any]:
    """Both relations on OCR, differences and verdicts; what expert and merge do to other tasks."""
    base, merged, expert = test["base", 0], test["merged", step], test["expert", step]
    over_base, over_expert = paired_difference(base, merged), paired_difference(expert, merged)
    fall = paired_difference(test["merged", last], merged)
    return {
        "beats_both": {
            "verdict": verdict([over_base, over_expert]),
            "merged_over_base": over_base.to_dict(),
            "merged_over_expert": over_expert.to_dict(),
        },
        "rises_then_falls": {
            # At the last step the difference is 0 on every prompt: nothing has fallen.
            "verdict": verdict([over_base, fall]),
            "rise": over_base.to_dict(),
            "fall": fall.to_dict(),
        },
        "others": {
            "expert_over_base": paired_difference(
                others["base", 0], others["expert", step]
            ).to_dict(),
            "merged_over_expert": paired_difference(
                others["expert", step], others["merged", step]
            ).to_dict(),
        },
    }


def report(args: argparse.Namespace, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracies of every model, and the relations."""
    test = curves(rows, "test", OCR)
    step = best_step(curves(rows, "validation", OCR))
    groups = {"ocr": OCR, "others": OTHERS} | {task: (task,) for task in OCR}
    accuracy = {
        group: {
            f"{kind}/{at}": mean_interval(values).to_dict()
            for (kind, at), values in sorted(curves(rows, "test", tasks).items())
        }
        for group, tasks in groups.items()
    }
    return {
        "base": args.base,
        "seeds": args.seeds,
        "steps": args.steps,
        "corpus": args.corpus,
        "lr": args.lr,
        "prompts": args.prompts,
        "chosen_step": step,
        "relations": relations(test, curves(rows, "test", OTHERS), step, args.steps[-1]),
        "accuracy": accuracy,
        "ocr_by_seed": {
            row["id"]: float(np.mean([row["test"][task] for task in OCR])) for row in rows
        },
    }


def markdown(result: dict[str, Any]) -> str:
    """The committed table."""
    both, shape, others = (
        result["relations"][name] for name in ("beats_both", "rises_then_falls", "others")
    )
    words = " ".join(map(str, result["seeds"]))
    lines = [
        "# An OCR expert merged with its base",
        "",
        f"Command: `./scripts/reproduce/merge --seeds {words}` (tiny model, base "
        f"`{result['base']}`).",
        "",
        f"Expert: fine-tuned on {result['corpus']} OCR rows ({', '.join(OCR)}), peak learning rate "
        f"{result['lr']:g}. Merge: the average of base and expert. {len(result['seeds'])} seeds "
        f"of corpus and training; {result['prompts']} held-out prompts an OCR task, greedy. "
        "Intervals: 95 %, over prompts, answers averaged over the seeds. The step with the best "
        f"merge was chosen on other prompts: {result['chosen_step']}.",
        "",
        "| relation | verdict | evidence on test prompts |",
        "|---|---|---|",
        f"| the merge beats base and expert on OCR | **{both['verdict']}** | over the base "
        f"{leaf(both['merged_over_base'], True)}, over the expert "
        f"{leaf(both['merged_over_expert'], True)} |",
        f"| merged quality rises, then falls with the expert's steps | **{shape['verdict']}** | "
        f"from the base {leaf(shape['rise'], True)}, above the last step "
        f"{leaf(shape['fall'], True)} |",
        "",
        f"On the other tasks, at that step: the expert over the base "
        f"{leaf(others['expert_over_base'], True)}, the merge over the expert "
        f"{leaf(others['merged_over_expert'], True)}.",
        "",
        "| expert's steps | OCR: expert | OCR: merged | other tasks: expert | other: merged |",
        "|---|---|---|---|---|",
    ]
    accuracy = result["accuracy"]
    base = [leaf(accuracy[group]["base/0"]) for group in ("ocr", "others")]
    lines.append(f"| 0 (base) | {base[0]} | {base[0]} | {base[1]} | {base[1]} |")
    for step in result["steps"]:
        cells = [
            leaf(accuracy[group][f"{kind}/{step}"])
            for group in ("ocr", "others")
            for kind in ("expert", "merged")
        ]
        lines.append(f"| {step} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "![accuracy over the expert's steps](merge.png)", ""])


def draw(result: dict[str, Any], path: Path) -> None:
    """Accuracy of experts and merges over the expert's steps, on OCR and on the other tasks."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    places = range(len(result["steps"]) + 1)
    for axes, (group, title) in zip(
        figure.subplots(1, 2), (("ocr", "OCR"), ("others", "other direct tasks")), strict=True
    ):
        table = result["accuracy"][group]
        for kind, colour in (("expert", "#d6604d"), ("merged", "#2166ac")):
            leaves = [table["base/0"], *(table[f"{kind}/{step}"] for step in result["steps"])]
            axes.plot(places, [x["value"] for x in leaves], color=colour, marker="o", label=kind)
            low, high = ([x[key] for x in leaves] for key in ("low", "high"))
            axes.fill_between(places, low, high, color=colour, alpha=0.15)
        axes.axhline(table["base/0"]["value"], color="#777777", linestyle=":", label="base")
        axes.set_xticks(list(places), ["base", *map(str, result["steps"])])
        axes.set_xlabel("expert's steps")
        axes.set_title(title)
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> int:
    args = parse()
    try:
        # Other settings are another experiment: they get other rows.
        settings = [args.base, args.steps, args.corpus, args.lr, args.prompts]
        log = RowLog(RUNS / args.run / f"rows-{config_hash(settings)}.jsonl")
        for seed in args.seeds:
            measure_seed(args, seed, log)
    except KeyeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = [row for row in log.rows() if row["seed"] in args.seeds]
    result = report(args, rows)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "merge.json").write_text(json.dumps(result, indent=2) + "\n")
    (args.out / "merge.md").write_text(markdown(result))
    draw(result, args.out / "merge.png")
    say((args.out / "merge.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
