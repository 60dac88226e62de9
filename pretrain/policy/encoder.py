"""Prompts for a policy of any family.

Invariant, as for Keye-VL-1.5: a prompt is tokenised once; the learner gets the ids with expanded
placeholders, the engine one placeholder per image, and the engine refuses if its expansion differs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerBase, ProcessorMixin

from pretrain.keye_vl.checkpoint import existing_checkpoint, load_config
from pretrain.keye_vl.configuration import KeyeVL1_5Config
from pretrain.keye_vl.image_processing import to_rgb
from pretrain.keye_vl.processing import KeyeVL1_5Processor
from pretrain.keye_vl.prompt import EncodedPrompt, PromptEncoder, check_length
from pretrain.run.errors import KeyeError

MODEL_INPUTS = {"input_ids", "attention_mask", "token_type_ids", "pixel_values"}
"""What a processor may return: families that need more (`image_sizes`, grids) are refused."""


class Encoder(Protocol):
    """Chat messages → `EncodedPrompt`."""

    tokenizer: PreTrainedTokenizerBase

    def encode(self, messages: list[dict[str, Any]], sample_id: str) -> EncodedPrompt:
        """The prompt that ends where the assistant's reply begins; raises `KeyeError`."""


def open_encoder(checkpoint: str | Path, max_length: int, room: int = 0) -> Encoder:
    """The encoder of a checkpoint; `max_length`: most tokens of a prompt, `room` of them left for
    a response."""
    if isinstance(load_config(checkpoint), KeyeVL1_5Config):
        processor: KeyeVL1_5Processor = AutoProcessor.from_pretrained(checkpoint)
        return PromptEncoder(processor, max_length, room)
    return ChatEncoder(existing_checkpoint(checkpoint), max_length, room)


class ChatEncoder:
    """Prompts of another family, through the checkpoint's own chat template and processor."""

    def __init__(self, checkpoint: Path, max_length: int, room: int = 0) -> None:
        """Raises `KeyeError` when the checkpoint has no chat template."""
        self.max_length, self.room = max_length, room
        processor = AutoProcessor.from_pretrained(checkpoint)
        sees = isinstance(processor, ProcessorMixin)
        self._processor = processor if sees else None
        self.tokenizer = processor.tokenizer if sees else AutoTokenizer.from_pretrained(checkpoint)
        self._template = processor if getattr(processor, "chat_template", None) else self.tokenizer
        if not self._template.chat_template:
            raise KeyeError(
                f"checkpoint={checkpoint} has no chat template, so messages can't become a prompt; "
                "put the model's chat_template.jinja there"
            )

    def encode(self, messages: list[dict[str, Any]], sample_id: str) -> EncodedPrompt:
        """The prompt that ends where the assistant's reply begins.

        Raises:
            KeyeError: too long, or media that the model can't be given.
        """
        try:
            prompt = self._encode(messages)
        except KeyeError as error:
            raise KeyeError(f"sample {sample_id}: {error}") from error
        check_length(len(prompt.ids), sample_id, self.max_length, self.room)
        return prompt

    def _encode(self, messages: list[dict[str, Any]]) -> EncodedPrompt:
        images: list[Image.Image] = []
        shown = [
            {"role": message["role"], "content": self._content(message["content"], images)}
            for message in messages
        ]
        text = self._template.apply_chat_template(shown, tokenize=False, add_generation_prompt=True)
        engine_ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not images:
            return EncodedPrompt(np.array(engine_ids, np.int32), engine_ids)
        assert self._processor is not None  # `_content` has refused images otherwise
        encoded = self._processor(
            text=text, images=images, add_special_tokens=False, return_tensors="np"
        )
        unknown = encoded.keys() - MODEL_INPUTS
        if unknown:
            raise KeyeError(
                f"{type(self._processor).__name__} gives {', '.join(sorted(unknown))} with images, "
                "which the learner can't pass on yet; use text prompts with this model"
            )
        return EncodedPrompt(
            ids=np.asarray(encoded["input_ids"][0], np.int32),
            engine_ids=engine_ids,
            pixel_values=np.asarray(encoded["pixel_values"], np.float32),
            engine_media={"image": images},
        )

    def _content(self, content: Any, images: list[Image.Image]) -> Any:
        """Content as the template wants it; pictures are moved to `images`."""
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        kinds = {part["type"] for part in parts} - {"text"}
        allowed = {"image"} if self._processor is not None else set()
        if kinds - allowed:
            raise KeyeError(
                f"the message has {' and '.join(sorted(kinds - allowed))} parts, which this policy "
                f"can't be given; it takes text{' and images' if allowed else ' only'}"
            )
        images += [Image.fromarray(to_rgb(p["image"])) for p in parts if p["type"] == "image"]
        if self._processor is None:  # templates of language models join strings
            return "".join(part["text"] for part in parts)
        return [part if part["type"] == "text" else {"type": "image"} for part in parts]
