"""How hard each row is for a policy: correctness and length of several sampled answers.

Measuring is one thing and choosing another: limits can be changed without sampling again.

Invariant: a row about which nothing is known (no reward, or all failed) is never called easy or
hard: it stays, with accuracy None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.sample import Sample
from pretrain.run.console import Progress
from rewards.composition import route
from rl.groups import Group
from rl.rollouts import Rollouts
from rl.row_log import RowLog
from rl.sft.config import DifficultyConfig
from rl.trace_rows import Row, SampleSource, sample_of
from rollout.seeds import stable_seed

MEASURES = "difficulty.jsonl"
"""One row a row of the data: `{id, accuracy, tokens, truncated}`."""


def measure_rows(
    rows: Sequence[Row],
    source: SampleSource,
    rollouts: Rollouts,
    folder: Path,
    cfg: DifficultyConfig,
) -> dict[str, Any]:
    """Sample answers to all rows and write `folder`/difficulty.jsonl; resumable.

    Returns:
        `rows`; `unknown`, those whose truth no rule knows; and of the others the means of
        `accuracy`, `tokens` and `truncated` and the shares `all_right` and `all_wrong`.
    """
    log = RowLog(folder / MEASURES)
    left = [row for row in rows if row["id"] not in log.ids]
    with Progress("difficulty", total=len(rows)) as bar:
        bar.advance(len(rows) - len(left))
        for start in range(0, len(left), cfg.chunk):
            chunk = left[start : start + cfg.chunk]
            samples = [sample_of(source, row) for row in chunk]
            scored = [sample for sample in samples if _has_reward(sample, rollouts)]
            found = _measures(scored, rollouts, cfg) if scored else {}
            unknown = {"accuracy": None, "tokens": None, "truncated": None}
            log.append({"id": row["id"]} | found.get(row["id"], unknown) for row in chunk)
            bar.advance(len(chunk))
    return _summary(log.rows())


def _measures(
    samples: Sequence[Sample], rollouts: Rollouts, cfg: DifficultyConfig
) -> dict[str, dict[str, Any]]:
    """Id → measure of each sample."""
    groups = rollouts.groups(
        samples,
        n=cfg.samples,
        seed=stable_seed(cfg.seed, "difficulty"),
        temperature=cfg.temperature,
    )
    return {group.sample.id: _measure(group) for group in groups}


def _has_reward(sample: Sample, rollouts: Rollouts) -> bool:
    return bool(sample.rewards or route(sample.task_type, rollouts.rewards.config.routes))


def _measure(group: Group) -> dict[str, Any]:
    """Means over the answers."""
    cut = [trajectory.finish_reason == "length" for trajectory in group.trajectories]
    return {
        "accuracy": group.accuracy,
        "tokens": group.tokens / len(group.trajectories),
        "truncated": float(np.mean(cut)),
    }


def _summary(measures: Sequence[Row]) -> dict[str, Any]:
    known = [row for row in measures if row["accuracy"] is not None]
    summary: dict[str, Any] = {"rows": len(measures), "unknown": len(measures) - len(known)}
    if known:
        accuracy = np.array([row["accuracy"] for row in known])
        summary |= {
            key: float(np.mean([row[key] for row in known]))
            for key in ("accuracy", "tokens", "truncated")
        }
        summary["all_right"] = float((accuracy == 1).mean())
        summary["all_wrong"] = float((accuracy == 0).mean())
    return summary


@dataclass(slots=True)
class Selection:
    """What the measures say about the rows."""

    measures: dict[str, Row]
    """Id → `{accuracy, tokens, truncated}`."""
    easy: set[str]
    """Ids of the rows that are too easy and leave."""
    hard: set[str]
    """Ids of the hardest rows."""


def select(measures: Sequence[Row], cfg: DifficultyConfig) -> Selection:
    """Which rows are too easy and which are hard, by `cfg`'s limits."""
    known = [row for row in measures if row["accuracy"] is not None]
    easy = {
        row["id"]
        for row in known
        if row["accuracy"] >= cfg.easy_accuracy
        and (not cfg.easy_tokens or row["tokens"] <= cfg.easy_tokens)
        and _chance(cfg.seed, row["id"]) >= cfg.easy_kept
    }
    stay = [row for row in known if row["id"] not in easy]
    # A row that is always answered right is not hard, however long its answers are.
    ranked = sorted(
        (row for row in stay if row["accuracy"] < 1),
        key=lambda row: (row["accuracy"], -row["tokens"], row["id"]),
    )
    hard = ranked[: round(cfg.hard_share * len(stay))]
    return Selection({row["id"]: row for row in known}, easy, {row["id"] for row in hard})


def _chance(seed: int, name: str) -> float:
    """A number in [0, 1) that belongs to a row."""
    return np.random.default_rng(stable_seed(seed, name)).random()
