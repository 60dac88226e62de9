"""Evaluation: what is counted, and that the same policy gives the same records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pretrain.data.stream import heldout
from rewards.config import RewardConfig
from rewards.pool import RewardPool
from rewards.result import RewardResult, Score
from rl.evaluate import Evaluation, change, evaluate
from rl.rollouts import Rollouts
from rollout.config import SamplingConfig


def record(mode: str, greedy: bool, sampled: float, task: str = "a/b") -> dict[str, Any]:
    return {
        "id": "x",
        "mode": mode,
        "task_type": task,
        "greedy": greedy,
        "sampled": sampled,
        "pass_at_8": sampled > 0,
        "reasoned": 1.0,
        "format": 0.5,
        "tokens": 10.0,
        "response": "",
    }


def test_tables_count_prompts_per_mode_and_task(tmp_path: Path):
    result = Evaluation(
        [
            record("think", True, 0.5),
            record("think", False, 0.25, "a/c"),
            record("no_think", False, 0.0),
        ]
    )
    table = result.table()
    assert set(table) == {"think", "no_think"}
    assert table["think"]["greedy"]["value"] == 0.5 and table["think"]["greedy"]["n"] == 2
    assert table["think"]["sampled"]["value"] == pytest.approx(0.375)
    assert table["think"]["pass_at_8"]["value"] == 1.0
    assert table["no_think"]["pass_at_8"]["value"] == 0.0
    assert result.by_task()["think"]["a/c"]["sampled"]["value"] == 0.25
    assert "a/c" not in result.by_task()["no_think"]
    assert result.behaviour()["think"] == {"reasoned": 1.0, "format": 0.5, "tokens": 10.0}
    result.save(tmp_path / "e.jsonl")
    assert Evaluation.load(tmp_path / "e.jsonl").table() == table


class Answers:
    """Stands for an engine: the samples are what the rules make of each answer."""

    def groups(self, samples: Any, *, n: int, **how: Any) -> list[Any]:
        return [
            SimpleNamespace(
                sample=sample,
                scores=[Score(1.0, sample.parts, ("exact",))] * n,
                correct=np.ones(n, bool),
                reasoned=np.ones(n, bool),
                responses=[""] * n,
                trajectories=[SimpleNamespace(num_sampled=3)] * n,
            )
            for sample in samples
        ]


@dataclass
class Ruled:
    parts: dict[str, RewardResult]
    mode: str = ""
    id: str = "x"
    task_type: str = "a/b"


def test_structure_is_that_of_the_rule_that_looks_at_it(tmp_path: Path):
    def asked(**values: float) -> Any:
        return Ruled({name: RewardResult(value) for name, value in values.items()})

    samples = [asked(exact=1.0, format=1.0), asked(exact=1.0, agentic_format=0.0), asked(exact=1.0)]
    found = evaluate(Answers(), samples, ["think"])  # type: ignore[arg-type]
    assert [record["format"] for record in found.records] == [1.0, 0.0, None]
    assert found.behaviour()["think"] == {"reasoned": 1.0, "format": 0.5, "tokens": 3.0}
    unseen = evaluate(Answers(), samples[2:], ["think"])  # type: ignore[arg-type]
    unseen.save(tmp_path / "e.jsonl")
    assert set(Evaluation.load(tmp_path / "e.jsonl").behaviour()["think"]) == {"reasoned", "tokens"}


def test_change_is_paired():
    before = Evaluation([record("think", False, s / 10) for s in range(10)])
    after = Evaluation([record("think", True, s / 10 + 0.05) for s in range(10)])
    moved = change(before, after)["think"]
    assert moved["greedy"]["value"] == 1.0
    assert moved["sampled"]["value"] == pytest.approx(0.05)
    # The prompts differ widely, the changes not at all: so the interval is a point.
    assert moved["sampled"]["high"] - moved["sampled"]["low"] < 1e-9


@pytest.fixture(scope="module")
def rollouts(engine_pool: Any, encoder: Any) -> Iterator[Rollouts]:
    with RewardPool(RewardConfig()) as rewards:
        yield Rollouts(engine_pool, encoder, rewards, SamplingConfig(max_tokens=8))


def test_the_same_policy_gives_the_same_records(rollouts: Rollouts):
    samples = heldout({"digits/sum": 1, "text/arithmetic": 1}, 4, seed=9)
    first = evaluate(rollouts, samples, ["think", "auto_think"])
    second = evaluate(rollouts, samples, ["think", "auto_think"])
    assert first.records == second.records
    assert [r["mode"] for r in first.records] == ["think"] * 4 + ["auto_think"] * 4
    assert [r["id"] for r in first.records[:4]] == [s.id for s in samples]
    assert all(1 <= r["tokens"] <= 8 for r in first.records)


def test_greedy_does_not_depend_on_the_seed_and_samples_do(rollouts: Rollouts):
    samples = heldout({"digits/sum": 1}, 3, seed=9)
    greedy = [rollouts.groups(samples, n=1, seed=s, temperature=0.0) for s in (1, 2)]
    sampled = [rollouts.groups(samples, n=2, seed=s, temperature=1.0) for s in (1, 2)]
    texts = [[[g.responses for g in groups] for groups in both] for both in (greedy, sampled)]
    assert texts[0][0] == texts[0][1]
    assert texts[1][0] != texts[1][1]
