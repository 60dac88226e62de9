"""What a person needs to see to trust a rule: values, latencies, failures, the strangest cases."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pretrain.run.console import say, table
from rewards.result import RewardResult

BINS = 10
STRANGEST = 10
BAR = 40


@dataclass(slots=True)
class Scored:
    """One scored response: the start of its text and its result."""

    id: str
    text: str
    result: RewardResult


def summary(scored: Sequence[Scored]) -> dict[str, float]:
    """Counts, mean, and latency percentiles in milliseconds. NaN where there is nothing."""
    values = np.array([s.result.value for s in scored if s.result.value is not None])
    seconds = np.array([s.result.seconds for s in scored])
    statuses = Counter(s.result.status for s in scored)
    return {
        "responses": len(scored),
        "mean": float(values.mean()) if values.size else float("nan"),
        "std": float(values.std()) if values.size else float("nan"),
        "p50_ms": float(np.percentile(seconds, 50) * 1e3) if seconds.size else float("nan"),
        "p99_ms": float(np.percentile(seconds, 99) * 1e3) if seconds.size else float("nan"),
        "timeouts": statuses["timeout"],
        "errors": statuses["error"],
    }


def histogram(values: Sequence[float]) -> list[tuple[str, int]]:
    """Counts by value if there are few different ones, else in ten equal bins."""
    if not values:
        return []
    distinct = Counter(values)
    if len(distinct) <= BINS:
        return [(f"{value:g}", count) for value, count in sorted(distinct.items())]
    counts, edges = np.histogram(values, BINS)
    return [
        (f"{low:.3g} … {high:.3g}", int(count))
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]


def strangest(scored: Sequence[Scored], count: int = STRANGEST) -> list[Scored]:
    """Failures of different kinds first, then the values and times farthest from the usual.

    The distance is in interquartile ranges (of the value, and of the logarithm of the time).
    """
    failed: dict[str, Scored] = {}
    for one in scored:
        if one.result.status != "ok":
            failed.setdefault(json.dumps(one.result.details, default=str)[:60], one)
    fine = [one for one in scored if one.result.value is not None]
    if not fine:
        return list(failed.values())[:count]
    far = _distance(np.array([one.result.value for one in fine], dtype=float))
    slow = _distance(np.log(np.array([max(one.result.seconds, 1e-7) for one in fine])))
    order = np.argsort(-np.maximum(far, slow), kind="stable")
    return [*failed.values(), *(fine[i] for i in order)][:count]


def _distance(values: np.ndarray) -> np.ndarray:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return np.abs(values - middle) / max(high - low, 1e-6)


def print_report(title: str, scored: Sequence[Scored]) -> None:
    """The tables of `python -m rewards score`."""
    if not scored:
        say(f"{title}: no responses")
        return
    numbers = summary(scored)
    table(title, list(numbers), [list(numbers.values())])
    bins = histogram([s.result.value for s in scored if s.result.value is not None])
    most = max((count for _, count in bins), default=1)
    table(
        "values",
        ["value", "count", ""],
        [(label, count, "█" * round(BAR * count / most)) for label, count in bins],
    )
    rows = []
    for one in strangest(scored):
        details = json.dumps(one.result.details, ensure_ascii=False, default=str)
        value = "–" if one.result.value is None else f"{one.result.value:.3g}"
        ms = f"{one.result.seconds * 1e3:.2f}"
        text = " ".join(one.text.split())[:50]
        rows.append((one.id, value, one.result.status, ms, text, details[:80]))
    table(
        f"the {len(rows)} strangest", ["id", "value", "status", "ms", "response", "details"], rows
    )
