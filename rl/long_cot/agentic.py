"""Rows whose response calls tools: kept as they are, one example for each of the policy's turns.

A row's `response` is the whole text as reward rules read it, the policy's turns with
`<tool_response>…</tool_response>` between them; `<image>` in a result stands for the next of the
row's `response_images` (paths from the file's folder, or data URIs). Example k
of a row is everything up to the policy's turn k as the prompt, results as the user's turns (as
`rollout.tools` writes them), and that turn as the reply.

Invariant: nothing that a tool returned is ever learned; it is in the prompt of the turn after it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.data.ingest import SampleFiles
from pretrain.data.media import load_image
from pretrain.data.sample import Sample, SampleError
from rl.long_cot.config import EnhanceConfig
from rl.long_cot.questions import source_size
from rl.trace_rows import SampleSource
from rollout.tools.calls import OPEN
from rollout.tools.turns import IMAGE_MARK

_RESULT = re.compile(r"((?:\s*<tool_response>.*?</tool_response>)+)", re.DOTALL)


def calls_tools(sample: Sample) -> bool:
    """Whether the row's own response calls a tool."""
    response = sample.extra.get("response")
    return isinstance(response, str) and OPEN in response


def split_turns(sample: Sample) -> list[str]:
    """Turns and results of a row's response, alternating, a turn first and last.

    Raises:
        SampleError: it doesn't end with the policy's turn, or images and their marks don't match.
    """
    pieces = [piece.strip() for piece in _RESULT.split(sample.extra["response"])]
    if not pieces[0] or not pieces[-1]:
        raise SampleError(
            f"sample {sample.id!r}: `response` must begin and end with a turn of the policy, not "
            "with a tool's result"
        )
    marks = sum(piece.count(IMAGE_MARK) for piece in pieces[1::2])
    images = sample.extra.get("response_images") or []
    if marks != len(images):
        raise SampleError(
            f"sample {sample.id!r}: {marks} {IMAGE_MARK} in the results of its `response`, but "
            f"{len(images)} `response_images`"
        )
    return pieces


class AgenticTurns:
    """`turns[k]` is a conversation that ends with one turn of the policy.

    Args:
        sources: where rows are; only those of files can call tools.
        cfg: how many rows are taken of each.
    """

    def __init__(self, sources: Mapping[str, SampleSource], cfg: EnhanceConfig) -> None:
        self.sources = sources
        self._turns: list[tuple[str, int, int]] = []
        for name, source in sources.items():
            if not isinstance(source, SampleFiles):
                continue
            for index in range(source_size(source, cfg)):
                sample = source.unloaded(index)
                if calls_tools(sample):
                    turns = len(split_turns(sample)) // 2 + 1
                    self._turns += [(name, index, turn) for turn in range(turns)]

    def __len__(self) -> int:
        return len(self._turns)

    def __getitem__(self, number: int) -> list[dict[str, Any]]:
        """The conversation of turn `number`; the row's messages stand first, without a mode tag."""
        name, index, turn = self._turns[number]
        source: Any = self.sources[name]
        sample = source[index]
        base = Path(name).parent
        values = sample.extra.get("response_images") or []
        images = iter([load_image(value, base, source.config.media) for value in values])
        messages = list(sample.messages)
        for place, piece in enumerate(split_turns(sample)[: 2 * turn + 1]):
            if place % 2 == 0:
                text = [{"type": "text", "text": piece}]
                messages.append({"role": "assistant", "content": text})
            else:
                messages.append({"role": "user", "content": _parts(piece, images)})
        return messages


def _parts(result: str, images: Any) -> list[dict[str, Any]]:
    """A result's text and images, in order."""
    parts: list[dict[str, Any]] = []
    for number, text in enumerate(result.split(IMAGE_MARK)):
        if number:
            parts.append({"type": "image", "image": next(images)})
        if text:
            parts.append({"type": "text", "text": text})
    return parts
