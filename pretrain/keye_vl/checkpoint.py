"""Names and shapes of checkpoints, and loading them.

The released names (`visual.…`, `mlp_AR.…`, `model.…`, `lm_head.…`) are what `save_pretrained`
writes, vLLM loads and weight sync sends; in memory the encoder and the projector are parts of
`model`. This file is the only place that knows the difference outside the registered renaming.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
)

from pretrain.keye_vl.configuration import KeyeVL1_5Config
from pretrain.keye_vl.modeling import KeyeVL1_5ForConditionalGeneration
from pretrain.keye_vl.processing import KeyeVL1_5Processor
from pretrain.run.errors import KeyeError

_OUTPUT_LAYER = "lm_head.weight"


def checkpoint_name(name: str) -> str:
    """Checkpoint name of an in-memory parameter or buffer (`model.visual.x` → `visual.x`)."""
    for part in ("model.visual.", "model.mlp_AR."):
        if name.startswith(part):
            return name.removeprefix("model.")
    return name


def checkpoint_tensors(
    model: KeyeVL1_5ForConditionalGeneration, state: Mapping[str, Tensor] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Checkpoint name and tensor of everything `save_pretrained` would write.

    Args:
        model: the model; its configuration says whether the output layer is tied (then left out).
        state: in-memory names → tensors, where the model's own are partitioned (ZeRO-3) and were
            gathered by the caller.
    """
    tied = model.config.tie_word_embeddings
    for name, tensor in (model.state_dict() if state is None else state).items():
        if not (tied and name == _OUTPUT_LAYER):
            yield checkpoint_name(name), tensor


def checkpoint_shapes(config: KeyeVL1_5Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint of this configuration, without allocating it."""
    with torch.device("meta"):
        model = KeyeVL1_5ForConditionalGeneration(config)
    return {name: tuple(tensor.shape) for name, tensor in checkpoint_tensors(model)}


def load_config(path: str | Path) -> KeyeVL1_5Config:
    """The configuration of a checkpoint directory.

    Raises:
        KeyeError: there is no checkpoint at `path`.
    """
    return AutoConfig.from_pretrained(existing_checkpoint(path))


def load_model(path: str | Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model of a checkpoint directory: Keye-VL-1.5, another VLM, or a causal language model.

    Raises:
        KeyeError: there is no checkpoint at `path`.
    """
    config = load_config(path)
    sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    auto = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    return auto.from_pretrained(path, dtype=dtype)


def load_processor(path: str | Path) -> KeyeVL1_5Processor:
    """The processor of a checkpoint directory.

    Raises:
        KeyeError: there is no checkpoint at `path`.
    """
    return AutoProcessor.from_pretrained(existing_checkpoint(path))


def existing_checkpoint(path: str | Path) -> Path:
    """`path`, if a checkpoint lies there; otherwise a `KeyeError` that says what to give."""
    path = Path(path)
    if not (path / "config.json").is_file():
        found = "is empty or not a checkpoint" if path.is_dir() else "does not exist"
        raise KeyeError(
            f"checkpoint={path}: the directory {found} (no config.json there). Give the "
            "`checkpoint` folder of a finished stage, or a Hugging Face model directory"
        )
    return path
