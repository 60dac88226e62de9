"""Configuration of `python -m pretrain`: one dataclass per stage, with the tiny model's defaults.

The numbers in conf/pretrain.yaml are those of the tiny model; a full-size run overrides them.
"""

from dataclasses import dataclass, field

from pretrain.keye_vl.create import ModelConfig
from pretrain.run.metrics import WandbConfig
from pretrain.training.engine import TrainConfig

STAGES = ("vit", "text", "align", "multitask", "anneal", "fuse")


@dataclass
class StageConfig:
    """A stage that trains on a mix of tasks."""

    steps: int = 100
    """Optimiser steps."""
    batch_size: int = 64
    """Samples per step, over all ranks."""
    mix: dict[str, float] = field(default_factory=dict)
    """Task type → relative share of the samples; 0 leaves a task out."""
    think_share: float = 0.0
    """Share of the samples with a solution that are trained in think mode, the rest directly."""
    length_power: float = 0.0
    """An answer of n tokens counts n^(1 − length_power) in the loss: 0 averages over tokens, 1 over
    answers, 0.5 (InternVL 2.5's square averaging) keeps long replies from drowning short ones."""
    context: int = 512
    """Longest example in tokens; a longer one is an error, never cut."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Optimiser, precision and sharding."""


@dataclass
class AnnealConfig(StageConfig):
    """Annealing on curated data with a larger RoPE base and a longer context."""

    rope_factor: float = 8.0
    """RoPE base after the stage over the base before it (1,000,000 → 8,000,000 at full size)."""
    context_factor: int = 4
    """Context after the stage over the context before it."""
    long_share: float = 0.03
    """Share of the samples that are conversations filling the extended context."""


@dataclass
class FuseConfig:
    """Averaging the weights of several models."""

    experts: dict[str, StageConfig] = field(default_factory=dict)
    """Name → how to train that expert from the annealed checkpoint."""
    checkpoints: list[str] = field(default_factory=list)
    """Average these checkpoints instead, and train no expert."""
    weights: list[float] = field(default_factory=list)
    """Weight of each model in the average, in the order above; empty means equal weights."""


@dataclass
class HeldOutConfig:
    """Held-out evaluation at the end of every stage."""

    tasks: list[str] = field(default_factory=list)
    """Task types that count as direct tasks."""
    samples: int = 100
    """Samples per task; a 95 % interval is about ±1/√samples wide."""
    batch_size: int = 64
    """Samples per forward pass."""
    seed: int = 77
    """Seed of the held-out samples; the digit images are never trained on, whatever it is."""


@dataclass
class PretrainConfig:
    """Everything `python -m pretrain` can be told."""

    run: str = "pretrain"
    """Name of the run: results go to runs/NAME, and a finished stage isn't run again."""
    stage: str = "all"
    """One stage's name (the stages before it must be complete), or `all`."""
    stages: list[str] = field(default_factory=lambda: list(STAGES))
    """The stages of this run in order; leave `text` out when the decoder is pre-trained."""
    seed: int = 0
    """Seed of the weights and of all data."""
    world_size: int = 2
    """DeepSpeed ranks; 1 makes an interrupted run's weights bitwise equal to an unbroken one's."""
    threads: int = 1
    """CPU threads of one rank."""
    save_every: int = 50
    """Steps between resume states."""
    timeout_s: float = 1800.0
    """Deadline for 25 steps or one evaluation, in seconds; a stuck rank is named after it."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Shape of the model (conf/model)."""
    vit: StageConfig = field(default_factory=StageConfig)
    """Contrastive training of the vision encoder with a text tower; micro_batch_tokens isn't read:
    the loss compares all pairs of a batch with each other."""
    text: StageConfig = field(default_factory=StageConfig)
    """Text-only warm-up of the decoder."""
    align: StageConfig = field(default_factory=StageConfig)
    """Projector only: cross-modal alignment."""
    multitask: StageConfig = field(default_factory=StageConfig)
    """All weights on all tasks."""
    anneal: AnnealConfig = field(default_factory=AnnealConfig)
    """All weights on curated tasks, direct and with reasoning, at a longer context."""
    fuse: FuseConfig = field(default_factory=FuseConfig)
    """Weight average of experts."""
    evaluation: HeldOutConfig = field(default_factory=HeldOutConfig)
    """What is measured after each stage."""
    wandb: WandbConfig = field(default_factory=WandbConfig)
    """Where metrics go besides metrics.jsonl."""
