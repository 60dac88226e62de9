"""A group: one prompt at one hint level, its responses, and what the rules made of them.

Invariant: everything group statistics are taken over shares the exact prompt, hint included. A
response whose reward failed has reward NaN: it leaves the statistics and is never trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pretrain.data.sample import Sample
from pretrain.keye_vl.prompt import EncodedPrompt
from rewards.result import Score, is_correct
from rl.gspo import group_advantages
from rl.sequences import TrainingSequence
from rollout.trajectory import Trajectory


@dataclass(slots=True)
class Group:
    """G responses to one prompt."""

    sample: Sample
    hint_level: int
    """0: no hint; 1…5: the hint that stood in the prompt."""
    prompt: EncodedPrompt
    trajectories: list[Trajectory]
    responses: list[str]
    """The texts, without the end-of-turn token."""
    scores: list[Score]

    @property
    def rewards(self) -> np.ndarray:
        """float32 `[G]`; NaN where a rule failed."""
        return np.array(
            [np.nan if score.total is None else score.total for score in self.scores], np.float32
        )

    @property
    def correct(self) -> np.ndarray:
        """bool `[G]`: every verifier of the sample is satisfied."""
        return np.array([is_correct(score) for score in self.scores], bool)

    @property
    def solved(self) -> bool:
        """Whether at least one response is correct."""
        return bool(self.correct.any())

    @property
    def accuracy(self) -> float | None:
        """Share of correct responses among those whose rewards are known. None where none is, and
        where only a reward model judges: it prefers, and calls nothing right."""
        known = ~np.isnan(self.rewards)
        if not known.any() or any(score.by_model for score in self.scores):
            return None
        return float(self.correct[known].mean())

    @property
    def informative(self) -> bool:
        """Whether the rewards differ: only then has the group a gradient."""
        known = self.rewards[~np.isnan(self.rewards)]
        return bool(known.size > 1 and known.max() > known.min())

    @property
    def tokens(self) -> int:
        """Sampled response tokens, all responses together."""
        return sum(trajectory.num_sampled for trajectory in self.trajectories)

    @property
    def reasoned(self) -> np.ndarray:
        """bool `[G]`: the response opens with a `<think>` block that isn't empty."""
        return np.array([reasons(response) for response in self.responses], bool)


def reasons(response: str) -> bool:
    """Whether a response reasons before it answers."""
    thought, closed, _ = response.partition("</think>")
    opened = thought.lstrip().startswith("<think>")
    return opened and bool(closed) and bool(thought.replace("<think>", "").strip())


def accepted(group: Group) -> np.ndarray:
    """bool `[G]`: correct, and with the highest reward among the group's correct responses.

    The second half counts the rewards that verify nothing, like the format's: without it the
    policy would be trained to leave its reasoning out wherever it guesses right.
    """
    usable = group.correct & ~np.isnan(group.rewards)
    rewards = np.where(usable, group.rewards, -np.inf)
    return usable & (rewards >= rewards.max(initial=-np.inf) - 1e-6)


def spread_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Share of groups whose rewards are all alike, and how many responses' rewards failed.

    `groups` are all that were drawn: those chosen for an update are the ones that differ.
    """
    alike = sum(not group.informative for group in groups)
    failed = sum(int(np.isnan(group.rewards).sum()) for group in groups)
    return {
        "reward/zero_variance_share": alike / max(len(groups), 1),
        "reward/failed_responses": float(failed),
    }


def to_training(groups: Sequence[Group], algorithm: str = "gspo") -> list[TrainingSequence]:
    """Advantages of every group, and the sequences worth an update.

    `algorithm=rejection_sampling` trains on `accepted` responses alone, each with advantage 1.

    Groups without spread (all right, all wrong) have advantage 0 everywhere and are dropped: they
    would cost a forward and a backward pass and give no gradient.
    """
    sequences: list[TrainingSequence] = []
    for number, group in enumerate(groups):
        rewards = torch.from_numpy(group.rewards)
        if algorithm == "rejection_sampling":
            advantages = np.where(accepted(group), 1.0, np.nan)
        else:
            advantages = group_advantages(rewards, len(rewards)).numpy()
        usable = ~np.isnan(advantages)
        if not np.any(advantages[usable]):
            continue
        sequences += [
            TrainingSequence(
                prompt=group.prompt,
                response_ids=trajectory.response_ids,
                engine_logprobs=trajectory.logprobs,
                sampled=trajectory.sampled,
                media=trajectory.media,
                advantage=float(advantages[row]),
                group_id=number,
                hint_level=group.hint_level,
                sample_id=group.sample.id,
            )
            for row, trajectory in enumerate(group.trajectories)
            if usable[row]
        ]
    return sequences
