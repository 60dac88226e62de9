"""What a job's numbers amount to, said before it starts: nobody should have to work it out.

`derived` computes, `warnings` names the values that are known to be silently wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

from pretrain.run.console import say, table, warn
from rl.config import RlConfig

LARGE_MODEL = 100_000_000
"""Parameters above which a policy moves so little a step that a clip above 1e-2 never acts."""


@dataclass(frozen=True, slots=True)
class Derived:
    """Numbers that follow from a configuration."""

    responses_per_step: int
    """Prompts × group size."""
    updates_per_rollout: int
    """Optimiser steps on one batch of rollouts."""
    sequences_per_update: int
    """Responses in one optimiser step, before groups without spread are dropped."""
    off_policy: bool
    """Whether later updates use rollouts of slightly older weights."""
    max_tokens_per_step: int
    """Response tokens of one step if all ran to the limit."""
    optimiser_steps: int
    """Over the whole job."""
    learner_bytes: int
    """Weights, gradients and AdamW moments of one learner rank, without activations."""
    engine_bytes: int
    """Weights and KV cache of one engine."""


def derive(cfg: RlConfig, parameters: int) -> Derived:
    """The derived numbers of a GSPO job on a policy with this many parameters."""
    responses = cfg.gspo.prompts_per_step * cfg.gspo.group_size
    mini_batches = cfg.learner.mini_batches
    half = cfg.learner.train.dtype == "bf16"
    shard = max(1, cfg.learner.world_size)
    zero = cfg.learner.train.zero_stage
    # fp32: 4 bytes each for weight and gradient; bf16: 2 each. Moments (and, for bf16, the master
    # weights) are fp32. ZeRO shards moments from stage 1, gradients from 2, weights from 3.
    unit = 2 if half else 4
    optimiser = 8 + (4 if half else 0)
    per_parameter = (
        unit / (shard if zero >= 3 else 1)
        + unit / (shard if zero >= 2 else 1)
        + optimiser / (shard if zero >= 1 else 1)
    )
    engine_unit = 4 if cfg.engine.dtype == "float32" else 2
    return Derived(
        responses_per_step=responses,
        updates_per_rollout=mini_batches,
        sequences_per_update=responses // mini_batches,
        off_policy=mini_batches > 1,
        max_tokens_per_step=responses * cfg.sampling.max_tokens,
        optimiser_steps=cfg.gspo.steps * mini_batches,
        learner_bytes=int(parameters * per_parameter),
        engine_bytes=parameters * engine_unit + (cfg.engine.kv_cache_mb << 20),
    )


def warnings(cfg: RlConfig, parameters: int) -> list[str]:
    """Values that run without an error and still don't do what one would think."""
    found = []
    learner = cfg.learner
    sequence_level = learner.algorithm in ("gspo", "gspo_token")
    clip = max(learner.clip_low, learner.clip_high)
    if sequence_level and parameters > LARGE_MODEL and clip > 1e-2:
        found.append(
            f"learner.clip_high={clip:g} never acts: a sequence's length-normalised ratio stays "
            "within 1e-3 of 1 on a model of this size. GSPO's range is 3e-4/4e-4; 0.2 is GRPO's."
        )
    if learner.algorithm == "grpo" and clip < 5e-2:
        found.append(
            f"learner.clip_high={clip:g} is GSPO's scale; token ratios of GRPO vary by 0.1 and "
            "more, so nearly every token would be clipped. Usual: 0.2."
        )
    if learner.mini_batches == 1:
        found.append(
            "learner.mini_batches=1: every update is on-policy, all ratios are exactly 1 and the "
            "clip range is without meaning."
        )
    if learner.temperature != cfg.sampling.temperature:
        found.append(
            f"learner.temperature={learner.temperature} differs from sampling.temperature="
            f"{cfg.sampling.temperature}: log-probs would be of another distribution than sampled."
        )
    if cfg.sampling.top_p < 1 or cfg.sampling.top_k > 0:
        found.append(
            "sampling.top_p/top_k truncate the sampled distribution; the learner's log-probs are "
            "of the whole one, so the importance ratios are biased. Use 1 and 0 for RL."
        )
    return found


def announce(cfg: RlConfig, parameters: int) -> None:
    """Print the derived numbers, then every warning."""
    numbers = derive(cfg, parameters)
    policy = "off-policy after the first" if numbers.off_policy else "on-policy"
    table(
        "GSPO: what the numbers amount to",
        ["", ""],
        [
            ["policy", f"{parameters:,} parameters"],
            [
                "a step",
                f"{cfg.gspo.prompts_per_step} prompts × {cfg.gspo.group_size} responses = "
                f"{numbers.responses_per_step} responses, ≤ {numbers.max_tokens_per_step:,} tokens",
            ],
            [
                "updates",
                f"{numbers.updates_per_rollout} a step ({policy}) of "
                f"{numbers.sequences_per_update} sequences; {numbers.optimiser_steps} in all",
            ],
            ["clip", f"{1 - cfg.learner.clip_low:.4f} … {1 + cfg.learner.clip_high:.4f}"],
            [
                "memory",
                f"{numbers.learner_bytes / 2**30:.2f} GiB a learner rank (without activations), "
                f"{numbers.engine_bytes / 2**30:.2f} GiB an engine",
            ],
            [
                "processes",
                f"{cfg.engine.count} engine(s), {cfg.learner.world_size} learner rank(s), "
                f"{cfg.rewards.workers} reward worker(s)",
            ],
        ],
    )
    for text in warnings(cfg, parameters):
        warn(text)
    say("")
