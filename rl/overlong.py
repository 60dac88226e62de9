"""Soft overlong punishment on response tokens (DAPO, arXiv 2503.14476, eq. 13).

A response that is cut off at the token limit gets no answer and so no reward, without a warning
before the limit. With a buffer, the reward falls linearly over the last tokens before it, so that
the policy learns to end in time.

Invariant: whether a response is *correct* doesn't change; only its total reward does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pretrain.run.errors import ConfigError
from rewards.result import RewardResult, Score
from rl.groups import Group

PART = "overlong"
"""Name of the punishment among a score's parts, and in the metrics `reward/overlong/*`."""


@dataclass
class OverlongConfig:
    """How long a response may be before it costs something."""

    buffer: int = 0
    """Tokens before sampling.max_tokens over which the punishment grows; 0 switches it off. A fifth
    of the limit is usual."""
    penalty: float = 1.0
    """Reward that a response as long as the limit loses."""

    def __post_init__(self) -> None:
        if self.buffer < 0:
            raise ConfigError(f"overlong.buffer={self.buffer} must be at least 0 tokens")
        if not 0 < self.penalty <= 100:
            raise ConfigError(
                f"overlong.penalty={self.penalty} is not in (0, 100]; to switch shaping off set "
                "overlong.buffer=0"
            )

    def check(self, max_tokens: int) -> None:
        """`ConfigError` when the buffer doesn't fit the token limit."""
        if self.buffer >= max_tokens:
            raise ConfigError(
                f"overlong.buffer={self.buffer} leaves nothing unpunished below "
                f"sampling.max_tokens={max_tokens}; make it smaller than that"
            )


def punishment(length: int, max_tokens: int, cfg: OverlongConfig) -> float:
    """0 up to `max_tokens − buffer`, then falling linearly to `−penalty` at `max_tokens`."""
    over = length - (max_tokens - cfg.buffer)
    return -cfg.penalty * min(max(over / cfg.buffer, 0.0), 1.0)


def shape(groups: Sequence[Group], cfg: OverlongConfig, max_tokens: int) -> list[Group]:
    """The groups with the punishment in their scores, as a part of its own; the same if it is off.

    A response whose reward failed stays without one.
    """
    if not cfg.buffer:
        return list(groups)
    return [
        replace(
            group,
            scores=[
                _punished(score, punishment(trajectory.num_sampled, max_tokens, cfg))
                for score, trajectory in zip(group.scores, group.trajectories, strict=True)
            ],
        )
        for group in groups
    ]


def _punished(score: Score, value: float) -> Score:
    # With no verifier among them, all parts decide whether a response is correct: not this one.
    return replace(
        score,
        total=None if score.total is None else score.total + value,
        parts=score.parts | {PART: RewardResult(value)},
        verifiers=score.verifiers or tuple(score.parts),
    )


def overlong_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """`overlong/punished_share` of the responses, and their mean `overlong/reward`."""
    values = [s.parts[PART].value or 0.0 for g in groups for s in g.scores if PART in s.parts]
    if not values:
        return {}
    return {
        "overlong/punished_share": float(np.mean([value < 0 for value in values])),
        "overlong/reward": float(np.mean(values)),
    }
