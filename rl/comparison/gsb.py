"""Good/Same/Bad: what pairwise verdicts on two policies add up to. Pure functions.

A verdict is told for policy A: `good` (A's response is better), `same` or `bad`; None could not be
read. A judge is asked in both orders; only what both orders say counts, all else is `same`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rl.statistics import mean_interval, wilson

OUTCOMES = ("good", "same", "bad")
_POINTS = {"good": 1.0, "same": 0.5, "bad": 0.0}
Record = dict[str, Any]


def swapped(verdict: str | None) -> str | None:
    """A verdict told for the other policy."""
    return {"good": "bad", "bad": "good"}.get(verdict or "", verdict)


def combine(forward: str | None, backward: str | None) -> str | None:
    """The outcome of both orders: None if either could not be read, `same` if they differ."""
    if forward is None or backward is None:
        return None
    return forward if forward == backward else "same"


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """Shares with 95 % intervals over prompts.

    `records`: `{outcome, verdicts?}`; `verdicts` are those of both orders, where there were two.

    Returns: `n` and `unread` (prompts with and without an outcome); `good`, `same`, `bad`;
    `win_rate` (same counts half); `gsb` = (good + same) / (bad + same), None without a denominator;
    `inconsistent` (the orders differ) and `opposite` (each order prefers the other response), where
    a judge was asked in both orders.
    """
    read = [record for record in records if record["outcome"] is not None]
    found: dict[str, Any] = {"n": len(read), "unread": len(records) - len(read)}
    if not read:
        return found
    outcomes = [record["outcome"] for record in read]
    for name in OUTCOMES:
        found[name] = wilson([outcome == name for outcome in outcomes]).to_dict()
    found["win_rate"] = mean_interval([_POINTS[outcome] for outcome in outcomes]).to_dict()
    counts = {name: outcomes.count(name) for name in OUTCOMES}
    below = counts["bad"] + counts["same"]
    found["gsb"] = (counts["good"] + counts["same"]) / below if below else None
    asked = [record["verdicts"] for record in read if record.get("verdicts")]
    if asked:
        found["inconsistent"] = wilson([a != b for a, b in asked]).to_dict()
        found["opposite"] = wilson([{a, b} == {"good", "bad"} for a, b in asked]).to_dict()
    return found


def grouped(records: Sequence[Record], key: Callable[[Record], str]) -> dict[str, dict[str, Any]]:
    """`summary` of all records, and of each value of `key`."""
    values = sorted({key(record) for record in records})
    tables = {"all": summary(records)}
    return tables | {
        value: summary([record for record in records if key(record) == value])
        for value in values
        if len(values) > 1
    }
