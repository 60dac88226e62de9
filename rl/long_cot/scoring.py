"""The answer rules for texts that no engine has just sampled: edits of people and of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pretrain.data.sample import Sample
from rewards.config import RewardConfig
from rewards.pool import RewardPool
from rewards.result import Score

Scorer = Callable[[Sequence[tuple[Sample, str]]], list[Score]]
"""Scores of (sample, response) pairs, in order."""


def pool_scorer(cfg: RewardConfig) -> Scorer:
    """Scores with workers that live for one call; without engines."""

    def score(items: Sequence[tuple[Sample, str]]) -> list[Score]:
        if not items:
            return []
        with RewardPool(cfg) as pool:
            return pool.score([(text, sample.to_row(media=False)) for sample, text in items])

    return score
