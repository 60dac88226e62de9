"""`python -m rewards calibrate`: how well a rule's values agree with people's labels.

Rows are those of `score` with a number in `label` (0…1; for lists of responses a list of numbers).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from pretrain.data.row_files import open_rows
from pretrain.run.console import say, table
from pretrain.run.errors import ConfigError, KeyeError
from rewards.config import RewardConfig
from rewards.pool import RewardPool

BINS = 5


@dataclass
class CalibrateConfig:
    """Which rule to hold against which labels."""

    data: str = ""
    """JSONL or Parquet file of samples with `response` (or `responses`) and labels."""

    rule: str = "judge"
    """The rule, e.g. `judge` with `args.url=… args.model=…`."""

    args: dict[str, Any] = field(default_factory=dict)
    """Arguments of the rule."""

    label: str = "label"
    """Column with the labels."""

    pool: RewardConfig = field(default_factory=RewardConfig)
    """Workers and deadlines."""


@dataclass(slots=True)
class Agreement:
    """How values agree with labels; NaN where it cannot be told (e.g. all labels equal)."""

    n: int
    pearson: float
    spearman: float
    auc: float
    bias: float
    error: float
    bins: list[tuple[float, float, int, float, float]]


def agreement(values: Sequence[float], labels: Sequence[float]) -> Agreement:
    """Correlations, AUC (labels above their midpoint against the rest), mean difference.

    `bias` is mean(value − label), `error` mean |value − label|; `bins`: (from, to, count, mean
    value, mean label) over equal parts of 0…1, the calibration curve.
    """
    v, y = np.asarray(values, float), np.asarray(labels, float)
    spread = len(v) > 1 and v.std() > 0 and y.std() > 0
    high = y > (y.min() + y.max()) / 2 if len(y) else np.zeros(0, bool)
    auc = float("nan")
    if high.any() and not high.all():
        ranks = stats.rankdata(v)
        n_high = int(high.sum())
        auc = (ranks[high].sum() - n_high * (n_high + 1) / 2) / (n_high * (len(v) - n_high))
    edges = np.linspace(0, 1, BINS + 1)
    place = np.clip(np.digitize(v, edges) - 1, 0, BINS - 1)
    bins = [
        (edges[i], edges[i + 1], int(inside.sum()), v[inside].mean(), y[inside].mean())
        for i in range(BINS)
        if (inside := place == i).any()
    ]
    return Agreement(
        n=len(v),
        pearson=float(stats.pearsonr(v, y)[0]) if spread else float("nan"),
        spearman=float(stats.spearmanr(v, y)[0]) if spread else float("nan"),
        auc=float(auc),
        bias=float((v - y).mean()) if len(v) else float("nan"),
        error=float(np.abs(v - y).mean()) if len(v) else float("nan"),
        bins=bins,
    )


def run(config: CalibrateConfig) -> int:
    """Scores the file and prints the agreement; failures are counted, not compared."""
    if not config.data:
        raise ConfigError("calibrate needs data=FILE with `response` and `label` a row.")
    items, labels = _labelled(config)
    with RewardPool(config.pool) as pool:
        pool.check([config.rule])
        scores = pool.submit(items).result()
    kept = [(s.total, y) for s, y in zip(scores, labels, strict=True) if s.total is not None]
    if not kept:
        message = next(iter(scores[0].parts.values())).details.get("message", "no message")
        raise KeyeError(f"not one of {len(scores)} responses could be scored: {message}")
    found = agreement([v for v, _ in kept], [y for _, y in kept])
    columns = ["compared", "failed", "Pearson", "Spearman", "AUC", "bias", "mean |error|"]
    row = [found.n, len(scores) - found.n, found.pearson, found.spearman, found.auc]
    table(f"{config.rule} against {config.label}", columns, [[*row, found.bias, found.error]])
    table("calibration", ["from", "to", "count", "mean value", "mean label"], found.bins)
    details = [part.details for score in scores for part in score.parts.values()]
    cost = sum(float(d.get("cost") or 0.0) for d in details)
    tokens = sum(int(d.get("prompt_tokens") or 0) for d in details)
    if tokens:
        say(f"{tokens} prompt tokens, cost {cost:.4f}")
    return 0


def _labelled(config: CalibrateConfig) -> tuple[list[tuple[str, dict[str, Any]]], list[float]]:
    path = Path(config.data)
    rows = open_rows(path)
    items: list[tuple[str, dict[str, Any]]] = []
    labels: list[float] = []
    for index in range(len(rows)):
        sample = dict(rows.row(index))
        label = sample.pop(config.label, None)
        single = sample.pop("response", None)
        responses = sample.pop("responses", None) or [single]
        marks = label if isinstance(label, list) else [label]
        where = f"{path}:{rows.line(index)}"
        if len(marks) != len(responses) or not all(isinstance(r, str) for r in responses):
            raise KeyeError(f"{where}: needs as many numbers in {config.label!r} as responses")
        try:
            labels += [float(mark) for mark in marks]
        except (TypeError, ValueError):
            raise KeyeError(f"{where}: {config.label!r} is {label!r}, not a number") from None
        sample["rewards"] = [{"rule": config.rule, **config.args}]
        items += [(text, sample) for text in responses]
    return items, labels
