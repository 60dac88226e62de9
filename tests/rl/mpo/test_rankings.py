"""`recipe=mpo` with people's rankings: exported, ranked, trained on, and nothing sampled again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pretrain.data.sample import Sample
from pretrain.keye_vl.prompt import EncodedPrompt
from pretrain.run.command import compose
from pretrain.run.directory import RunDir
from pretrain.run.metrics import read_rows
from rewards.config import RewardConfig
from rewards.result import RewardResult, Score
from rl import recipes
from rl.config import RlConfig
from rl.groups import Group
from rl.mpo.pairs import PAIRS, REVIEW
from rl.mpo.rank import MpoRank
from rl.mpo.stages import mpo, run_mpo
from rl.review.decisions import DecisionLog, decide
from rl.review.items import load_items
from rl.stages import Run
from rollout.trajectory import Trajectory

RULE = """
from rewards.registry import rule

@rule(verifier=True)
def lucky(response, sample):
    '''1 if the response holds a 3 or a 7: an untrained policy manages it sometimes.'''
    return float('3' in response or '7' in response)
"""


class LocalRank:
    """A `RankGroup` of one rank in this process: a single rank needs no rendezvous."""

    def __init__(self) -> None:
        self.rank = MpoRank(0, 1, 1)

    def call(self, method: str, *args: Any, phase: str, timeout_s: float) -> list[Any]:
        return [getattr(self.rank, method)(*args)]


class Judged:
    """In the engines' place: four responses to each prompt, told apart by the reward model only."""

    def __init__(self) -> None:
        self.calls = 0
        self.rewards = SimpleNamespace(config=RewardConfig())

    def groups(self, samples: Sequence[Sample], *, n: int, seed: int) -> list[Group]:
        self.calls += 1
        prompt = EncodedPrompt(np.arange(3, dtype=np.int32), [0])
        logprobs = np.full(2, -1.0, np.float32)
        groups = []
        for sample in samples:
            ids = [np.array([5, 6 + k], np.int32) for k in range(4)]
            trajectories = [
                Trajectory(sample.id, prompt, ids[k], logprobs, 0, 0, k, "stop") for k in range(4)
            ]
            values = [0.9, 0.6, 0.3, 0.0]
            parts = [{"keye_rm": RewardResult(value)} for value in values]
            scores = [
                Score(value, part, ("keye_rm",), by_model=True)
                for value, part in zip(values, parts, strict=True)
            ]
            groups.append(Group(sample, 0, prompt, trajectories, list("abcd"), scores))
        return groups


def test_the_stage_trains_on_the_reward_models_pairs_and_then_on_peoples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path
):
    def train_here(*args: Any, **more: Any) -> Any:
        return run_mpo(*args, **more, ranks=LocalRank())

    monkeypatch.setattr("rl.mpo.stages.run_mpo", train_here)
    rows = [
        {
            "id": f"row{k}",
            "messages": [{"role": "user", "content": f"{k}+1=?"}],
            "answer": "3",
            "task_type": "text/arithmetic",
            "rewards": [{"rule": "keye_rm"}],
        }
        for k in range(5)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = [
        "recipe=mpo", f"checkpoint={tiny_checkpoint}", f"data.files=[{tmp_path / 'rows.jsonl'}]",
        "mpo.pairs.prompts=0", "mpo.pairs.review=3", "mpo.train.steps=1",
        "mpo.train.batch_size=2", "mpo.train.world_size=1", "wandb.mode=disabled",
    ]  # fmt: skip
    judged, folder = Judged(), RunDir(tmp_path / "run")
    session: Any = SimpleNamespace(rollouts=lambda checkpoint, tools: judged)

    def run(*more: str) -> Run:
        cfg = compose("rl", RlConfig, [*overrides, *more])
        started = Run(cfg, folder, session, tiny_checkpoint)
        mpo(started)
        return started

    run()
    pairs = folder.stage("mpo/round1/pairs")
    metrics = pairs.summary()["metrics"]
    assert metrics["kinds"] == {"reward_model": 5} and metrics["no_truth"] == 5
    items, calls = load_items(pairs.path / REVIEW), judged.calls
    log = DecisionLog(tmp_path / "decisions.jsonl")
    for item in items:
        log.append(decide(item.id, 0, "rank", "ann", ranking=[4, 3, 2, 1]))
    done = run(f"mpo.rankings=[{log.path}]")
    assert judged.calls == calls  # nothing was sampled again
    human = folder.stage("mpo/round1/human")
    assert human.summary()["metrics"]["kinds"] == {"human": 3, "reward_model": 2}
    found = [pair for row in read_rows(human.path / PAIRS) for pair in row["pairs"]]
    assert [pair["chosen"]["text"] for pair in found] == ["d"] * 3 + ["a"] * 2
    assert done.made_by == "mpo/round1/train" and done.policy().exists()


@pytest.mark.slow
def test_rankings_are_added_to_pairs_that_are_there_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path, ray_cluster: None
):
    monkeypatch.setattr(recipes, "RUNS", tmp_path / "runs")
    (tmp_path / "rules.py").write_text(RULE)
    rows = [
        {
            "id": f"row{k}",
            "messages": [{"role": "user", "content": f"{k}+1=?"}],
            "answer": "3",
            "task_type": "text/arithmetic",
            "mode": "no_think",
            "rewards": [{"rule": f"{tmp_path / 'rules.py'}:lucky"}],
        }
        for k in range(12)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = [
        "recipe=mpo", f"checkpoint={tiny_checkpoint}", "run=r", "stages=[mpo]",
        f"data.files=[{tmp_path / 'rows.jsonl'}]", "mpo.pairs.prompts=0", "mpo.pairs.review=3",
        "mpo.train.steps=2", "mpo.train.batch_size=4", "mpo.train.world_size=1",
        "engine.count=1", "engine.max_length=128", "engine.kv_cache_mb=64", "engine.cpus=0.1",
        "engine.hang_seconds=300", "engine.start_seconds=1200", "sampling.max_tokens=12",
        "wandb.mode=disabled",
    ]  # fmt: skip

    def run(*more: str) -> RunDir:
        recipes.run_recipe(compose("rl", RlConfig, [*overrides, *more]))
        return RunDir(recipes.RUNS / "r")

    folder = run()
    pairs = folder.stage("mpo/round1/pairs")
    items, sampled = load_items(pairs.path / REVIEW), pairs.summary()
    assert len(items) == 3 and all(len(item.candidates) == 4 for item in items)
    log = DecisionLog(tmp_path / "decisions.jsonl")
    for item in items:
        log.append(decide(item.id, 0, "rank", "ann", ranking=[4, 1, 2, 3]))
    folder = run(f"mpo.rankings=[{log.path}]")
    assert pairs.summary() == sampled
    human = folder.stage("mpo/round1/human")
    metrics = human.summary()["metrics"]
    assert metrics["kinds"]["human"] == 3
    assert metrics["rankings"] == {"ranked": 3, "dropped": 0, "tied": 0, "unmatched": 0}
    found = [p for row in read_rows(human.path / PAIRS) for p in row["pairs"]]
    chosen = {p["chosen"]["text"] for p in found if p["kind"] == "human"}
    assert chosen == {item.candidates[1] for item in items}
    trained = folder.stage("mpo/round1/train")
    assert [row["step"] for row in read_rows(trained.metrics_file)] == [1, 2]
