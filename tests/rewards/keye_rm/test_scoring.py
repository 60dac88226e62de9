"""Preferences from log-probs, schedules of comparisons, and win rates, against closed forms."""

import math
from collections import Counter

import numpy as np
import pytest

from rewards.keye_rm.scoring import (
    first_bias,
    first_preferred,
    over_orders,
    over_samples,
    schedule,
    unbiased,
    verdict_token,
    win_rates,
)


def test_preference_is_the_verdict_token_s_probability():
    assert first_preferred(0, math.log(0.9)) == pytest.approx(0.9)
    assert first_preferred(1, math.log(0.9)) == pytest.approx(0.1)
    assert first_preferred(0, 0.0) == 1.0 and first_preferred(1, 1e-7) == 0.0
    # Mass on neither label never turns a verdict round.
    assert first_preferred(0, math.log(0.3)) == 0.5 and first_preferred(1, math.log(0.3)) == 0.5


def test_both_orders_cancel_a_liking_for_a_position():
    """A judge that always says "the first, surely" prefers neither."""
    always_first = first_preferred(0, math.log(0.8))
    assert over_orders(always_first, always_first) == pytest.approx(0.5)
    assert over_orders(0.9, 0.3) == pytest.approx(0.8)
    assert over_orders(None, 0.3) == pytest.approx(0.7)
    assert over_orders(0.6, None) == 0.6
    assert over_orders(None, None) is None


def test_a_liking_for_the_first_place_is_taken_out():
    logits = np.array([-2.0, -0.1, 0.4, 0.6, 0.9, 3.0])  # four of six name the first place
    preferred = (1 / (1 + np.exp(-logits))).tolist()
    bias = first_bias(preferred)
    assert bias == pytest.approx(0.5)
    assert sum(unbiased(value, bias) > 0.5 for value in preferred) == 3
    assert unbiased(0.7, 0.0) == pytest.approx(0.7)
    assert unbiased(1.0, 2.0) == 1.0 and unbiased(0.0, -2.0) == 0.0
    assert np.isfinite(first_bias([1.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match="no judgement could be read"):
        first_bias([])


def test_judgements_of_one_order_are_averaged_where_they_can_be_read():
    assert over_samples([0.9, None, 0.5]) == pytest.approx(0.7)
    assert over_samples([None, None]) is None


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("opponents", range(1, 12))
def test_everybody_meets_equally_many(size, opponents):
    pairs = schedule(size, opponents)
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)
    assert all(i != j and 0 <= i < size and 0 <= j < size for i, j in pairs)
    met = Counter(place for pair in pairs for place in pair)
    wanted = min(opponents, size - 1)
    if wanted % 2 and size % 2:
        wanted += 1  # impossible: the pairs would be half ones
    assert [met[place] for place in range(size)] == [wanted] * size


def test_win_rates_of_a_transitive_group():
    """With every pair compared, the k-th best of n wins (n - k) / (n - 1) of its comparisons."""
    strength = [3, 0, 4, 1, 2]
    pairs = schedule(5, 4)
    values = [float(strength[i] > strength[j]) for i, j in pairs]
    assert win_rates(5, pairs, values).tolist() == [s / 4 for s in strength]


def test_unreadable_comparisons_leave_the_mean():
    pairs = [(0, 1), (1, 2), (0, 2)]
    rates = win_rates(3, pairs, [0.8, None, None])
    assert rates[:2].tolist() == pytest.approx([0.8, 0.2]) and np.isnan(rates[2])


def test_verdict_token_is_found_in_merged_tokens():
    pieces = ["<think>", "m", "</think>", "<answer>", "\\boxed{", "A", "}", "</answer>"]

    def decode(ids):
        return "".join(pieces[k] for k in ids)

    ids = list(range(len(pieces)))
    at = decode(ids).index("A")
    assert pieces[verdict_token(decode, ids, at)] == "A"
    pieces[4:7] = ["\\boxed", "{A", "}"]
    at = decode(ids).index("A}")
    assert pieces[verdict_token(decode, ids, at)] == "{A"
    assert verdict_token(decode, ids, 0) == 0
