"""Who writes hints: a model behind an OpenAI-compatible endpoint, or a checkpoint in engines."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from pretrain.keye_vl.checkpoint import load_processor
from pretrain.keye_vl.prompt import EncodedPrompt, PromptEncoder
from pretrain.run.errors import KeyeError
from rewards.judge.client import Endpoint, JudgeClient, JudgeError
from rewards.judge.media import openai_parts
from rollout.config import EngineConfig, SamplingConfig
from rollout.engines import EnginePool

Messages = list[dict[str, Any]]


class WriterFailure(Exception):
    """No text for one request; the message says why.

    `refused`: for what the request is (too long, an unreadable medium), so asking again is no use.
    """

    def __init__(self, message: str, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


def nobody_answers(replies: Sequence[str | WriterFailure], answered: bool = False) -> bool:
    """Whether it is the writer that fails, and not some requests.

    Args:
        replies: to all requests of a turn.
        answered: whether it has given a text before. If not, several refusals and no text are taken
            for a setting that it doesn't understand.
    """
    failures = [reply for reply in replies if isinstance(reply, WriterFailure)]
    if not failures or len(failures) < len(replies):
        return False
    refused = all(failure.refused for failure in failures)
    return not (refused and (answered or len(failures) == 1))


class Writer(Protocol):
    """Answers chat messages."""

    def write(
        self, requests: Sequence[Messages], seeds: Sequence[int]
    ) -> list[str | WriterFailure]:
        """A text, or why there is none, for each request."""

    def __enter__(self) -> Self:
        """Start."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""


class EndpointWriter:
    """A model behind `URL/chat/completions`; images travel as data URIs."""

    def __init__(
        self, endpoint: Endpoint, sampling: SamplingConfig, body: Mapping[str, Any] | None = None
    ) -> None:
        """`body`: more fields of every request, e.g. `response_format`."""
        self.client = JudgeClient(endpoint)
        self.sampling = sampling
        self.body = body or {}

    def write(
        self, requests: Sequence[Messages], seeds: Sequence[int]
    ) -> list[str | WriterFailure]:
        """All requests at once, at most `endpoint.concurrency` in flight."""

        async def ask(messages: Messages, seed: int) -> str | WriterFailure:
            body = {
                "messages": [_openai(message) for message in messages],
                "temperature": self.sampling.temperature,
                "top_p": self.sampling.top_p,
                "max_tokens": self.sampling.max_tokens,
                "seed": seed % 2**31,
                **self.body,
            }
            try:
                return (await self.client.complete(body)).text
            except JudgeError as error:
                return WriterFailure(str(error), error.refused)

        async def ask_all() -> list[str | WriterFailure]:
            return await asyncio.gather(*map(ask, requests, seeds))

        return asyncio.run(ask_all())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        return None


class EngineWriter:
    """A checkpoint in engines of our own, which end with it.

    Args:
        engines: running engines.
        encoder: its maximum length leaves room for the reply.
        sampling: how hints are drawn.
    """

    def __init__(
        self, engines: EnginePool, encoder: PromptEncoder, sampling: SamplingConfig
    ) -> None:
        self.engines, self.encoder, self.sampling = engines, encoder, sampling

    @classmethod
    def start(cls, checkpoint: Path, engine: EngineConfig, sampling: SamplingConfig) -> Self:
        """Start engines with `checkpoint`; needs a Ray session."""
        longest = engine.max_length - sampling.max_tokens
        if longest < 1:
            raise KeyeError(
                f"engine.max_length={engine.max_length} leaves no room for a prompt beside "
                f"sampling.max_tokens={sampling.max_tokens}; raise the one or lower the other"
            )
        encoder = PromptEncoder(load_processor(checkpoint), longest)
        return cls(EnginePool(engine, str(checkpoint)), encoder, sampling)

    def write(
        self, requests: Sequence[Messages], seeds: Sequence[int]
    ) -> list[str | WriterFailure]:
        """One response to each request; a prompt that is too long fails alone."""
        results: list[str | WriterFailure] = []
        prompts: dict[int, EncodedPrompt] = {}
        for index, messages in enumerate(requests):
            results.append(WriterFailure(""))
            try:
                prompts[index] = self.encoder.encode(messages, f"request {index}")
            except KeyeError as error:
                results[index] = WriterFailure(str(error), refused=True)
        if not prompts:
            return results
        groups = self.engines.generate(
            list(prompts.values()), self.sampling, seeds=[seeds[index] for index in prompts]
        )
        for index, group in zip(prompts, groups, strict=True):
            ids = group[0].response_ids.tolist()
            results[index] = self.encoder.tokenizer.decode(ids, skip_special_tokens=True)
        return results

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.engines.close()


def _openai(message: dict[str, Any]) -> dict[str, Any]:
    """A message with loaded media in the form of OpenAI's interface."""
    if isinstance(message["content"], str):
        return message
    parts = [shown for part in message["content"] for shown in openai_parts(part)]
    return {"role": message["role"], "content": parts}
