"""Difficulty: what is measured of sampled answers, and what is made of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pretrain.data.sample import Sample
from pretrain.keye_vl.prompt import EncodedPrompt
from pretrain.run.errors import ConfigError
from rewards.config import RewardConfig
from rewards.result import RewardResult, Score
from rl.groups import Group
from rl.sft.config import AnnealPhaseConfig, DifficultyConfig, SftStageConfig
from rl.sft.difficulty import MEASURES, measure_rows, select
from rollout.trajectory import Trajectory

PROMPT = EncodedPrompt(np.arange(3, dtype=np.int32), [0, 1, 2])


class Source:
    """Sample k; every fifth has no reward."""

    def __getitem__(self, index: int) -> Sample:
        rewards = [] if index % 5 == 4 else [{"rule": "exact"}]
        return Sample(f"s{index}", [{"role": "user", "content": "?"}], "2", "a/b", rewards)


class FakeRollouts:
    """Of four answers to sample k, k mod 4 are right; they have k + 1 tokens, the last is cut off;
    the reward of sample 3 always fails, that of sample 7's first answer as well."""

    def __init__(self, stop_after: int = 10**6) -> None:
        self.calls, self.stop_after = 0, stop_after
        self.rewards = SimpleNamespace(config=RewardConfig())

    def groups(self, samples: Sequence[Sample], *, n: int, seed: int, temperature: float) -> Any:
        self.calls += 1
        if self.calls > self.stop_after:
            raise KeyboardInterrupt
        assert samples and temperature == 0.7
        return [self._group(sample, n) for sample in samples]

    def _group(self, sample: Sample, n: int) -> Group:
        number = int(sample.id[1:])
        ids = np.zeros(number + 1, np.int32)
        logprobs = np.zeros(number + 1, np.float32)
        trajectories = [
            Trajectory(
                sample.id, PROMPT, ids, logprobs, 0, 0, k, "length" if k == n - 1 else "stop"
            )
            for k in range(n)
        ]
        scores = []
        for k in range(n):
            failed = number == 3 or (number == 7 and k == 0)
            value = float(k < number % 4)
            part = RewardResult.failure("broken") if failed else RewardResult(value)
            scores.append(Score(None if failed else value, {"exact": part}, ("exact",)))
        return Group(sample, 0, PROMPT, trajectories, ["2"] * n, scores)


ROWS = [{"id": f"s{k}", "index": k, "task_type": "a/b"} for k in range(12)]
CFG = DifficultyConfig(samples=4, temperature=0.7, chunk=5)


def measured(folder: Path, rollouts: Any) -> dict[str, Any]:
    return measure_rows(ROWS, Source(), rollouts, folder, CFG)


def test_answers_are_measured_and_an_interruption_loses_one_chunk(tmp_path: Path):
    summary = measured(tmp_path / "a", FakeRollouts())
    rows = [json.loads(line) for line in (tmp_path / "a" / MEASURES).read_text().splitlines()]
    accuracy = [row["accuracy"] for row in rows]
    # Nothing is known of 3 (its reward fails) and of 4 and 9 (they have none); of 7's four answers
    # two of the three whose reward is known are right.
    assert accuracy == [
        0,
        0.25,
        0.5,
        None,
        None,
        0.25,
        0.5,
        pytest.approx(2 / 3),
        0,
        None,
        0.5,
        0.75,
    ]
    assert [row["tokens"] for row in rows[:4]] == [1, 2, 3, 4] and rows[4]["tokens"] is None
    assert rows[0]["truncated"] == 0.25
    known = [value for value in accuracy if value is not None]
    assert summary["rows"] == 12 and summary["unknown"] == 3
    assert summary["accuracy"] == pytest.approx(np.mean(known))
    assert summary["all_wrong"] == pytest.approx(2 / 9) and summary["all_right"] == 0
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path / "b", FakeRollouts(stop_after=1))
    again = FakeRollouts()
    assert measured(tmp_path / "b", again) == summary and again.calls == 2
    assert (tmp_path / "a" / MEASURES).read_text() == (tmp_path / "b" / MEASURES).read_text()


def measure(name: str, accuracy: float | None, tokens: float = 5.0) -> dict[str, Any]:
    return {"id": name, "accuracy": accuracy, "tokens": tokens, "truncated": 0.0}


def test_easy_means_right_and_short_and_hard_means_wrong_and_long():
    rows = [
        measure("short", 1.0, 3),
        measure("long", 1.0, 9),
        measure("mixed", 0.75),
        measure("wrong", 0.0, 5),
        measure("wrong and long", 0.0, 8),
        measure("half", 0.5),
        {"id": "unknown", "accuracy": None, "tokens": None, "truncated": None},
    ]
    selection = select(rows, DifficultyConfig(hard_share=0.5))
    assert selection.easy == {"short", "long"}
    assert selection.hard == {"wrong", "wrong and long"}  # half of the four that stay
    assert "unknown" not in selection.measures
    selection = select(rows, DifficultyConfig(easy_tokens=4, hard_share=0.2))
    assert selection.easy == {"short"} and selection.hard == {"wrong and long"}
    assert select(rows, DifficultyConfig(easy_accuracy=0.7)).easy == {"short", "long", "mixed"}
    # What is always right isn't hard, however many are asked for.
    everything = select(rows, DifficultyConfig(easy_tokens=1, hard_share=1.0))
    assert everything.hard == {"mixed", "wrong", "wrong and long", "half"}


def test_a_share_of_the_easy_rows_stays_the_same_ones_every_time():
    rows = [measure(f"r{k}", 1.0) for k in range(1000)]
    cfg = DifficultyConfig(easy_kept=0.3)
    kept = {row["id"] for row in rows} - select(rows, cfg).easy
    assert 250 < len(kept) < 350
    assert kept == {row["id"] for row in rows} - select(rows[::-1], cfg).easy
    assert kept <= {row["id"] for row in rows} - select(rows, replace(cfg, easy_kept=0.5)).easy


def test_bad_settings_are_named():
    with pytest.raises(ConfigError, match=r"easy_accuracy=2 is not in \[0, 1\]"):
        DifficultyConfig(easy_accuracy=2)
    with pytest.raises(ConfigError, match="4 greedy answers are all the same"):
        DifficultyConfig(temperature=0)
    with pytest.raises(ConfigError, match=r"sft\.anneal\.lr=0\.01 must be below sft\.train\.lr"):
        SftStageConfig(anneal=AnnealPhaseConfig(lr=0.01))
    assert SftStageConfig(anneal=AnnealPhaseConfig(steps=0, lr=0.01)).anneal.steps == 0
    with pytest.raises(ConfigError, match=r"mode='think hard' is none of"):
        SftStageConfig(mode="think hard")
