"""`recipe=mpo` with people's rankings: exported, ranked, trained on, and nothing sampled again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pretrain.run.command import compose
from pretrain.run.directory import RunDir
from pretrain.run.metrics import read_rows
from rl import recipes
from rl.config import RlConfig
from rl.pairs import PAIRS, REVIEW
from rl.review.decisions import DecisionLog, decide
from rl.review.items import load_items

RULE = """
from rewards.registry import rule

@rule(verifier=True)
def lucky(response, sample):
    '''1 if the response holds a 3 or a 7: an untrained policy manages it sometimes.'''
    return float('3' in response or '7' in response)
"""


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
