"""Runs one training stage on a group of ranks: steps, metrics, resume states, evaluation."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pretrain.run.console import Progress
from pretrain.run.directory import StageDir
from pretrain.run.errors import ConfigError
from pretrain.run.metrics import MetricLogger, WandbConfig, read_rows
from pretrain.stages.accuracy import Outcome, summarise
from pretrain.stages.rank import StageRank
from pretrain.stages.stage import StageJob
from pretrain.training.ranks import RankGroup

CHUNK = 25
"""Most steps between two signs of life of the ranks."""


def train_stage(
    ranks: RankGroup[StageRank],
    job: StageJob,
    stage: StageDir,
    *,
    save_every: int,
    timeout_s: float,
    wandb: WandbConfig,
) -> dict[str, Any]:
    """Trains, measures and exports `job`; resumes from the last complete state.

    Returns:
        The stage's metrics: last loss, speed, and the accuracies of `accuracy.summarise`.
    """
    if job.cfg.steps < 1:
        raise ConfigError(f"{stage.name}: steps={job.cfg.steps} trains nothing")
    name = stage.name
    done = ranks.call("open", job, phase=f"{name}: load", timeout_s=timeout_s)[0]
    with MetricLogger(stage, wandb, asdict(job.cfg)) as logger:
        logger.truncate(done)
        _run_steps(ranks, job, name, logger, done, save_every, timeout_s)
        rows = read_rows(stage.metrics_file)
        shares = ranks.call("evaluate", phase=f"{name}: evaluate", timeout_s=timeout_s)
        summary = summarise(outcome for share in shares for outcome in share)
        if not rows or "train/loss" in rows[-1]:  # else it was logged before an interruption
            logger.log(flat_metrics(summary), job.cfg.steps)
    ranks.call("export", stage.checkpoint, phase=f"{name}: export", timeout_s=timeout_s)
    ranks.call("finish", phase=f"{name}: finish", timeout_s=timeout_s)
    steps = [row for row in rows if "train/loss" in row]
    return {"steps": job.cfg.steps, **_speed(steps), **summary}


def _run_steps(
    ranks: RankGroup[StageRank],
    job: StageJob,
    name: str,
    logger: MetricLogger,
    done: int,
    save_every: int,
    timeout_s: float,
) -> None:
    """All remaining steps, logged and saved."""
    with Progress(name, total=job.cfg.steps) as bar:
        bar.advance(done)
        while done < job.cfg.steps:
            until_save = save_every - done % save_every
            steps = min(CHUNK, until_save, job.cfg.steps - done)
            phase = f"{name}: steps {done + 1}…{done + steps}"
            new = ranks.call("advance", steps, phase=phase, timeout_s=timeout_s)[0]
            for offset, row in enumerate(new):
                logger.log(row, done + offset + 1)
            done += steps
            bar.advance(steps, f"loss {new[-1]['train/loss']:.3f}")
            if done % save_every == 0 or done == job.cfg.steps:
                ranks.call("save", phase=f"{name}: save at step {done}", timeout_s=timeout_s)


def measure_checkpoint(
    ranks: RankGroup[StageRank], job: StageJob, *, timeout_s: float
) -> dict[str, Any]:
    """Held-out accuracies of the checkpoint `job.source`."""
    shares: list[list[Outcome]] = ranks.call(
        "measure", job, phase=f"{job.kind}: evaluate", timeout_s=timeout_s
    )
    return summarise(outcome for share in shares for outcome in share)


def flat_metrics(summary: dict[str, Any]) -> dict[str, float]:
    """A summary's accuracies as `eval/…` scalars."""
    flat = {}
    for key, value in summary.items():
        if not isinstance(value, dict):
            flat[f"eval/{key}"] = float(value)
        elif "value" in value:
            flat[f"eval/{key}"] = float(value["value"])
        else:
            flat |= {f"eval/{key}/{task}": float(share["value"]) for task, share in value.items()}
    return flat


def _speed(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Last loss and mean speed of all steps, whether or not this process has run them."""
    if not rows:
        return {}
    seconds = sum(row["time/step"] for row in rows)
    return {
        "loss": rows[-1]["train/loss"],
        "samples_per_s": sum(r["perf/samples_per_s"] * r["time/step"] for r in rows) / seconds,
        "data_share": sum(row["time/data"] for row in rows) / seconds,
    }
