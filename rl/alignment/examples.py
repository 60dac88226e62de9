"""Supervised examples for alignment: prompts of the mix, answered as they ask.

Invariant: example i is a pure function of (configuration, i); every reply has been checked by the
rules that will reward it, or is the sample's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.render import render, reply
from pretrain.data.sample import Sample, SampleError
from pretrain.run.errors import ConfigError
from rl.alignment.config import AlignmentConfig
from rl.alignment.formats import written_format
from rl.alignment.instructions import TINY
from rl.alignment.prompts import pick
from rl.alignment.row_tools import refuse_tools
from rl.alignment.sources import Source
from rl.alignment.writer import written_instructions
from rl.tool_tasks import ToolTasks, ToolTraces
from rollout.tools import Tool, ToolConfig, open_tools
from rollout.tools.traces import ToolTrace

WRITABLE = ("general", "instructions", "formats", "steps", "retrieval", "dual_track")
"""Sources whose prompts an answer can be written to; a preference has none."""
DIRECT_SHARE = 0.5
"""Share of the auto-think examples that answer at once."""
STRIDE = 10_000_019
"""Examples have other prompts than RL, whose indices stay below it."""


class AlignmentExamples:
    """`examples(i)`: a conversation, the assistant's turn last, or a trace with a search in it."""

    def __init__(self, cfg: AlignmentConfig, tools: ToolConfig, folder: Path) -> None:
        """Raises `ConfigError` for sources that no answer can be written to."""
        unknown = [kind for kind in cfg.instructions.kinds if kind not in TINY]
        if cfg.instructions.weight > 0 and (cfg.instructions.scale != "tiny" or unknown):
            raise ConfigError(
                "alignment_sft writes answers at alignment.instructions.scale=tiny only (and of "
                f"its kinds: {', '.join(TINY)}); a larger model is taught by `cold_start` or SFT "
                "on data of yours. Leave the stage out, or set scale=tiny."
            )
        if cfg.retrieval.weight > 0 and cfg.retrieval.files:
            raise ConfigError(
                "alignment_sft writes searches for the tiny world's facts alone, and "
                "alignment.retrieval.files names rows of yours. Leave the stage out, or set "
                "alignment.retrieval.files=[]"
            )
        if cfg.formats.weight > 0:
            refuse_tools(cfg.formats)
        sources = {n: own for n, own in cfg.sources().items() if n in WRITABLE}
        if not sources:
            raise ConfigError(f"alignment_sft: none of {', '.join(WRITABLE)} has a weight above 0")
        self.cfg = cfg
        self.weights = {name: own.weight for name, own in sources.items()}
        self.sources = {name: Source(name, cfg, folder) for name in sources}
        self.tool_config = tools
        self._tools: dict[str, Tool] | None = None

    def __call__(self, index: int) -> list[dict[str, Any]] | ToolTrace:
        """Example `index`."""
        rng = np.random.default_rng([self.cfg.seed, 13, index])
        source = self.sources[pick(rng, self.weights)]
        sample = source[STRIDE + index]
        half = bool(rng.random() >= DIRECT_SHARE)
        if isinstance(source.data, ToolTasks):
            return ToolTraces(source.data, self._open_tools(), self.tool_config)(STRIDE + index)
        text = written(sample, reason=half)
        if text is None:
            raise SampleError(f"sample {sample.id!r}: no answer that follows it could be written")
        turn = {"role": "assistant", "content": [{"type": "text", "text": text}]}
        return [*render(sample), turn]

    def _open_tools(self) -> dict[str, Tool]:
        """Opened where they are used: examples travel to the ranks, an index need not."""
        if self._tools is None:
            self._tools = open_tools(self.tool_config)
        return self._tools


def written(sample: Sample, reason: bool) -> str | None:
    """A reply that does what the prompt asks; `reason` chooses the form in auto-think mode."""
    source = sample.extra["alignment"]["source"]
    if source == "instructions":
        return written_instructions(sample, reason)
    if source == "formats":
        return written_format(sample, reason)
    thinks = sample.mode == "think" or (reason and sample.solution is not None)
    return reply(sample, reason=thinks)
