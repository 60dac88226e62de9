"""Held-out accuracy with Wilson's 95 % intervals."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Z95 = 1.959963984540054
"""The 97.5 % point of the standard normal distribution."""


READING = "reading"
"""Kind of the outcomes on single digits."""
ZERO_SHOT = "zero_shot"
"""Kind of the vision encoder's zero-shot classifications."""
RECALL = "recall"
"""Kind of the vision encoder's caption retrievals."""


@dataclass(slots=True)
class Outcome:
    """One held-out sample's result."""

    task_type: str
    kind: str
    """What it counts for: `no_think`, `think`, or one of the kinds above."""
    correct: bool


def wilson(correct: int, n: int) -> dict[str, float | int]:
    """Share `correct / n` with Wilson's 95 % score interval: `{value, low, high, n}`."""
    if n < 1:
        raise ValueError("an accuracy needs at least one sample")
    share = correct / n
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n)) / (1 + Z95**2 / n)
    # Rounding must not push the bound past the share itself at 0 and 1.
    return {
        "value": share,
        "low": min(max(centre - half, 0.0), share),
        "high": max(min(centre + half, 1.0), share),
        "n": n,
    }


def _share(outcomes: Sequence[Outcome]) -> dict[str, float | int]:
    return wilson(sum(o.correct for o in outcomes), len(outcomes))


def summarise(outcomes: Iterable[Outcome]) -> dict[str, object]:
    """Accuracies of a held-out evaluation, for a stage's summary.

    Returns:
        `direct` and `think`: `{task type: {value, low, high, n}}`;
        `direct_mean`, `think_mean`: plain means over the task types;
        `reading`, `zero_shot`, `recall`: one share each, over all task types.
        A kind without samples has no entry.
    """
    by_kind: dict[str, dict[str, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    for outcome in outcomes:
        by_kind[outcome.kind][outcome.task_type].append(outcome)
    summary: dict[str, object] = {}
    for kind, key in (("no_think", "direct"), ("think", "think")):
        if by_kind[kind]:
            tasks = {task: _share(o) for task, o in sorted(by_kind[kind].items())}
            summary[key] = tasks
            summary[f"{key}_mean"] = sum(float(t["value"]) for t in tasks.values()) / len(tasks)
    for kind in (READING, ZERO_SHOT, RECALL):
        if by_kind[kind]:
            summary[kind] = _share([o for task in by_kind[kind].values() for o in task])
    return summary
