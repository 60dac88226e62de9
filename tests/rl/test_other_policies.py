"""GSPO on policies of other families: two steps with a real engine, learner and rule workers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pretrain.data.stream import WorldStream
from pretrain.keye_vl.checkpoint import load_model
from pretrain.policy.encoder import open_encoder
from pretrain.run.directory import StageDir
from pretrain.run.metrics import MetricLogger, WandbConfig, read_rows
from pretrain.training.engine import TrainConfig
from rewards.config import RewardConfig
from rewards.pool import RewardPool
from rl.config import GspoConfig
from rl.learner import LearnerConfig, LearnerGroup
from rl.rollouts import Rollouts
from rl.train import Job, train
from rollout.config import EngineConfig, HintConfig, SamplingConfig
from rollout.engines import EnginePool
from rollout.hint_sampler import HintSampler

RULE = """
def even(response, sample):
    '1 for half of all responses, whatever the policy.'
    return float(len(response) % 2 == 0)
"""
CFG = GspoConfig(steps=2, prompts_per_step=4, group_size=4, save_every=2, table_every=1, seed=3)
LEARNER = LearnerConfig(
    train=TrainConfig(lr=1e-3, warmup_steps=1, schedule="constant"), timeout_s=1200
)


class RuledWorld(WorldStream):
    """The world's prompts, scored by a rule from a file instead of their own."""

    rule: str

    def __getitem__(self, index: int):
        sample = super().__getitem__(index)
        sample.rewards = [{"rule": self.rule, "weight": 1.0}]
        return sample


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "model_class", "task"),
    [
        ("tiny_qwen3", "auto", "text/arithmetic"),
        ("tiny_llava", "transformers", "digits/sum"),  # vLLM's own class needs torchvision
    ],
)
def test_two_steps_with_weights_synced_between(
    family, model_class, task, request, tmp_path: Path, ray_cluster
):
    checkpoint: Path = request.getfixturevalue(family)
    (tmp_path / "rules.py").write_text(RULE)
    stage = StageDir(tmp_path / "gspo")
    stage.path.mkdir()
    source = RuledWorld({task: 1.0}, seed=5, modes={"think": 1.0})
    source.rule = f"{tmp_path}/rules.py:even"
    engine = EngineConfig(
        model_class=model_class,
        max_length=256,
        max_sequences=32,
        kv_cache_mb=64,
        hang_seconds=200,
        cpus=0.1,
        start_seconds=900,
    )
    engines = EnginePool(engine, str(checkpoint))
    learner = LearnerGroup(LEARNER, checkpoint, total_updates=2)
    try:
        with RewardPool(RewardConfig()) as rewards:
            encoder = open_encoder(checkpoint, 256)
            summary = train(
                Job(
                    cfg=CFG,
                    stage=stage,
                    source=source,
                    rollouts=Rollouts(engines, encoder, rewards, SamplingConfig(max_tokens=12)),
                    hints=HintSampler(HintConfig(0)),
                    learner=learner,
                    log=MetricLogger(stage, WandbConfig(mode="disabled"), {}),
                )
            )
    finally:
        learner.close()
        engines.close()
    assert summary["steps"] == 2
    rows = read_rows(stage.metrics_file)
    # The second step was sampled with the weights that the first one sent: the learner's own.
    assert [row["mismatch/logprob_max"] < 1e-4 for row in rows] == [True, True]
    assert all(row["gspo/grad_norm"] > 0 for row in rows)
    before = load_file(checkpoint / "model.safetensors")
    after = load_file(stage.checkpoint / "model.safetensors")
    assert before.keys() == after.keys()
    moved = max(float((before[name] - after[name]).abs().max()) for name in before)
    assert moved > 1e-3  # four updates of about lr each
    again = load_model(stage.checkpoint)
    with torch.no_grad():
        assert torch.isfinite(again(input_ids=torch.arange(5)[None]).logits).all()
    assert (stage.checkpoint / "tokenizer.json").is_file()
