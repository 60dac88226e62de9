"""Do hints inform, and does training on hinted responses help where none is shown?

From one pre-trained checkpoint, for each seed: a cold start in which most traces show a hint (else
the tiny model can't read one); with `--always-hinted` hard sums are shown with a hint only, so that
they are solved with one, and half of the time alone. Then

* `levels`: the same held-out prompts asked independently without a hint, at L1…L5, and five times
  more without a hint (`reroll`): retrying alone solves many prompts that failed once;
* `hints`: GSPO with progressive hint sampling up to L5;
* `reroll`: the control. The same retries of the same prompts with other noise, and no hint.

Both arms are measured on held-out prompts without any hint. Run it again after an interruption:
what is finished is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import binomtest, ttest_1samp

from pretrain.data.render import has_hint, hint
from pretrain.data.sample import HINT_LEVELS, Sample
from pretrain.data.stream import WorldStream
from pretrain.run.command import compose
from pretrain.run.console import say
from pretrain.run.directory import RunDir, StageDir, atomic_write
from pretrain.run.errors import KeyeError
from pretrain.run.metrics import read_rows
from pretrain.run.ray_cluster import ray_session
from pretrain.run.stages import run_stage
from rl.config import RlConfig
from rl.recipes import RUNS, run_recipe
from rl.session import Session
from rl.stages import load_evaluation
from rl.statistics import leaf, mean_interval, paired_difference, wilson
from rollout.hint_leaks import leak

RESULTS = Path(__file__).resolve().parent / "results"
RUN = "reproduce_hints"
ARMS = ("hints", "reroll")
KINDS = ("greedy", "sampled", "pass_at_8")
TASKS = {"digits/sum_hard": 2.0, "digits/sum": 1.0, "digits/difference": 1.0}
"""The recipe's tasks: those that come with all five hints."""
HARD = "digits/sum_hard"
ALWAYS_HINTED = (f"cold_start.hinted_tasks=[{HARD}]", "cold_start.hinted_share=0")
"""A policy that solves the hard sums with a hint, and half of them alone."""
SAMPLES = 4
"""Responses to a prompt and level, as in the report's table (arXiv 2509.01563)."""
LEVELS = range(HINT_LEVELS + 1)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="runs/quickstart/fuse/checkpoint", help="pre-trained")
    parser.add_argument("--run", default=RUN, help="folder under runs/")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cold-start", type=int, default=600, help="hinted cold-start steps")
    parser.add_argument(
        "--always-hinted",
        action="store_true",
        help="hard sums always show a hint in the cold start, and nothing else shows one",
    )
    parser.add_argument("--prompts", type=int, default=1024, help="prompts asked at every level")
    parser.add_argument("--steps", type=int, default=100, help="GSPO steps; 0: levels only")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args(words)


def start(args: argparse.Namespace, seed: int) -> RunDir:
    """The hinted cold start of one seed, its evaluation and its levels."""
    name = f"{args.run}/seed{seed}/start"
    cfg = compose(
        "rl",
        RlConfig,
        [
            "recipe=hinted",
            f"run={name}",
            f"checkpoint={args.base}",
            "stages=[cold_start,evaluate_before]",
            f"cold_start.seed={300 + seed}",
            f"cold_start.sft.steps={args.cold_start}",
            *(ALWAYS_HINTED if args.always_hinted else ()),
        ],
    )
    run_recipe(cfg)
    folder = RunDir(RUNS / name)
    tasks = {HARD: 1.0} if args.always_hinted else TASKS

    def body(stage: StageDir) -> dict[str, Any]:
        with ray_session(), Session(cfg.engine, cfg.rewards, cfg.sampling) as session:
            rollouts = session.rollouts(folder.stage("cold_start").checkpoint)
            rows = ask_levels(rollouts, prompts(args.prompts, tasks))
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        atomic_write(stage.path / "levels.jsonl", lines)
        return {"prompts": len(rows)}

    identity = {"prompts": args.prompts, "samples": SAMPLES, "sampling": vars(cfg.sampling)}
    identity |= {"tasks": tasks}
    run_stage(folder, "levels", identity, body, inputs=("cold_start",))
    return folder


