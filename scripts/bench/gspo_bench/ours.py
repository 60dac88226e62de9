"""Our side: the phases of `rl.train`'s loop on its own engines, reward worker and learner ranks."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

import rollout.engines
from pretrain.keye_vl.checkpoint import load_processor
from pretrain.keye_vl.prompt import PromptEncoder
from pretrain.training.engine import TrainConfig
from rewards.config import RewardConfig
from rewards.pool import RewardPool
from rl.groups import spread_metrics, to_training
from rl.learner import LearnerConfig, LearnerGroup
from rl.rollouts import Rollouts, rollout_metrics
from rl.session import read_weights
from rollout.config import EngineConfig
from rollout.engines import EnginePool
from rollout.seeds import stable_seed
from scripts.bench.gspo_bench.lengths import ForcedLengthEngine, ForcedLengths
from scripts.bench.gspo_bench.timing import StepTime, cpu_seconds
from scripts.bench.gspo_bench.workloads import SEED, Workload

ENGINE = EngineConfig(count=2, threads=1, max_length=640, kv_cache_mb=192, hang_seconds=120.0)
TRAIN = TrainConfig(
    lr=3e-5, betas=[0.9, 0.99], weight_decay=0.0, warmup_steps=0, schedule="constant"
)


class Ours:
    """Two engines and two learner ranks of one thread each, which take turns; a context manager."""

    def __init__(self, checkpoint: Path) -> None:
        rollout.engines.Engine = ForcedLengthEngine  # what the pool starts
        self.checkpoint = checkpoint
        self.stack = ExitStack()
        self.engines = EnginePool(ENGINE, str(checkpoint))
        self.stack.callback(self.engines.close)
        rewards = self.stack.enter_context(RewardPool(RewardConfig()))
        encoder = PromptEncoder(load_processor(checkpoint), ENGINE.max_length)
        self.rollouts = Rollouts(self.engines, encoder, rewards, ForcedLengths())

    def open(self, workload: Workload) -> None:
        """Start the workload from the checkpoint's weights."""
        self.workload = workload
        cfg = LearnerConfig(
            mini_batches=workload.mini_batches, world_size=2, threads=1, train=TRAIN
        )
        self.learner = LearnerGroup(cfg, self.checkpoint, total_updates=100)
        self.engines.update_weights(read_weights(self.checkpoint), version=0)

    def close_workload(self) -> None:
        """End the learner's ranks."""
        self.learner.close()

    def step(self, step: int, without: tuple[int, ...]) -> StepTime:
        """One rollout batch, as in `rl.train.train`. `without`: processes of the other side."""
        workload, seed = self.workload, stable_seed(SEED, step)
        samples = workload.samples(step)
        self.rollouts.sampling = self._forced(samples, seed, step)
        cpu = cpu_seconds(os.getpid(), without=without)
        started = time.perf_counter()
        groups = self.rollouts.groups(samples, n=workload.group_size, seed=seed)
        metrics = rollout_metrics(groups)
        sequences, dropped = to_training(groups), spread_metrics(groups)
        learning = time.perf_counter()
        learned = self.learner.update(sequences)
        syncing = time.perf_counter()
        self.engines.update_weights(self.learner.weights(), version=step + 1)
        ended = time.perf_counter()
        if dropped["reward/zero_variance_share"] or dropped["reward/failed_responses"]:
            raise RuntimeError(f"responses were left out of the update: {dropped}")
        spent = self.rollouts.take_seconds()
        return StepTime(
            wall=ended - started,
            cpu=cpu_seconds(os.getpid(), without=without) - cpu,
            phases={
                "generate": spent["time/encode"] + spent["time/generate"],
                "reward": spent["time/reward"],
                "learn": syncing - learning,
                "sync": ended - syncing,
            },
            tokens=int(learned["perf/response_tokens"]),
            numbers={
                "reward": metrics["reward/mean"],
                "advantage rms": float(np.sqrt(np.mean([s.advantage**2 for s in sequences]))),
                "gradient norm": learned["gspo/grad_norm"],
                "clip fraction": learned["gspo/clip_fraction"],
                "entropy": learned["gspo/entropy"],
            },
        )

    def _forced(self, samples: list[Any], seed: int, step: int) -> ForcedLengths:
        """The step's lengths by the seeds that `Rollouts.groups` gives the responses."""
        group = self.workload.group_size
        lengths = iter(self.workload.response_lengths(step).tolist())
        prompt_seeds = [stable_seed(seed, sample.id, sample.mode, 0) for sample in samples]
        by_seed = {stable_seed(s, k): next(lengths) for s in prompt_seeds for k in range(group)}
        return ForcedLengths(max_tokens=max(by_seed.values()), by_seed=by_seed)

    def close(self) -> None:
        """End engines and reward worker."""
        self.stack.close()


def settings() -> str:
    """What our side runs with, in one line."""
    return (
        f"{ENGINE.count} vLLM engines × 1 thread (max_sequences {ENGINE.max_sequences}, prefix "
        f"caching), 2 learner ranks × 1 thread (ZeRO {TRAIN.zero_stage}, {TRAIN.dtype}, "
        f"{TRAIN.micro_batch_tokens} tokens a micro-batch), 1 reward worker"
    )
