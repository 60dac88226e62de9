"""Accuracies and their intervals."""

import pytest
from scipy.stats import binomtest

from pretrain.stages.accuracy import READING, ZERO_SHOT, Outcome, summarise, wilson
from pretrain.stages.driver import flat_metrics


@pytest.mark.parametrize(("correct", "n"), [(0, 7), (7, 7), (88, 100), (1, 3), (230, 400)])
def test_wilson_equals_scipy(correct, n):
    expected = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    interval = wilson(correct, n)
    assert interval["value"] == correct / n
    assert interval["low"] == pytest.approx(expected.low, abs=1e-12)
    assert interval["high"] == pytest.approx(expected.high, abs=1e-12)


def test_nothing_measured_is_an_error():
    with pytest.raises(ValueError, match="at least one sample"):
        wilson(0, 0)


def test_summary_separates_kinds_and_averages_over_tasks():
    outcomes = [
        *(Outcome("digits/read", "no_think", right) for right in (True, True, False, False)),
        Outcome("digits/max", "no_think", True),
        Outcome("digits/max", "think", False),
        *(Outcome("digits/read", READING, right) for right in (True, True, True, False)),
        Outcome("digits/read", ZERO_SHOT, False),
    ]
    summary = summarise(outcomes)
    assert summary["direct"]["digits/read"]["value"] == 0.5
    assert summary["direct"]["digits/max"]["n"] == 1
    # Tasks count alike, however many samples they have.
    assert summary["direct_mean"] == 0.75
    assert summary["think_mean"] == 0.0
    assert summary["reading"]["value"] == 0.75
    assert summary["zero_shot"]["value"] == 0.0
    assert "recall" not in summary


def test_flat_metrics_have_one_number_each():
    flat = flat_metrics(summarise([Outcome("digits/read", "no_think", True)]))
    assert flat == {"eval/direct/digits/read": 1.0, "eval/direct_mean": 1.0}
