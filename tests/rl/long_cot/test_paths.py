"""What is kept of sampled paths, and whether confidence is measured as it is defined."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pretrain.run.errors import ConfigError, KeyeError
from rewards.result import RewardResult, Score
from rl.groups import Group
from rl.long_cot.config import PathsConfig
from rl.long_cot.paths import PATHS, auc, path_rows, path_statistics, sample_paths
from rollout.config import SamplingConfig


def path(confidence: float, **facts: Any) -> dict[str, Any]:
    known = {"correct": True, "finished": True, "reasons": True, "steps": []}
    return known | {"confidence": confidence} | facts


def test_auc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, right = rng.integers(0, 6, 30) / 5, rng.random(30) < 0.4  # with ties
        assert auc(scores, right) == pytest.approx(roc_auc_score(right, scores))
    assert auc(np.array([0.1, 0.9]), np.array([False, True])) == 1.0


def statistics(folder: Path, *questions: list[dict[str, Any]]) -> dict[str, Any]:
    return path_statistics([{"paths": paths} for paths in questions], folder)


def test_statistics_by_hand(tmp_path: Path):
    steps = [{"confidence": 0.2}, {"confidence": 0.9}]
    first = [
        path(0.8),
        path(0.6, correct=False, steps=steps),
        path(0.5, correct=None),
    ]
    second = [path(0.7, correct=False, finished=False), path(0.9, correct=False)]
    found = statistics(tmp_path, first, second)
    assert found["correct_share"] == 0.25 and found["failed_share"] == pytest.approx(0.2)
    assert found["usable"] == 1 and found["unsolved_share"] == 0.5
    assert found["unfinished_share"] == pytest.approx(0.2)
    assert found["confidence_correct"] == 0.8
    assert found["confidence_wrong"] == pytest.approx((0.6 + 0.7 + 0.9) / 3)
    assert found["auc_whole"] == pytest.approx(2 / 3) and found["auc_within"] == 1.0
    assert found["auc_weakest_step"] == pytest.approx(2 / 3) and found["steps_mean"] == 0.4


def test_no_correct_path_at_all_stops_with_the_reason(tmp_path: Path):
    with pytest.raises(KeyeError, match=r"none of 2 questions.*2 paths, 1 correct.*max_tokens"):
        statistics(tmp_path, [path(0.9, finished=False)], [path(0.9, correct=False)])


class Policy:
    """A policy whose k-th response to question i is right if k ≤ i; it may be interrupted."""

    def __init__(self, processor: Any, stop_after: int = 10**6) -> None:
        self.encoder, self.stop_after, self.calls = processor, stop_after, 0
        self.sampling = SamplingConfig(max_tokens=64)

    def groups(self, samples: Any, *, n: int, seed: int) -> list[Group]:
        self.calls += 1
        if self.calls > self.stop_after:
            raise KeyboardInterrupt
        return [self._group(sample, n) for sample in samples]

    def _group(self, sample: Any, n: int) -> Group:
        assert sample.mode == "think"
        number = int(sample.id.rpartition("/")[2])
        texts, scores, trajectories = [], [], []
        for k in range(n):
            right = k <= number
            thought = sample.solution if k % 2 else f"{sample.solution};so it is"
            given = sample.answer if right else "99"
            texts.append(f"<think>{thought}</think><answer>\\boxed{{{given}}}</answer>")
            ids = self.encoder.tokenizer(texts[-1], add_special_tokens=False)["input_ids"]
            logprobs = np.full(len(ids) + 1, np.log(0.9 if right else 0.5), np.float32)
            scores.append(Score(float(right), {"math": RewardResult(float(right))}, ("math",)))
            trajectory: Any = SimpleNamespace(
                response_ids=np.array([*ids, 0], np.int32), logprobs=logprobs, finish_reason="stop"
            )
            trajectories.append(trajectory)
        return Group(sample, 0, None, trajectories, texts, scores)  # type: ignore[arg-type]


def test_a_path_keeps_what_was_sampled(processor: Any, world: Any):
    rows, questions = world(2)
    group = Policy(processor)._group(questions(rows[1]), 3)
    first, second, third = path_rows(group, processor.tokenizer)
    assert (first["correct"], second["correct"], third["correct"]) == (True, True, False)
    assert first["confidence"] == pytest.approx(0.9) and third["confidence"] == pytest.approx(0.5)
    assert [s["text"] for s in first["steps"]][-1] == "so it is"
    assert all(s["confidence"] == pytest.approx(0.9) for s in first["steps"])
    assert first["tokens"] == len(group.trajectories[0].response_ids) and first["reasons"]


def sample(folder: Path, policy: Any, world: Any) -> dict[str, Any]:
    rows, questions = world(7)
    return sample_paths(rows, questions, policy, PathsConfig(samples=4), folder, 2)


def test_an_interrupted_step_loses_nothing_and_ends_as_an_unbroken_one(
    tmp_path: Path, processor: Any, world: Any
):
    whole = sample(tmp_path / "a", Policy(processor), world)
    with pytest.raises(KeyboardInterrupt):
        sample(tmp_path / "b", Policy(processor, stop_after=2), world)
    file = tmp_path / "b" / PATHS
    assert len(file.read_text().splitlines()) == 4
    with open(file, "a") as log:
        log.write('{"id": "half a row')  # killed while it wrote
    policy = Policy(processor)
    assert sample(tmp_path / "b", policy, world) == whole and policy.calls == 2  # 3 of 7 left
    assert file.read_text() == (tmp_path / "a" / PATHS).read_text()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert not any("selected" in p for row in rows for p in row["paths"])  # that is for later
    assert whole["usable"] == 1 + 2 + 3 + 4 * 4
    assert whole["correct_share"] == pytest.approx((1 + 2 + 3 + 4 * 4) / 28)
    assert whole["auc_whole"] == 1.0 and whole["auc_within"] == 1.0


def test_confidences_need_logprobs(tmp_path: Path, processor: Any, world: Any):
    policy = Policy(processor)
    policy.sampling = SamplingConfig(logprobs=False)
    with pytest.raises(ConfigError, match=r"sampling\.logprobs"):
        sample(tmp_path, policy, world)
