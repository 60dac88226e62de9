"""All stages in order, each at most once per configuration.

`pretrain` is the function that `python -m pretrain` and other packages call; the ranks start only
when a stage has something to compute, and the same processes serve all stages.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from pretrain.data.world import corpus
from pretrain.keye_vl.create import ModelConfig, create_checkpoint
from pretrain.run.console import table
from pretrain.run.directory import RunDir, StageDir, checkpoint_identity
from pretrain.run.errors import ConfigError
from pretrain.run.ray_cluster import has_gpu, ray_session
from pretrain.run.stages import run_stage
from pretrain.stages.config import STAGES, HeldOutConfig, PretrainConfig, StageConfig
from pretrain.stages.driver import measure_checkpoint, train_stage
from pretrain.stages.fuse import fuse_checkpoints
from pretrain.stages.rank import StageRank
from pretrain.stages.stage import StageJob, stage_seed
from pretrain.training.ranks import RankGroup

INIT = "init"
CORPUS_TEXTS = 20_000
"""Texts that the tiny tokenizer is trained on."""


@dataclass
class InitIdentity:
    """What the random starting checkpoint depends on."""

    model: ModelConfig
    seed: int


@dataclass
class StageIdentity:
    """What a stage's result depends on, besides the checkpoint it starts from."""

    cfg: Any
    evaluation: HeldOutConfig
    seed: int
    world_size: int


class Pretraining:
    """The stages of one run directory; a context manager, because it may own processes."""

    def __init__(self, cfg: PretrainConfig, run: RunDir) -> None:
        _check(cfg)
        self.cfg = cfg
        self.run = run
        self._ranks: RankGroup[StageRank] | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    @property
    def ranks(self) -> RankGroup[StageRank]:
        """The training processes, started on first use."""
        if self._ranks is None:
            self._open.enter_context(ray_session())
            self._ranks = RankGroup(
                StageRank,
                self.cfg.world_size,
                name="pretrain",
                threads=self.cfg.threads,
                gpus_per_rank=1.0 if has_gpu() else 0.0,
            )
            self._open.callback(self._ranks.close)
        return self._ranks

    def execute(self, name: str) -> dict[str, Any]:
        """Runs stage `name` if it isn't complete; the stage before it must be."""
        if name == INIT:
            identity = InitIdentity(self.cfg.model, self.cfg.seed)
            return run_stage(self.run, INIT, identity, self._create)
        order = [INIT, *self.cfg.stages]
        before = order[order.index(name) - 1]
        if name == "fuse":
            return self._fuse(before)
        return self._train(name, name, before, getattr(self.cfg, name))

    def _create(self, stage: StageDir) -> dict[str, Any]:
        texts = corpus(CORPUS_TEXTS, self.cfg.seed)
        model = create_checkpoint(stage.checkpoint, self.cfg.model, texts, self.cfg.seed)
        return {
            "parameters": sum(p.numel() for p in model.parameters()),
            "vocabulary": model.config.vocab_size,
        }

    def _train(self, kind: str, name: str, before: str, cfg: StageConfig) -> dict[str, Any]:
        identity = StageIdentity(cfg, self.cfg.evaluation, self.cfg.seed, self.cfg.world_size)
        metrics = run_stage(
            self.run,
            name,
            identity,
            lambda stage: train_stage(
                self.ranks,
                self._job(kind, name, self.run.stage(before).checkpoint, cfg),
                stage,
                save_every=self.cfg.save_every,
                timeout_s=self.cfg.timeout_s,
                wandb=self.cfg.wandb,
            ),
            inputs=[before],
        )
        shutil.rmtree(self.run.stage(name).state, ignore_errors=True)  # nothing left to resume
        return metrics

    def _job(self, kind: str, name: str, source: Path, cfg: StageConfig) -> StageJob:
        return StageJob(
            kind=kind,
            source=source.absolute(),
            directory=self.run.stage(name).path.absolute(),
            cfg=cfg,
            evaluation=self.cfg.evaluation,
            seed=stage_seed(self.cfg.seed, name),
        )

    def _fuse(self, before: str) -> dict[str, Any]:
        """Trains the experts unless checkpoints are given, then averages."""
        fuse = self.cfg.fuse
        experts: list[str] = []
        if fuse.checkpoints:
            sources = [Path(path) for path in fuse.checkpoints]
        else:
            for expert, cfg in fuse.experts.items():
                experts.append(f"expert_{expert}")
                self._train("expert", experts[-1], before, cfg)
            sources = [self.run.stage(expert).checkpoint for expert in experts]
        # The experts' own configurations are part of their identities, which are inputs here.
        # Checkpoints given by path are told from others that were there before.
        how: Any = replace(fuse, experts={})
        if fuse.checkpoints:
            how = [how, [checkpoint_identity(path) for path in fuse.checkpoints]]
        identity = StageIdentity(how, self.cfg.evaluation, self.cfg.seed, self.cfg.world_size)
        return run_stage(
            self.run,
            "fuse",
            identity,
            lambda stage: self._average(stage, sources, before),
            inputs=[before, *experts],
        )

    def _average(self, stage: StageDir, sources: list[Path], before: str) -> dict[str, Any]:
        fuse_checkpoints(sources, self.cfg.fuse.weights, stage.checkpoint)
        cfg = next(iter(self.cfg.fuse.experts.values()), self.cfg.anneal)
        job = self._job("expert", "fuse", stage.checkpoint, cfg)
        return {
            "models": len(sources),
            **measure_checkpoint(self.ranks, job, timeout_s=self.cfg.timeout_s),
        }


