"""Stage `fuse`: the weights of models trained on different mixtures are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from pretrain.keye_vl.checkpoint import load_model
from pretrain.run.errors import ConfigError
from pretrain.training.checkpoint import write_checkpoint


def fuse_weights(count: int, weights: Sequence[float]) -> list[float]:
    """The models' shares in the average, summing to one; equal when none are given."""
    if not weights:
        return [1.0 / count] * count
    if len(weights) != count:
        raise ConfigError(f"fuse.weights has {len(weights)} entries for {count} models")
    total = sum(weights)
    if min(weights) < 0 or total <= 0:
        raise ConfigError(f"fuse.weights={list(weights)} must not be negative or all zero")
    return [weight / total for weight in weights]


@torch.no_grad()
def fuse_checkpoints(sources: Sequence[Path], weights: Sequence[float], path: Path) -> None:
    """Writes Σ wᵢ·modelᵢ to `path`; tokenizer and configuration come from the first source.

    Sums run in fp32 whatever the checkpoints' precision; buffers that aren't floating point are
    taken from the first model.

    Raises:
        ConfigError: no source, wrong weights, or models of different shapes.
    """
    if not sources:
        raise ConfigError("fuse has nothing to average: set fuse.experts or fuse.checkpoints")
    shares = fuse_weights(len(sources), weights)
    fused = load_model(sources[0], torch.float32)
    target = {k: v for k, v in fused.state_dict().items() if v.is_floating_point()}
    total = {name: tensor * shares[0] for name, tensor in target.items()}
    for source, share in zip(sources[1:], shares[1:], strict=True):
        other = load_model(source, torch.float32).state_dict()
        for name, tensor in total.items():
            if name not in other or other[name].shape != tensor.shape:
                raise ConfigError(f"{source} can't be averaged with {sources[0]}: {name} differs")
            tensor.add_(other[name], alpha=share)
    for name, tensor in total.items():
        target[name].copy_(tensor)
    write_checkpoint(fused, path, Path(sources[0]))
