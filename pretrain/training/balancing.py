"""Dynamic load balancing: which rank computes which sample, in which micro-batch.

A sample's cost is estimated from its lengths; samples are then assigned greedily, longest first,
so that all ranks finish a step together (Keye-VL-1.5 report, training infrastructure).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from pretrain.run.errors import KeyeError


@dataclass(slots=True)
class CostModel:
    """Relative compute of one sample, in units of one decoder token's linear layers."""

    vision_token: float = 0.15
    """Linear layers of one ViT patch."""
    vision_pair: float = 0.0002
    """ViT attention between one pair of patches of the same image."""
    text_token: float = 1.0
    """Linear layers and logits of one decoder token."""
    text_pair: float = 0.0005
    """Decoder attention between one pair of tokens (half of them are masked)."""

    def cost(self, tokens: int, patches: list[int] | np.ndarray = ()) -> float:
        """Cost of a sample with `tokens` decoder tokens and images of `patches` patches each."""
        p = np.asarray(patches, dtype=np.float64)
        return float(
            self.text_token * tokens
            + self.text_pair * tokens**2
            + self.vision_token * p.sum()
            + self.vision_pair * (p**2).sum()
        )


def assign(costs: list[float], bins: int, *, min_per_bin: int = 0) -> list[list[int]]:
    """Splits samples into `bins` groups of nearly equal cost, greedily, most expensive first.

    Every group gets at least `min_per_bin` samples. Deterministic; each group lists its samples
    in ascending order, so that one bin keeps the batch's own order.
    """
    if len(costs) < bins * min_per_bin:
        raise KeyeError(
            f"{len(costs)} samples can't fill {bins} groups with {min_per_bin} each; "
            "use a larger batch or fewer ranks"
        )
    order = sorted(range(len(costs)), key=lambda i: (-costs[i], i))
    heap = [(0.0, b) for b in range(bins)]
    groups: list[list[int]] = [[] for _ in range(bins)]
    missing = bins * min_per_bin
    for position, i in enumerate(order):
        if len(order) - position <= missing:  # only the groups that still lack samples may get one
            heap = [(c, b) for c, b in heap if len(groups[b]) < min_per_bin]
            heapq.heapify(heap)
        load, b = heapq.heappop(heap)
        if len(groups[b]) < min_per_bin:
            missing -= 1
        groups[b].append(i)
        heapq.heappush(heap, (load + costs[i], b))
    return [sorted(g) for g in groups]


def plan_micro_batches(
    costs: list[float], tokens: list[int], world_size: int, token_budget: int
) -> list[list[list[int]]]:
    """Plans one optimiser step.

    Args:
        costs: estimated cost per sample.
        tokens: decoder tokens per sample.
        world_size: number of ranks.
        token_budget: most tokens in one micro-batch (a longer sample gets one of its own).

    Returns:
        `plan[rank][micro_batch]` → sample indices. Every rank has the same number of
        micro-batches, none is empty (ZeRO reduces gradients after each, on all ranks at once),
        and every sample appears exactly once.
    """
    if len(costs) != len(tokens):
        raise KeyeError(f"{len(costs)} costs for {len(tokens)} samples")
    per_rank = assign(costs, world_size, min_per_bin=1)
    count = max(len(_fill(mine, tokens, token_budget)) for mine in per_rank)
    # A rank with few samples can't be cut into `count` parts: then move samples, evenly by number.
    if min(map(len, per_rank)) < count:
        per_rank = assign(costs, world_size, min_per_bin=len(costs) // world_size)
        count = max(len(_fill(mine, tokens, token_budget)) for mine in per_rank)
        count = min(count, min(map(len, per_rank)))
    plan = []
    for mine in per_rank:
        parts = _fill(mine, tokens, token_budget)
        if len(parts) != count:
            groups = assign([float(tokens[i]) for i in mine], count, min_per_bin=1)
            parts = [[mine[j] for j in g] for g in groups]
        plan.append(parts)
    return plan


def _fill(samples: list[int], tokens: list[int], token_budget: int) -> list[list[int]]:
    """Cuts the samples into as few token-balanced parts as greedy packing into the budget needs."""
    parts = max(1, -(-sum(tokens[i] for i in samples) // token_budget))
    while True:
        parts = min(parts, len(samples))
        groups = assign([float(tokens[i]) for i in samples], parts, min_per_bin=1)
        fits = all(sum(tokens[samples[j]] for j in g) <= token_budget for g in groups)
        if fits or parts == len(samples):
            return [[samples[j] for j in g] for g in groups]
        parts += 1


def imbalance(costs: list[float], groups: list[list[int]]) -> float:
    """Most expensive group's cost over the mean cost: 1.0 is perfect balance."""
    sums = [sum(costs[i] for i in g) for g in groups]
    return max(sums) * len(sums) / max(sum(sums), 1e-9)
