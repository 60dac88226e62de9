"""The process of one rank: it holds one stage at a time and runs it step by step.

The driver decides when to step, save and measure; a rank never runs on by itself, so an
interrupted job loses at most the steps since the last saved state.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.distributed as dist

from pretrain.stages.accuracy import Outcome
from pretrain.stages.align import AlignStage
from pretrain.stages.anneal import AnnealStage
from pretrain.stages.multitask import MultitaskStage
from pretrain.stages.stage import Stage, StageJob
from pretrain.stages.supervised import SupervisedStage
from pretrain.stages.text import TextStage
from pretrain.stages.vit import VitStage
from pretrain.training.checkpoint import export_checkpoint, load_state, save_state
from pretrain.training.engine import StepStats, TrainingEngine, build_engine
from pretrain.training.ranks import Rank

STAGE_CLASSES: dict[str, type[Stage]] = {
    "vit": VitStage,
    "text": TextStage,
    "align": AlignStage,
    "multitask": MultitaskStage,
    "anneal": AnnealStage,
    "expert": MultitaskStage,
}
"""An expert goes on from the annealed model, whose RoPE base and context it keeps."""


class StageRank(Rank):
    """One DeepSpeed rank of the pre-training stages."""

    stage: Stage
    engine: TrainingEngine

    def open(self, job: StageJob) -> int:
        """Builds the stage and its engine; returns the steps done by an interrupted run."""
        torch.manual_seed(job.seed)
        self.stage = STAGE_CLASSES[job.kind](job, self.rank, self.world_size)
        self.engine = build_engine(
            self.stage.model,
            job.cfg.train,
            total_steps=job.cfg.steps,
            trainable=self.stage.trainable,
        )
        restored = load_state(self.engine, job.directory / "state")
        return restored[0] if restored else 0

    def advance(self, steps: int) -> list[dict[str, float]]:
        """Runs `steps` optimiser steps; returns each one's metrics, the same on all ranks."""
        sums, stats = [], []
        for _ in range(steps):
            started = time.perf_counter()
            step = self.stage.accumulate(self.engine, self.engine.steps_done)
            stats.append(self.engine.step())
            sums.append([*step.values(), time.perf_counter() - started])
        # One reduction for the whole chunk: the ranks don't wait for each other's numbers.
        table = torch.tensor(sums, dtype=torch.float64)
        device = self.engine.device
        reduced = table.to(device)
        dist.all_reduce(reduced)
        return [
            _row(dict(zip([*step, "seconds"], row, strict=True)), stat, self.world_size)
            for row, stat in zip(reduced.cpu().tolist(), stats, strict=True)
        ]

    def save(self) -> None:
        """Saves the resume state of all ranks."""
        state = self.stage.job.directory / "state"
        save_state(self.engine, state, self.engine.steps_done, {})

    def evaluate(self) -> list[Outcome]:
        """This rank's share of the held-out evaluation."""
        with self.engine.gathered():
            return self.stage.evaluate()

    def export(self, path: Path) -> None:
        """Writes the stage's checkpoint (all ranks call it, rank 0 writes)."""
        exported = self.stage.exported()
        export_checkpoint(self.engine, path, self.stage.job.source, model=exported)
        if self.rank == 0:
            self.stage.save_extras(self.stage.job.directory)

    def finish(self) -> None:
        """Frees the stage's model and optimiser state."""
        self.engine.destroy()
        del self.engine, self.stage

    def measure(self, job: StageJob) -> list[Outcome]:
        """This rank's share of the held-out evaluation of the checkpoint `job.source`."""
        stage = STAGE_CLASSES[job.kind](job, self.rank, self.world_size)
        assert isinstance(stage, SupervisedStage)
        stage.model.to("cuda" if torch.cuda.is_available() else "cpu")
        return stage.evaluate()


def _row(sums: dict[str, float], stats: StepStats, ranks: int) -> dict[str, float]:
    """Metrics of one step from the ranks' sums."""
    seconds = sums["seconds"] / ranks
    return {
        "train/loss": sums["loss"],
        "train/grad_norm": stats.grad_norm,
        "train/lr": stats.lr,
        "time/step": seconds,
        "time/data": sums["data_s"] / ranks,
        "perf/samples_per_s": sums["samples"] / seconds,
        "perf/tokens_per_s": sums["tokens"] / seconds,
    }
