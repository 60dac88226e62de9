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
    BatchFeature,
    Cache,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from pretrain.keye_vl.checkpoint import load_model, load_processor
from pretrain.keye_vl.configuration import KeyeVL1_5Config
from pretrain.keye_vl.image_processing import KeyeVL1_5ImageProcessor
from pretrain.keye_vl.modeling import (
    KeyeVL1_5ForConditionalGeneration,
    KeyeVL1_5Model,
    KeyeVL1_5Output,
)
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
    """Ends row i with the end token at its length, never before, and without visual tokens.

    Args:
        lengths: int64 `[B]`, response tokens of each row, the end token included.
        start: tokens of the padded prompt.
        end_ids: tokens that end a response.
        forbidden: tokens that no response may hold (see `rollout.tokens`).
    """

    def __init__(
        self, lengths: Tensor, start: int, end_ids: list[int], forbidden: list[int]
    ) -> None:
        self.lengths, self.start, self.end_ids = lengths, start, end_ids
        self.banned = [*end_ids, *forbidden]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, self.banned] = -torch.inf
        last = (self.lengths == input_ids.shape[1] - self.start + 1).nonzero()[:, 0]
        if len(last):
            scores[last] = -torch.inf
            scores[last, self.end_ids[0]] = 0.0
        return scores


class ForcedGeneration(GenerationMixin):
    """Generation with the lengths that the benchmark put into `forced_lengths` (int64 `[B]`)."""

    forced_lengths: Tensor
    end_ids: list[int]
    forbidden_ids: list[int]

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        start = kwargs["input_ids"].shape[1]
        force = ForceLengths(self.forced_lengths, start, self.end_ids, self.forbidden_ids)
        kwargs["logits_processor"] = LogitsProcessorList([force])
        return super().generate(*args, **kwargs)

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """The manager behind `generate_batch`, with each request's own length and no end token."""
        manager = super().init_continuous_batching(*args, **kwargs)
        add, lengths = manager.add_request, self.forced_lengths.tolist()

        def forced(*args: Any, request_id: str, **kwargs: Any) -> Any:
            row = int(request_id.removeprefix("req_"))
            kwargs |= {"max_new_tokens": lengths[row], "eos_token_id": -1}
            return add(*args, request_id=request_id, **kwargs)

        manager.add_request = forced
        return manager


class ForcedQwen3(ForcedGeneration, Qwen3ForCausalLM):
    """transformers' Qwen3."""


class FlatImageProcessor(KeyeVL1_5ImageProcessor):
    """Patches `[N, 588]`, as Qwen-VL has them: TRL takes our `[N, 3, 14, 14]` for tiles."""

    def preprocess(self, *args: Any, **kwargs: Any) -> BatchFeature:
        made = super().preprocess(*args, **kwargs)
        made["pixel_values"] = made["pixel_values"].reshape(len(made["pixel_values"]), -1)
        return made


class FlatKeyeModel(KeyeVL1_5Model):
    """Our backbone, which takes such patches."""

    def encode_media(self, pixel_values: Tensor, grid_thw: Any) -> Tensor:
        size = self.config.vision_config.patch_size
        return super().encode_media(pixel_values.reshape(-1, 3, size, size), grid_thw)


class ForcedKeye(ForcedGeneration, KeyeVL1_5ForConditionalGeneration, GenerationMixin):
    """Our model; with `past_key_values` it decodes left-padded rows as transformers' models do."""

    def __init__(self, config: KeyeVL1_5Config) -> None:
        super().__init__(config)
        self.model.__class__ = FlatKeyeModel

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:
        kept = ("past_key_values", "attention_mask", "pixel_values", "image_grid_thw")
        inputs = {key: kwargs[key] for key in kept if key in kwargs}
        if inputs["past_key_values"].get_seq_length():
            del inputs["pixel_values"], inputs["image_grid_thw"]
            input_ids = input_ids[:, -1:]
        return {"input_ids": input_ids, **inputs}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        **kwargs: Any,
    ) -> KeyeVL1_5Output:
        if past_key_values is None:
            kwargs |= {"pixel_values": pixel_values, "image_grid_thw": image_grid_thw}
            return super().forward(input_ids, attention_mask=attention_mask, **kwargs)
        mask = attention_mask.bool()
        past = past_key_values.get_seq_length()
        embeddings = self.model.embed_tokens(input_ids)
        if past == 0:
            media = (pixel_values, image_grid_thw)
            embeddings, positions = self._embed_prompts(input_ids, embeddings, mask, *media)
            self._next_position = positions.amax((0, 2)) + 1 - input_ids.shape[1]
        else:
            positions = (self._next_position + past).expand(3, -1)[..., None]
        hidden = self._decode_cached(embeddings, positions, mask, past_key_values)
        logits = self.lm_head(hidden[:, -1:])
        return KeyeVL1_5Output(logits=logits, past_key_values=past_key_values)

    def _embed_prompts(
        self, ids: Tensor, embeddings: Tensor, mask: Tensor, pixels: Tensor, grids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Embeddings `[B, L, d]` with the images in place, and M-RoPE positions `[3, B, L]`."""
        visual = mask & (ids == self.config.image_token_id)
        features = self.model.encode_media(pixels, grids)
        embeddings = embeddings.masked_scatter(visual[..., None], features)
        bounds = np.concatenate(([0], np.cumsum(mask.sum(1).numpy())))
        packed = packed_positions(visual[mask].numpy(), bounds, grids.numpy())
        positions = torch.zeros(3, *ids.shape, dtype=torch.long)
        positions[:, mask] = torch.from_numpy(packed)
        return embeddings, positions

    def _decode_cached(self, x: Tensor, positions: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        cosines, sines = self.model._rope(positions, x.dtype)
        length, total = x.shape[1], mask.shape[1]
        causal = torch.ones(length, total, dtype=torch.bool).tril(total - length)
        itself = causal.triu(total - length)  # padded queries see themselves: no empty softmax
        allowed = (mask[:, None, None, :] | itself) & causal
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