def prompts(count: int, tasks: dict[str, float]) -> list[Sample]:
    """The first held-out prompts none of whose hints is refused: all are asked at all levels."""
    stream, found, index = WorldStream(tasks, 20_001, "test", {"think": 1.0}), [], 0
    while len(found) < count:
        sample = stream[index]
        index += 1
        levels = range(1, HINT_LEVELS + 1)
        if all(has_hint(sample, k) and not leak(k, hint(sample, k), sample.answer) for k in levels):
            found.append(sample)
    return found


def ask_levels(rollouts: Any, samples: list[Sample]) -> list[dict[str, Any]]:
    """Correct responses of `SAMPLES` for each prompt: by level, and by re-roll without a hint."""
    rows = [{"id": s.id, "task_type": s.task_type, "levels": [], "rerolls": []} for s in samples]
    for key, level, seed in (
        *(("levels", level, 0) for level in LEVELS),
        *(("rerolls", 0, 1 + retry) for retry in range(HINT_LEVELS)),
    ):
        asked = [level] * len(samples)
        groups = rollouts.groups(samples, n=SAMPLES, seed=seed, hint_levels=asked)
        for row, group in zip(rows, groups, strict=True):
            row[key].append(int(group.correct.sum()))
    return rows


def arm(args: argparse.Namespace, seed: int, name: str, checkpoint: Path) -> RunDir:
    """GSPO of one arm from the seed's cold start."""
    folder = f"{args.run}/seed{seed}/{name}"
    cfg = compose(
        "rl",
        RlConfig,
        [
            "recipe=hinted",
            f"run={folder}",
            f"checkpoint={checkpoint}",
            "stages=[gspo,evaluate_after]",
            f"hints.reroll={'true' if name == 'reroll' else 'false'}",
            f"gspo.steps={args.steps}",
            "gspo.save_every=25",
            f"gspo.seed={seed}",
            f"learner.seed={seed}",
            f"data.seed={10 + seed}",
        ],
    )
    run_recipe(cfg)
    return RunDir(RUNS / folder)


# ------------------------------------------------------------------------------------- analysis


