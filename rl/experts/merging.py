"""Merging models of one architecture: averages, task arithmetic and TIES, on state dicts.

mergekit does all of this and more, but is under the LGPL; these few sums need no library. All of it
runs in fp32 whatever the checkpoints' precision.

Invariant: pure functions; no argument is changed, and tensors that aren't floating point are the
base's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pretrain.keye_vl.checkpoint import load_model
from pretrain.run.errors import ConfigError, KeyeError
from pretrain.stages.fuse import fuse_checkpoints
from pretrain.training.checkpoint import write_checkpoint
from rl.experts.config import METHODS

Weights = Mapping[str, Tensor]


def task_vector(base: Weights, expert: Weights) -> dict[str, Tensor]:
    """τ = expert − base, of all floating-point tensors (Ilharco et al. 2023, §2).

    Raises `KeyeError` when the two don't have the same tensors.
    """
    names = {name for name, tensor in base.items() if tensor.is_floating_point()}
    other = {name for name, tensor in expert.items() if tensor.is_floating_point()}
    wrong = sorted(names ^ other) or [n for n in names if base[n].shape != expert[n].shape]
    if wrong:
        raise KeyeError(
            f"the models can't be merged: they differ in {wrong[0]} (a name or a shape); only "
            "models trained from one base can be"
        )
    return {name: expert[name].float() - base[name].float() for name in sorted(names)}


def add_vector(base: Weights, vector: Weights, scale: float) -> dict[str, Tensor]:
    """base + scale · τ; in fp32 where τ has a tensor, the base's own elsewhere."""
    return {
        name: tensor.float() + scale * vector[name] if name in vector else tensor
        for name, tensor in base.items()
    }


def task_arithmetic(
    base: Weights, experts: Sequence[Weights], scales: Sequence[float]
) -> dict[str, Tensor]:
    """base + Σᵢ λᵢ τᵢ (Ilharco et al. 2023, eq. 1 and §4)."""
    merged = dict(base)
    for expert, scale in zip(experts, scales, strict=True):
        merged = add_vector(merged, task_vector(base, expert), scale)
    return merged


def trim(vector: Weights, density: float) -> dict[str, Tensor]:
    """The share `density` of a task vector's entries that is largest in magnitude; the rest is 0.

    The threshold is one for the whole vector, as in TIES' algorithm 1 (not one for each tensor).
    """
    flat = torch.cat([tensor.abs().flatten() for tensor in vector.values()])
    kept = round(density * flat.numel())
    if kept >= flat.numel():
        return dict(vector)
    if kept == 0:
        return {name: torch.zeros_like(tensor) for name, tensor in vector.items()}
    threshold = flat.kthvalue(flat.numel() - kept + 1).values
    return {
        name: torch.where(tensor.abs() >= threshold, tensor, 0.0) for name, tensor in vector.items()
    }


def ties(
    base: Weights,
    experts: Sequence[Weights],
    *,
    density: float = 0.2,
    scale: float = 1.0,
    weights: Sequence[float] | None = None,
) -> dict[str, Tensor]:
    """TIES (Yadav et al. 2023, algorithm 1): trim, elect a sign, mean of those that agree with it.

    Args:
        base: θ_init.
        experts: models trained from it.
        density: share of each task vector that is kept, k/100 in the paper.
        scale: λ of the merged task vector.
        weights: of the experts in sums and means; by default all 1, as in the paper.
    """
    weights = [1.0] * len(experts) if weights is None else weights
    vectors = [trim(task_vector(base, expert), density) for expert in experts]
    merged = {}
    for name in vectors[0]:
        stacked = torch.stack([vector[name] for vector in vectors])
        each = torch.tensor(weights).reshape(-1, *[1] * (stacked.dim() - 1))
        elected = (stacked * each).sum(0).sign()
        agree = (stacked.sign() == elected) & (stacked != 0)
        total = (stacked * each * agree).sum(0)
        merged[name] = total / (each * agree).sum(0).clamp_min(torch.finfo(torch.float32).tiny)
    return add_vector(base, merged, scale)


@torch.no_grad()
def merge_checkpoints(
    method: str,
    base: Path,
    experts: Mapping[str, Path],
    path: Path,
    *,
    weights: Mapping[str, float],
    scale: float = 1.0,
    density: float = 0.2,
) -> dict[str, float]:
    """Writes the merged checkpoint to `path`; tokenizer and configuration are the base's.

    Args:
        method: `uniform` averages base and experts; `weighted` does with `weights` (the base's is
            under `base`; absent ones are 0); `task_arithmetic` and `ties` add task vectors.
        base: what all experts were trained from.
        experts: name → checkpoint.
        path: target folder.
        weights: name → weight of an expert (of `base` too where models are averaged); for
            `task_arithmetic` and `ties` absent ones are 1.
        scale: factor of the summed (`task_arithmetic`) or merged (`ties`) task vector.
        density: see `ties`.

    Returns:
        The weight that each model had, by name.

    Raises:
        ConfigError: an unknown method or name, or no expert; `KeyeError`: models that don't fit.
    """
    check_merge(method, list(experts), weights)
    if method in ("uniform", "weighted"):
        used = {name: 1.0 if method == "uniform" else weights.get(name, 0.0) for name in
                ("base", *experts)}  # fmt: skip
        fuse_checkpoints([base, *experts.values()], list(used.values()), path)
        return {name: weight / sum(used.values()) for name, weight in used.items()}
    used = {name: weights.get(name, 1.0) for name in experts}
    model = load_model(base, torch.float32)
    start = dict(model.named_parameters())  # unlike a state dict: tied weights once
    models = [dict(load_model(p, torch.float32).named_parameters()) for p in experts.values()]
    if method == "ties":
        merged = ties(start, models, density=density, scale=scale, weights=list(used.values()))
    else:
        merged = task_arithmetic(start, models, [scale * weight for weight in used.values()])
    for name, tensor in start.items():
        tensor.copy_(merged[name])
    write_checkpoint(model, path, Path(base))
    return used


def check_merge(method: str, experts: Sequence[str], weights: Mapping[str, float]) -> None:
    """Raises `ConfigError` for settings that `merge_checkpoints` can't follow."""
    if method not in METHODS:
        raise ConfigError(f"merge.method={method!r} is none of {', '.join(METHODS)}")
    averaging = method in ("uniform", "weighted")
    known = ["base", *experts] if averaging else list(experts)
    unknown = [name for name in weights if name not in known]
    if unknown:
        raise ConfigError(
            f"merge.weights: {unknown[0]!r} is no model of this merge ({', '.join(known)})"
        )
    if method == "uniform" and weights:
        raise ConfigError("merge.weights isn't read by method=uniform; use method=weighted")
    if method == "weighted" and not any(weight > 0 for weight in weights.values()):
        raise ConfigError("merge.method=weighted needs merge.weights, such as {base: 1, ocr: 1}")
    if any(weight < 0 for weight in weights.values()) and method != "task_arithmetic":
        raise ConfigError(
            f"merge.weights: method={method} averages, with no negative weight; "
            "method=task_arithmetic subtracts"
        )
