"""Does replacing cold-start replies by the RL policy's better ones help the next round?

From one pre-trained checkpoint, for each seed: round 0 of `recipe=iterated` (a cold start on a pool
of traces, a share of them spoiled, then GSPO). Then round 1 twice, from the same RL policy:

* `on`: rejection sampling as it is;
* `off`: the same responses are sampled and scored, but none is ever good enough to enter
  (`iterated.margin` is above any reward), so the new cold start learns the old rows.

Both arms cost the same. Compared are the new cold start's and the round's held-out accuracy, paired
over prompts. Run it again after an interruption: what is finished is kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretrain.run.command import compose
from pretrain.run.console import say
from pretrain.run.directory import RunDir
from pretrain.run.errors import KeyeError
from rl.config import RlConfig
from rl.evaluate import Evaluation, mean_values
from rl.recipes import RUNS, run_recipe
from rl.stages import load_evaluation
from rl.statistics import Estimate, leaf, mean_interval, paired_difference, verdict

RESULTS = Path(__file__).resolve().parent / "results"
ARMS = {"on": 0.0, "off": 1e6}
"""Arm → by how much a response must be better than the reply it takes the place of."""
MEASURED = {"round 0": "round0/evaluate", "round 1": "round1/evaluate"}
MODES = ("think", "auto_think", "no_think")
KINDS = ("greedy", "sampled")


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="runs/quickstart/fuse/checkpoint", help="pre-trained")
    parser.add_argument("--run", default="reproduce_rejection", help="folder under runs/")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--spoiled", type=float, default=0.2, help="share of spoiled traces")
    parser.add_argument("--steps", type=int, default=60, help="GSPO steps a round")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args(words)


def rounds(args: argparse.Namespace, seed: int, arm: str, count: int) -> RunDir:
    """Rounds 0…`count` of one arm."""
    name = f"{args.run}/seed{seed}/{arm}"
    overrides = [
        "recipe=iterated",
        f"run={name}",
        f"checkpoint={args.base}",
        "stages=[iterate]",
        f"rounds={count}",
        f"iterated.margin={ARMS[arm]}",
        f"iterated.spoiled_share={args.spoiled}",
        f"iterated.seed={300 + seed}",
        f"cold_start.seed={100 + seed}",
        f"gspo.steps={args.steps}",
        f"gspo.seed={seed}",
        f"learner.seed={seed}",
        f"data.seed={10 + seed}",
    ]
    run_recipe(compose("rl", RlConfig, overrides))
    return RunDir(RUNS / name)


def both(args: argparse.Namespace, seed: int) -> dict[str, RunDir]:
    """Both arms of one seed; round 0 is run once, and copied."""
    off = RUNS / args.run / f"seed{seed}" / "off"
    if not off.exists():
        first = rounds(args, seed, "on", 0)
        copied = off.with_name("off.part")  # a copy that was interrupted must not look complete
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(first.path, copied)
        copied.rename(off)
    return {arm: rounds(args, seed, arm, 1) for arm in ARMS}


def report(folders: dict[int, dict[str, RunDir]]) -> dict[str, Any]:
    """`{seeds, rows: {seed: {arm: statistics}}, modes: {mode: {kind: {round 0, on, off, ahead,
    ahead_by_seed}}}, verdict}`."""
    found: dict[str, Any] = {"seeds": list(folders), "modes": {}}
    found["rows"] = {
        str(seed): {
            arm: folder.stage("round1/rejection").summary()["metrics"]
            for arm, folder in arms.items()
        }
        for seed, arms in folders.items()
    }
    before = [load_evaluation(arms["on"], MEASURED["round 0"]) for arms in folders.values()]
    after = {
        arm: [load_evaluation(arms[arm], MEASURED["round 1"]) for arms in folders.values()]
        for arm in ARMS
    }
    for mode in MODES:
        found["modes"][mode] = {kind: _compared(before, after, mode, kind) for kind in KINDS}
    decided = _ahead(after, "think", "sampled")
    found["decided_by"] = {"mode": "think", "kind": "sampled", **decided.to_dict()}
    found["verdict"] = verdict([decided])
    return found


def _ahead(after: dict[str, list[Evaluation]], mode: str, kind: str) -> Estimate:
    return paired_difference(
        mean_values(after["off"], mode, kind), mean_values(after["on"], mode, kind)
    )


def _compared(
    before: list[Evaluation], after: dict[str, list[Evaluation]], mode: str, kind: str
) -> dict[str, Any]:
    return {
        "round 0": mean_interval(mean_values(before, mode, kind)).to_dict(),
        **{
            arm: mean_interval(mean_values(own, mode, kind)).to_dict() for arm, own in after.items()
        },
        "ahead": _ahead(after, mode, kind).to_dict(),
        "ahead_by_seed": [
            paired_difference(off.values(mode, kind), on.values(mode, kind)).value
            for on, off in zip(after["on"], after["off"], strict=True)
        ],
    }


def markdown(result: dict[str, Any], args: argparse.Namespace) -> str:
    """The committed table."""
    words = " ".join(map(str, result["seeds"]))
    rows = result["rows"]
    replaced = ", ".join(f"{rows[seed]['on']['replaced_share']:.2f}" for seed in rows)
    lines = [
        "# Rejection sampling of the cold-start data, on and off",
        "",
        f"Command: `./scripts/reproduce/rejection --seeds {words} --spoiled {args.spoiled:g} "
        f"--steps {args.steps}` (tiny model). Seeds vary everything from the cold start on. "
        "Intervals: 95 %, over held-out prompts, answers averaged over the seeds, paired.",
        "",
        f"Replies replaced, by seed: {replaced}; correct rows before and after: "
        + ", ".join(
            f"{own['on']['correct_before']:.3f} → {own['on']['correct_after']:.3f}"
            for own in rows.values()
        )
        + ".",
        "",
        "“Rejection sampling helps the next round” (think, temperature 1): "
        f"**{result['verdict']}**, {leaf(result['decided_by'], sign=True)}.",
        "",
        "| mode | measure | round 0 | round 1, off | round 1, on | on ahead of off | by seed |",
        "|---|---|---|---|---|---|---|",
    ]
    for mode, kinds in result["modes"].items():
        for kind, cell in kinds.items():
            values = " | ".join(leaf(cell[name]) for name in ("round 0", "off", "on"))
            by_seed = " ".join(f"{value:+.3f}" for value in cell["ahead_by_seed"])
            lines.append(
                f"| {mode} | {kind} | {values} | {leaf(cell['ahead'], True)} | {by_seed} |"
            )
    return "\n".join([*lines, ""])


def main() -> int:
    args = parse()
    try:
        folders = {seed: both(args, seed) for seed in args.seeds}
    except KeyeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result = report(folders)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "rejection.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / "rejection.md").write_text(markdown(result, args))
    say((args.out / "rejection.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