def analyse_levels(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares by level, a paired trend test, neighbours, and what retrying rescues with and without.

    The trend is tested on each prompt's slope of "no response is correct" over the level (all
    prompts are asked at all levels), neighbours by McNemar's exact test of a rise.
    """
    correct = np.array([row["levels"] for row in rows])  # [n, 6]
    rerolls = np.array([row["rerolls"] for row in rows])  # [n, 5]
    wrong = correct == 0
    slopes = (wrong * (np.arange(6) - 2.5)).sum(1) / 17.5
    trend = ttest_1samp(slopes, 0, alternative="less")
    rises = []
    for level in range(HINT_LEVELS):
        worse = int((~wrong[:, level] & wrong[:, level + 1]).sum())
        better = int((wrong[:, level] & ~wrong[:, level + 1]).sum())
        total = worse + better
        rises.append(binomtest(worse, total, alternative="greater").pvalue if total else 1.0)
    failed = wrong[:, 0]
    by_hint = np.cumsum(correct[:, 1:] > 0, axis=1)[failed] > 0
    by_retry = np.cumsum(rerolls > 0, axis=1)[failed] > 0
    return {
        "all_wrong": [wilson(wrong[:, level]).to_dict() for level in LEVELS],
        "mean_correct": [float(correct[:, level].mean()) for level in LEVELS],
        "slope": float(slopes.mean()),
        "trend_p": float(trend.pvalue) if slopes.any() else 1.0,
        "rise_p": [float(p) for p in rises],
        "failed": int(failed.sum()),
        "rescued_by_hints": [wilson(by_hint[:, k]).to_dict() for k in range(HINT_LEVELS)],
        "rescued_by_reroll": [wilson(by_retry[:, k]).to_dict() for k in range(HINT_LEVELS)],
    }


def report(args: argparse.Namespace) -> dict[str, Any]:
    """Numbers of all seeds; `all` pools the prompts of all seeds."""
    folders = {seed: RUNS / args.run / f"seed{seed}" for seed in args.seeds}
    rows = {seed: read_rows(f / "start/levels/levels.jsonl") for seed, f in folders.items()}
    result: dict[str, Any] = {
        "seeds": args.seeds,
        "steps": args.steps,
        "levels": {str(seed): analyse_levels(own) for seed, own in rows.items()}
        | {"all": analyse_levels([row for own in rows.values() for row in own])},
        "arms": {},
    }
    if not args.steps:
        return result
    before = [load_evaluation(RunDir(f / "start"), "evaluate_before") for f in folders.values()]
    after = {
        name: [load_evaluation(RunDir(f / name), "evaluate_after") for f in folders.values()]
        for name in ARMS
    }

    def values(evaluations: list[Any], kind: str, task: str | None) -> list[float]:
        return np.mean([e.values("think", kind, task) for e in evaluations], axis=0).tolist()

    for task in (None, HARD):
        table = {}
        for kind in KINDS:
            start_values = values(before, kind, task)
            ends = {name: values(after[name], kind, task) for name in ARMS}
            table[kind] = {
                "before": mean_interval(start_values).to_dict(),
                "hints_ahead": paired_difference(ends["reroll"], ends["hints"]).to_dict(),
                "by_seed": [
                    float(np.mean(h.values("think", kind, task)))
                    - float(np.mean(r.values("think", kind, task)))
                    for h, r in zip(after["hints"], after["reroll"], strict=True)
                ],
            } | {name: paired_difference(start_values, end).to_dict() for name, end in ends.items()}
        result["arms"][task or "all"] = table
    result["training"] = {
        name: [training(RunDir(f / name).stage("gspo")) for f in folders.values()] for name in ARMS
    }
    return result


def training(stage: StageDir) -> dict[str, float]:
    """What an arm cost, and how its shares of rescued prompts moved."""
    rows = read_rows(stage.metrics_file)
    last = rows[-20:]
    return {
        "response_tokens": float(
            sum(r["perf/rollout_tokens_per_second"] * r["time/generate"] for r in rows)
        ),
        "seconds": float(sum(row["time/step"] for row in rows)),
        "all_wrong_first": float(np.mean([row["hints/all_wrong_share"] for row in rows[:20]])),
        "all_wrong_last": float(np.mean([row["hints/all_wrong_share"] for row in last])),
        "rescued_first": float(np.mean([row["hints/rescued_share"] for row in rows[:20]])),
        "rescued_last": float(np.mean([row["hints/rescued_share"] for row in last])),
    }


# --------------------------------------------------------------------------------------- output


def markdown(result: dict[str, Any], args: argparse.Namespace) -> str:
    """The committed tables."""
    pooled = result["levels"]["all"]
    seeds = " ".join(map(str, result["seeds"]))
    lines = [
        "# Progressive hints and their controls",
        "",
        f"Command: `./scripts/reproduce/hints --seeds {seeds} --steps {args.steps} --cold-start "
        f"{args.cold_start} --prompts {args.prompts}{_place(args)}` (tiny model, think mode). "
        "Seeds vary everything from the hinted cold start on. Intervals: 95 %.",
        "",
        f"## Independent sampling: {args.prompts} held-out prompts a seed, {SAMPLES} responses a "
        "level",
        "",
        "| | none | L1 | L2 | L3 | L4 | L5 |",
        "|---|---|---|---|---|---|---|",
        "| no response correct | " + " | ".join(leaf(x) for x in pooled["all_wrong"]) + " |",
    ]
    for seed in result["seeds"]:
        shares = [f"{x['value']:.3f}" for x in result["levels"][str(seed)]["all_wrong"]]
        lines.append(f"| … seed {seed} | " + " | ".join(shares) + " |")
    mean = " | ".join(f"{value:.2f}" for value in pooled["mean_correct"])
    rises = " | ".join(f"{p:.2g}" for p in pooled["rise_p"])
    trends = " ".join(f"{result['levels'][str(seed)]['trend_p']:.1g}" for seed in result["seeds"])
    lines += [
        f"| mean correct of {SAMPLES} | {mean} |",
        f"| p of a rise from the level before | | {rises} |",
        "",
        f"Trend: {pooled['slope']:+.4f} a level; p by seed: {trends} (paired, one-sided). The "
        "first row and what follows pool the seeds, which were asked the same prompts.",
        "",
        f"Of the {pooled['failed']} prompts that failed without a hint, solved after k retries:",
        "",
        "| | 1 | 2 | 3 | 4 | 5 |",
        "|---|---|---|---|---|---|",
        "| hints L1…Lk | " + " | ".join(leaf(x) for x in pooled["rescued_by_hints"]) + " |",
        "| no hint | " + " | ".join(leaf(x) for x in pooled["rescued_by_reroll"]) + " |",
        "",
    ]
    lines += ["![all-wrong shares by level, and what retries rescue](hints.png)", ""]
    return "\n".join(lines + (_arms(result) if result["arms"] else []))


def _place(args: argparse.Namespace) -> str:
    """The words beyond numbers, as far as they were given: another cold start, and where runs and
    results stand beside the default ones."""
    run = " --always-hinted" if args.always_hinted else ""
    run += f" --run {args.run}" if args.run != RUN else ""
    return run + (f" --out {os.path.relpath(args.out)}" if args.out != RESULTS else "")


def _arms(result: dict[str, Any]) -> list[str]:
    lines = [
        f"## GSPO: {result['steps']} steps, held-out accuracy without hints",
        "",
        "| prompts | measure | before | hints | re-roll | hints ahead by | by seed |",
        "|---|---|---|---|---|---|---|",
    ]
    for task, table in result["arms"].items():
        for kind, cell in table.items():
            by_seed = " ".join(f"{value:+.3f}" for value in cell["by_seed"])
            ends = " | ".join(leaf(cell[name], sign=True) for name in ARMS)
            ahead = leaf(cell["hints_ahead"], sign=True)
            lines.append(
                f"| {task} | {kind} | {leaf(cell['before'])} | {ends} | {ahead} | {by_seed} |"
            )
    lines += [
        "",
        "| arm | response tokens | all wrong, first/last 20 steps | rescued |",
        "|---|---|---|---|",
    ]
    for name in ARMS:
        mean = {
            k: np.mean([t[k] for t in result["training"][name]])
            for k in result["training"][name][0]
        }
        wrong = f"{mean['all_wrong_first']:.3f} / {mean['all_wrong_last']:.3f}"
        rescued = f"{mean['rescued_first']:.3f} / {mean['rescued_last']:.3f}"
        lines.append(f"| {name} | {mean['response_tokens'] / 1e6:.2f} M | {wrong} | {rescued} |")
    return [*lines, ""]


def draw(result: dict[str, Any], path: Path) -> None:
    """All-wrong shares by level, and prompts rescued by retries with and without hints."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    names = ["none", *(f"L{level}" for level in range(1, HINT_LEVELS + 1))]
    for seed in result["seeds"]:
        own = result["levels"][str(seed)]["all_wrong"]
        left.plot(names, [x["value"] for x in own], color="#2166ac", alpha=0.3)
    _with_error(left, names, result["levels"]["all"]["all_wrong"], "all seeds", "#2166ac")
    left.set(ylabel="share of prompts with no correct response", ylim=(0, None), xlabel="hint")
    retries = list(range(1, HINT_LEVELS + 1))
    pooled = result["levels"]["all"]
    _with_error(right, retries, pooled["rescued_by_hints"], "hints L1…Lk", "#2166ac")
    _with_error(right, retries, pooled["rescued_by_reroll"], "no hint", "#d6604d")
    right.set(ylabel="failed prompts solved by then", xlabel="retries", ylim=(0, 1))
    right.legend(loc="lower right")
    figure.savefig(path, dpi=110)


def _with_error(
    axes: Any, x: list[Any], leaves: list[dict[str, float]], label: str, color: str
) -> None:
    values = np.array([one["value"] for one in leaves])
    bounds = np.array([[one["low"], one["high"]] for one in leaves])
    axes.errorbar(
        x, values, np.abs(bounds - values[:, None]).T, marker="o", label=label, color=color
    )


def main() -> int:
    args = parse()
    try:
        for seed in args.seeds:
            folder = start(args, seed)
            for name in ARMS if args.steps else ():
                arm(args, seed, name, folder.stage("cold_start").checkpoint)
    except KeyeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result = report(args)
    args.out.mkdir(parents=True, exist_ok=True)
    atomic_write(args.out / "hints.json", json.dumps(result, indent=2) + "\n")
    atomic_write(args.out / "hints.md", markdown(result, args))
    draw(result, args.out / "hints.png")
    say((args.out / "hints.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
