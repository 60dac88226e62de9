"""Results and correctness."""

import numpy as np
import pytest

from rewards.result import RewardResult, Score, as_result, is_correct


def score(verifiers: tuple[str, ...], total: float | None = 1.0, **values: float | None) -> Score:
    return Score(total, {name: RewardResult(value) for name, value in values.items()}, verifiers)


def test_is_correct_looks_at_verifiers_only():
    assert is_correct(score(("math",), math=1.0, format=0.0))
    assert not is_correct(score(("math",), math=0.0, format=1.0))
    assert not is_correct(score(("math", "units"), math=1.0, units=0.5))
    assert is_correct(score(("judge",), judge=0.9999999999))


def test_without_verifiers_all_parts_count():
    assert is_correct(score((), format=1.0, length=1.0))
    assert not is_correct(score((), format=1.0, length=0.9))
    assert not is_correct(Score(0.0, {}))


def test_failed_is_never_correct():
    assert not is_correct(score(("math",), total=None, math=1.0, judge=None))


@pytest.mark.parametrize("value", [1, True, 1.0, np.float32(1), np.array(1.0)])
def test_numbers(value):
    assert as_result(value).value == 1.0


def test_result_with_bad_value_becomes_an_error():
    result = as_result(RewardResult(float("nan")))
    assert (result.value, result.status) == (None, "error")
    assert as_result(RewardResult(3.0, "timeout")).value is None