def pretrain(cfg: PretrainConfig, run: RunDir) -> dict[str, dict[str, Any]]:
    """Runs the configured stages in `run` and returns their metrics by name.

    A stage that is complete under the same configuration isn't run again; an interrupted one
    resumes. `cfg.stage` other than `all` runs that stage alone.
    """
    names = [INIT, *cfg.stages] if cfg.stage == "all" else [cfg.stage]
    with Pretraining(cfg, run) as stages:
        return {name: stages.execute(name) for name in names}


def final_checkpoint(cfg: PretrainConfig, run: RunDir) -> Path:
    """The last stage's checkpoint: what post-training starts from."""
    return run.stage(cfg.stages[-1]).checkpoint


def print_summary(results: dict[str, dict[str, Any]]) -> None:
    """The stages and their held-out accuracies as a table."""
    columns = ["stage", "steps", "loss", "direct", "think", "reading", "zero-shot", "recall"]
    rows = []
    for name, metrics in results.items():
        shares = [metrics.get(key, {}).get("value") for key in ("reading", "zero_shot", "recall")]
        values = [metrics.get(key) for key in ("loss", "direct_mean", "think_mean")]
        cells = [f"{v:.3f}" if v is not None else "" for v in [*values, *shares]]
        rows.append([name, str(metrics.get("steps", "")), *cells])
    table("Pre-training (held-out accuracies)", columns, rows)


def _check(cfg: PretrainConfig) -> None:
    for name in cfg.stages:
        if name not in STAGES:
            raise ConfigError(f"stages: {name!r} is not one of {', '.join(STAGES)}")
    if cfg.stage not in ("all", INIT, *cfg.stages):
        raise ConfigError(f"stage={cfg.stage!r} is not one of all, {INIT}, {', '.join(cfg.stages)}")
    unread = {
        "train.gradient_checkpointing": cfg.vit.train.gradient_checkpointing,
        "think_share": cfg.vit.think_share,
        "length_power": cfg.vit.length_power,
    }
    for key, value in unread.items():
        if value and "vit" in cfg.stages:
            raise ConfigError(
                f"vit.{key}={value}: the contrastive stage can't do that; leave it out"
            )
