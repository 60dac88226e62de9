"""Two policies side by side: rules on a real engine, a served judge, and the whole command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pretrain.data.stream import heldout
from pretrain.run.command import compose
from pretrain.run.errors import ConfigError, KeyeError
from rewards.config import RewardConfig
from rewards.pool import RewardPool
from rl.comparison.command import CompareConfig, RubricCommandConfig, run_compare, run_rubric
from rl.comparison.gsb import summary
from rl.comparison.judges import Pair, by_endpoint, by_rules
from rl.judging import JudgeConfig
from rl.rollouts import Rollouts
from rollout.config import SamplingConfig


@pytest.fixture(scope="module")
def scorer() -> Iterator[Rollouts]:
    """Rules alone: nothing is generated."""
    nothing: Any = None
    with RewardPool(RewardConfig()) as rewards:
        yield Rollouts(nothing, nothing, rewards, SamplingConfig())


def test_rules_tell_right_from_wrong(scorer):
    samples = heldout({"digits/sum": 1.0}, 3, seed=9, modes={"no_think": 1.0})
    right = [sample.answer for sample in samples]
    wrong = [str(int(answer) + 1) for answer in right]
    pairs = [
        Pair(samples[0], right[0], wrong[0]),
        Pair(samples[1], wrong[1], right[1]),
        Pair(samples[2], right[2], right[2]),
    ]
    records = by_rules(pairs, scorer)
    assert [record["outcome"] for record in records] == ["good", "bad", "same"]
    assert records[0]["right"] == [True, False]
    for sample in samples:
        sample.rewards = []
    assert by_rules(pairs, scorer) == []  # nobody can tell


def test_what_is_missing_is_said_before_anything_starts(tiny_checkpoint, tmp_path):
    with pytest.raises(ConfigError, match="checkpoint=DIRECTORY"):
        run_compare(CompareConfig())
    with pytest.raises(ConfigError, match="other=DIRECTORY"):
        run_compare(CompareConfig(checkpoint=str(tiny_checkpoint)))
    with pytest.raises(KeyeError, match=r"other=.* holds no checkpoint"):
        run_compare(CompareConfig(checkpoint=str(tiny_checkpoint), other=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"judge\.url=URL judge\.model=NAME"):
        run_rubric(RubricCommandConfig(checkpoint=str(tiny_checkpoint)))
    with pytest.raises(ConfigError, match="reward_mode"):
        compose("compare", CompareConfig, ["reward_mode=fast"])
    with pytest.raises(ConfigError, match=r"judge\.model"):
        compose("rubric", RubricCommandConfig, ["judge.url=http://127.0.0.1:1/v1"])


@pytest.mark.slow
def test_a_served_judge_compares_in_both_orders(served):
    samples = heldout({"digits/sum": 1.0}, 4, seed=9)
    pairs = [Pair(sample, "the sum is 8", "9") for sample in samples]
    judge = JudgeConfig(url=served, model="keye", reason_length=10)
    client = judge.client()
    records = by_endpoint(pairs, judge, client)
    assert client.counters.requests == 8
    assert all(len(record["verdicts"]) == 2 for record in records)
    found = summary(records)
    assert found["n"] + found["unread"] == 4 and found["n"] > 0
    assert sum(found[name]["value"] for name in ("good", "same", "bad")) == pytest.approx(1.0)


@pytest.mark.slow
def test_the_commands_from_end_to_end(
    ray_cluster, engine_config, tiny_checkpoint, tmp_path, served
):
    """Against a copy of itself everything is the same; the second call asks nobody."""
    other = tmp_path / "other" / "checkpoint"
    shutil.copytree(tiny_checkpoint, other)
    cfg = compose(
        "compare",
        CompareConfig,
        [
            f"checkpoint={tiny_checkpoint}",
            f"other={other}",
            f"out={tmp_path / 'out'}",
            "evaluation.samples=4",
            "evaluation.modes=[think,no_think]",
            "sampling.max_tokens=8",
            f"judge.url={served}",
            "judge.model=keye",
            "judge.reason_length=10",
            "engine.kv_cache_mb=64",
            "engine.start_seconds=900",
            "engine.hang_seconds=60",
            "engine.cpus=0.1",
        ],
    )
    run_compare(cfg)
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert found["judges"]["rules"]["all"]["same"]["value"] == 1.0
    assert found["judges"]["rules"]["all"]["n"] == 8
    assert found["judges"]["judge"]["all"]["win_rate"]["value"] == 0.5
    change = found["rubric"]["a_minus_b"]
    assert change["correctness"]["value"] == 0.0 and change["correctness"]["n"] > 0
    table = found["rubric"]["a"]["table"]["all"]
    assert all(1.0 <= leaf["value"] <= 5.0 for leaf in table.values())
    marks = Path(tmp_path / "out" / "marks_a" / "records.jsonl")
    before = marks.stat().st_mtime_ns
    run_compare(cfg)
    assert marks.stat().st_mtime_ns == before
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == found
