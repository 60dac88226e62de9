"""A starting checkpoint from a Hugging Face SigLIP vision model and a Qwen3 model.

Every tensor of the two is copied as it is (the position table included), the projector is drawn at
random, and the tokenizer learns the special tokens it lacks. Tensors stream from the sources'
safetensors into output shards of bounded size, so no more than one shard is ever in memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from pretrain.keye_vl.checkpoint import checkpoint_shapes, existing_checkpoint
from pretrain.keye_vl.configuration import ARCHITECTURE, KeyeVL1_5Config
from pretrain.keye_vl.create import ImageSize, image_processor, token_ids
from pretrain.keye_vl.processing import KeyeVL1_5Processor
from pretrain.keye_vl.shards import ShardWriter
from pretrain.keye_vl.tokenizer import add_keye_tokens
from pretrain.run.console import console
from pretrain.run.errors import KeyeError

_VISION = "visual.vision_model."
_PACKING_POSITIONS = _VISION + "embeddings.packing_position_embedding.weight"
_VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")


@dataclass
class InitConfig:
    """`python -m pretrain init`: a Keye-VL-1.5 checkpoint from SigLIP + Qwen3."""

    vision: str = ""
    """Directory of a Hugging Face SigLIP model (whole, or its vision model)."""
    text: str = ""
    """Directory of a Hugging Face Qwen3 model; its tokenizer is extended."""
    output: str = ""
    """Directory to write; must not exist yet."""
    image: ImageSize = field(default_factory=lambda: ImageSize(max_tokens=20_480))
    """Bounds of the images."""
    shard_gb: float = 4.0
    """Largest output file, in GB of 10⁹ bytes; also about the memory that is needed."""
    seed: int = 0
    """Of the projector's and new tokens' weights."""


def init_checkpoint(cfg: InitConfig) -> None:
    """Write the starting checkpoint.

    Raises:
        KeyeError: a source is missing or of another kind, or the output exists.
    """
    for name in ("vision", "text", "output"):
        if not getattr(cfg, name):
            raise KeyeError(f"{name} is missing: give {name}=DIRECTORY")
    vision_path, text_path = existing_checkpoint(cfg.vision), existing_checkpoint(cfg.text)
    output = Path(cfg.output)
    if output.exists():
        raise KeyeError(f"output={output} exists already: remove it or choose another directory")
    vision, text = _vision_config(vision_path), _text_config(text_path)
    tokenizer = AutoTokenizer.from_pretrained(text_path)
    add_keye_tokens(tokenizer)
    config = _merged_config(vision, text, tokenizer)
    dtype = getattr(torch, str(config.dtype).removeprefix("torch."))
    generator = torch.Generator().manual_seed(cfg.seed)

    partial = output.with_name(output.name + ".partial")
    writer = ShardWriter(partial, int(cfg.shard_gb * 1e9))
    streams = (
        _text_tensors(text_path, config, generator),
        _vision_tensors(vision_path),
        _new_tensors(config, generator),
    )
    for stream in streams:
        for name, tensor in stream:
            writer.add(name, tensor.to(dtype))
    files = writer.finish()
    _check(writer.shapes, config)
    config.save_pretrained(partial)
    GenerationConfig(
        eos_token_id=[config.eos_token_id, config.pad_token_id], pad_token_id=config.pad_token_id
    ).save_pretrained(partial)
    processor = KeyeVL1_5Processor(
        image_processor(cfg.image, vision.patch_size), tokenizer, tokenizer.chat_template
    )
    processor.save_pretrained(partial)
    partial.rename(output)
    total = sum(math.prod(shape) for shape in writer.shapes.values())
    console.print(f"{output}: {len(writer.shapes)} tensors, {total:,} values in {files} files")


def _vision_config(path: Path) -> PreTrainedConfig:
    config = AutoConfig.from_pretrained(path)
    vision = getattr(config, "vision_config", config)
    if config.model_type not in ("siglip", "siglip_vision_model"):
        raise KeyeError(f"vision={path}: a {config.model_type} model, but SigLIP is needed")
    head_dim = vision.hidden_size // vision.num_attention_heads
    if head_dim % 4:
        raise KeyeError(
            f"vision={path}: heads of width {head_dim}, but 2D RoPE needs a multiple of 4"
        )
    return vision


def _text_config(path: Path) -> PreTrainedConfig:
    config = AutoConfig.from_pretrained(path)
    if config.model_type != "qwen3":
        raise KeyeError(f"text={path}: a {config.model_type} model, but Qwen3 is needed")
    rope = config.rope_parameters["rope_type"]
    if rope != "default" or config.sliding_window is not None:
        raise KeyeError(
            f"text={path}: rope_type={rope}, sliding_window={config.sliding_window}; Keye-VL-1.5 "
            "has plain RoPE and full attention: take a model (or edit its config.json) without"
        )
    return config


def _merged_config(
    vision: PreTrainedConfig, text: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast
) -> KeyeVL1_5Config:
    fields = text.to_dict()
    for name in ("model_type", "architectures", "transformers_version", "rope_parameters"):
        fields.pop(name, None)
    half = text.head_dim // 2
    # The released model's shares: a quarter for time, three eighths each for height and width.
    side = 3 * half // 8
    rope = dict(text.rope_parameters, mrope_section=[half - 2 * side, side, side])
    kept = [
        *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_channels", "image_size", "patch_size", "hidden_act", "layer_norm_eps"),
    ]
    return KeyeVL1_5Config(
        **fields
        | token_ids(tokenizer)
        | {"vocab_size": max(text.vocab_size, len(tokenizer)), "rope_parameters": rope},
        architectures=[ARCHITECTURE],
        vision_config={name: getattr(vision, name) for name in kept},
    )


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """All tensors of a model directory, read one at a time."""
    index = path / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    for name in names:
        if not (path / name).is_file():
            raise KeyeError(f"{path / name} is missing: the model must be stored as safetensors")
        with safe_open(path / name, "pt") as file:
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                yield key, file.get_tensor(key)


def _text_tensors(
    path: Path, config: KeyeVL1_5Config, generator: torch.Generator
) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in _tensors(path):
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        yield name, _grown(tensor, config.vocab_size, generator) if name in _VOCABULARY else tensor


def _grown(table: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    """`[rows, d]`: new tokens start near the mean of the known ones, so they are neutral."""
    missing = rows - table.shape[0]
    if missing <= 0:
        return table
    known = table.float()
    noise = torch.randn(missing, table.shape[1], generator=generator) * known.std() * 0.1
    return torch.cat([table, (known.mean(0) + noise).to(table.dtype)])


def _vision_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in _tensors(path):
        inner = name.removeprefix("vision_model.")
        # The pooling head, and the text tower of a whole SigLIP, have no place here.
        if inner.startswith(("embeddings.", "encoder.", "post_layernorm.")):
            yield _VISION + inner, tensor


def _new_tensors(
    config: KeyeVL1_5Config, generator: torch.Generator
) -> Iterator[tuple[str, Tensor]]:
    """The projector, at random with unit gain, and the table that no forward pass reads."""
    for name, shape in checkpoint_shapes(config).items():
        if name == _PACKING_POSITIONS:
            yield name, torch.zeros(shape)
        elif name.startswith("mlp_AR."):
            if len(shape) == 2:
                yield name, torch.randn(shape, generator=generator) * shape[1] ** -0.5
            else:
                yield name, torch.full(shape, float(name.endswith("norm.weight")))


def _check(written: dict[str, tuple[int, ...]], config: KeyeVL1_5Config) -> None:
    expected = checkpoint_shapes(config)
    if written != expected:
        differing = sorted(set(written.items()) ^ set(expected.items()))
        raise KeyeError(
            f"the sources don't make a Keye-VL-1.5: {len(differing)} names or shapes differ, "
            f"for example {differing[:4]}"
        )
