"""From samples to scored groups: encode, generate, score, and retry with hints.

Invariant: the same seed, step and weights give the same groups, whatever was generated before;
nothing is re-tokenised — responses are decoded for the rules only, token ids go to the learner.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pretrain.data.render import render
from pretrain.data.sample import Sample
from pretrain.policy.encoder import Encoder
from rewards.keye_rm.model import KeyeRewardModel
from rewards.keye_rm.reward import score_groups
from rewards.pool import RewardPool
from rl.groups import Group
from rollout.config import SamplingConfig
from rollout.engines import EnginePool
from rollout.seeds import stable_seed
from rollout.tools.loop import Asked, ToolLoop, readable
from rollout.trajectory import Trajectory


class Rollouts:
    """Engines, tokenizer and rules behind one call.

    Args:
        engines: running vLLM engines.
        encoder: makes prompts for engine and learner alike.
        rewards: running rule workers.
        sampling: limits of a response; temperature and n are given per call.
        reward_model: what scores `keye_rm` entries; without it they are errors.
        tools: what responses may call; without it they have one turn.
    """

    def __init__(
        self,
        engines: EnginePool,
        encoder: Encoder,
        rewards: RewardPool,
        sampling: SamplingConfig,
        reward_model: KeyeRewardModel | None = None,
        tools: ToolLoop | None = None,
    ) -> None:
        self.engines = engines
        self.encoder = encoder
        self.rewards = rewards
        self.sampling = sampling
        self.reward_model = reward_model
        self.tools = tools
        self.seconds: defaultdict[str, float] = defaultdict(float)
        """Seconds spent since the last `take_seconds`, by phase: encode, generate, reward."""

    def groups(
        self,
        samples: Sequence[Sample],
        *,
        n: int,
        seed: int,
        temperature: float | None = None,
        hint_levels: Sequence[int] | None = None,
    ) -> list[Group]:
        """`n` scored responses to each sample, in order.

        Args:
            samples: prompts; each one's mode decides its tag and the format rule.
            n: responses a prompt.
            seed: with a sample's id and hint level it decides the sampling noise.
            temperature: 0 is greedy; default: the configured one.
            hint_levels: one a sample; 0 shows no hint.
        """
        levels = list(hint_levels) if hint_levels is not None else [0] * len(samples)
        sampling = self.sampling
        if temperature is not None:
            sampling = replace(sampling, temperature=temperature)
        seeds = [
            stable_seed(seed, sample.id, sample.mode, level)
            for sample, level in zip(samples, levels, strict=True)
        ]
        started = time.perf_counter()
        if self.tools is not None:
            asked = [
                self._asked(self.tools, *one) for one in zip(samples, levels, seeds, strict=True)
            ]
            prompts = [one.prompt for one in asked]
            encoded = time.perf_counter()
            trajectories = self.tools.generate(asked, sampling, n)
        else:
            prompts = [
                self.encoder.encode(render(sample, level), sample.id)
                for sample, level in zip(samples, levels, strict=True)
            ]
            encoded = time.perf_counter()
            trajectories = self.engines.generate(
                prompts,
                sampling,
                seeds=seeds,
                n=n,
                sample_ids=[sample.id for sample in samples],
                hint_levels=levels,
            )
        generated = time.perf_counter()
        texts = [[self.decode(t) for t in group] for group in trajectories]
        scores = self.score(samples, texts)
        self.seconds["encode"] += encoded - started
        self.seconds["generate"] += generated - encoded
        self.seconds["reward"] += time.perf_counter() - generated
        return [
            Group(*parts)
            for parts in zip(samples, levels, prompts, trajectories, texts, scores, strict=True)
        ]

    def _asked(self, tools: ToolLoop, sample: Sample, level: int, seed: int) -> Asked:
        """A sample with the tools it may call described in its prompt."""
        chosen = tools.chosen(sample.extra.get("tools"), sample.id)
        messages = tools.instruct(render(sample, level), chosen)
        prompt = self.encoder.encode(messages, sample.id)
        return Asked(prompt, sample.id, seed, chosen, sample.extra, level)

    def decode(self, trajectory: Trajectory) -> str:
        """The response's text: its end-of-turn token is left out, grounding tokens are not.

        With tools: all turns, and the results between them (see `rollout.tools.loop.readable`).
        """
        if self.tools is not None:
            return readable(trajectory, self.encoder.tokenizer, self.tools.writer.end_of_turn)
        ids = trajectory.response_ids
        if trajectory.finish_reason == "stop":
            ids = ids[:-1]
        return self.encoder.tokenizer.decode(ids.tolist(), skip_special_tokens=False)

    def score(self, samples: Sequence[Sample], texts: Sequence[Sequence[str]]) -> list[list[Any]]:
        """A `Score` for each text; `texts[i]` are responses to sample i, judged as one group."""
        if self.reward_model is not None:
            return score_groups(samples, texts, self.rewards, self.reward_model)
        rows = [sample.to_row(media=False) for sample in samples]
        items = [(text, row) for row, group in zip(rows, texts, strict=True) for text in group]
        scores = iter(self.rewards.score(items))
        return [[next(scores) for _ in group] for group in texts]

    def take_seconds(self) -> dict[str, float]:
        """`time/encode|generate|reward` since the last call."""
        taken = {f"time/{phase}": seconds for phase, seconds in self.seconds.items()}
        self.seconds.clear()
        return taken


def rollout_metrics(
    groups: Sequence[Group], unhinted: Sequence[Group] | None = None
) -> dict[str, float]:
    """`rollout/*` and `reward/*` of a batch of groups, per mode and per rule by name.

    Accuracies count un-hinted groups only, so that a hint never looks like progress. `unhinted`:
    all groups that were sampled without a hint, the ones that a hinted group took the place of
    included (else the accuracy would be that of the easy prompts); by default those of `groups`.
    """
    plain = list(unhinted) if unhinted is not None else [g for g in groups if g.hint_level == 0]
    lengths = np.array([t.num_sampled for g in groups for t in g.trajectories])
    reasons = [t.finish_reason for g in groups for t in g.trajectories]
    rewards = np.concatenate([group.rewards for group in groups])
    metrics = {
        "rollout/responses": float(len(lengths)),
        "rollout/tokens": float(lengths.sum()),
        "rollout/length_mean": float(lengths.mean()),
        "rollout/length_max": float(lengths.max()),
        "rollout/truncated_share": reasons.count("length") / len(reasons),
        "reward/mean": float(np.nanmean(rewards)),
        "reward/std": float(np.nanstd(rewards)),
    }
    # A reward model's groups have no accuracy: it prefers, and calls nothing right.
    judged = [g for g in plain if not any(score.by_model for score in g.scores)]
    for mode in sorted({group.sample.mode for group in judged}):
        accuracies = [g.correct.mean() for g in judged if g.sample.mode == mode]
        metrics[f"reward/accuracy/{mode}"] = float(np.mean(accuracies))
    for mode in sorted({group.sample.mode for group in plain}):
        chosen = [group for group in plain if group.sample.mode == mode]
        metrics[f"rollout/reasoned_share/{mode}"] = float(
            np.mean([g.reasoned.mean() for g in chosen])
        )
    if judged:
        metrics["reward/accuracy"] = float(np.mean([g.correct.mean() for g in judged]))
        metrics["reward/solved_share"] = float(np.mean([g.solved for g in judged]))
    return metrics | _rule_metrics(groups) | _tool_metrics(groups)


def _tool_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """`tools/*` of the responses that could call tools; nothing where none could."""
    uses = [t.tool_use for g in groups for t in g.trajectories if t.tool_use is not None]
    if not uses:
        return {}
    calls = sum(use.calls for use in uses)
    return {
        "tools/calls": calls / len(uses),
        "tools/errors": sum(use.errors for use in uses) / max(calls, 1),
        "tools/turns_mean": sum(use.turns for use in uses) / len(uses),
    }


def _rule_metrics(groups: Sequence[Group]) -> dict[str, float]:
    parts: dict[str, list[Any]] = {}
    for group in groups:
        for score in group.scores:
            for rule, result in score.parts.items():
                parts.setdefault(rule, []).append(result)
    metrics: dict[str, float] = {}
    for rule, results in parts.items():
        values = [result.value for result in results if result.value is not None]
        if values:
            metrics[f"reward/{rule}/mean"] = float(np.mean(values))
        metrics[f"reward/{rule}/failed_share"] = 1 - len(values) / len(results)
        metrics[f"reward/{rule}/seconds"] = float(np.sum([r.seconds for r in results]))
    return metrics
