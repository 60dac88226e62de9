"""The learner: DeepSpeed ranks in Ray actors that turn trajectories into a better policy.

Invariant: the result of an update depends on the batch, the seed and the weights — not on how many
ranks share the work or how it is cut into micro-batches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.run.errors import ConfigError, KeyeError
from pretrain.training.balancing import CostModel
from pretrain.training.engine import TrainConfig
from pretrain.training.ranks import RankGroup
from rl.gspo import ALGORITHMS
from rl.learner_rank import LearnerRank, MiniBatchPlan, RankUpdate
from rl.sequences import TrainingSequence, check_sequences, plan_ranks, split_mini_batches

_RUN = {"identity": False}  # how to run, not what comes out


def _rl_training() -> TrainConfig:
    return TrainConfig(
        lr=3e-5, betas=[0.9, 0.99], weight_decay=0.0, warmup_steps=20, schedule="constant"
    )


@dataclass
class LearnerConfig:
    """How the policy is updated from a batch of trajectories."""

    algorithm: str = "gspo"
    """`gspo` (sequence ratio), `gspo_token` (the same with per-token gradients), `grpo` (token
    ratio) or `rejection_sampling` (likelihood of the correct responses: GSPO's control)."""
    clip_low: float = 3e-3
    """ε_l: how far a ratio may fall below 1. GSPO's scale: 3e-4 at full size, 3e-3 for the tiny
    model; GRPO's: 0.2."""
    clip_high: float = 4e-3
    """ε_h: how far a ratio may rise above 1."""
    mini_batches: int = 2
    """Optimiser steps per batch of trajectories. With one, every step is on-policy and the clip
    never acts."""
    temperature: float = 1.0
    """The temperature the trajectories were sampled at: log-probs are of that distribution."""
    world_size: int = 1
    """Number of learner ranks."""
    threads: int = field(default=1, metadata=_RUN)
    """CPU threads of one rank."""
    cpus_per_rank: float = field(default=0.25, metadata=_RUN)
    """Ray CPUs a rank reserves; engines and ranks take turns, so fractions share the cores."""
    gpus_per_rank: float = field(default=0.0, metadata=_RUN)
    """Ray GPUs a rank reserves."""
    logit_chunk: int = field(default=4096, metadata=_RUN)
    """Response tokens whose logits over the vocabulary exist at once."""
    on_policy_tolerance: float = field(default=1e-6, metadata=_RUN)
    """Largest |Δ log p| between two passes with the same weights before the learner stops."""
    seed: int = 0
    """Decides how sequences are shuffled into mini-batches."""
    timeout_s: float = field(default=600.0, metadata=_RUN)
    """Deadline of one update, save or export, in seconds."""
    train: TrainConfig = field(default_factory=_rl_training)
    """Optimiser, precision and sharding."""

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise ConfigError(f"algorithm={self.algorithm!r} is not one of {', '.join(ALGORITHMS)}")
        for key in ("clip_low", "clip_high", "temperature", "timeout_s"):
            if not getattr(self, key) > 0:
                raise ConfigError(f"{key}={getattr(self, key)} must be above 0")
        for key in ("mini_batches", "world_size", "threads", "logit_chunk"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)} must be at least 1")


