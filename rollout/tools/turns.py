"""Results of tool calls as the token ids that follow the policy's turn.

Invariants: the ids sampled so far stay as they are — a result is tokenised by itself, from the
end-of-turn token on, which no merge crosses. No text of a tool can end a turn, open a role, close
its own section or stand for an image: control tokens and section tags in it are broken up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pretrain.keye_vl.prompt import EncodedPrompt, PromptEncoder, ReplyMedia
from pretrain.policy.encoder import Encoder
from pretrain.run.errors import KeyeError
from rollout.tokens import stop_ids
from rollout.tools.tool import ToolResult

_TURN, _RESULT = "\x02turn\x02", "\x02result\x02"
"""Stand-ins by which the chat template shows what it writes around a result."""
_TAGS = re.compile(r"<(?=\||/?(?:tool_call|tool_response|tools|think|answer)>)")
IMAGE_MARK = "<image>"
"""Stands for a result's image in the text that reward rules read."""
_VISION = "<|vision_start|><|image_pad|><|vision_end|>"


class TurnWriter:
    """Writes result turns for one policy's tokenizer and chat template."""

    def __init__(self, encoder: Encoder, max_result_tokens: int) -> None:
        """Raises `KeyeError` when the template doesn't close turns with a token that ends them."""
        self._encoder = encoder
        self.tokenizer = encoder.tokenizer
        self.max_result_tokens = max_result_tokens
        self._special = [t for t in self.tokenizer.all_special_tokens if len(t) > 1]
        before, after = self._frame()
        opening = self._ids(before)
        if not opening or opening[0] not in stop_ids(self.tokenizer):
            raise KeyeError(
                f"the chat template goes on with {before[:20]!r} after an assistant's turn, which "
                "is no token that ends a response; results of tools can't be put there"
            )
        self.end_of_turn: int = opening[0]
        """The token that a policy's turn must end with for a result to follow."""
        end = self.tokenizer.convert_ids_to_tokens(self.end_of_turn)
        self._before, self._after = before[len(end) :], after

    @property
    def shows_images(self) -> bool:
        """Whether images can stand in a result."""
        return isinstance(self._encoder, PromptEncoder)

    def _frame(self) -> tuple[str, str]:
        """What the template writes before and after the text of a user's turn that follows one of
        the assistant's, up to where the next assistant's turn begins."""
        text: Any = self.tokenizer.apply_chat_template(
            [
                {"role": "user", "content": "?"},
                {"role": "assistant", "content": _TURN},
                {"role": "user", "content": _RESULT},
            ],
            tokenize=False,
            add_generation_prompt=True,
        )
        return text.partition(_TURN)[2].partition(_RESULT)[0], text.partition(_RESULT)[2]

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def write(self, results: Sequence[ToolResult]) -> tuple[EncodedPrompt, str]:
        """The ids (and images) of a turn with these results, and the text that rules read.

        The ids begin after the end-of-turn token and end where the policy goes on.
        """
        shown = [self._clean(result.text) for result in results]
        images = [{"type": "image", "image": r.image} for r in results if r.image is not None]
        pairs = list(zip(shown, results, strict=True))
        prompt = self._before + "\n".join(_section(text, r, _VISION) for text, r in pairs)
        prompt += self._after
        if isinstance(self._encoder, PromptEncoder):
            encoded = self._encoder.encode_text(prompt, images)
        elif images:
            raise KeyeError("only Keye-VL-1.5 policies can be shown images in a tool's result")
        else:
            ids = self._ids(prompt)
            encoded = EncodedPrompt(np.array(ids, np.int32), ids)
        return encoded, "\n".join(_section(text, r, IMAGE_MARK) for text, r in pairs)

    def _clean(self, text: str) -> str:
        """Without control tokens and section tags, and at most `max_result_tokens` long."""
        for token in self._special:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        text = _TAGS.sub("< ", text)
        ids = self._ids(text)
        if len(ids) <= self.max_result_tokens:
            return text
        cut = self.tokenizer.decode(ids[: self.max_result_tokens], skip_special_tokens=False)
        return f"{cut.rstrip(chr(0xFFFD))} …"


def numbered(result: ToolResult, number: int) -> ToolResult:
    """The result with its image's number in the text, by which later calls can name it."""
    label = f"image {number}"
    return replace(result, text=f"{label}: {result.text}" if result.text else label)


def _section(text: str, result: ToolResult, image: str) -> str:
    shown = f"\n{image}" if result.image is not None else ""
    return f"<tool_response>\n{text}{shown}\n</tool_response>"


def joined_media(turns: Sequence[EncodedPrompt]) -> ReplyMedia | None:
    """The images of several result turns; None if there are none."""
    pixels = [turn.pixel_values for turn in turns if turn.pixel_values is not None]
    grids = [turn.grid_thw for turn in turns if turn.grid_thw is not None]
    return ReplyMedia(np.concatenate(pixels), np.concatenate(grids)) if pixels else None
