"""Keye-VL-1.5 in PyTorch: SigLIP encoder, projector, Qwen3 decoder with M-RoPE, all packed.

Sequences of a batch stand one after the other in one row of tokens; nothing is padded except,
on a CPU, inside attention (see `attention`). Callers that pad to the right instead ([B, L] with an
attention mask, as TRL does) are packed on the way in and unpacked on the way out. A placeholder id
stands for a visual feature only inside the prompt: one that the policy sampled is plain text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3RMSNorm
from transformers.utils import ModelOutput

from pretrain.keye_vl.attention import PACKED_ATTENTION, PackedLayout
from pretrain.keye_vl.configuration import KeyeVL1_5Config
from pretrain.keye_vl.mrope import packed_positions, split_frames, visual_mask
from pretrain.keye_vl.packing import PackedBatch, next_token_targets, to_host
from pretrain.keye_vl.vision import Grid, Projector, UnusedPositions, VisionTower
from pretrain.run.errors import KeyeError


@dataclass
class KeyeVL1_5Output(ModelOutput):
    """Result of a forward pass.

    `loss`: mean (or sum / `num_items_in_batch`) of the next-token losses where `labels` are given.
    `logits`: `[B, L, V]` or `[1, T, V]`; `[K, V]` when only K packed positions were asked for.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    last_hidden_state: Tensor | None = None


class KeyeVL1_5PreTrainedModel(PreTrainedModel):
    """What transformers needs to know of the model's parts."""

    config_class = KeyeVL1_5Config
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Qwen3DecoderLayer", "VisionLayer"]  # noqa: RUF012 (read by transformers)
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    # SigLIP's pooling head is in some checkpoints and in no forward pass.
    _keys_to_ignore_on_load_unexpected = [r"visual\.vision_model\.head\."]  # noqa: RUF012

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Write a checkpoint with the released names, whatever names it was loaded from."""
        # transformers would give back the names it found when loading.
        self._weight_conversions = None
        super().save_pretrained(*args, **kwargs)

    def _check_and_adjust_attn_implementation(
        self, attn_implementation: str | None, *args: Any, **kwargs: Any
    ) -> str:
        """The decoder always runs packed; functions built on ours carry its name as prefix."""
        del args, kwargs
        if attn_implementation and attn_implementation.startswith(PACKED_ATTENTION):
            return attn_implementation
        return PACKED_ATTENTION

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Unit-gain matrices, halved where they write into the residual stream.

        A model of this kind at a width of 100 learns several times faster from it than from
        transformers' fixed 0.02. Embeddings keep 0.02 (they are the output layer too).
        """
        if isinstance(module, nn.Linear | nn.Conv2d):
            gain = 0.5 if getattr(module, "writes_residual", False) else 1.0
            fan_in = math.prod(module.weight.shape[1:])
            init.normal_(module.weight, std=gain * fan_in**-0.5)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.LayerNorm | Qwen3RMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, UnusedPositions):
            init.zeros_(module.weight)
        if getattr(module, "bias", None) is not None:
            init.zeros_(module.bias)


