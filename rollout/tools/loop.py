"""Multi-turn generation: the policy writes a turn, its calls are carried out, and it goes on.

Invariants: what was sampled stays as it is, id by id — results are appended as ids of their own;
a trajectory's noise is counted over its own sampled tokens, so it doesn't depend on what is
generated beside it; every response that isn't finished takes part in the next round, so the engines
stay full. Results are deterministic as far as the tools are (a missed deadline is not).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from PIL import Image

from pretrain.keye_vl.prompt import EncodedPrompt
from pretrain.policy.encoder import Encoder
from pretrain.run.errors import ConfigError, KeyeError
from rollout.config import EngineConfig, SamplingConfig
from rollout.engine import PromptRequest, Response
from rollout.seeds import stable_seed
from rollout.tools.calls import ToolCall, failure, find_calls, prepare, run_all
from rollout.tools.config import ToolConfig
from rollout.tools.prompting import with_tools
from rollout.tools.tool import Tool, ToolContext, ToolResult
from rollout.tools.turns import TurnWriter, joined_media, numbered
from rollout.trajectory import ToolUse, Trajectory


class Engines(Protocol):
    """What the loop needs of `rollout.engines.EnginePool`."""

    config: EngineConfig
    version: int

    def respond(
        self, requests: list[PromptRequest], sampling: SamplingConfig
    ) -> list[list[Response]]:
        """New tokens for every request, in order."""


@dataclass(slots=True)
class Asked:
    """One prompt and what its responses may use."""

    prompt: EncodedPrompt
    sample_id: str
    seed: int
    tools: Mapping[str, Tool] = field(default_factory=dict)
    """By name; empty: the responses have one turn."""
    row: Mapping[str, Any] = field(default_factory=dict)
    """For the tools, see `ToolContext.row`."""
    hint_level: int = 0


class ToolLoop:
    """Engines with tools behind them.

    Args:
        engines: a running `EnginePool`.
        encoder: the policy's; results are written with its tokenizer and chat template.
        tools: from `open_tools`.
        cfg: limits.
    """

    def __init__(
        self, engines: Engines, encoder: Encoder, tools: Mapping[str, Tool], cfg: ToolConfig
    ) -> None:
        self.engines, self.tools, self.cfg = engines, tools, cfg
        self.writer = TurnWriter(encoder, cfg.max_result_tokens)
        blind = [name for name, tool in tools.items() if tool.gives_images]
        if blind and not self.writer.shows_images:
            raise ConfigError(
                f"tools.names: {blind[0]} gives images, and only Keye-VL-1.5 policies can be shown "
                "images in a result; leave it out"
            )

    def chosen(self, names: Any, sample_id: str) -> dict[str, Tool]:
        """The tools of a sample whose column `tools` is `names`; without it see `for_all`."""
        if names is None:
            return dict(self.tools) if self.cfg.for_all else {}
        if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
            raise KeyeError(f"sample {sample_id}: `tools` must be a list of names, got {names!r}")
        unknown = [name for name in names if name not in self.tools]
        if unknown:
            raise KeyeError(
                f"sample {sample_id}: `tools` names {unknown[0]!r}, which isn't configured; "
                f"tools.names has {', '.join(self.tools) or 'none'}"
            )
        return {name: self.tools[name] for name in names}

    def instruct(
        self, messages: list[dict[str, Any]], tools: Mapping[str, Tool]
    ) -> list[dict[str, Any]]:
        """The messages with these tools described in them."""
        return with_tools(messages, list(tools.values()), self.cfg.prompt)

    def generate(
        self, asked: Sequence[Asked], sampling: SamplingConfig, n: int = 1
    ) -> list[list[Trajectory]]:
        """`n` responses to each prompt, in order; `sampling.max_tokens` bounds what is sampled in
        all turns of a response together.

        Raises `KeyeError` as `EnginePool.generate` does.
        """
        groups = [
            [_Open(one, stable_seed(one.seed, k), list(_images(one.prompt))) for k in range(n)]
            for one in asked
        ]
        waiting = [response for group in groups for response in group]
        while waiting:
            requests = self._requests(waiting, sampling)
            replies = self.engines.respond([request for request, _ in requests], sampling)
            for (_, owners), group in zip(requests, replies, strict=True):
                for owner, reply in zip(owners, group, strict=True):
                    self._add_turn(owner, reply)
            self._answer_calls(waiting, sampling)
            waiting = [response for response in waiting if not response.finish_reason]
        return [[r.trajectory(self.engines.version) for r in group] for group in groups]

    def _requests(
        self, waiting: Sequence[_Open], sampling: SamplingConfig
    ) -> list[tuple[PromptRequest, list[_Open]]]:
        """One request for all responses to a prompt that differ in text alone: its media are read
        once. A response that holds images is a prompt of its own to the engine."""
        shared: dict[int, list[_Open]] = {}
        for response in waiting:
            key = id(response) if response.media else id(response.asked)
            shared.setdefault(key, []).append(response)
        return [(self._request(owners, sampling), owners) for owners in shared.values()]

    def _request(self, owners: list[_Open], sampling: SamplingConfig) -> PromptRequest:
        first = owners[0]
        prompt, media, ids = first.asked.prompt, first.asked.prompt.engine_media, [*first.ids]
        engine_ids = list(prompt.engine_ids)
        if first.media:
            media = media | {"image": list(first.images)}
            engine_ids += first.engine_ids
        return PromptRequest(
            sample_id=first.asked.sample_id,
            ids=np.concatenate([prompt.ids, *ids]) if first.media else prompt.ids,
            engine_ids=engine_ids,
            media=media,
            media_kwargs=prompt.engine_kwargs,
            seeds=[owner.seed for owner in owners],
            prefixes=[] if first.media else [owner.response_ids() for owner in owners],
            starts=[owner.num_sampled for owner in owners],
            limits=[self._limit(owner, sampling) for owner in owners],
        )

    def _limit(self, response: _Open, sampling: SamplingConfig) -> int:
        """Most tokens of the next turn. The first may use all: the engine checks that it fits."""
        left = sampling.max_tokens - response.num_sampled
        if not response.turns:
            return left
        return min(left, self.engines.config.max_length - response.length)

    def _add_turn(self, response: _Open, reply: Response) -> None:
        """Append a sampled turn; find its calls, or finish the response."""
        if reply.finish_reason == "paused":
            raise KeyeError(
                f"sample {response.asked.sample_id}: the engines were paused in the middle of a "
                "response with tools, which can't be continued; pause between two calls"
            )
        response.add(reply.ids, reply.ids.tolist(), reply.logprobs, sampled=True)
        response.turns += 1
        response.calls = []
        if response.asked.tools and reply.finish_reason == "stop":
            text = self.writer.tokenizer.decode(reply.ids[:-1].tolist(), skip_special_tokens=False)
            response.calls = find_calls(text)
            response.num_calls += len(response.calls)
        ended = not response.calls or int(reply.ids[-1]) != self.writer.end_of_turn
        if ended or response.turns >= self.cfg.max_turns:
            response.finish_reason = reply.finish_reason

    def _answer_calls(self, waiting: Sequence[_Open], sampling: SamplingConfig) -> None:
        """Carry out the calls of all unfinished responses together, and append their results."""
        callers = [response for response in waiting if not response.finish_reason]
        jobs = [self._job(r, k, call) for r in callers for k, call in enumerate(r.calls)]
        results = iter(run_all(jobs, self.cfg.workers, self.cfg.call_seconds))
        for response in callers:
            mine = [self._fitting(response, next(results)) for _ in response.calls]
            turn, text = self.writer.write(mine)
            response.errors += sum(result.error for result in mine)
            room = self.engines.config.max_length - response.length - len(turn.ids)
            if min(room, sampling.max_tokens - response.num_sampled) < 1:
                response.finish_reason = "length"
                continue
            response.results.append(text)
            response.add_results(turn)

    def _job(self, response: _Open, place: int, call: ToolCall) -> Any:
        if place >= self.cfg.max_calls:
            return failure(f"at most {self.cfg.max_calls} calls in one turn")
        asked = response.asked
        context = ToolContext(asked.sample_id, tuple(response.images), asked.row)
        return prepare(call, asked.tools, context)

    def _fitting(self, response: _Open, result: ToolResult) -> ToolResult:
        """The result, its image numbered; an error text for one too many for the engine."""
        if result.image is None:
            return result
        if len(response.images) >= self.engines.config.max_images:
            return failure("no room for another image")
        response.images.append(result.image)
        return numbered(result, len(response.images))


def _images(prompt: EncodedPrompt) -> Sequence[Image.Image]:
    return prompt.engine_media.get("image", ())


@dataclass(slots=True)
class _Open:
    """A response in the making."""

    asked: Asked
    seed: int
    images: list[Image.Image]
    """The prompt's and the results', in order."""
    ids: list[np.ndarray] = field(default_factory=list)
    """Turns and results, in order, placeholders expanded."""
    engine_ids: list[int] = field(default_factory=list)
    logprobs: list[np.ndarray] = field(default_factory=list)
    sampled: list[np.ndarray] = field(default_factory=list)
    media: list[EncodedPrompt] = field(default_factory=list)
    """Result turns with images."""
    results: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    """Those of the latest turn."""
    num_sampled: int = 0
    turns: int = 0
    num_calls: int = 0
    errors: int = 0
    finish_reason: str = ""

    @property
    def length(self) -> int:
        """Tokens of prompt and response so far."""
        return len(self.asked.prompt.ids) + sum(map(len, self.ids))

    def response_ids(self) -> np.ndarray:
        """int32 `[R]`"""
        return np.concatenate(self.ids) if self.ids else np.zeros(0, np.int32)

    def add(
        self, ids: np.ndarray, engine_ids: list[int], logprobs: np.ndarray, sampled: bool
    ) -> None:
        self.ids.append(ids)
        self.engine_ids += engine_ids
        self.logprobs.append(logprobs)
        self.sampled.append(np.full(len(ids), sampled))
        self.num_sampled += len(ids) if sampled else 0

    def add_results(self, turn: EncodedPrompt) -> None:
        """Append a result turn."""
        with_logprobs = len(self.logprobs[-1]) > 0
        zeros = np.zeros(len(turn.ids) if with_logprobs else 0, np.float32)
        self.add(turn.ids, turn.engine_ids, zeros, sampled=False)
        if turn.grid_thw is not None:
            self.media.append(turn)

    def trajectory(self, version: int) -> Trajectory:
        """The finished response."""
        asked = self.asked
        use = ToolUse(self.turns, self.num_calls, self.errors, self.results)
        return Trajectory(
            sample_id=asked.sample_id,
            prompt=asked.prompt,
            response_ids=self.response_ids(),
            logprobs=np.concatenate(self.logprobs),
            hint_level=asked.hint_level,
            weight_version=version,
            seed=self.seed,
            finish_reason=self.finish_reason,
            sampled=np.concatenate(self.sampled) if self.results else None,
            media=joined_media(self.media),
            tool_use=use if asked.tools else None,
        )


def readable(trajectory: Trajectory, tokenizer: Any, end_of_turn: int) -> str:
    """The text of a response for reward rules: its turns without their end, and between them the
    results as `<tool_response>…</tool_response>`."""
    use = trajectory.tool_use
    results = iter(use.results if use is not None else ())
    text = []
    for ids, sampled in _spans(trajectory):
        if not sampled:
            text.append(next(results))
            continue
        stopped = trajectory.finish_reason == "stop" or int(ids[-1]) == end_of_turn
        shown = ids[:-1] if stopped else ids
        text.append(tokenizer.decode(shown.tolist(), skip_special_tokens=False))
    return "".join(text)


def _spans(trajectory: Trajectory) -> list[tuple[np.ndarray, bool]]:
    """The response cut where sampled and given tokens meet."""
    ids, mask = trajectory.response_ids, trajectory.sampled
    if mask is None:
        return [(ids, True)]
    edges = np.flatnonzero(np.diff(mask)) + 1
    starts = [0, *edges.tolist()]
    return [(part, bool(mask[s])) for part, s in zip(np.split(ids, edges), starts, strict=True)]
