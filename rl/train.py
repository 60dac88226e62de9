"""The GSPO loop.

Invariants: a step is done when its state is saved; what came after the last saved step is redone,
with the same prompts and the same noise, so each prompt enters exactly one update of the final
weights' history. The engines always sample with the learner's newest weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pretrain.data.sample import Sample
from pretrain.run.console import Progress, say
from pretrain.run.directory import StageDir
from pretrain.run.errors import KeyeError
from pretrain.run.metrics import MetricLogger
from rl.config import GspoConfig
from rl.dynamic import DynamicConfig, draw
from rl.groups import Group, spread_metrics, to_training
from rl.learner import LearnerGroup
from rl.overlong import OverlongConfig, overlong_metrics, shape
from rl.prompts import PromptSource
from rl.rollouts import Rollouts, rollout_metrics
from rl.tables import sample_table
from rollout.hint_sampler import HintCounts, HintSampler
from rollout.seeds import stable_seed


@dataclass(slots=True)
class Job:
    """Everything the loop touches, already running."""

    cfg: GspoConfig
    stage: StageDir
    source: PromptSource
    rollouts: Rollouts
    hints: HintSampler
    learner: LearnerGroup
    log: MetricLogger
    dynamic: DynamicConfig = field(default_factory=DynamicConfig)
    overlong: OverlongConfig = field(default_factory=OverlongConfig)
    observe: Callable[[Sequence[Group]], dict[str, float]] | None = None
    """Further metrics of a step's groups, for sources that know more about their prompts."""


def train(job: Job) -> dict[str, Any]:
    """Improve the policy for `cfg.steps` steps and export it; returns a summary."""
    step = resume(job)
    metrics: dict[str, float] = {}
    with Progress("gspo", total=job.cfg.steps) as bar:
        bar.advance(step)
        while step < job.cfg.steps:
            started = time.perf_counter()
            samples = job.source.take(job.cfg.prompts_per_step)
            groups, metrics = sample_groups(job, samples, step)
            sequences = to_training(groups, job.learner.cfg.algorithm)

            learning = time.perf_counter()
            if len(sequences) >= job.learner.cfg.mini_batches * job.learner.cfg.world_size:
                metrics |= job.learner.update(sequences)
            metrics["time/learn"] = time.perf_counter() - learning

            step += 1
            syncing = time.perf_counter()
            job.rollouts.engines.update_weights(job.learner.weights(), version=step)
            metrics["time/sync"] = time.perf_counter() - syncing
            metrics["time/step"] = time.perf_counter() - started

            job.log.log(metrics, step)
            if step % job.cfg.table_every == 0:
                table = sample_table(groups, sequences, job.cfg.table_groups)
                job.log.table("samples", *table, step=step)
            if step % job.cfg.save_every == 0 or step == job.cfg.steps:
                job.learner.save(job.stage.state, step, progress(job))
            bar.advance(1, note=f"reward {metrics['reward/mean']:.3f}")
    if step and not job.learner.updates:  # counted over interruptions
        raise KeyeError(
            f"GSPO: {step} steps and not one update: in every batch all groups were all "
            "right or all wrong, so there was nothing to learn. Choose prompts that the policy "
            "solves sometimes, or a larger gspo.group_size."
        )
    job.learner.export(job.stage.checkpoint)
    return summary(job, metrics)


def sample_groups(
    job: Job, samples: Sequence[Sample], step: int
) -> tuple[list[Group], dict[str, float]]:
    """One batch of groups, hinted where nothing was solved, and its metrics.

    `samples` are the step's own prompts; dynamic sampling draws further ones from the source.
    """
    unhinted: list[Group] = []
    counts = HintCounts()
    max_tokens = job.rollouts.sampling.max_tokens

    def ask(chosen: Sequence[Sample], batch: int) -> list[Group]:
        # A prompt may come twice in a step that draws several batches: not with the same noise.
        seed = stable_seed(job.cfg.seed, step, *([batch] if batch else []))

        def generate(asked: Sequence[Sample], levels: Sequence[int]) -> list[Group]:
            noise, shown = seed, levels
            if job.hints.config.reroll and any(levels):  # the same question with other noise
                noise, shown = stable_seed(seed, "reroll", max(levels)), [0] * len(levels)
            groups = job.rollouts.groups(asked, n=job.cfg.group_size, seed=noise, hint_levels=shown)
            groups = shape(groups, job.overlong, max_tokens)
            if not job.hints.config.reroll or not any(levels):
                unhinted.extend(group for group in groups if group.hint_level == 0)
            return groups

        groups, counted = job.hints.sample(
            chosen,
            generate,
            is_solved=lambda g: g.solved,
            # Where nothing is known to be wrong, a hint has nothing to mend.
            needs_hint=lambda g: g.accuracy == 0,
            tokens=lambda g: g.tokens,
        )
        counts.add(counted)
        return groups

    # Rejection sampling learns from correct responses alone; the others from what sets them apart.
    accepts = job.learner.cfg.algorithm == "rejection_sampling"
    drawn = draw(
        job.dynamic,
        samples,
        job.source.take,
        ask,
        lambda group: group.solved if accepts else group.informative,
    )
    metrics = rollout_metrics(drawn.seen, unhinted) | counts.metrics() | job.source.metrics()
    metrics |= spread_metrics(drawn.seen) | overlong_metrics(drawn.seen)
    if job.observe is not None:
        metrics |= job.observe(drawn.seen)
    if job.dynamic.on:
        metrics |= drawn.metrics()
    metrics |= job.rollouts.take_seconds()
    metrics["perf/rollout_tokens_per_second"] = counts.tokens / metrics["time/generate"]
    return drawn.groups, metrics


def progress(job: Job) -> dict[str, Any]:
    """What the loop needs, beside the learner's state, to go on after this step."""
    return {"source": job.source.state(), "hints": job.hints.state()}


def resume(job: Job) -> int:
    """Restore the last complete state; returns the steps done (0 for a fresh stage)."""
    loaded = job.learner.load(job.stage.state)
    if loaded is None:
        job.log.truncate(0)
        return 0
    step, state = loaded
    job.source.load_state(state["source"])
    if "hints" in state:
        job.hints.load_state(state["hints"])
    job.log.truncate(step)
    job.rollouts.engines.update_weights(job.learner.weights(), version=step)
    say(f"gspo: goes on after step {step} of {job.cfg.steps}")
    return step


def summary(job: Job, last: dict[str, float]) -> dict[str, Any]:
    """What the stage's `summary.json` says of the loop: its last ten steps, and its size."""
    from pretrain.run.metrics import read_rows

    rows = read_rows(job.stage.metrics_file)
    recent = rows[-10:]
    keys = ("reward/mean", "reward/accuracy", "gspo/clip_fraction", "time/step")
    averages = {
        key: float(np.mean([row[key] for row in recent if row.get(key) is not None]))
        for key in keys
        if any(row.get(key) is not None for row in recent)
    }
    return {"steps": job.cfg.steps, **averages}