class KeyeVL1_5Model(KeyeVL1_5PreTrainedModel):
    """Everything but the output layer: media and token ids in, hidden states out."""

    def __init__(self, config: KeyeVL1_5Config) -> None:
        super().__init__(config)
        self.visual = VisionTower(config.vision_config)
        self.mlp_AR = Projector(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            Qwen3DecoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = Qwen3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        for name, module in self.named_modules():
            if name.endswith(("o_proj", "down_proj", "out_proj", "fc2")):
                module.writes_residual = True
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embed_tokens = value

    def encode_media(
        self, pixel_values: Float[Tensor, "patches 3 size size"], grid_thw: Tensor | np.ndarray
    ) -> Float[Tensor, "visual_tokens width"]:
        """Visual tokens of all images and frames, in order of appearance."""
        grids = _grids(grid_thw)
        return self.mlp_AR(self.visual(pixel_values, grids), grids)

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        position_ids: Int[Tensor, "3 1 tokens"] | None = None,
        cu_seqlens: Int[Tensor, " boundaries"] | None = None,
        token_rows: Int[Tensor, " laid_out"] | None = None,
        attention_mask: Int[Tensor, "batch length"] | None = None,
        pixel_values: Float[Tensor, "patches 3 size size"] | None = None,
        grid_thw: Int[Tensor, "media 3"] | None = None,
        feature_index: Int[Tensor, " placeholders"] | None = None,
        prompt_lengths: Int[Tensor, " batch"] | None = None,
        pixel_values_videos: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        **_: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states of packed or right-padded sequences.

        Args:
            input_ids: `[1, T]` packed with `cu_seqlens`, else `[B, L]`.
            position_ids: `[3, 1, T]` packed M-RoPE positions; anything else is recomputed.
            cu_seqlens: `[B + 1]` boundaries of packed sequences.
            token_rows: `[V]`, see `PackedSequences`: `cu_seqlens` are boundaries of V tokens then.
            attention_mask: `[B, L]`, 1 where a padded row holds a token.
            pixel_values: patches of all images and frames, in order of appearance.
            grid_thw: their patch grids.
            feature_index: row of the projector's output for each placeholder; default: in order.
            prompt_lengths: tokens of each sequence that were given, not sampled.
            pixel_values_videos: `image_grid_thw`, `video_grid_thw`: names of the Hugging Face
                processor; an image batch and a video batch may not be mixed under these names.

        Returns:
            `last_hidden_state` of `input_ids`' shape (`[B, L, d]` or `[1, T, d]`).
        """
        if pixel_values_videos is not None:
            if pixel_values is not None:
                raise KeyeError(
                    "pixel_values and pixel_values_videos in one batch: their order is unknown; "
                    "pass all patches in order of appearance as pixel_values with grid_thw"
                )
            pixel_values, grid_thw = pixel_values_videos, video_grid_thw
        elif grid_thw is None:
            grid_thw = image_grid_thw
        batch = PackedBatch.of(input_ids, attention_mask, cu_seqlens, token_rows)
        rows = None if token_rows is None else to_host(token_rows)
        mask = visual_mask(
            batch.ids_on_host() if rows is None else batch.ids_on_host()[rows],
            self.config.visual_token_ids,
            batch.cu_seqlens,
            None if prompt_lengths is None else to_host(prompt_lengths),
        )
        if rows is not None:  # from the sequences laid out in full to the tokens held
            mask = np.bincount(rows[mask], minlength=batch.ids.shape[1]) > 0
        if position_ids is None or position_ids.shape != (3, 1, batch.ids.shape[1]):
            position_ids = self._positions(batch, mask, grid_thw, feature_index)
        x = self.embed_tokens(batch.ids)
        x = self._place_features(x, mask, pixel_values, grid_thw, feature_index)
        layout = PackedLayout.build(batch.cu_seqlens, x.device, x.dtype, rows)
        x = self._decode(x, position_ids.to(x.device), layout)
        return BaseModelOutputWithPast(last_hidden_state=batch.unpack(x))

    def _positions(
        self,
        batch: PackedBatch,
        mask: np.ndarray,
        grid_thw: Tensor | None,
        feature_index: Tensor | None,
    ) -> Int[Tensor, "3 1 tokens"]:
        if feature_index is not None or batch.ids.shape[1] != batch.cu_seqlens[-1]:
            raise KeyeError(
                "sequences that share media (feature_index) or prompts (token_rows) need "
                "position_ids: pack them with pretrain.keye_vl.prompt.pack"
            )
        merge = self.config.vision_config.spatial_merge_size
        grids = None if grid_thw is None else to_host(grid_thw)
        positions = packed_positions(mask, batch.cu_seqlens, grids, merge)
        return torch.from_numpy(positions)[:, None]

    def _place_features(
        self,
        embeddings: Float[Tensor, "1 tokens width"],
        mask: np.ndarray,
        pixel_values: Tensor | None,
        grid_thw: Tensor | None,
        feature_index: Tensor | None,
    ) -> Float[Tensor, "1 tokens width"]:
        """Embeddings with the placeholders' rows replaced by visual tokens."""
        where = np.flatnonzero(mask)
        if pixel_values is None:
            if len(where):
                raise KeyeError(f"{len(where)} visual placeholder tokens, but no pixel_values")
            if _has_peers():
                # Every rank must run the same modules: a rank whose batch has no image would
                # leave the others waiting in a collective (ZeRO-3 gathers, gradient reduction).
                embeddings = embeddings + 0.0 * self._smallest_image(embeddings).sum()
            return embeddings
        features = self.encode_media(pixel_values, grid_thw)
        if feature_index is not None:
            features = features.index_select(0, feature_index)
        if len(features) != len(where):
            raise KeyeError(
                f"{len(where)} visual placeholder tokens, but {len(features)} visual features"
            )
        index = torch.from_numpy(where).to(embeddings.device)
        return embeddings[0].index_copy(0, index, features.to(embeddings.dtype))[None]

    def _smallest_image(self, like: Tensor) -> Tensor:
        vision = self.config.vision_config
        side = vision.spatial_merge_size
        shape = (side * side, vision.num_channels, vision.patch_size, vision.patch_size)
        return self.encode_media(like.new_zeros(shape), np.array([[1, side, side]]))

    def _decode(
        self, x: Float[Tensor, "1 tokens width"], positions: Tensor, layout: PackedLayout
    ) -> Float[Tensor, "1 tokens width"]:
        rope = self._rope(positions, x.dtype)
        for layer in self.layers:
            x = layer(x, position_embeddings=rope, layout=layout)
        return self.norm(x)

    def _rope(
        self, positions: Int[Tensor, "3 1 tokens"], dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Cosines and sines `[1, T, head_dim]`: each frequency follows its section's axis."""
        config = self.config
        exponent = torch.arange(0, config.head_dim, 2, device=positions.device) / config.head_dim
        frequency = 1.0 / config.rope_parameters["rope_theta"] ** exponent
        sections = frequency.split(config.mrope_section)
        angle = torch.cat([positions[i, :, :, None] * s for i, s in enumerate(sections)], dim=-1)
        angle = torch.cat([angle, angle], dim=-1)
        return angle.cos().to(dtype), angle.sin().to(dtype)


class KeyeVL1_5ForConditionalGeneration(KeyeVL1_5PreTrainedModel):
    """The policy: backbone and output layer."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: KeyeVL1_5Config) -> None:
        super().__init__(config)
        self.model = KeyeVL1_5Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.embed_tokens = value

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        position_ids: Int[Tensor, "3 1 tokens"] | None = None,
        cu_seqlens: Int[Tensor, " boundaries"] | None = None,
        attention_mask: Int[Tensor, "batch length"] | None = None,
        labels: Int[Tensor, "batch length"] | None = None,
        logits_index: Int[Tensor, " positions"] | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **media: Any,
    ) -> KeyeVL1_5Output:
        """Logits, and the next-token loss where `labels` are given.

        Args:
            input_ids: with `position_ids`, `cu_seqlens`, `attention_mask` and the media's
                arguments as in `KeyeVL1_5Model.forward`.
            labels: like `input_ids`, -100 where nothing is learnt (a sequence's first token never
                is). Packed batches put only the positions that predict a label through the output
                layer, and return only their logits.
            logits_index: `[K]` packed positions to return logits of; excludes `labels`.
            num_items_in_batch: divisor of the summed loss, when it isn't this batch's label count.
        """
        hidden = self.model(
            input_ids,
            position_ids=position_ids,
            cu_seqlens=cu_seqlens,
            attention_mask=attention_mask,
            **media,
        ).last_hidden_state
        if labels is None:
            chosen = hidden if logits_index is None else hidden[0].index_select(0, logits_index)
            return KeyeVL1_5Output(logits=self.lm_head(chosen), last_hidden_state=hidden)
        if logits_index is not None:
            raise ValueError("labels choose the logits themselves: leave logits_index out")
        targets = next_token_targets(labels, cu_seqlens)
        if cu_seqlens is None:
            logits = self.lm_head(hidden)
            flat = logits.flatten(0, 1)
        else:
            learnt = targets[0] != -100
            logits = flat = self.lm_head(hidden[0][learnt])
            targets = targets[0][learnt]
        loss = F.cross_entropy(flat.float(), targets.flatten(), ignore_index=-100, reduction="sum")
        items = num_items_in_batch
        if items is None:
            items = (targets != -100).sum().clamp(min=1)
        return KeyeVL1_5Output(loss=loss / items, logits=logits, last_hidden_state=hidden)


def _grids(grid_thw: Tensor | np.ndarray) -> list[Grid]:
    return [(int(h), int(w)) for _, h, w in split_frames(to_host(grid_thw)).tolist()]


def _has_peers() -> bool:
    distributed = torch.distributed
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


def _register_checkpoint_names() -> None:
    """In memory the encoder is part of the backbone; in checkpoints it stands beside it."""
    renamings = [
        # transformers' SigLIP has no `vision_model` level. The first here is the last when saving:
        # there the next line has already given every name its checkpoint form.
        WeightRenaming(
            r"^visual\.(?=embeddings|encoder|post_layernorm)", "model.visual.vision_model."
        ),
        WeightRenaming(r"^visual\.vision_model\.", "model.visual.vision_model."),
        WeightRenaming(r"^mlp_AR\.", "model.mlp_AR."),
    ]
    name = KeyeVL1_5ForConditionalGeneration.__name__
    register_checkpoint_conversion_mapping(name, renamings, overwrite=True)


_register_checkpoint_names()
