"""Who writes for the cold start: an endpoint, or the newest policy in the run's engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pretrain.data.sample import PLACEHOLDERS
from pretrain.run.errors import ConfigError, KeyeError
from rl.hints.writers import (
    EndpointWriter,
    EngineWriter,
    Messages,
    Writer,
    WriterFailure,
    nobody_answers,
)
from rl.long_cot.config import ModelConfig
from rl.rollouts import Rollouts
from rollout.config import SamplingConfig


class TextWriter:
    """A writer that stops the job when it answers nothing at all.

    Args:
        writer: who is asked.
        name: how errors call it.
    """

    def __init__(self, writer: Writer, name: str) -> None:
        self.writer, self.name = writer, name
        self.answered = False

    def write(
        self, requests: Sequence[Messages], seeds: Sequence[int], what: str
    ) -> list[str | WriterFailure]:
        """A text, or why there is none, for each request.

        Raises:
            KeyeError: nobody answers; `what` says what could not be done.
        """
        replies = self.writer.write(requests, seeds) if requests else []
        if nobody_answers(replies, self.answered):
            raise KeyeError(
                f"nothing could be {what} by {self.name} ({replies[0]}). What was complete is "
                "kept: mend that and run the same command again."
            )
        self.answered |= any(isinstance(reply, str) for reply in replies)
        return replies


def endpoint_writer(
    cfg: ModelConfig,
    key: str,
    *,
    temperature: float | None = None,
    body: Mapping[str, Any] | None = None,
) -> TextWriter:
    """The model behind an endpoint.

    Args:
        cfg: where it is.
        key: the configuration key, for errors.
        temperature: instead of the configured one.
        body: more fields of each request.
    """
    if not cfg.url or not cfg.model:
        raise ConfigError(f"{key} needs url=URL and model=NAME of an OpenAI-compatible endpoint")
    warmth = cfg.temperature if temperature is None else temperature
    sampling = SamplingConfig(temperature=warmth, max_tokens=cfg.max_tokens, logprobs=False)
    writer = EndpointWriter(cfg.endpoint(), sampling, body)
    return TextWriter(writer, f"{key} ({cfg.model}, {cfg.url})")


def policy_writer(rollouts: Rollouts, cfg: ModelConfig) -> TextWriter:
    """The policy in running engines, which stay up."""
    sampling = SamplingConfig(
        temperature=cfg.temperature,
        max_tokens=min(cfg.max_tokens, rollouts.sampling.max_tokens),
        logprobs=False,
    )
    writer = EngineWriter(rollouts.engines, rollouts.encoder, sampling)  # type: ignore[arg-type]
    return TextWriter(writer, "the policy")


def plain_text(reply: str) -> str:
    """What a model wrote: no reasoning before it, no marks of the chat or of media."""
    text = reply.rpartition("</think>")[2]
    for mark in (*PLACEHOLDERS, "<|im_end|>", "<|endoftext|>"):
        text = text.replace(mark, " ")
    return text.strip().strip('"').strip()
