"""The stages of a post-training run, in order, each in its own folder of `runs/NAME/`.

Invariant: a stage's hash contains its configuration and the hashes of the stages it starts from, so
nothing finished is run again and nothing stale is built upon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pretrain.data.ingest import SampleFiles
from pretrain.data.sample import Sample
from pretrain.data.stream import heldout
from pretrain.policy.model import parameter_count
from pretrain.run.command import config_dict
from pretrain.run.directory import RunDir, StageDir, checkpoint_identity
from pretrain.run.errors import KeyeError
from pretrain.run.metrics import MetricLogger
from pretrain.run.stages import run_stage
from pretrain.stages.pipeline import final_checkpoint
from pretrain.stages.pipeline import pretrain as run_pretraining
from rl.config import RlConfig
from rl.evaluate import Evaluation, EvaluationConfig, evaluate, reasoning_by_difficulty
from rl.groups import Group
from rl.identity import data_identity, generation_identity, reward_identity, tool_identity
from rl.launch import announce
from rl.learner import LearnerGroup
from rl.prompts import PromptSource, open_prompts
from rl.session import Session
from rl.sft.training import run_sft
from rl.tool_tasks import ToolTasks, cold_start_examples, needs_tools, with_documents
from rl.train import Job, train
from rollout.config import HintConfig
from rollout.hint_sampler import HintSampler

RECORDS = "evaluation.jsonl"
"""Per-prompt outcomes in an evaluation stage's folder."""
REJECTIONS = "hint_rejections.jsonl"
"""Hints that were refused because they say too much, in the GSPO stage's folder."""


@dataclass(slots=True)
class Run:
    """A run in progress: what stages share."""

    cfg: RlConfig
    folder: RunDir
    session: Session
    checkpoint: Path | None
    """The newest policy; None before any stage has made one."""
    made_by: str = ""
    """The stage of this run that made it; empty for one given by the user."""

    def policy(self) -> Path:
        """The newest policy; `KeyeError` when there is none yet."""
        if self.checkpoint is None:
            raise KeyeError(
                f"run {self.folder.path.name}: no policy to start from. Give "
                "checkpoint=DIRECTORY (a Hugging Face directory), or stages that make one."
            )
        return self.checkpoint

    def given(self) -> list[Any] | str:
        """What tells the user's policy from others; empty where the newest one is a stage's."""
        path = "" if self.made_by else self.cfg.checkpoint
        return checkpoint_identity(path) if path else ""

    def stage(
        self, name: str, cfg: Any, body: Callable[[StageDir], dict[str, Any]]
    ) -> dict[str, Any]:
        """Run one stage on the newest policy, unless it is complete already."""
        inputs = (self.made_by,) if self.made_by else ()
        identity = {"cfg": cfg, "checkpoint": self.given()}
        return run_stage(self.folder, name, identity, body, inputs=inputs)

    def advance(self, name: str) -> None:
        """From here on the newest policy is stage `name`'s."""
        self.checkpoint = self.folder.stage(name).checkpoint
        self.made_by = name


def pretrain(run: Run) -> None:
    """All pre-training stages, down to the fused base checkpoint."""
    cfg = replace(run.cfg.pretrain, wandb=run.cfg.wandb)
    run_pretraining(cfg, run.folder)
    run.checkpoint = final_checkpoint(cfg, run.folder)
    run.made_by = cfg.stages[-1]


def cold_start(run: Run) -> None:
    """Supervised traces in all modes."""
    cfg = run.cfg.cold_start
    source = run.policy()

    def body(stage: StageDir) -> dict[str, Any]:
        examples = cold_start_examples(cfg, with_documents(run.cfg.tools, run.folder.path))
        return run_sft(source, examples, cfg.sft, stage, wandb=run.cfg.wandb)

    run.stage("cold_start", [cfg, *tool_identity(run.cfg.tools)], body)
    run.advance("cold_start")


