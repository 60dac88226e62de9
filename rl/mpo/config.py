"""Settings of mixed preference optimisation (`recipe=mpo`).

No `from __future__ import annotations` here: OmegaConf reads the field types at run time.
"""

from dataclasses import dataclass, field

from pretrain.run.errors import ConfigError
from rl.endpoint_config import EndpointConfig
from rl.sft.training import SftConfig

LOSSES = ("sigmoid", "bco_pair", "sft")


@dataclass
class PairConfig(EndpointConfig):
    """How pairs are made of the policy's own responses; the endpoint is the stronger model's."""

    prompts: int = 1000
    """Prompts of the configured data that are sampled; 0 takes all rows of its files."""
    samples: int = 8
    """Responses to each."""
    per_prompt: int = 1
    """Pairs of one prompt at most; no response is in two of them."""
    margin: float = 0.0
    """By how much the chosen response's reward is higher at least (beside being correct where the
    prompt has a verifier)."""
    wrong: str = "reference"
    """Chosen response where all are wrong: `reference` (the row's own reply), `endpoint` (a
    stronger model's, if the rules accept it) or `skip` (no pair)."""
    review: int = 0
    """Prompts that are exported for people to rank (`python -m rl review`); see `mpo.rankings`."""
    review_candidates: int = 4
    """Different responses to each of them at most."""
    chunk: int = field(default=64, metadata={"identity": False})
    """Prompts sampled together; an interruption loses at most these."""
    seed: int = 6
    """Seed of sampling and of the pairs' order."""

    def __post_init__(self) -> None:
        least = {"samples": 1, "per_prompt": 1, "chunk": 1, "review": 0, "review_candidates": 2}
        for key, smallest in least.items():
            if getattr(self, key) < smallest:
                raise ConfigError(
                    f"mpo.pairs.{key}={getattr(self, key)} must be at least {smallest}"
                )
        if self.wrong not in ("reference", "endpoint", "skip"):
            raise ConfigError(
                f"mpo.pairs.wrong={self.wrong!r} is none of reference, endpoint, skip"
            )
        if self.wrong == "endpoint" and not (self.url and self.model):
            raise ConfigError(
                "mpo.pairs.wrong=endpoint needs mpo.pairs.url=URL and mpo.pairs.model=NAME"
            )
        if self.margin < 0 or self.prompts < 0:
            raise ConfigError("mpo.pairs.margin and mpo.pairs.prompts must not be below 0")


@dataclass
class MpoTrainConfig(SftConfig):
    """DPO's loss, BCO's loss and the likelihood of the chosen response, together (TRL)."""

    steps: int = 60
    """Optimiser steps."""
    batch_size: int = 32
    """Pairs per step, over all ranks."""
    lr: float = 3e-5
    """Peak learning rate."""
    warmup_steps: int = 5
    """Steps of linear warm-up."""
    eps: float = 1e-8
    """AdamW denominator term."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    beta: float = 0.1
    """β of the preference and the quality loss: how far the policy may go from where it began."""
    loss_weights: dict[str, float] = field(
        default_factory=lambda: {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}
    )
    """Weights of preference (DPO's `sigmoid`), quality (`bco_pair`, without BCO's moving reward
    shift, which TRL's pair form lacks) and generation (`sft`); 0 leaves a loss out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.loss_weights if name not in LOSSES]
        if unknown:
            raise ConfigError(f"loss_weights: {unknown[0]!r} is none of {', '.join(LOSSES)}")
        if not any(weight > 0 for weight in self.loss_weights.values()):
            raise ConfigError("loss_weights: no weight is above 0")
        if not self.beta > 0:
            raise ConfigError(f"beta={self.beta} must be above 0")


@dataclass
class MpoConfig:
    """Rounds of pairs from the newest policy, each followed by training on them."""

    rounds: int = 1
    """How often pairs are made anew from the policy that the last round has left."""
    pairs: PairConfig = field(default_factory=PairConfig)
    """How pairs are made."""
    rankings: list[str] = field(default_factory=list)
    """Decision files of people who ranked exported prompts: their pairs (kind `human`) take the
    place of the prompt's own, and a prompt that they dropped leaves. Can be added later: nothing is
    sampled again."""
    train: MpoTrainConfig = field(default_factory=MpoTrainConfig)
    """How they are learned."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigError(f"mpo.rounds={self.rounds} must be at least 1")
        if self.rankings and not self.pairs.review:
            raise ConfigError(
                "mpo.rankings needs mpo.pairs.review=N above 0: rankings are of exported prompts"
            )
