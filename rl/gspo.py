"""The policy losses as pure functions: GSPO, GSPO-token and token-level GRPO.

Invariant: every term is *a sum over sequences divided by one number*, `num_sequences`. So when a
batch is cut into micro-batches or spread over ranks, passing the number of sequences of the whole
batch to each part makes losses, gradients and clip fractions add up to those of the whole batch,
whatever the cut. Padding counts nowhere: not in a sum, not in a response's length |y|, and a row
without a single response token isn't a sequence.

Everything is computed in fp32 or wider (bf16 can't tell 1 from 1.004, and GSPO clips at 1 ± 3e-4;
float64 inputs stay float64).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """What a policy loss returns. All but `loss` are detached."""

    loss: Float[Tensor, ""]
    """To be minimised: minus the clipped objective, summed over sequences / `num_sequences`."""
    ratio: Float[Tensor, " B"]
    """Length-normalised importance ratio s_i of each sequence (1 for a row without tokens)."""
    clip_fraction_low: Float[Tensor, ""]
    """Share of sequences (GRPO: of each sequence's tokens, averaged over sequences) held at
    1 - clip_low, so without gradient: a bad response that already became less likely."""
    clip_fraction_high: Float[Tensor, ""]
    """The same at 1 + clip_high: a good response that already became more likely."""

    @property
    def clip_fraction(self) -> Float[Tensor, ""]:
        """Share of sequences (GRPO: tokens) that give no gradient because they are clipped."""
        return self.clip_fraction_low + self.clip_fraction_high


def gspo_loss(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"],
    mask: Shaped[Tensor, "B T"],
    *,
    clip_low: float,
    clip_high: float,
    num_sequences: int | Tensor | None = None,
) -> PolicyLoss:
    """Group Sequence Policy Optimisation (arXiv 2507.18071, eq. 5-7), as a loss to minimise.

    s_i = exp( (1/|y_i|) Σ_t log π(y_it) − log π_old(y_it) )
    loss = −(1/N) Σ_i min( s_i A_i, clip(s_i, 1 − clip_low, 1 + clip_high) A_i )

    Args:
        logprobs: natural log-probabilities of the response tokens under the policy in training.
        old_logprobs: the same tokens under the policy that the update started from.
        advantages: one number a response, see `group_advantages`.
        mask: true (or 1) where there is a response token.
        clip_low: ε_l, how far the ratio may fall; the paper's scale is 3e-4.
        clip_high: ε_h, how far it may rise; 4e-4.
        num_sequences: N, the number of sequences of the *whole* mini-batch over all micro-batches
            and ranks. Default: the rows here that have response tokens.
    """
    batch = _prepare(logprobs, old_logprobs, advantages, mask, num_sequences)
    ratio = batch.sequence_log_ratio.exp()[:, None]
    return _clipped(batch, ratio, clip_low, clip_high)


def gspo_token_loss(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"] | Float[Tensor, "B T"],
    mask: Shaped[Tensor, "B T"],
    *,
    clip_low: float,
    clip_high: float,
    num_sequences: int | Tensor | None = None,
) -> PolicyLoss:
    """GSPO-token (arXiv 2507.18071, eq. 13-14): the sequence's ratio, but per-token gradients.

    s_it = sg[s_i] · π(y_it) / sg[π(y_it)], with sg = stop gradient
    loss = −(1/N) Σ_i (1/|y_i|) Σ_t min( s_it A_it, clip(s_it, 1 − clip_low, 1 + clip_high) A_it )

    With one advantage a response it equals `gspo_loss` in value and gradient (eq. 17); advantages
    may also be given per token, `[B, T]`. Arguments as in `gspo_loss`.
    """
    batch = _prepare(logprobs, old_logprobs, advantages, mask, num_sequences)
    current = batch.masked_logprobs
    ratio = batch.sequence_log_ratio.detach().exp()[:, None] * (current - current.detach()).exp()
    return _clipped(batch, ratio, clip_low, clip_high)


def grpo_loss(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"] | Float[Tensor, "B T"],
    mask: Shaped[Tensor, "B T"],
    *,
    clip_low: float,
    clip_high: float,
    num_sequences: int | Tensor | None = None,
) -> PolicyLoss:
    """GRPO's token-level clipped objective (arXiv 2402.03300, eq. 3, without its KL term).

    w_it = π(y_it) / π_old(y_it)
    loss = −(1/N) Σ_i (1/|y_i|) Σ_t min( w_it A_i, clip(w_it, 1 − clip_low, 1 + clip_high) A_i )

    Its clip range lives on another scale than GSPO's: about 0.2. Arguments as in `gspo_loss`;
    the `ratio` returned is the sequence's s_i here too, so that runs can be compared.
    """
    batch = _prepare(logprobs, old_logprobs, advantages, mask, num_sequences)
    return _clipped(batch, batch.log_ratio.exp(), clip_low, clip_high)


def rejection_sampling_loss(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"],
    mask: Shaped[Tensor, "B T"],
    *,
    clip_low: float,
    clip_high: float,
    num_sequences: int | Tensor | None = None,
) -> PolicyLoss:
    """Rejection-sampling fine-tuning: maximum likelihood of the accepted responses.

    loss = −(1/N) Σ_i A_i (1/|y_i|) Σ_t log π(y_it), with A_i = 1 for an accepted response

    The control of GSPO with the same rollouts and the same number of updates: it sees which
    responses were right, and neither compares within a group nor clips. Arguments as in
    `gspo_loss`; the clip range is not used.
    """
    del clip_low, clip_high
    batch = _prepare(logprobs, old_logprobs, advantages, mask, num_sequences)
    mean = batch.masked_logprobs.sum(1) / batch.lengths[:, 0]
    none = mean.new_zeros(())
    return PolicyLoss(
        loss=-(mean * batch.advantages[:, 0]).sum() / batch.num_sequences,
        ratio=batch.sequence_log_ratio.detach().exp(),
        clip_fraction_low=none,
        clip_fraction_high=none,
    )


ALGORITHMS: dict[str, Callable[..., PolicyLoss]] = {
    "gspo": gspo_loss,
    "gspo_token": gspo_token_loss,
    "grpo": grpo_loss,
    "rejection_sampling": rejection_sampling_loss,
}
"""The losses by the name that the configuration's `algorithm` key uses."""


def group_advantages(rewards: Float[Tensor, " N"], group_size: int) -> Float[Tensor, " N"]:
    """Advantages within groups of responses to one prompt: (r − mean) / std.

    arXiv 2507.18071, eq. 6.

    Args:
        rewards: the responses of a group stand next to each other. NaN marks a response that has
            no reward (its rule failed): it leaves the statistics and its advantage is NaN, so that
            it can't be trained on by mistake.
        group_size: G, responses a prompt.

    Returns:
        float32 or wider. The std is the sample's (n − 1). A group without spread, or with fewer
        than two rewards, gives exactly 0: there is nothing to compare.

    Raises:
        ValueError: if the rewards don't divide into groups.
    """
    if rewards.ndim != 1 or group_size < 1 or len(rewards) % group_size:
        raise ValueError(
            f"rewards of shape {tuple(rewards.shape)} can't be cut into groups of {group_size}: "
            "give one reward a response, the responses of a prompt next to each other"
        )
    dtype = torch.promote_types(rewards.dtype, torch.float32)
    groups = rewards.to(dtype).reshape(-1, group_size)
    known = ~groups.isnan()
    count = known.sum(1, keepdim=True)
    values = groups.where(known, 0.0)
    mean = values.sum(1, keepdim=True) / count.clamp(min=1)
    centred = (values - mean).where(known, 0.0)
    std = (centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    # Compared on the rewards themselves: rounding leaves eight times 0.1 with a std of 1e-9.
    highest = groups.where(known, -torch.inf).amax(1, keepdim=True)
    lowest = groups.where(known, torch.inf).amin(1, keepdim=True)
    spread = (highest > lowest) & (std > 0)
    advantages = (centred / std.where(spread, 1.0)).where(spread, 0.0)
    return advantages.where(known, torch.nan).reshape(-1)


@dataclass(frozen=True, slots=True)
class _Batch:
    """The inputs of a loss, widened and masked once."""

    masked_logprobs: Float[Tensor, "B T"]
    log_ratio: Float[Tensor, "B T"]
    sequence_log_ratio: Float[Tensor, " B"]
    advantages: Float[Tensor, "B _"]
    mask: Shaped[Tensor, "B T"]
    lengths: Float[Tensor, "B 1"]
    num_sequences: int | Tensor


def _prepare(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    num_sequences: int | Tensor | None,
) -> _Batch:
    if not logprobs.shape == old_logprobs.shape == mask.shape:
        raise ValueError(
            f"logprobs {tuple(logprobs.shape)}, old_logprobs {tuple(old_logprobs.shape)} and mask "
            f"{tuple(mask.shape)} must have the same shape [B, T]"
        )
    if advantages.shape[:1] != logprobs.shape[:1]:
        raise ValueError(
            f"{tuple(advantages.shape)} advantages for {tuple(logprobs.shape)} log-probs: "
            "one a sequence is needed"
        )
    dtype = torch.promote_types(logprobs.dtype, torch.float32)
    mask = mask.bool()
    # `where`, not a product: a padded position may hold -inf or NaN, and 0 × inf is NaN.
    current = logprobs.to(dtype).where(mask, 0.0)
    log_ratio = current - old_logprobs.to(dtype).detach().where(mask, 0.0)
    lengths = mask.sum(1, keepdim=True)
    if num_sequences is None:
        num_sequences = (lengths > 0).sum().clamp(min=1)
    divisor = lengths.clamp(min=1).to(dtype)
    advantages = advantages.to(dtype)
    return _Batch(
        masked_logprobs=current,
        log_ratio=log_ratio,
        sequence_log_ratio=log_ratio.sum(1) / divisor[:, 0],
        advantages=advantages[:, None] if advantages.ndim == 1 else advantages,
        mask=mask,
        lengths=divisor,
        num_sequences=num_sequences,
    )


def _clipped(batch: _Batch, ratio: Tensor, clip_low: float, clip_high: float) -> PolicyLoss:
    """The pessimistic objective at `ratio` ([B, T], or [B, 1]: one for all of a row's tokens)."""
    free = ratio * batch.advantages
    held = ratio.clamp(1 - clip_low, 1 + clip_high) * batch.advantages
    clipped = held < free
    per_sequence_ratio = ratio.shape[1] == 1 and batch.advantages.shape[1] == 1
    sequences = batch.mask.any(1)

    def over_sequences(values: Tensor) -> Tensor:
        """Mean over a row's response tokens, summed over rows, divided by the global count."""
        if per_sequence_ratio:  # the mean of equal numbers, without their rounding
            per_sequence = values[:, 0].where(sequences, 0)
        else:
            per_sequence = values.where(batch.mask, 0).sum(1) / batch.lengths[:, 0]
        return per_sequence.sum() / batch.num_sequences

    return PolicyLoss(
        loss=-over_sequences(torch.minimum(free, held)),
        ratio=batch.sequence_log_ratio.detach().exp(),
        clip_fraction_low=over_sequences((clipped & (ratio < 1)).to(ratio.dtype)).detach(),
        clip_fraction_high=over_sequences((clipped & (ratio > 1)).to(ratio.dtype)).detach(),
    )
