"""What an evaluation of the reward model says: pure functions of the records of its pairs.

A record is one pair in one mode, asked in both orders: `{id, mode, violated, task_type, value
(preference for the better response, None when nothing could be read), verdicts (one an order, told
for the pair: true is right, None malformed), judgements (how many were asked for), longer, shorter,
length_pair (whether it stands in the set that measures the liking for length, and nowhere else),
malformed (of the judgements), tokens, dimension (in think mode: is the worse response's mark lower
in the violated dimension?)}`. The pair is the unit of sampling: all intervals are over pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

Record = dict[str, Any]
Leaf = dict[str, float | int]
Z95 = 1.959963984540054


def share(outcomes: Sequence[bool]) -> Leaf:
    """A share with Wilson's 95 % interval: `{value, low, high, n}`."""
    found = binomtest(sum(map(bool, outcomes)), len(outcomes)).proportion_ci(method="wilson")
    return {
        "value": float(np.mean(outcomes)),
        "low": float(found.low),
        "high": float(found.high),
        "n": len(outcomes),
    }


def mean(values: Sequence[float]) -> Leaf:
    """A mean with its normal 95 % interval (sample standard error)."""
    data = np.asarray(values, np.float64)
    half = Z95 * float(data.std(ddof=1)) / math.sqrt(len(data)) if len(data) > 1 else math.inf
    value = float(data.mean())
    return {"value": value, "low": value - half, "high": value + half, "n": len(data)}


def difference(first: Sequence[float], second: Sequence[float]) -> Leaf:
    """Difference of two independent means with its normal 95 % interval."""
    a, b = mean(first), mean(second)
    value = a["value"] - b["value"]
    half = math.hypot(a["high"] - a["value"], b["high"] - b["value"])
    return {"value": value, "low": value - half, "high": value + half, "n": a["n"] + b["n"]}


def is_right(record: Record) -> bool:
    """Whether the better response is preferred; a tie or an unreadable judgement is wrong."""
    return record["value"] is not None and record["value"] > 0.5


def mode_table(records: Sequence[Record], length_pairs: Sequence[Record] = ()) -> dict[str, Any]:
    """All measures of one mode.

    `length_bias` is the accuracy where the longer response is better minus that where the shorter
    one is. Those are pairs with other faults, some easier to see than others; of `length_pairs`
    the same difference is `length_bias_matched`, where length is all that the sides differ in.
    """
    shorter = [float(is_right(r)) for r in records if r["shorter"]]
    longer = [float(is_right(r)) for r in records if r["longer"]]
    table: dict[str, Any] = {
        "accuracy": share([is_right(record) for record in records]),
        "single_order": mean([_single(record) for record in records]),
        "position_bias": mean([first_share(record) - 0.5 for record in records]),
        "malformed": mean([record["malformed"] / record["judgements"] for record in records]),
        "tokens": mean([record["tokens"] / record["judgements"] for record in records]),
        "judgements": sum(record["judgements"] for record in records),
        "violated": {
            name: share([is_right(r) for r in records if r["violated"] == name])
            for name in sorted({record["violated"] for record in records})
        },
    }
    if shorter and longer:
        table["shorter_better"], table["longer_better"] = mean(shorter), mean(longer)
        table["length_bias"] = difference(longer, shorter)
    sides = {
        side: [float(is_right(r)) for r in length_pairs if r[side]]
        for side in ("longer", "shorter")
    }
    if all(sides.values()):
        table["length_bias_matched"] = difference(sides["longer"], sides["shorter"])
    named = [bool(r["dimension"]) for r in records if r["dimension"] is not None]
    if named:
        table["dimension_found"] = share(named)
    return table


def _single(record: Record) -> float:
    """Share of a pair's judgements that are right by themselves."""
    return float(np.mean([verdict is True for verdict in record["verdicts"]]))


def first_share(record: Record) -> float:
    """How often the response shown first is chosen: 0.5 when the order doesn't matter.

    In the first order the better one stands first; unreadable judgements are left out.
    """
    forward, backward = record["verdicts"]
    chosen = [] if forward is None else [forward]
    if backward is not None:
        chosen.append(not backward)
    return float(np.mean(chosen)) if chosen else 0.5


def agreement(first: Sequence[Record], second: Sequence[Record]) -> Leaf:
    """How often two modes prefer the same response, over pairs that both could judge."""
    other = {record["id"]: record for record in second}
    pairs = [(record, other[record["id"]]) for record in first if record["id"] in other]
    both = [(a, b) for a, b in pairs if a["value"] is not None and b["value"] is not None]
    if not both:
        return {"value": math.nan, "low": math.nan, "high": math.nan, "n": 0}
    return share([is_right(a) == is_right(b) for a, b in both])


def baselines(records: Sequence[Record]) -> dict[str, Leaf]:
    """What needs no model: `length` always takes the longer, or always the shorter response, equal
    lengths by a coin; `majority` always names the same position, in an order drawn by a coin.

    Each takes the side that is better on these very pairs: no such judge can do better. A coin
    counts as half a hit.
    """
    length = max(
        (
            [float(r[side]) if r["longer"] or r["shorter"] else 0.5 for r in records]
            for side in ("longer", "shorter")
        ),
        key=sum,
    )
    drawn = np.random.default_rng(0).integers(0, 2, len(records))
    hits = int(max(drawn.sum(), len(records) - drawn.sum()))
    return {
        "length": mean(length),
        "majority": share([True] * hits + [False] * (len(records) - hits)),
    }


def report(records: Sequence[Record]) -> dict[str, Any]:
    """Everything: a table a mode, agreement of the modes, and the baselines."""
    modes = list(dict.fromkeys(record["mode"] for record in records))
    by_mode = {mode: [r for r in records if r["mode"] == mode] for mode in modes}
    length = {mode: [r for r in own if r.get("length_pair")] for mode, own in by_mode.items()}
    by_mode = {mode: [r for r in own if not r.get("length_pair")] for mode, own in by_mode.items()}
    result: dict[str, Any] = {
        "modes": {mode: mode_table(own, length[mode]) for mode, own in by_mode.items()}
    }
    if {"think", "no_think"} <= by_mode.keys():
        result["agreement"] = agreement(by_mode["think"], by_mode["no_think"])
    result["baselines"] = baselines(by_mode[modes[0]])
    return result
