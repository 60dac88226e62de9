"""Supervised fine-tuning with TRL: the cold start, and rejection-sampling fine-tuning.

Data are streamed by index and never repeated; a run continues from its last saved state, on one
rank to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pretrain.run.console import Progress
from pretrain.run.directory import StageDir
from pretrain.run.errors import ConfigError
from pretrain.run.metrics import MetricLogger, WandbConfig, read_rows
from pretrain.training.ranks import RankGroup
from rl.sft.rank import SftJob, SftRank, check_rows

CHUNK = 10
"""Steps between two signs of life of the ranks."""
LOGGED = {
    "loss": "train/loss",
    "mean_token_accuracy": "train/token_accuracy",
    "entropy": "train/entropy",
    "grad_norm": "train/grad_norm",
    "learning_rate": "train/lr",
}
"""TRL's name of a metric → ours."""


_RUN = {"identity": False}  # how to run, not what comes out


@dataclass
class SftConfig:
    """Supervised fine-tuning."""

    steps: int = 160
    """Optimiser steps."""
    batch_size: int = 48
    """Examples per step, over all ranks."""
    lr: float = 7e-4
    """Peak learning rate."""
    warmup_steps: int = 10
    """Steps of linear warm-up."""
    end_factor: float = 0.1
    """Last learning rate of the cosine, as a share of `lr`."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    """AdamW moment decays."""
    eps: float = 1e-8
    """AdamW denominator term. Weights whose gradient is far below it hardly move; with the default
    even those with a gradient of rounding noise move by the learning rate."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    grad_clip: float = 1.0
    """Largest gradient norm; 0 switches clipping off."""
    dtype: str = "fp32"
    """`fp32`, or `bf16` autocast over fp32 weights."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more compute."""
    accumulation: int = 1
    """Micro-batches a rank's share of a step is cut into."""
    context: int = 512
    """Longest example in tokens; a longer one is an error, never cut."""
    world_size: int = 2
    """Data-parallel ranks; 1 makes a resumed run bitwise equal to an unbroken one."""
    threads: int = field(default=1, metadata=_RUN)
    """CPU threads of one rank."""
    cpus_per_rank: float = field(default=0.25, metadata=_RUN)
    """Ray CPUs a rank reserves."""
    gpus_per_rank: float = field(default=0.0, metadata=_RUN)
    """Ray GPUs a rank reserves."""
    save_every: int = field(default=50, metadata=_RUN)
    """Steps between resume states."""
    timeout_s: float = field(default=600.0, metadata=_RUN)
    """Deadline for ten steps, in seconds; a stuck rank is named after it."""

    def __post_init__(self) -> None:
        if self.dtype not in ("fp32", "bf16"):
            raise ConfigError(f"dtype={self.dtype!r} is not one of fp32, bf16")
        if self.steps < 1:
            raise ConfigError(f"steps={self.steps} trains nothing")
        share = self.world_size * self.accumulation
        if share < 1 or self.batch_size < share or self.batch_size % share:
            raise ConfigError(
                f"batch_size={self.batch_size} can't be shared by world_size={self.world_size} × "
                f"accumulation={self.accumulation}; make it a multiple of {max(share, 1)}"
            )


def snapshot(stage: StageDir, step: int) -> Path:
    """Where the checkpoint after `step` steps is kept."""
    return stage.path / "steps" / str(step)


def run_sft(
    checkpoint: Path,
    examples: Callable[[int], Any],
    cfg: SftConfig,
    stage: StageDir,
    *,
    wandb: WandbConfig | None = None,
    snapshots: Sequence[int] = (),
) -> dict[str, Any]:
    """Fine-tunes `checkpoint` and writes `stage.checkpoint`; resumes from `stage.state`.

    Args:
        checkpoint: where to start.
        examples: index → a conversation ending with the assistant's reply, a pair
            `(EncodedPrompt, int32 [R] reply ids)` to learn token for token what was sampled, or a
            `ToolTrace`, of which everything but the tools' results is learned. Called
            in the ranks for each index in 0…steps × batch_size − 1, so it must be picklable and a
            pure function of the index.
        cfg: see `SftConfig`.
        stage: the stage's folder.
        wandb: where metrics go besides metrics.jsonl; by default nowhere.
        snapshots: steps after which a checkpoint is kept as `snapshot(stage, step)`.

    Returns:
        `steps`, `examples`, and the mean `loss` and `token_accuracy` of the last ten steps.

    Raises:
        KeyeError: a bad example, a loss that isn't finite, or a lost rank (named).
    """
    ranks: RankGroup[SftRank] = RankGroup(
        SftRank,
        cfg.world_size,
        name=stage.name,
        threads=cfg.threads,
        cpus_per_rank=cfg.cpus_per_rank,
        gpus_per_rank=cfg.gpus_per_rank,
    )
    try:
        return fine_tune(ranks, checkpoint, examples, cfg, stage, wandb=wandb, snapshots=snapshots)
    finally:
        ranks.close()


def fine_tune(
    ranks: RankGroup[SftRank],
    checkpoint: Path,
    examples: Callable[[int], Any],
    cfg: SftConfig,
    stage: StageDir,
    *,
    wandb: WandbConfig | None = None,
    snapshots: Sequence[int] = (),
) -> dict[str, Any]:
    """`run_sft` on ranks that are already up; they can be used again afterwards."""
    kept = {step: snapshot(stage, step) for step in snapshots}
    job = SftJob(Path(checkpoint), stage.state, examples, cfg, kept)
    done = ranks.call("open", job, phase=f"{stage.name}: load", timeout_s=cfg.timeout_s)[0]
    with MetricLogger(stage, wandb or WandbConfig(mode="disabled"), asdict(cfg)) as logger:
        logger.truncate(done)
        run_steps(ranks, cfg, stage.name, logger, done, LOGGED)
    ranks.call("export", stage.checkpoint, phase=f"{stage.name}: export", timeout_s=cfg.timeout_s)
    means = last_means(stage, ["train/loss", "train/token_accuracy"])
    means = {name.removeprefix("train/"): mean for name, mean in means.items()}
    return {"steps": cfg.steps, "examples": cfg.steps * cfg.batch_size, **means}


def last_means(stage: StageDir, names: Iterable[str]) -> dict[str, float]:
    """Means of metrics over the last ten steps, whether or not this process has run them."""
    rows = read_rows(stage.metrics_file)[-10:]
    found = {name: [row[name] for row in rows if row.get(name) is not None] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items() if values}


def run_steps(
    ranks: RankGroup[Any],
    cfg: SftConfig,
    name: str,
    logger: MetricLogger,
    done: int,
    logged: dict[str, str],
) -> None:
    """All remaining steps of a TRL trainer; `logged`: its name of a metric → ours."""
    with Progress(name, total=cfg.steps) as bar:
        bar.advance(done)
        while done < cfg.steps:
            steps = min(CHUNK, cfg.steps - done)
            phase = f"{name}: steps {done + 1}…{done + steps}"
            fresh = ranks.call("advance", steps, phase=phase, timeout_s=cfg.timeout_s)[0]
            check_rows(fresh)
            for row in fresh:
                values = {ours: row[theirs] for theirs, ours in logged.items()}
                logger.log(values, int(row["step"]))
            done += steps
            bar.advance(steps, f"loss {fresh[-1]['loss']:.3f}")
