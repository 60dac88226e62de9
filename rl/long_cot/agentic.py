"""Rows whose response calls tools: kept as they are, as conversations of which a part is learned.

A row's `response` is the whole text as reward rules read it (`rollout.tools.loop.readable`): the
policy's turns, and between them the results as `<tool_response>…</tool_response>`. `<image>` in a
result stands for the next of the row's `response_images` (paths from the file's folder, or data
URIs). What the policy is told of its tools stands in the row's system message.

Invariant: nothing that a tool returned is ever learned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from pretrain.data.ingest import SampleFiles
from pretrain.data.media import load_image
from pretrain.data.render import render
from pretrain.data.sample import Sample, SampleError
from rl.long_cot.config import EnhanceConfig
from rl.long_cot.questions import source_size
from rl.trace_rows import SampleSource, calls_tools
from rollout.tools.tool import ToolResult
from rollout.tools.traces import ToolTrace
from rollout.tools.turns import IMAGE_MARK

_RESULT = re.compile(r"<tool_response>\n?(.*?)\n?</tool_response>", re.DOTALL)
_RESULTS = re.compile(r"((?:\s*<tool_response>.*?</tool_response>)+)", re.DOTALL)
_LABEL = re.compile(r"image \d+(?:: )?")


def split_turns(sample: Sample) -> tuple[list[str], list[list[str]]]:
    """The policy's turns of a row's response, and the results after each of them but the last.

    Raises:
        SampleError: it doesn't end with the policy's turn, or images and their marks don't match.
    """
    pieces = _RESULTS.split(sample.extra["response"])
    turns, results = [turn.strip() for turn in pieces[::2]], pieces[1::2]
    if not all(turns):
        raise SampleError(
            f"sample {sample.id!r}: `response` must begin and end with a turn of the policy, not "
            "with a tool's result"
        )
    marks = sum(piece.count(IMAGE_MARK) for piece in results)
    images = sample.extra.get("response_images") or []
    if marks != len(images):
        raise SampleError(
            f"sample {sample.id!r}: {marks} {IMAGE_MARK} in the results of its `response`, but "
            f"{len(images)} `response_images`"
        )
    return turns, [_RESULT.findall(piece) for piece in results]


class AgenticTraces:
    """`traces[k]` is a conversation with tools, as fine-tuning takes it.

    Args:
        sources: where rows are; only those of files can call tools.
        cfg: how many rows are taken of each.
        max_result_tokens: longest text of a result, as in `ToolConfig`.
    """

    def __init__(
        self, sources: Mapping[str, SampleSource], cfg: EnhanceConfig, max_result_tokens: int
    ) -> None:
        self.sources, self.max_result_tokens = sources, max_result_tokens
        self._rows: list[tuple[str, int]] = []
        for name, source in sources.items():
            if not isinstance(source, SampleFiles):
                continue
            for index in range(source_size(source, cfg)):
                sample = source.unloaded(index)
                if calls_tools(sample):
                    split_turns(sample)  # a bad row stops the job before it trains
                    self._rows.append((name, index))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> ToolTrace:
        """Trace `number`, its media loaded; `SampleError` for an image that can't be read."""
        name, index = self._rows[number]
        source: Any = self.sources[name]
        sample = source[index]
        values = sample.extra.get("response_images") or []
        images = iter([load_image(v, Path(name).parent, source.config.media) for v in values])
        turns, results = split_turns(sample)
        shown = [[_result(text, images) for text in texts] for texts in results]
        return ToolTrace(sample.id, render(sample), turns, shown, self.max_result_tokens)


def _result(text: str, images: Iterator[Any]) -> ToolResult:
    """A result's text without what is written around its image, and the image."""
    if IMAGE_MARK not in text:
        return ToolResult(text)
    said = text.replace(IMAGE_MARK, "").strip()
    label = _LABEL.match(said)
    said = said[label.end() :] if label else said  # images are numbered anew when it is written
    return ToolResult(said, Image.fromarray(next(images)))