class LearnerGroup:
    """The learner as the loop sees it.

    Args:
        cfg: see `LearnerConfig`.
        checkpoint: the policy to start from, a Hugging Face directory.
        total_updates: updates planned, for the learning-rate schedule.
    """

    def __init__(self, cfg: LearnerConfig, checkpoint: Path, *, total_updates: int) -> None:
        self.cfg = cfg
        self.updates = 0
        self.cost_model = CostModel()
        self.ranks: RankGroup[LearnerRank] = RankGroup(
            LearnerRank,
            cfg.world_size,
            name="learner",
            threads=cfg.threads,
            cpus_per_rank=cfg.cpus_per_rank,
            gpus_per_rank=cfg.gpus_per_rank,
            deadline_key="learner.timeout_s",
        )
        total_steps = total_updates * cfg.mini_batches
        self._call("build", cfg, str(checkpoint), total_steps, phase="learner start")

    def update(self, batch: Sequence[TrainingSequence]) -> dict[str, float]:
        """Learns from a batch: `mini_batches` optimiser steps. Fills each sequence's `ratio`.

        Returns:
            Metrics `gspo/*`, `mismatch/*` and `perf/*`.

        Raises:
            KeyeError: bad sequences, too few of them, or a rank that failed (named).
        """
        started = time.monotonic()
        check_sequences(batch)
        work = self._plan(batch)
        results: list[RankUpdate] = self.ranks.call(
            "update",
            phase="update",
            timeout_s=self.cfg.timeout_s,
            per_rank=[(mine,) for mine in work],
        )
        self.updates += 1
        for mine, result in zip(work, results, strict=True):
            sequences = [s for mini in mine for micro in mini.micro_batches for s in micro]
            for sequence, ratio in zip(sequences, result.ratios, strict=True):
                sequence.ratio = ratio
        metrics = update_metrics(results)
        seconds = time.monotonic() - started
        tokens = sum(s.num_tokens for s in batch)
        metrics["perf/learner_tokens"] = float(tokens)
        metrics["perf/learner_tokens_per_second"] = tokens / seconds
        return metrics

    def _plan(self, batch: Sequence[TrainingSequence]) -> list[list[MiniBatchPlan]]:
        """`plan[rank][mini_batch]`: the shuffled batch, shared out by estimated cost."""
        rng = np.random.default_rng([self.cfg.seed, self.updates])
        world = self.cfg.world_size
        work: list[list[MiniBatchPlan]] = [[] for _ in range(world)]
        for part in split_mini_batches([s.group_id for s in batch], self.cfg.mini_batches, rng):
            budget = self.cfg.train.micro_batch_tokens
            plan = plan_ranks(batch, part, world, budget, self.cost_model)
            most = [  # response tokens of the fullest rank, a micro-batch
                max(sum(batch[i].num_sampled for i in micro) for micro in micros)
                for micros in zip(*plan, strict=True)
            ]
            parts = [math.ceil(tokens / self.cfg.logit_chunk) for tokens in most]
            for rank, micros in enumerate(plan):
                sequences = [[batch[i] for i in micro] for micro in micros]
                work[rank].append(MiniBatchPlan(sequences, parts, len(part)))
        return work

    def weights(self) -> Any:
        """ObjectRef of the weights by checkpoint name: `dict[str, np.ndarray]`, fp32.

        bf16 weights are torch tensors in the same dict, because numpy has no bf16.
        """
        return self._call("weights", phase="weight gathering")[0]

    def export(self, path: Path) -> None:
        """Writes the policy as a Hugging Face checkpoint."""
        self._call("export", str(path), phase="checkpoint export")

    def save(self, directory: Path, step: int, progress: dict[str, Any]) -> None:
        """Saves weights, optimiser and random state as the complete state after loop step `step`.

        Args:
            directory: state folder; only the last complete state is kept.
            step: steps of the loop done.
            progress: whatever else the loop needs to go on, JSON-serialisable.
        """
        state = {"updates": self.updates, "progress": progress}
        self._call("save", str(directory), step, state, phase="save")

    def load(self, directory: Path) -> tuple[int, dict[str, Any]] | None:
        """Restores the last complete state: (loop steps done, `progress`), or None."""
        loaded = self._call("load", str(directory), phase="resume")[0]
        if loaded is None:
            return None
        step, state = loaded
        self.updates = state["updates"]
        return step, state["progress"]

    def close(self) -> None:
        """Ends the ranks."""
        self.ranks.close()

    def _call(self, method: str, *args: Any, phase: str) -> list[Any]:
        return self.ranks.call(method, *args, phase=phase, timeout_s=self.cfg.timeout_s)


def update_metrics(results: Sequence[RankUpdate]) -> dict[str, float]:
    """Joins the ranks' reports.

    `gspo/entropy` is the true entropy of the policy's next-token distribution at the sampling
    temperature (nats, mean over response tokens, before the update). Losses, clip fractions and
    gradient norms are means over mini-batches, beside each mini-batch's own.
    """
    ratios = np.concatenate([result.ratios for result in results])
    tokens = sum(result.response_tokens for result in results)
    steps = list(zip(*(result.mini_batches for result in results), strict=True))
    low = [sum(rank.clip_fraction_low for rank in ranks) for ranks in steps]
    high = [sum(rank.clip_fraction_high for rank in ranks) for ranks in steps]
    metrics = {
        "gspo/loss": float(np.mean([sum(rank.loss for rank in ranks) for ranks in steps])),
        "gspo/clip_fraction": float(np.mean(np.add(low, high))),
        "gspo/clip_fraction_low": float(np.mean(low)),
        "gspo/clip_fraction_high": float(np.mean(high)),
        "gspo/grad_norm": float(np.mean([ranks[0].grad_norm for ranks in steps])),
        "gspo/lr": steps[-1][0].lr,
        "gspo/ratio_mean": float(ratios.mean()),
        "gspo/ratio_min": float(ratios.min()),
        "gspo/ratio_max": float(ratios.max()),
        "gspo/entropy": sum(result.entropy_sum for result in results) / tokens,
        "gspo/sequences": float(len(ratios)),
        "mismatch/logprob_mean": sum(result.mismatch_sum for result in results) / tokens,
        "mismatch/logprob_max": max(result.mismatch_max for result in results),
        "mismatch/kl": sum(result.kl_sum for result in results) / tokens,
        "perf/response_tokens": float(tokens),
    }
    for index, fractions in enumerate(zip(low, high, strict=True)):
        metrics[f"gspo/clip_fraction/mini_batch_{index}"] = float(sum(fractions))
    if not all(np.isfinite(value) for value in metrics.values()):
        bad = ", ".join(key for key, value in metrics.items() if not np.isfinite(value))
        raise KeyeError(
            f"the update produced values that aren't finite ({bad}); lower learner.train.lr"
        )
    return metrics
