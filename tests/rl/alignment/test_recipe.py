"""`recipe=alignment` end to end on an untrained policy: real engine, ranks, rules and tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.run.command import compose
from pretrain.run.directory import RunDir, StageDir, read_json
from pretrain.run.metrics import MetricLogger, WandbConfig, read_rows
from pretrain.training.engine import TrainConfig
from rewards.config import RewardConfig
from rewards.pool import RewardPool
from rl import recipes
from rl.alignment.config import AlignmentConfig, InstructionConfig
from rl.alignment.marks import observe
from rl.alignment.measure import change, load, measure
from rl.alignment.sources import AlignmentPrompts
from rl.config import GspoConfig, RlConfig
from rl.learner import LearnerConfig, LearnerGroup
from rl.rollouts import Rollouts
from rl.session import read_weights
from rl.train import Job, train
from rollout.config import SamplingConfig
from rollout.hint_sampler import HintConfig, HintSampler

TINY = [
    "recipe=alignment",
    "run=r",
    "alignment.heldout=3",
    "alignment.samples=2",
    "alignment.sft.steps=2",
    "alignment.sft.batch_size=4",
    "alignment.sft.world_size=1",
    "gspo.steps=2",
    "gspo.prompts_per_step=8",
    "gspo.group_size=4",
    "learner.world_size=1",
    "learner.mini_batches=1",
    "engine.count=1",
    "engine.kv_cache_mb=64",
    "engine.cpus=0.1",
    "engine.hang_seconds=300",
    "engine.start_seconds=1200",
    "sampling.max_tokens=16",
    "wandb.mode=disabled",
]


@pytest.mark.slow  # until it has been seen to pass on a quiet machine
def test_single_constraints_are_learnt_from_and_logged(
    tmp_path: Path, tiny_checkpoint: Path, engine_pool, encoder
):
    """An untrained policy follows some constraints by chance: that is a gradient already."""
    own = InstructionConfig(
        weight=1.0,
        kinds=["letter_count", "marks_exclude"],
        count=[2, 2],
        answer_weight=0.0,
        modes={"no_think": 1.0, "think": 0.0, "auto_think": 0.0},
    )
    cfg = AlignmentConfig(instructions=own, heldout=4, samples=2)
    for name in ("general", "formats", "steps"):
        getattr(cfg, name).weight = 0.0
    engine_pool.update_weights(read_weights(tiny_checkpoint), version=0)
    train_cfg = TrainConfig(lr=1e-3, warmup_steps=1, schedule="constant")
    learner = LearnerGroup(LearnerConfig(train=train_cfg), tiny_checkpoint, total_updates=3)
    stage = StageDir(tmp_path / "gspo")
    stage.path.mkdir()
    try:
        with RewardPool(RewardConfig()) as pool:
            rollouts = Rollouts(engine_pool, encoder, pool, SamplingConfig(max_tokens=16))
            measure(rollouts, cfg, tmp_path / "before")
            train(
                Job(
                    cfg=GspoConfig(steps=3, prompts_per_step=6, group_size=4),
                    stage=stage,
                    source=AlignmentPrompts(cfg, tmp_path),
                    rollouts=rollouts,
                    hints=HintSampler(HintConfig(0)),
                    learner=learner,
                    log=MetricLogger(stage, WandbConfig(mode="disabled"), {}),
                    observe=observe,
                )
            )
            measure(rollouts, cfg, tmp_path / "after")
    finally:
        learner.close()
        engine_pool.update_weights(read_weights(tiny_checkpoint), version=0)
    rows = read_rows(stage.metrics_file)
    assert [row["data/instructions"] for row in rows] == [6, 12, 18]
    for row in rows:
        kinds = [row[f"alignment/{kind}/satisfied"] for kind in own.kinds]
        assert row["alignment/instructions/loose"] == pytest.approx(sum(kinds) / 2)
        assert row["alignment/instructions/strict"] <= min(kinds)
    for key in ("alignment/instructions/loose", "alignment/letter_count/satisfied"):
        assert len({row[key] for row in rows}) > 1
    before, after = load(tmp_path / "before"), load(tmp_path / "after")
    assert [row["id"] for row in before] == [row["id"] for row in after]
    assert change(before, after)["kind/letter_count"]["sampled"]["n"] == 4


@pytest.mark.slow
def test_all_stages_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path, ray_cluster: None
):
    monkeypatch.setattr(recipes, "RUNS", tmp_path / "runs")
    cfg = compose("rl", RlConfig, [*TINY, f"checkpoint={tiny_checkpoint}"])
    recipes.run_recipe(cfg)
    folder = RunDir(tmp_path / "runs" / "r")
    summary = read_json(folder.path / "summary.json")
    assert [stage["name"] for stage in summary["stages"]] == cfg.stages
    measured, changes = summary["alignment"]["measured"], summary["alignment"]["change"]
    assert list(measured) == ["alignment_before", "alignment_sft_measured", "alignment_after"]
    assert set(changes) == {
        "alignment_before → alignment_sft_measured",
        "alignment_before → alignment_after",
        "alignment_sft_measured → alignment_after",
    }
    assert measured["alignment_before"]["retrieval/searched"]["sampled"]["n"] == 3
    rows = read_rows(folder.stage("alignment_gspo").metrics_file)
    assert [row["step"] for row in rows] == [1, 2]
    assert sum(rows[-1][f"data/{name}"] for name in cfg.alignment.sources()) == 16
    finished = [stage["finished"] for stage in summary["stages"]]
    recipes.run_recipe(cfg)
    again = read_json(folder.path / "summary.json")["stages"]
    assert [stage["finished"] for stage in again] == finished  # nothing is run again
