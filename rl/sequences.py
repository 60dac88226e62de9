"""The learner's input, and how one update's sequences are cut into mini-batches.

Invariant: a sequence holds exactly the token ids that the engine sampled and the prompt it sampled
them for (hint included); nothing is decoded and encoded again on the way to the learner.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pretrain.run.errors import KeyeError
from pretrain.training.balancing import CostModel, plan_micro_batches

if TYPE_CHECKING:
    from pretrain.keye_vl.prompt import EncodedPrompt, ReplyMedia


@dataclass(slots=True)
class TrainingSequence:
    """One response, ready to be learned from."""

    prompt: EncodedPrompt
    """What the response was conditioned on. Responses of a group share one object, so its images
    travel and are encoded once."""
    response_ids: np.ndarray
    """int32 `[R]`: the sampled tokens, the end token included, R >= 1; with tools, also what the
    tools have answered between them."""
    engine_logprobs: np.ndarray
    """float32 `[R]`: log-probs as sampled, at the sampling temperature. Only compared, never
    learned from."""
    advantage: float
    """See `rl.gspo.group_advantages`."""
    group_id: int
    """Same number = same prompt at the same hint level; unique within an update."""
    hint_level: int = 0
    """0 = no hint, 1…5 = the hint level of the prompt."""
    sample_id: str = ""
    """For error messages."""
    ratio: float = math.nan
    """Filled by the learner: the sequence's importance ratio when its mini-batch was learned."""
    sampled: np.ndarray | None = None
    """bool `[R]`: the tokens that are learned from, |y| of them; None: all. The others are
    conditioned on and nothing else."""
    media: ReplyMedia | None = None
    """Images among the tokens that were not sampled."""

    @property
    def num_sampled(self) -> int:
        """|y|: response tokens that the policy sampled."""
        return len(self.response_ids) if self.sampled is None else int(self.sampled.sum())

    @property
    def num_tokens(self) -> int:
        """Prompt and response tokens."""
        return len(self.prompt.ids) + len(self.response_ids)


def check_sequences(batch: Sequence[TrainingSequence]) -> None:
    """Refuses what would silently train on the wrong thing.

    Raises:
        KeyeError: an empty response, log-probs that don't belong to the tokens, an advantage that
            isn't a number, or a group that mixes prompts or hint levels. The sample is named.
    """
    first: dict[int, TrainingSequence] = {}
    for sequence in batch:
        where = f"sample {sequence.sample_id or '(no id)'}, group {sequence.group_id}"
        length = len(sequence.response_ids)
        if length == 0 or len(sequence.engine_logprobs) != length:
            raise KeyeError(
                f"{where}: a response of {length} tokens with {len(sequence.engine_logprobs)} "
                "log-probs; the engine must return at least one token and one log-prob for each"
            )
        if sequence.sampled is not None and (
            len(sequence.sampled) != length or not sequence.sampled.any()
        ):
            raise KeyeError(
                f"{where}: a response of {length} tokens with a mask of {len(sequence.sampled)}, "
                f"{sequence.num_sampled} of them sampled; the mask needs one entry a token, and at "
                "least one token must be sampled"
            )
        if not math.isfinite(sequence.advantage):
            raise KeyeError(
                f"{where}: advantage {sequence.advantage}; a response whose reward failed must be "
                "left out of the update"
            )
        other = first.setdefault(sequence.group_id, sequence)
        same_prompt = other.prompt is sequence.prompt or np.array_equal(
            other.prompt.ids, sequence.prompt.ids
        )
        if not same_prompt or other.hint_level != sequence.hint_level:
            raise KeyeError(
                f"{where} mixes prompts or hint levels {other.hint_level} and "
                f"{sequence.hint_level}; give each prompt and level a group of its own"
            )


def split_mini_batches(
    group_ids: Sequence[int], mini_batches: int, rng: np.random.Generator
) -> list[list[int]]:
    """Shuffles whole groups into `mini_batches` parts of as equal a number of groups as possible.

    A group stays together (its advantages sum to zero, its images are encoded once) unless there
    are fewer groups than mini-batches: then single sequences are dealt.

    Args:
        group_ids: one a sequence.
        mini_batches: number of optimiser steps.
        rng: decides the order.

    Returns:
        Indices into `group_ids`, each exactly once.

    Raises:
        KeyeError: fewer sequences than mini-batches.
    """
    if len(group_ids) < mini_batches:
        raise KeyeError(
            f"{len(group_ids)} sequences can't be cut into mini_batches={mini_batches}; take more "
            "prompts a step, or fewer mini-batches"
        )
    members: dict[int, list[int]] = {}
    for index, group in enumerate(group_ids):
        members.setdefault(group, []).append(index)
    units = list(members.values())
    if len(units) < mini_batches:
        units = [[index] for index in range(len(group_ids))]
    order = rng.permutation(len(units))
    return [
        [index for unit in part for index in units[unit]]
        for part in np.array_split(order, mini_batches)
    ]


def plan_ranks(
    batch: Sequence[TrainingSequence],
    indices: Sequence[int],
    world_size: int,
    token_budget: int,
    cost_model: CostModel,
) -> list[list[list[int]]]:
    """Plans one mini-batch: `plan[rank][micro_batch]` → indices into `batch`.

    The unit of assignment is a group's run of sequences that fits half the token budget, so that
    an image is encoded once for them all; single sequences when those are too few to share out.

    Raises:
        KeyeError: fewer sequences than ranks.
    """
    if len(indices) < world_size:
        raise KeyeError(
            f"a mini-batch of {len(indices)} sequences can't be shared by world_size={world_size} "
            "ranks; take more prompts a step, fewer mini-batches or fewer ranks"
        )
    units: list[list[int]] = []
    tokens: list[int] = []
    for index in indices:
        sequence = batch[index]
        size = sequence.num_tokens
        together = (
            units
            and batch[units[-1][0]].group_id == sequence.group_id
            and tokens[-1] + size <= token_budget // 2
        )
        if together:
            units[-1].append(index)
            tokens[-1] += size
        else:
            units.append([index])
            tokens.append(size)
    if len(units) < 2 * world_size:
        units = [[index] for index in indices]
        tokens = [batch[index].num_tokens for index in indices]
    costs = [_unit_cost(batch, unit, cost_model) for unit in units]
    plan = plan_micro_batches(costs, tokens, world_size, token_budget)
    return [[[index for unit in part for index in units[unit]] for part in parts] for parts in plan]


def _unit_cost(batch: Sequence[TrainingSequence], unit: list[int], cost_model: CostModel) -> float:
    holders = [batch[unit[0]].prompt, *(batch[i].media for i in unit)]
    grids = [m.grid_thw for m in holders if m is not None and m.grid_thw is not None]
    patches = np.prod(np.concatenate(grids), axis=1) if grids else []
    vision = cost_model.cost(0, patches)
    return vision + sum(cost_model.cost(batch[index].num_tokens) for index in unit)
