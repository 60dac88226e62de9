"""What a rule gives back, and what all rules of one response add up to.

Invariant: a failure is never a zero. A rule that raised, hung or returned something that is no
finite number has `value=None` and a status that says so, and the response's total is None.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["ok", "timeout", "error"]
TOLERANCE = 1e-9  # a value this close to 1 counts as 1: weighted means are not exact


@dataclass(slots=True)
class RewardResult:
    """One rule's verdict on one response. `seconds` is the time the rule itself took."""

    value: float | None
    status: Status = "ok"
    seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def failure(cls, message: str, status: Status = "error", seconds: float = 0.0) -> RewardResult:
        return cls(None, status, seconds, {"message": message[:2000]})

    def as_dict(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "status": self.status,
            "seconds": self.seconds,
            "details": self.details,
        }


@dataclass(slots=True)
class Score:
    """All rules of one response: `parts` by name, and their weighted `total`.

    `total` is None if any part failed. `verifiers` names the parts whose rules judge whether the
    answer is right (as opposed to shaping rules such as format or length). `by_model`: a reward
    model is all that judges the answer; it prefers, and no value of it says "right".
    """

    total: float | None
    parts: dict[str, RewardResult]
    verifiers: tuple[str, ...] = ()
    by_model: bool = False

    @property
    def failed(self) -> bool:
        return self.total is None


def is_correct(score: Score) -> bool:
    """True if every verifying part equals 1; with no verifying part, if every part equals 1.

    A response with a failed part is not correct: nothing is known about it.
    """
    if score.failed or not score.parts:
        return False
    names = score.verifiers or tuple(score.parts)
    return all((score.parts[name].value or 0.0) >= 1.0 - TOLERANCE for name in names)


def as_result(returned: object) -> RewardResult:
    """What a rule returned (a number, a bool, or a RewardResult) as a checked RewardResult."""
    result = returned if isinstance(returned, RewardResult) else RewardResult(_number(returned))
    if result.status != "ok":
        result.value = None
        return result
    result.value = _number(result.value)
    if result.value is None:
        shown = returned.value if isinstance(returned, RewardResult) else returned
        return RewardResult.failure(
            f"the rule returned {str(shown)[:100]!r} ({type(shown).__name__}), "
            "which is not a finite number"
        )
    return result


def _number(value: object) -> float | None:
    """A finite float, or None. numpy and torch scalars count as numbers, strings do not."""
    if value is None or isinstance(value, (str, bytes)):
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
