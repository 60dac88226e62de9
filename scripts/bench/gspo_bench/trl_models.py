"""The policy as TRL needs it: the same weights with Hugging Face generation and forced lengths.

Text: transformers' own `Qwen3ForCausalLM`, to which our text-only forward is equal. Images: our
model with a KV cache added, because Hugging Face generation without one would be no contest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    Cache,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from pretrain.keye_vl.checkpoint import load_model, load_processor
from pretrain.keye_vl.modeling import KeyeVL1_5ForConditionalGeneration, KeyeVL1_5Output
from pretrain.keye_vl.mrope import packed_positions


def write_qwen3(keye: Path, path: Path) -> None:
    """Write the language model of a Keye-VL-1.5 checkpoint as a Qwen3 checkpoint."""
    model = load_model(keye)
    known = Qwen3Config().to_dict().keys() - {"model_type", "architectures", "dtype"}
    fields = {k: v for k, v in model.config.to_dict().items() if k in known}
    theta = model.config.rope_parameters["rope_theta"]
    fields["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    qwen = Qwen3ForCausalLM(Qwen3Config(**fields, dtype="float32"))
    qwen.load_state_dict({name: model.state_dict()[name] for name in qwen.state_dict()})
    qwen.save_pretrained(path)
    load_processor(keye).tokenizer.save_pretrained(path)


class ForceLengths(LogitsProcessor):
    """Ends row i with the end token at its length, and never before."""

    def __init__(self, lengths: Tensor, start: int, end_ids: list[int]) -> None:
        self.lengths, self.start, self.end_ids = lengths, start, end_ids

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, self.end_ids] = -torch.inf
        last = (self.lengths == input_ids.shape[1] - self.start + 1).nonzero()[:, 0]
        if len(last):
            scores[last] = -torch.inf
            scores[last, self.end_ids[0]] = 0.0
        return scores


class ForcedGeneration(GenerationMixin):
    """`generate` with the lengths that the benchmark put into `forced_lengths` (int64 `[B]`)."""

    forced_lengths: Tensor
    end_ids: list[int]

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        start = kwargs["input_ids"].shape[1]
        force = ForceLengths(self.forced_lengths, start, self.end_ids)
        kwargs["logits_processor"] = LogitsProcessorList([force])
        return super().generate(*args, **kwargs)


class ForcedQwen3(ForcedGeneration, Qwen3ForCausalLM):
    """transformers' Qwen3."""


class ForcedKeye(ForcedGeneration, KeyeVL1_5ForConditionalGeneration):
    """Our model; with `past_key_values` it decodes left-padded rows as transformers' models do."""

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        kept = ("past_key_values", "attention_mask", "pixel_values", "image_grid_thw", "use_cache")
        inputs = {key: kwargs[key] for key in kept if key in kwargs}
        if inputs["past_key_values"].get_seq_length():
            del inputs["pixel_values"], inputs["image_grid_thw"]
            input_ids = input_ids[:, -1:]
        return {"input_ids": input_ids, **inputs}

    def forward(
        self, input_ids: Tensor, past_key_values: Cache | None = None, **kwargs: Any
    ) -> KeyeVL1_5Output:
        if past_key_values is None:
            return super().forward(input_ids, **kwargs)
        mask = kwargs["attention_mask"].bool()
        past = past_key_values.get_seq_length()
        embeddings = self.model.embed_tokens(input_ids)
        if past == 0:
            embeddings, positions = self._prefill(input_ids, embeddings, mask, kwargs)
            self._next = positions.amax((0, 2)) + 1 - input_ids.shape[1]
        else:
            positions = (self._next + past).expand(3, -1)[..., None]
        hidden = self._decode(embeddings, positions, mask, past_key_values)
        logits = self.lm_head(hidden[:, -1:])
        return KeyeVL1_5Output(logits=logits, past_key_values=past_key_values)

    def _prefill(
        self, ids: Tensor, embeddings: Tensor, mask: Tensor, media: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Embeddings `[B, L, d]` with the images in place, and M-RoPE positions `[3, B, L]`."""
        visual = mask & (ids == self.config.image_token_id)
        features = self.model.encode_media(media["pixel_values"], media["image_grid_thw"])
        embeddings = embeddings.masked_scatter(visual[..., None], features)
        bounds = np.concatenate(([0], np.cumsum(mask.sum(1).numpy())))
        packed = packed_positions(visual[mask].numpy(), bounds, media["image_grid_thw"].numpy())
        positions = torch.zeros(3, *ids.shape, dtype=torch.long)
        positions[:, mask] = torch.from_numpy(packed)
        return embeddings, positions

    def _decode(self, x: Tensor, positions: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        cosines, sines = self.model._rope(positions, x.dtype)
        length, total = x.shape[1], mask.shape[1]
        causal = torch.ones(length, total, dtype=torch.bool).tril(total - length)
        allowed = mask[:, None, None, :] & causal
        config, packed = self.config, self.config._attn_implementation
        config._attn_implementation = "sdpa"
        try:
            for layer in self.model.layers:
                x = layer(
                    x,
                    attention_mask=allowed,
                    position_embeddings=(cosines, sines),
                    past_key_values=cache,
                )
        finally:
            config._attn_implementation = packed
        return self.model.norm(x)
