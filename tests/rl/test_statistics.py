"""Intervals against SciPy and by coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rl.statistics import mean_interval, paired_difference, wilson


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (250, 512)])
def test_wilson_equals_scipy(k: int, n: int):
    ours = wilson([True] * k + [False] * (n - k))
    theirs = stats.binomtest(k, n).proportion_ci(method="wilson")
    assert ours.value == k / n and ours.n == n
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_mean_interval_covers_the_truth_at_its_nominal_rate():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        rate = rng.beta(2, 2, size=200)  # per-prompt accuracies; their mean is 1/2
        estimate = mean_interval(rng.binomial(8, rate) / 8)
        covered += estimate.low <= 0.5 <= estimate.high
    assert 0.935 <= covered / 2000 <= 0.965


def test_paired_difference_is_narrower_than_unpaired():
    rng = np.random.default_rng(1)
    ease = rng.random(400)
    before = ease + rng.normal(0, 0.02, 400)
    after = ease + 0.05 + rng.normal(0, 0.02, 400)
    change = paired_difference(list(before), list(after))
    assert change.low > 0.04 and change.high < 0.06
    assert change.high - change.low < mean_interval(after).high - mean_interval(after).low


def test_nothing_to_average_is_an_error():
    for function in (wilson, mean_interval):
        with pytest.raises(ValueError, match="no "):
            function([])
    with pytest.raises(ValueError, match="same prompts"):
        paired_difference([0.0], [0.0, 1.0])
