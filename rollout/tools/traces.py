"""Supervised conversations with tools, as ids with a mask.

Invariant: a trace and a rollout that says the same have the same ids, because results are written
by the same `TurnWriter`; only the policy's turns are learned.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pretrain.keye_vl.prompt import EncodedPrompt, PromptEncoder, ReplyMedia
from pretrain.run.errors import KeyeError
from rollout.tools.tool import ToolResult
from rollout.tools.turns import TurnWriter, joined_media, numbered


@dataclass(slots=True)
class EncodedTrace:
    """A trace as a learner takes it."""

    prompt: EncodedPrompt
    ids: np.ndarray
    """int32 `[R]`: turns and results, the last end-of-turn token included."""
    sampled: np.ndarray
    """bool `[R]`: the policy's turns, with their end-of-turn tokens."""
    media: ReplyMedia | None
    """Images in the results."""


@dataclass(slots=True)
class ToolTrace:
    """One conversation: turn 1, results 1, turn 2, …, the last turn."""

    sample_id: str
    messages: list[dict[str, Any]]
    """The prompt, tools described in it (`rollout.tools.prompting.with_tools`)."""
    turns: list[str]
    """What the policy is to write, calls included; no end-of-turn tokens."""
    results: list[list[ToolResult]] = field(default_factory=list)
    """Of each turn but the last, one per call."""
    max_result_tokens: int = 512
    """As in `ToolConfig`."""

    def encode(self, encoder: PromptEncoder, writer: TurnWriter | None = None) -> EncodedTrace:
        """Ids and mask; `KeyeError` when it is too long or a turn has no results.

        `writer`: one for this encoder and limit, if there is one already.
        """
        if len(self.results) != len(self.turns) - 1:
            raise KeyeError(
                f"sample {self.sample_id}: {len(self.turns)} turns with {len(self.results)} sets "
                "of results; each turn but the last needs one"
            )
        writer = writer or TurnWriter(encoder, self.max_result_tokens)
        prompt = encoder.encode(self.messages, self.sample_id)
        images = len(prompt.engine_media.get("image", ()))
        pieces, masks, written = [], [], []
        for number, turn in enumerate(self.turns):
            ids = [*encoder.encode_text(turn, []).engine_ids, writer.end_of_turn]
            pieces.append(np.array(ids, np.int32))
            masks.append(np.ones(len(ids), bool))
            if number == len(self.results):
                break
            shown = []
            for result in self.results[number]:
                images += result.image is not None
                shown.append(result if result.image is None else numbered(result, images))
            written.append(writer.write(shown)[0])
            pieces.append(written[-1].ids)
            masks.append(np.zeros(len(written[-1].ids), bool))
        reply = np.concatenate(pieces)
        if len(prompt.ids) + len(reply) > encoder.max_length:
            raise KeyeError(
                f"sample {self.sample_id}: {len(prompt.ids) + len(reply)} tokens, but at most "
                f"{encoder.max_length} fit: raise the maximum length or shorten the results"
            )
        return EncodedTrace(prompt, reply, np.concatenate(masks), joined_media(written))
