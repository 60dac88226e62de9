"""What every training stage is made of; one instance lives in each rank."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import nn

from pretrain.stages.accuracy import Outcome
from pretrain.stages.config import HeldOutConfig, StageConfig
from pretrain.training.engine import TrainingEngine

PARTS = ("vision", "projector", "decoder")


@dataclass(slots=True)
class StageJob:
    """One stage as the driver hands it to the ranks."""

    kind: str
    """Which stage class runs it: a name of `config.STAGES` (an expert of `fuse` is an anneal)."""
    source: Path
    """Checkpoint to start from."""
    directory: Path
    """The stage's folder; its resume state is in `state/`, its result in `checkpoint/`."""
    cfg: StageConfig
    """Steps, data and optimiser."""
    evaluation: HeldOutConfig
    """Held-out tasks."""
    seed: int
    """Seed of the stage's data."""


def stage_seed(seed: int, name: str) -> int:
    """A seed of its own for every stage, so that no two stages see the same samples."""
    return zlib.crc32(f"{seed}/{name}".encode())


def part_of(name: str) -> str:
    """The part of the model a parameter belongs to: `vision`, `projector` or `decoder`."""
    components = name.split(".")
    if "visual" in components:
        return "vision"
    return "projector" if "mlp_AR" in components else "decoder"


class Stage(ABC):
    """A model, its data and its loss; `StageRank` drives it."""

    parts: ClassVar[frozenset[str]] = frozenset(PARTS)
    """What the stage trains; every other weight stays as it is, to the last bit."""

    model: nn.Module

    def __init__(self, job: StageJob, rank: int, world_size: int) -> None:
        self.job = job
        self.rank = rank
        self.world_size = world_size

    def trainable(self, name: str) -> bool:
        """Whether the stage trains the parameter of this name."""
        return part_of(name) in self.parts

    def indices(self, step: int) -> range:
        """Sample indices of this rank's share of a step; a pure function of the step."""
        first = step * self.job.cfg.batch_size
        return range(first + self.rank, first + self.job.cfg.batch_size, self.world_size)

    @abstractmethod
    def accumulate(self, engine: TrainingEngine, step: int) -> dict[str, float]:
        """Adds the gradients of one step on this rank.

        Returns sums over this rank's share of the batch; keys that all ranks add up. `loss` is
        this rank's part of the global loss, `tokens` and `samples` count what was trained on and
        `data_s` the seconds spent on making the batch.
        """

    @abstractmethod
    def evaluate(self) -> list[Outcome]:
        """This rank's share of the held-out samples."""

    def exported(self) -> nn.Module:
        """The model to write as the stage's checkpoint."""
        return self.model

    def save_extras(self, directory: Path) -> None:
        """Writes what the stage leaves besides the checkpoint; called on rank 0."""
        del directory  # most stages leave nothing else
