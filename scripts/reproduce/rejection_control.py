"""Does replacing cold-start replies by the RL policy's better ones help the next round?

The round of iterated RL in `recipe=full`, as `./scripts/reproduce/stages` runs it, is the arm `on`:
what that script has left is taken, what is missing is run. Arm `off` is, for each seed, a copy of
the same run up to round 0; its round 1 samples and scores the same responses, but none is ever good
enough to enter (`iterated.margin` is above any reward), so the new cold start learns the old rows.

Both arms cost the same. Compared is the round's held-out accuracy, paired over prompts. Run it
again after an interruption: what is finished is kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from typing import Any

from stage_effects import parse, run_seed, run_shared, set_words

from pretrain.run.console import say
from pretrain.run.directory import RunDir
from pretrain.run.errors import KeyeError
from rl.evaluate import Evaluation, mean_values
from rl.stages import load_evaluation
from rl.statistics import Estimate, leaf, mean_interval, paired_difference, verdict

ARMS = ("on", "off")
NEVER = 1e6
"""Arm `off`: by how much a response must be better than the reply it takes the place of."""
LATER = ("round1", "evaluate_after", "alignment_*", "evaluate_al*")
"""Folders of a seed's run that come after round 0."""
MEASURED = {"round 0": "round0/evaluate", "round 1": "round1/evaluate"}
MODES = ("think", "auto_think", "no_think")
KINDS = ("greedy", "sampled")


def both(args: argparse.Namespace, shared: RunDir, seed: int) -> dict[str, RunDir]:
    """Both arms of one seed."""
    on = run_seed(args, shared, seed, last="iterate")
    name = f"seed{seed}_off"
    off = on.path.with_name(name)
    if not off.exists():
        copied = off.with_name(f"{name}.part")  # an interrupted copy must not look complete
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(on.path, copied, ignore=shutil.ignore_patterns(*LATER))
        copied.rename(off)
    margin = f"iterated.margin={NEVER}"
    return {"on": on, "off": run_seed(args, shared, seed, margin, folder=name, last="iterate")}


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
        f"Command: `./scripts/reproduce/rejection --seeds {words}{set_words(args)}` (tiny model; "
        "the seeds of `./scripts/reproduce/stages`). Intervals: 95 %, over held-out prompts, "
        "answers averaged over the seeds, paired.",
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
    args = parse(about=__doc__)
    try:
        shared = run_shared(args)
        folders = {seed: both(args, shared, seed) for seed in args.seeds}
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
