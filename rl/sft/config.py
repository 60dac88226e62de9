"""Settings of supervised fine-tuning before preference optimisation (`recipe=sft`).

No `from __future__ import annotations` here: OmegaConf reads the field types at run time.
"""

from dataclasses import dataclass, field

from pretrain.data.ingest import FileDataConfig
from pretrain.data.sample import MODES
from pretrain.run.errors import ConfigError
from rl.sft.training import SftConfig


@dataclass
class BalanceConfig:
    """How often each task type is drawn."""

    taxonomy: str = ""
    """Task types with optional weights (TSV, YAML or JSON, see `rl.sft.taxonomy.load_taxonomy`);
    without it all types in the data weigh the same."""
    exponent: float = 0.5
    """A type with n rows gets a share ∝ weight · n^exponent: 1 keeps the data's proportions, 0
    gives all types the same."""
    unlisted: float = 1.0
    """Weight of a type that the taxonomy lacks; 0 leaves its rows out. Either way it is counted."""
    seed: int = 8
    """Seed of the rows' order."""

    def __post_init__(self) -> None:
        if not 0 <= self.exponent <= 1:
            raise ConfigError(f"balance.exponent={self.exponent} is not in [0, 1]")
        if self.unlisted < 0:
            raise ConfigError(f"balance.unlisted={self.unlisted} must not be below 0")


@dataclass
class DifficultyConfig:
    """How hard a row is: what several answers of a policy to it are like."""

    samples: int = 4
    """Answers to each row; 0 measures nothing, and all rows stay."""
    checkpoint: str = ""
    """The policy that answers; by default the one that the stage starts from."""
    temperature: float = 1.0
    """Temperature of its answers."""
    easy_accuracy: float = 1.0
    """A row is too easy when at least this share of the answers is right …"""
    easy_tokens: float = 0.0
    """… and they have at most this many tokens on average; 0 takes any length."""
    easy_kept: float = 0.0
    """Share of the too easy rows that stays all the same, lest what they teach be forgotten."""
    hard_share: float = 0.25
    """Share of the measured rows that stay, the hardest, for the annealing phase and for review:
    those with the fewest right answers, of equal ones those with the longest."""
    chunk: int = 64
    """Rows sampled together; an interruption loses at most these."""
    seed: int = 9
    """Seed of sampling."""

    def __post_init__(self) -> None:
        if self.samples < 0 or self.chunk < 1:
            raise ConfigError(
                f"difficulty.samples={self.samples} must be at least 0, chunk={self.chunk} 1"
            )
        if not self.temperature > 0 and self.samples > 1:
            raise ConfigError(
                f"difficulty.temperature={self.temperature}: {self.samples} greedy answers are all "
                "the same; set samples=1 or a temperature above 0"
            )
        for key in ("easy_accuracy", "easy_kept", "hard_share"):
            if not 0 <= getattr(self, key) <= 1:
                raise ConfigError(f"difficulty.{key}={getattr(self, key)} is not in [0, 1]")
        if self.easy_tokens < 0:
            raise ConfigError(f"difficulty.easy_tokens={self.easy_tokens} must not be below 0")


@dataclass
class AnnealPhaseConfig(SftConfig):
    """The final phase: hard and human-reviewed rows at a low learning rate."""

    steps: int = 40
    """Optimiser steps; 0 leaves the phase out."""
    lr: float = 7e-5
    """Peak learning rate; it must be below the main phase's."""
    warmup_steps: int = 4
    """Steps of linear warm-up."""
    end_factor: float = 0.0
    """Last learning rate of the cosine, as a share of `lr`."""

    def __post_init__(self) -> None:
        if self.steps:  # fine-tuning itself refuses to train nothing; this phase can be left out
            super().__post_init__()


@dataclass
class SftStageConfig:
    """Non-reasoning fine-tuning on many task types."""

    data: FileDataConfig = field(default_factory=FileDataConfig)
    """Samples with their reply in a column `response`, or their `answer` as the reply. Without
    files: the tiny world's first `pool` samples."""
    tasks: dict[str, float] = field(default_factory=dict)
    """Mix of the tiny world's task types; not read when `data.files` are given."""
    pool: int = 4000
    """Rows of the tiny world; not read when `data.files` are given."""
    seed: int = 10
    """Seed of the tiny world's rows."""
    mode: str = "no_think"
    """Mode in which all rows are asked; empty keeps each row's own."""
    decisions: list[str] = field(default_factory=list)
    """Decision files of `python -m rl review`: an edited response takes the place of the row's, a
    dropped row leaves, an accepted or edited one stays however easy it is."""
    review: int = 0
    """Hard rows that are written as items for `python -m rl review` (sft/curated/review.jsonl)."""
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    """How often each task type is drawn."""
    difficulty: DifficultyConfig = field(default_factory=DifficultyConfig)
    """Which rows are too easy, and which are hard."""
    train: SftConfig = field(default_factory=SftConfig)
    """The main phase."""
    anneal: AnnealPhaseConfig = field(default_factory=AnnealPhaseConfig)
    """The final phase."""

    def __post_init__(self) -> None:
        if self.mode and self.mode not in MODES:
            raise ConfigError(f"sft.mode={self.mode!r} is none of {', '.join(MODES)}, or empty")
        if self.pool < 1 or self.review < 0:
            raise ConfigError(f"sft.pool={self.pool} must be at least 1, review={self.review} 0")
        if self.anneal.steps and self.anneal.lr >= self.train.lr:
            raise ConfigError(
                f"sft.anneal.lr={self.anneal.lr} must be below sft.train.lr={self.train.lr}: the "
                "phase anneals at a lower learning rate"
            )
