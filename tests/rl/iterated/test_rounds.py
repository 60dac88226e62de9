"""`recipe=iterated` and `recipe=mpo` end to end: real engines, ranks and rules, rows of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pretrain.run.command import compose
from pretrain.run.directory import RunDir, read_json
from pretrain.run.metrics import read_rows
from rl import recipes
from rl.config import RlConfig

RULE = """
from rewards.registry import rule

@rule(verifier=True)
def lucky(response, sample):
    '''1 for half of all texts, so that an untrained policy is right sometimes; for 3, not for 0.'''
    return float(sum(map(ord, response)) % 2)
"""
SMALL = [
    "engine.count=1",
    "engine.max_length=128",
    "engine.kv_cache_mb=64",
    "engine.cpus=0.1",
    "engine.hang_seconds=300",
    "engine.start_seconds=1200",
    "sampling.max_tokens=64",  # it must end by itself sometimes, too
    "evaluation.samples=4",
    "evaluation.modes=[no_think]",
    "wandb.mode=disabled",
]


@pytest.fixture
def job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path, ray_cluster: None
) -> list[str]:
    """Overrides for a small run on sixteen rows; runs go to the test's own folder."""
    monkeypatch.setattr(recipes, "RUNS", tmp_path / "runs")
    (tmp_path / "rules.py").write_text(RULE)
    rows = [
        {
            "id": f"row{k}",
            "messages": [{"role": "user", "content": f"{k}+1=?"}],
            "answer": "3",
            "response": "3" if k % 2 else "0",  # half of the replies are wrong
            "task_type": "text/arithmetic",
            "mode": "no_think",
            "rewards": [{"rule": f"{tmp_path / 'rules.py'}:lucky"}],
        }
        for k in range(16)
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [f"{key}.files=[{data}]" for key in ("data", "evaluation")]
    return [f"checkpoint={tiny_checkpoint}", "run=r", *files, *SMALL]


def run(overrides: list[str]) -> RunDir:
    recipes.run_recipe(compose("rl", RlConfig, overrides))
    return RunDir(recipes.RUNS / "r")


@pytest.mark.slow
def test_a_round_replaces_traces_and_a_second_command_adds_one(job: list[str], tmp_path: Path):
    overrides = [
        "recipe=iterated",
        "stages=[iterate]",
        *job,
        f"iterated.data.files=[{tmp_path / 'rows.jsonl'}]",
        "iterated.prompts=0",
        "iterated.filter_samples=4",
        "gspo.steps=2",
        "gspo.prompts_per_step=6",
        "gspo.group_size=4",
        "learner.world_size=1",
        "learner.mini_batches=1",
        "cold_start.sft.steps=2",
        "cold_start.sft.batch_size=4",
        "cold_start.sft.lr=1e-5",
        "cold_start.sft.world_size=1",
    ]
    folder = run([*overrides, "rounds=0"])
    assert len(read_json(folder.path / "summary.json")["rounds"]) == 1
    first = folder.stage("round0/gspo").summary()
    folder = run([*overrides, "rounds=1"])
    assert folder.stage("round0/gspo").summary() == first  # not run again
    rounds = read_json(folder.path / "summary.json")["rounds"]
    rejection, filtered = rounds[1]["rejection"], rounds[1]["filter"]
    lineage = read_rows(folder.stage("round1/rejection").path / "lineage.jsonl")
    assert rejection["rows"] == 16 and rejection["correct_before"] == 0.5
    assert rejection["replaced_share"] == len(lineage) / 16 > 0
    assert rejection["correct_after"] == 0.5 + len(lineage) / 16
    assert all(entry["old"]["response"] == "0" for entry in lineage)
    assert all(first["hash"] in entry["policy"] for entry in lineage)
    assert 0 < filtered["kept"] <= 16
    steps = read_rows(folder.stage("round1/gspo").metrics_file)
    assert [row["data/prompts"] for row in steps] == [filtered["kept"]] * 2


@pytest.mark.slow
def test_mpo_samples_pairs_and_trains_on_them(job: list[str]):
    small = ["mpo.pairs.prompts=0", "mpo.train.steps=2", "mpo.train.batch_size=4"]
    folder = run(["recipe=mpo", *job, *small, "mpo.train.world_size=1", "mpo.rounds=2"])
    for number in (1, 2):
        pairs = folder.stage(f"mpo/round{number}/pairs").summary()["metrics"]
        assert pairs["prompts"] == 16 and pairs["pairs"] > 0
        trained = folder.stage(f"mpo/round{number}/train")
        assert [row["step"] for row in read_rows(trained.metrics_file)] == [1, 2]
    summary: dict[str, Any] = read_json(folder.path / "summary.json")
    assert set(summary["evaluation"]) >= {"before", "after", "change"}
