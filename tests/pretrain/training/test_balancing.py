"""Assignment of samples to ranks and micro-batches."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.run.errors import KeyeError
from pretrain.training.balancing import CostModel, assign, imbalance, plan_micro_batches

LENGTHS = st.lists(st.integers(1, 600), min_size=4, max_size=60)


@given(LENGTHS, st.integers(1, 4))
def test_assign_uses_every_sample_once(lengths, bins):
    groups = assign([float(n) for n in lengths], bins, min_per_bin=1)
    assert sorted(itertools.chain(*groups)) == list(range(len(lengths)))
    assert all(groups)


@given(LENGTHS, st.integers(2, 4))
def test_assign_is_within_the_bound_of_greedy_scheduling(lengths, bins):
    costs = [float(n) for n in lengths]
    loads = [sum(costs[i] for i in group) for group in assign(costs, bins)]
    # Graham 1969: longest-first is at most 4/3 − 1/(3m) times the optimum, and the optimum is at
    # least the mean, the largest sample, and the two samples that must share a bin.
    ordered = sorted(costs, reverse=True)
    pair = ordered[bins - 1] + ordered[bins] if len(costs) > bins else 0.0
    optimum = max(sum(costs) / bins, ordered[0], pair)
    # The true optimum may be above this lower bound by the last sample placed.
    assert max(loads) <= max((4 / 3 - 1 / (3 * bins)) * optimum, optimum + ordered[-1]) + max(
        0.0, ordered[bins] if len(costs) > bins else 0.0
    )


def test_assign_matches_the_best_split_of_a_small_case():
    costs = [7.0, 5.0, 4.0, 3.0, 3.0, 2.0]
    loads = [sum(costs[i] for i in group) for group in assign(costs, 2)]
    best = min(
        max(sum(c for c, side in zip(costs, sides, strict=True) if side == s) for s in (0, 1))
        for sides in itertools.product((0, 1), repeat=len(costs))
    )
    assert max(loads) == best == 12.0


def test_balancing_beats_the_order_of_arrival():
    costs = [float(n) for n in [600, 500, 480, 40, 30, 20, 20, 10]]
    balanced = imbalance(costs, assign(costs, 2))
    halves = imbalance(costs, [[0, 1, 2, 3], [4, 5, 6, 7]])
    assert balanced < 1.16 < halves


def test_one_group_keeps_the_order():
    assert assign([1.0, 9.0, 4.0], 1) == [[0, 1, 2]]


def test_too_few_samples_name_the_numbers():
    with pytest.raises(KeyeError, match="2 samples can't fill 3 groups"):
        assign([1.0, 2.0], 3, min_per_bin=1)


@settings(max_examples=200)
@given(LENGTHS, st.integers(1, 4), st.integers(50, 2000))
def test_plan_gives_all_ranks_the_same_number_of_micro_batches(lengths, ranks, budget):
    plan = plan_micro_batches([float(n) for n in lengths], lengths, ranks, budget)
    assert len(plan) == ranks
    assert len({len(rank) for rank in plan}) == 1
    assert all(part for rank in plan for part in rank)
    used = [i for rank in plan for part in rank for i in part]
    assert sorted(used) == list(range(len(lengths)))


def test_plan_keeps_the_token_budget():
    tokens = [100] * 32
    plan = plan_micro_batches([1.0] * 32, tokens, 2, 400)
    assert [[len(part) for part in rank] for rank in plan] == [[4] * 4, [4] * 4]


def test_cost_counts_vision_and_text_separately():
    model = CostModel(vision_token=0.5, vision_pair=0.25, text_token=2.0, text_pair=0.125)
    assert model.cost(4) == 2 * 4 + 0.125 * 16
    assert model.cost(4, [2, 6]) == 10.0 + 0.5 * 8 + 0.25 * (4 + 36)