def evaluation(run: Run, name: str) -> None:
    """Held-out accuracy of the newest policy; the same samples whenever it is called."""
    cfg = run.cfg.evaluation

    def body(stage: StageDir) -> dict[str, Any]:
        rollouts = run.session.rollouts(run.policy())
        result = evaluate(rollouts, heldout_samples(cfg, stage.path), cfg.modes)
        result.save(stage.path / RECORDS)
        return {
            "table": result.table(),
            "by_task": result.by_task(),
            "behaviour": result.behaviour(),
            "reasoning_by_difficulty": reasoning_by_difficulty(result),
        }

    how = [*data_identity(cfg), *generation_identity(run.cfg), *reward_identity(run.cfg)]
    run.stage(name, how, body)


def heldout_samples(cfg: EvaluationConfig, folder: Path) -> list[Sample]:
    """The evaluation's samples: rows of files, or the world's held-out split."""
    if cfg.files:
        quarantine = cfg.quarantine or str(folder / "quarantine.jsonl")
        rows = SampleFiles(replace(cfg, quarantine=quarantine))
        return [rows[index] for index in range(min(len(rows), cfg.samples))]
    if needs_tools(cfg.tasks):
        return ToolTasks(cfg.tasks, cfg.seed, "test").take(cfg.samples)
    return heldout(cfg.tasks, cfg.samples, cfg.seed)


def load_evaluation(folder: RunDir, name: str) -> Evaluation:
    """The records of an evaluation stage."""
    return Evaluation.load(folder.stage(name).path / RECORDS)


def gspo(
    run: Run,
    name: str = "gspo",
    prompts: Callable[[Path], PromptSource] | None = None,
    identity: Any = None,
    observe: Callable[[Sequence[Group]], dict[str, float]] | None = None,
    hinted: bool = True,
) -> None:
    """The RL loop in stage `name`; by default on the configured data.

    Other `prompts` are opened with the stage's folder, and `identity` says what decides them.
    `observe` adds metrics of a step's groups. Without `hinted` no prompt is asked again with a
    hint, whatever the configuration says of other stages.
    """
    cfg = run.cfg if hinted else replace(run.cfg, hints=HintConfig())
    source = run.policy()
    opened = prompts or (lambda folder: open_prompts(cfg.data, folder))

    def body(stage: StageDir) -> dict[str, Any]:
        cfg.overlong.check(cfg.sampling.max_tokens)
        announce(cfg, parameter_count(source))
        rollouts = run.session.rollouts(source)
        learner = LearnerGroup(cfg.learner, source, total_updates=cfg.gspo.steps)
        try:
            with MetricLogger(stage, cfg.wandb, config_dict(cfg)) as log:
                return train(
                    Job(
                        cfg=cfg.gspo,
                        stage=stage,
                        source=opened(stage.path),
                        rollouts=rollouts,
                        hints=HintSampler(cfg.hints, stage.path / REJECTIONS),
                        learner=learner,
                        log=log,
                        dynamic=cfg.dynamic,
                        overlong=cfg.overlong,
                        observe=observe,
                    )
                )
        finally:
            learner.close()

    asked = [identity] if prompts else data_identity(cfg.data)
    run.stage(name, _gspo_identity(cfg) + asked, body)
    run.advance(name)


def _gspo_identity(cfg: RlConfig) -> list[Any]:
    """What decides the outcome beside the prompts; what is switched off doesn't, whatever its other
    settings."""
    hints = cfg.hints if cfg.hints.max_level else {"max_level": 0}
    parts = [cfg.gspo, hints, cfg.learner, *generation_identity(cfg), *reward_identity(cfg)]
    parts += [{"dynamic": cfg.dynamic}] if cfg.dynamic.on else []
    return parts + ([{"overlong": cfg.overlong}] if cfg.overlong.buffer else [])


STAGES: dict[str, Callable[[Run], None]] = {
    "pretrain": pretrain,
    "cold_start": cold_start,
    "gspo": gspo,
}
