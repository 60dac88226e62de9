"""What a response to an alignment prompt got right, in figures from 0 to 1, and their means.

Invariant: a figure that a response cannot have (no constraints, a failed rule) is absent, not 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rewards.result import Score, is_correct
from rl.alignment.prompts import ANSWER
from rl.groups import Group
from rollout.trajectory import Trajectory

PARTS = {
    "format": "format",
    "constraints": "strict",
    "soft": "soft",
    "steps": "steps",
    "process": "process",
    "consistency": "consistent",
    "keye_rm": "preferred",
    "content": "content",
    "json": "content",
}
"""Reward part → the figure it is."""
KIND = "kind/"
"""Prefix of the figures of single constraint kinds."""


def marks(score: Score, trajectory: Trajectory | None = None) -> dict[str, float]:
    """The figures of one response.

    `strict`: all constraints are followed; `loose`: the share that is; `kind/NAME`: that one;
    `format`: structure of the mode; `content`: form of the answer; `formed`: both; `answer`: the
    question is answered; `steps`, `process`, `consistent`, `soft`; `preferred`: to a reference (in
    a group win rates average to ½ whatever the policy); `correct`: every verifier, where there is
    more than a reward model; `searched`: tools were called, and each call could be answered.
    """
    found: dict[str, float] = {}
    for name, result in score.parts.items():
        if result.value is None or result.details.get("against") == "group":
            continue
        figure = PARTS.get(name)
        if figure in found:  # JSON in a code block: both must hold
            found[figure] = min(found[figure], result.value)
        elif figure:
            found[figure] = result.value
        if name == "constraints":
            found |= _by_kind(result.details["followed"])
    answers = [result.value for name, result in score.parts.items() if _is_answer(name)]
    known = [value for value in answers if value is not None]
    if known and len(known) == len(answers):
        found["answer"] = float(min(known) >= 1.0)
    if "format" in found:
        found["formed"] = min(found["format"], found.get("content", 1.0))
    if not score.failed and not score.by_model:
        found["correct"] = float(is_correct(score))
    use = trajectory.tool_use if trajectory is not None else None
    if use is not None:
        found["searched"] = float(use.calls > 0 and not use.errors)
    return found


def _is_answer(name: str) -> bool:
    return name.partition("#")[0] == ANSWER


def _by_kind(followed: dict[str, bool]) -> dict[str, float]:
    kinds = {f"{KIND}{name}": float(held) for name, held in followed.items()}
    return {"loose": float(np.mean(list(followed.values()))), **kinds}


def observe(groups: Sequence[Group]) -> dict[str, float]:
    """`alignment/SOURCE/FIGURE` means of a step's responses, and `alignment/KIND/satisfied`.

    `alignment/formats/KIND` is the share of well-formed answers (structure and content) of a form.
    """
    values: dict[str, list[float]] = {}
    for group in groups:
        about = group.sample.extra.get("alignment", {})
        source = about.get("source", "general")
        for score, trajectory in zip(group.scores, group.trajectories, strict=True):
            found = marks(score, trajectory)
            for figure, value in found.items():
                key = f"{source}/{figure}"
                if figure.startswith(KIND):
                    key = f"{figure[len(KIND) :]}/satisfied"
                elif figure == "formed":
                    if source != "formats":
                        continue
                    key = f"formats/{about['kind']}"
                values.setdefault(f"alignment/{key}", []).append(value)
    return {key: float(np.mean(one)) for key, one in sorted(values.items())}


def mean_marks(group: Group) -> dict[str, float]:
    """Each figure's mean over the responses of a group that have it."""
    values: dict[str, list[float]] = {}
    for score, trajectory in zip(group.scores, group.trajectories, strict=True):
        for figure, value in marks(score, trajectory).items():
            values.setdefault(figure, []).append(value)
    return {figure: float(np.mean(one)) for figure, one in values.items()}
