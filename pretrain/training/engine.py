"""One factory for every DeepSpeed engine: pre-training stages and the RL learner share it.

Invariant: the gradient applied is the gradient of the *sum* of the losses given to `backward`, over
all micro-batches and all ranks. Callers divide by global counts themselves; how a batch is split
into micro-batches and ranks then can't change the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from pretrain.run.errors import ConfigError


@dataclass
class TrainConfig:
    """Optimiser, schedule, precision and sharding of one training stage."""

    lr: float = 1e-3
    """Peak learning rate."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    """AdamW moment decays."""
    eps: float = 1e-8
    """AdamW denominator term."""
    weight_decay: float = 0.01
    """Decoupled weight decay, on matrices only (not on norms and biases)."""
    grad_clip: float = 1.0
    """Largest global gradient norm; 0 switches clipping off."""
    warmup_steps: int = 20
    """Steps of linear warm-up."""
    schedule: str = "cosine"
    """Learning rate after warm-up: `cosine` down to `end_factor`, or `constant`."""
    end_factor: float = 0.1
    """Last learning rate of the cosine, as a share of `lr`."""
    zero_stage: int = 0
    """ZeRO stage: 0 replicates, 1 shards optimiser state, 2 also gradients, 3 also weights."""
    dtype: str = "fp32"
    """`fp32`, or `bf16` with fp32 master weights."""
    micro_batch_tokens: int = 4096
    """Most decoder tokens in one packed micro-batch of one rank."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more compute."""

    def __post_init__(self) -> None:
        for key, value, allowed in (
            ("schedule", self.schedule, ("cosine", "constant")),
            ("zero_stage", self.zero_stage, (0, 1, 2, 3)),
            ("dtype", self.dtype, ("fp32", "bf16")),
        ):
            if value not in allowed:
                raise ConfigError(f"{key}={value!r} is not one of {', '.join(map(str, allowed))}")


def learning_rate(step: int, total_steps: int, cfg: TrainConfig) -> float:
    """Learning rate of 0-based `step`: linear warm-up times a cosine from 1 to `end_factor`."""
    warm = min(1.0, (step + 1) / max(cfg.warmup_steps, 1))
    if cfg.schedule == "constant":
        return cfg.lr * warm
    progress = min(step / max(total_steps, 1), 1.0)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return cfg.lr * warm * (cfg.end_factor + (1.0 - cfg.end_factor) * cosine)


@dataclass(slots=True)
class StepStats:
    """What one optimiser step did."""

    grad_norm: float
    """Global gradient norm before clipping."""
    lr: float
    """Learning rate used."""


class TrainingEngine:
    """A DeepSpeed engine with an explicit step boundary: `backward(…)` n times, then `step()`."""

    def __init__(self, engine: Any, cfg: TrainConfig, total_steps: int) -> None:
        self.deepspeed = engine
        self.cfg = cfg
        self.total_steps = total_steps
        self.steps_done = 0
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

    @property
    def module(self) -> nn.Module:
        """The model itself, for inspection; train through `__call__`."""
        return self.deepspeed.module

    @property
    def device(self) -> torch.device:
        """Where inputs must be."""
        return self.deepspeed.device

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Forward pass; under ZeRO-3 only this gathers the weights."""
        return self.deepspeed(*args, **kwargs)

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Adds the gradient of this rank's scalar `loss`; `last` marks the step's last one.

        All ranks must make the same number of calls in a step, through the same weights.
        """
        self.deepspeed.set_gradient_accumulation_boundary(last)
        # DeepSpeed averages over ranks; our gradients are sums.
        self.deepspeed.backward(loss * self.world_size)

    def step(self) -> StepStats:
        """Clips, updates the weights, clears the gradients."""
        lr = learning_rate(self.steps_done, self.total_steps, self.cfg)
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = lr
        # Plain fp32 DDP has no norm of its own; its gradients are whole and reduced by now.
        plain = self.cfg.zero_stage == 0 and self.cfg.dtype == "fp32"
        norm = self._plain_norm() if plain else None
        self.deepspeed.step()
        if norm is None:
            norm = self.deepspeed.get_global_grad_norm()
        self.steps_done += 1
        return StepStats(grad_norm=float(norm), lr=lr)

    def _plain_norm(self) -> float:
        grads = [p.grad for p in self.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(grads))

    def gathered(self) -> Any:
        """Context in which `module`'s weights are whole on every rank (a no-op below ZeRO-3)."""
        import deepspeed

        return deepspeed.zero.GatheredParameters(
            list(self.module.parameters()), enabled=self.cfg.zero_stage == 3
        )

    def destroy(self) -> None:
        """Frees optimiser state and hooks; the engine can't be used afterwards."""
        self.deepspeed.destroy()


def build_engine(
    model: nn.Module,
    cfg: TrainConfig,
    *,
    total_steps: int,
    trainable: Callable[[str], bool] | None = None,
) -> TrainingEngine:
    """Wraps `model` for training on this rank; `init_rank` must have been called.

    Args:
        model: the same weights on every rank, fp32 on the CPU; moved and cast here.
        cfg: optimiser and sharding.
        total_steps: length of the learning-rate schedule.
        trainable: parameter name → train it? The rest is frozen and gets no optimiser state.

    Raises:
        ConfigError: nothing is trainable.
    """
    import deepspeed

    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable is None or trainable(name))
        if parameter.requires_grad:
            (decayed if parameter.ndim >= 2 else plain).append(parameter)
    if not decayed and not plain:
        raise ConfigError("no parameter of the model is trainable")
    if cfg.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    groups = [
        {"params": params, "weight_decay": decay}
        for params, decay in ((decayed, cfg.weight_decay), (plain, 0.0))
        if params
    ]
    b1, b2 = cfg.betas
    optimizer = torch.optim.AdamW(groups, lr=cfg.lr, betas=(b1, b2), eps=cfg.eps)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=deepspeed_config(cfg, dist.get_world_size())
    )
    return TrainingEngine(engine, cfg, total_steps)


def deepspeed_config(cfg: TrainConfig, world_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration; clipping is always stated because its default is 1.0."""
    zero: dict[str, Any] = {"stage": cfg.zero_stage}
    if cfg.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": world_size,
        "gradient_clipping": cfg.grad_clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
    if cfg.dtype == "bf16":
        config["bf16"] = {"enabled": True}
    return config
