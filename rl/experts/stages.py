"""Domain experts, trained from the newest policy, and their merging back into it.

Stages: `experts/NAME`, one a domain, each with checkpoints along its steps; `merge`. Experts don't
become the newest policy, their merge does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretrain.data.ingest import SampleFiles
from pretrain.data.render import conversation, render
from pretrain.data.sample import Sample
from pretrain.data.stream import WorldStream
from pretrain.data.world import textual
from pretrain.run.command import config_dict
from pretrain.run.console import table
from pretrain.run.directory import StageDir, checkpoint_identity
from pretrain.run.errors import ConfigError, KeyeError
from pretrain.run.stages import run_stage
from rl.experts.config import ExpertConfig, MergeConfig
from rl.experts.merging import check_merge, merge_checkpoints
from rl.permutation import mix, permuted
from rl.row_log import digests
from rl.sft.training import run_sft, snapshot
from rl.stages import Run
from rl.trace_rows import given_reply


class DomainExamples:
    """`examples(i)` for an expert's fine-tuning, pure in i.

    Rows of files, or the first `pool` samples of the world, come in a new order every epoch;
    without a pool the world's samples never repeat.
    """

    def __init__(self, cfg: ExpertConfig, folder: Path) -> None:
        self.cfg = cfg
        self.source: SampleFiles | WorldStream
        if cfg.data.files:
            quarantine = cfg.data.quarantine or str(folder / "quarantine.jsonl")
            self.source = SampleFiles(replace(cfg.data, quarantine=quarantine))
            self.size = len(self.source)
        else:
            self.source = WorldStream(cfg.tasks, cfg.seed, "train", cfg.modes)
            self.size = cfg.pool

    def __call__(self, index: int) -> list[dict[str, Any]]:
        """The conversation of example `index`, the assistant's turn last."""
        if self.size:
            epoch, place = divmod(index, self.size)
            index = permuted(place, self.size, mix(self.cfg.seed, epoch))
        sample: Sample = self.source[index]
        if self.cfg.data.files:
            turn = {"role": "assistant", "content": given_reply(sample)}
            return [*render(sample), turn]
        return conversation(textual(sample) if self.cfg.textual else sample)


def experts(run: Run) -> None:
    """One expert of each configured domain, all from the newest policy."""
    if not run.cfg.experts:
        raise ConfigError("experts: no domain is configured; set experts.NAME.tasks or data.files")
    source, rows = run.policy(), []
    for name, cfg in run.cfg.experts.items():

        def body(stage: StageDir, cfg: ExpertConfig = cfg) -> dict[str, Any]:
            examples = DomainExamples(cfg, stage.path)
            return run_sft(
                source,
                examples,
                cfg.sft,
                stage,
                wandb=run.cfg.wandb,
                snapshots=sorted(set(cfg.checkpoints)),
            )

        trained = run.stage(f"experts/{name}", [cfg, digests(cfg.data.files)], body)
        rows.append(
            [name, trained["steps"], str(sorted(set(cfg.checkpoints))), trained.get("loss")]
        )
    table("Domain experts", ["expert", "checkpoints after steps", "loss"], rows)


def merge(run: Run) -> None:
    """Base and experts merged; the result is the newest policy."""
    cfg, base = run.cfg.merge, run.policy()
    chosen = expert_checkpoints(run)
    check_merge(cfg.method, list(chosen), cfg.weights)

    def body(stage: StageDir) -> dict[str, Any]:
        used = merge_checkpoints(
            cfg.method,
            base,
            chosen,
            stage.checkpoint,
            weights=cfg.weights,
            scale=cfg.scale,
            density=cfg.density,
        )
        return {"method": cfg.method, "weights": used, "steps": _steps(run)}

    own = [] if cfg.checkpoints else [f"experts/{name}" for name in chosen]
    inputs = [name for name in [run.made_by, *own] if name]
    identity = {"cfg": _identity(cfg), "checkpoint": run.given()}
    merged = run_stage(run.folder, "merge", identity, body, inputs=inputs)
    run.advance("merge")
    shown = [[name, round(weight, 4)] for name, weight in merged["weights"].items()]
    table(f"Merge ({merged['method']})", ["model", "weight"], shown)


def _identity(cfg: MergeConfig) -> dict[str, Any]:
    """What of the settings this method reads, and which checkpoints they name."""
    unread: dict[str, tuple[str, ...]] = {
        "uniform": ("scale", "density"),
        "weighted": ("scale", "density"),
        "task_arithmetic": ("density",),
    }
    left_out = unread.get(cfg.method, ())
    read = {key: value for key, value in config_dict(cfg).items() if key not in left_out}
    made = {name: checkpoint_identity(path) for name, path in cfg.checkpoints.items()}
    return read | {"checkpoints": made}


def expert_checkpoints(run: Run) -> Mapping[str, Path]:
    """Name → the checkpoint that is merged.

    Raises `ConfigError` for a name or a step that there isn't, `KeyeError` for an expert that isn't
    trained yet.
    """
    cfg = run.cfg.merge
    if cfg.checkpoints:
        return {name: Path(path) for name, path in cfg.checkpoints.items()}
    unknown = sorted(set(cfg.steps) - set(run.cfg.experts))
    if unknown:
        raise ConfigError(
            f"merge.steps: {unknown[0]!r} is no expert ({', '.join(run.cfg.experts) or 'none'})"
        )
    chosen = {}
    for name, expert in run.cfg.experts.items():
        stage = run.folder.stage(f"experts/{name}")
        if not stage.summary():
            raise KeyeError(f"expert {name} is not trained: add stage `experts` before `merge`")
        step = cfg.steps.get(name, expert.sft.steps)
        if step not in [*expert.checkpoints, expert.sft.steps]:
            raise ConfigError(
                f"merge.steps.{name}={step}: it has checkpoints at "
                f"{[*expert.checkpoints, expert.sft.steps]}; set experts.{name}.checkpoints"
            )
        last = step == expert.sft.steps
        chosen[name] = stage.checkpoint if last else snapshot(stage, step)
    if not chosen:
        raise ConfigError("merge has no expert: configure experts, or give merge.checkpoints")
    return chosen


def _steps(run: Run) -> dict[str, int]:
    """Which step of each of the run's own experts is merged."""
    if run.cfg.merge.checkpoints:
        return {}
    return {
        name: run.cfg.merge.steps.get(name, expert.sft.steps)
        for name, expert in run.cfg.experts.items()
    }
