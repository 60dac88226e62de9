"""A starting checkpoint with random weights: sizes from a configuration, tokenizer trained here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from pretrain.keye_vl.configuration import ARCHITECTURE, KeyeVL1_5Config
from pretrain.keye_vl.image_processing import (
    MERGE_SIZE,
    PATCH_SIZE,
    KeyeVL1_5ImageProcessor,
)
from pretrain.keye_vl.modeling import KeyeVL1_5ForConditionalGeneration
from pretrain.keye_vl.processing import KeyeVL1_5Processor
from pretrain.keye_vl.slow_fast import SlowFastConfig
from pretrain.keye_vl.tokenizer import (
    END_OF_TEXT,
    END_OF_TURN,
    FAST_END,
    FAST_START,
    IMAGE_TOKEN,
    VIDEO_TOKEN,
    VISION_END,
    VISION_START,
    train_tokenizer,
)
from pretrain.keye_vl.video import VideoConfig


@dataclass
class VisionSize:
    """Sizes of the SigLIP encoder."""

    hidden_size: int = 96
    """Width."""
    intermediate_size: int = 256
    """Width of the MLP's hidden layer."""
    num_hidden_layers: int = 3
    """Transformer layers."""
    num_attention_heads: int = 3
    """Attention heads; the width divided by it must be a multiple of 4 (2D RoPE)."""
    image_size: int = 84
    """Side in pixels of the square the position table stands for; other sizes interpolate it."""
    use_2d_rope: bool = True
    """Rotate by row and column, as vLLM does; False only to compare with plain SigLIP."""


@dataclass
class TextSize:
    """Sizes of the Qwen3 decoder."""

    hidden_size: int = 128
    """Width."""
    intermediate_size: int = 352
    """Width of the SwiGLU's hidden layer."""
    num_hidden_layers: int = 4
    """Transformer layers."""
    num_attention_heads: int = 4
    """Query heads."""
    num_key_value_heads: int = 2
    """Key and value heads."""
    head_dim: int = 32
    """Width of a head."""
    vocab_size: int = 1500
    """Most tokens the trained tokenizer may have; the embedding has as many rows as it needs. The
    full-size checkpoint brings its own tokenizer, and this is its embedding's rows."""
    tie_word_embeddings: bool = True
    """Use the embedding as the output layer."""
    rope_theta: float = 10000.0
    """RoPE base before the anneal stage resets it."""
    mrope_section: list[int] = field(default_factory=lambda: [4, 6, 6])
    """Rotary frequencies of the temporal, height and width axes; sums to half a head."""
    max_position_embeddings: int = 1024
    """Context in tokens before the anneal stage extends it."""


@dataclass
class ImageSize:
    """Bounds of an image, in visual tokens of 28×28 pixels."""

    min_tokens: int = 4
    """Smaller images are enlarged to it."""
    max_tokens: int = 64
    """Larger images are reduced to it (the released model: 20,480)."""


@dataclass
class ModelConfig:
    """Sizes of a Keye-VL-1.5 (schema of `conf/model/*.yaml`)."""

    name: str = "tiny"
    """Name shown in summaries."""
    vision: VisionSize = field(default_factory=VisionSize)
    """The image encoder."""
    text: TextSize = field(default_factory=TextSize)
    """The decoder."""
    image: ImageSize = field(default_factory=ImageSize)
    """Bounds of the images."""
    slow_fast: SlowFastConfig = field(
        default_factory=lambda: SlowFastConfig(min_tokens=1, max_tokens=16, total_tokens=128)
    )
    """Budget of a video's tokens."""
    video: VideoConfig = field(default_factory=lambda: VideoConfig(max_frames=64))
    """How videos are sampled and what bounds them."""


def model_configuration(
    model: ModelConfig, tokenizer: PreTrainedTokenizerFast, vocab_size: int | None = None
) -> KeyeVL1_5Config:
    """The model's configuration for a tokenizer (`vocab_size`: embedding rows, if padded)."""
    text = vars(model.text).copy()
    rope = {
        "rope_type": "default",
        "rope_theta": text.pop("rope_theta"),
        "mrope_section": list(text.pop("mrope_section")),
    }
    text["vocab_size"] = vocab_size or len(tokenizer)
    vision = dict(vars(model.vision), patch_size=PATCH_SIZE, spatial_merge_size=MERGE_SIZE)
    return KeyeVL1_5Config(
        architectures=[ARCHITECTURE],
        **text,
        **token_ids(tokenizer),
        rope_parameters=rope,
        rms_norm_eps=1e-6,
        vision_config=vision,
        dtype="float32",
    )


def token_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """The configuration's fields that name a token."""
    ids = tokenizer.convert_tokens_to_ids
    return {
        "eos_token_id": ids(END_OF_TURN),
        "pad_token_id": ids(END_OF_TEXT),
        "bos_token_id": ids(END_OF_TEXT),
        "image_token_id": ids(IMAGE_TOKEN),
        "video_token_id": ids(VIDEO_TOKEN),
        "vision_start_token_id": ids(VISION_START),
        "vision_end_token_id": ids(VISION_END),
        "fast_start_token_id": ids(FAST_START),
        "fast_end_token_id": ids(FAST_END),
    }


def create_checkpoint(
    path: str | Path, model: ModelConfig, corpus: Iterable[str], seed: int
) -> KeyeVL1_5ForConditionalGeneration:
    """Write a random checkpoint (configuration, weights, tokenizer, processor) and return it.

    Args:
        path: directory to write.
        model: sizes.
        corpus: texts to train the tokenizer on.
        seed: of the weights; equal seeds and corpora give equal checkpoints.
    """
    tokenizer = train_tokenizer(corpus, model.text.vocab_size)
    processor = KeyeVL1_5Processor(
        image_processor(model.image),
        tokenizer,
        slow_fast=asdict(model.slow_fast),
        video_loading=asdict(model.video),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        created = KeyeVL1_5ForConditionalGeneration(model_configuration(model, tokenizer))
    created.save_pretrained(path)
    processor.save_pretrained(path)
    return created


def image_processor(size: ImageSize, patch_size: int = PATCH_SIZE) -> KeyeVL1_5ImageProcessor:
    """The image processor with these bounds."""
    token_pixels = (patch_size * MERGE_SIZE) ** 2
    return KeyeVL1_5ImageProcessor(
        min_pixels=size.min_tokens * token_pixels,
        max_pixels=size.max_tokens * token_pixels,
        patch_size=patch_size,
    )
