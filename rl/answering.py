"""Responses without rewards: encode, generate greedily, decode. For evaluations that score by
themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pretrain.data.render import render
from pretrain.data.sample import Sample
from pretrain.run.errors import KeyeError
from rl.rollouts import Rollouts
from rollout.seeds import stable_seed


@dataclass(frozen=True, slots=True)
class Answer:
    """One response."""

    text: str
    """Without the end-of-turn token."""
    tokens: int
    finished: bool
    """False if it was cut off at the token limit."""


def answer_all(
    rollouts: Rollouts,
    samples: Sequence[Sample],
    *,
    temperature: float = 0.0,
    seed: int = 0,
    refuse: Callable[[int, str], None] | None = None,
) -> list[Answer | None]:
    """One response to each sample, in order.

    Args:
        rollouts: engines and encoder with the policy's weights; its rewards are not used.
        samples: with their media loaded.
        temperature: 0 is greedy.
        seed: with the sample's id it decides the sampling noise.
        refuse: is told index and reason of a sample that can't be encoded (too long, an unreadable
            video), whose response is then None. By default that is an error.
    """
    prompts = {}
    for index, sample in enumerate(samples):
        try:
            prompts[index] = rollouts.encoder.encode(render(sample), sample.id)
        except KeyeError as error:
            if refuse is None:
                raise
            refuse(index, str(error))
    answers: list[Answer | None] = [None] * len(samples)
    if not prompts:
        return answers
    asked = [samples[index] for index in prompts]
    groups = rollouts.engines.generate(
        list(prompts.values()),
        replace(rollouts.sampling, temperature=temperature),
        seeds=[stable_seed(seed, sample.id, sample.mode) for sample in asked],
        sample_ids=[sample.id for sample in asked],
    )
    for index, (trajectory,) in zip(prompts, groups, strict=True):
        answers[index] = Answer(
            rollouts.decode(trajectory),
            len(trajectory.response_ids),
            trajectory.finish_reason == "stop",
        )
    return answers
