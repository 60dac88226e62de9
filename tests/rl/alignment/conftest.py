"""The recipe's mix, and a scorer that calls the real rules in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pretrain.data.sample import Sample
from pretrain.run.command import compose
from rewards.composition import parts_of, total
from rewards.config import RewardConfig
from rewards.registry import load
from rewards.result import Score, as_result
from rl.alignment.config import AlignmentConfig
from rl.alignment.sources import Source
from rl.config import RlConfig


@pytest.fixture(scope="session")
def recipe() -> RlConfig:
    """`recipe=alignment` as it stands in conf/."""
    return compose("rl", RlConfig, ["recipe=alignment"])


@pytest.fixture
def prompts(recipe: RlConfig, tmp_path: Path) -> Callable[..., list[Sample]]:
    """`prompts(name, count, cfg)`: the first prompts of a source."""

    def first(name: str, count: int, cfg: AlignmentConfig | None = None) -> list[Sample]:
        source = Source(name, cfg or recipe.alignment, tmp_path)
        return [source[index] for index in range(count)]

    return first


@pytest.fixture(scope="session")
def judge_reply() -> Callable[[Sample, str], Score]:
    """`judge_reply(sample, text)`: what the sample's rewards make of a reply."""

    def score(sample: Sample, text: str) -> Score:
        row = sample.to_row(media=False)
        config = RewardConfig()
        parts = parts_of(row, config)
        rules = {part.name: load(part.rule) for part in parts}
        results: dict[str, Any] = {
            part.name: as_result(rules[part.name].call(text, row, **part.args)) for part in parts
        }
        verifiers = tuple(
            part.name
            for part in parts
            if (rules[part.name].verifier if part.verifier is None else part.verifier)
        )
        return Score(total(parts, results, config), results, verifiers)

    return score
