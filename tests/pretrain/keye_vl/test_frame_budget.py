"""Frame sizes and token budgets against keye-vl-utils and against their own bounds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.keye_vl.frame_budget import (
    MAX_SQUASH,
    compatible_budget,
    fit_size,
    smart_resize,
    strict_budget,
)
from pretrain.run.errors import KeyeError

SIDES = st.integers(1, 4000)


@settings(max_examples=500, deadline=None)
@given(SIDES, SIDES, st.integers(1, 300), st.integers(0, 800))
def test_smart_resize_is_the_packages(package, height, width, low, extra):
    bounds = {"min_pixels": low * 784, "max_pixels": (low + extra) * 784}
    if max(height, width) / min(height, width) > 200:
        with pytest.raises(KeyeError, match="side ratio above 200"):
            smart_resize(height, width, low, low + extra)
        return
    expected = package.smart_resize(height, width, **bounds)
    assert smart_resize(height, width, low, low + extra) == expected


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.lists(st.booleans(), min_size=1, max_size=400),
    st.sampled_from([2_000, 20_000, 65_536]),
    st.sampled_from([(48, 768), (64, 768), (16, 256), (100, 100)]),
)
def test_compatible_budget_is_the_packages(package, height, width, fast, total, bounds):
    """The package's `fetch_video` with its decoder and its classifier replaced."""
    if max(height, width) / min(height, width) > 200:
        return
    kinds = torch.tensor([0, *fast[1:]], dtype=torch.int32)
    frames = torch.zeros(1, 3, height, width).expand(len(kinds), -1, -1, -1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "_read_video_decord", lambda _: (frames, None, kinds))
        _, found = package.fetch_video(
            {
                "video": "any.mp4",
                "video_total_pixels": total * 784,
                "min_pixels": bounds[0] * 784,
                "max_pixels": bounds[1] * 784,
            }
        )
    budget = compatible_budget(
        height,
        width,
        int((kinds == 0).sum()),
        int(kinds.sum()),
        total_tokens=total,
        fast_ratio=0.3,
        min_tokens=bounds[0],
        max_tokens=bounds[1],
    )
    assert budget.slow == (found["height"], found["width"])
    assert budget.fast == (found["fast_height"], found["fast_width"])


@settings(max_examples=400, deadline=None)
@given(SIDES, SIDES, st.integers(48, 768))
def test_fitted_size_keeps_both_bounds_and_the_shape(height, width, high):
    size = fit_size(height, width, 48, high)
    assert size.height % 28 == 0 and size.width % 28 == 0
    assert 48 <= size.tokens <= high
    aspect = width / height
    if 1 / 48 <= aspect <= 48:
        squash = size.width / size.height / aspect
        assert 1 / MAX_SQUASH - 1e-6 <= squash <= MAX_SQUASH + 1e-6


def test_prime_minimum_yields_rather_than_squash_a_square_frame():
    assert fit_size(300, 300, 53, 53) == (7 * 28, 7 * 28)
    assert fit_size(1, 640, 48, 48) == (28, 48 * 28)


@settings(max_examples=200, deadline=None)
@given(
    SIDES,
    SIDES,
    st.integers(1, 700),
    st.integers(0, 700),
    st.integers(0, 100_000),
    st.sampled_from([0.1, 0.3, 0.7, 1.0]),
)
def test_strict_budget_holds_after_rounding(height, width, slow, fast, extra, ratio):
    total = (slow + fast) * 48 + extra
    budget = strict_budget(
        height,
        width,
        slow,
        fast,
        total_tokens=total,
        fast_ratio=ratio,
        min_tokens=48,
        max_tokens=768,
    )
    assert slow * budget.slow.tokens + fast * budget.fast.tokens <= total
    assert 48 <= budget.slow.tokens <= 768
    assert 48 <= budget.fast.tokens <= max(int(ratio * budget.slow.tokens), 48)


def test_strict_budget_is_the_largest():
    """No larger allowance up to the next size fits: checked by trying every allowance."""
    settings_ = {"total_tokens": 9_000, "fast_ratio": 0.3, "min_tokens": 48, "max_tokens": 768}
    budget = strict_budget(720, 1280, 20, 44, **settings_)
    totals = []
    for tokens in range(48, 769):
        slow = fit_size(720, 1280, 48, tokens)
        fast = fit_size(720, 1280, 48, max(int(0.3 * slow.tokens), 48))
        totals.append(20 * slow.tokens + 44 * fast.tokens)
    best = max(t for t in totals if t <= 9_000)
    assert 20 * budget.slow.tokens + 44 * budget.fast.tokens == best


def test_the_package_overshoots_where_the_strict_budget_does_not():
    """30 square frames in 30 × 288 tokens: the package allows 289 each and takes all 17 × 17."""
    arguments = {"total_tokens": 8_640, "fast_ratio": 0.3, "min_tokens": 48, "max_tokens": 768}
    compatible = compatible_budget(1000, 1000, 30, 0, **arguments)
    strict = strict_budget(1000, 1000, 30, 0, **arguments)
    assert 30 * compatible.slow.tokens == 30 * 289 > 8_640
    assert 30 * strict.slow.tokens <= 8_640
    assert strict.slow.tokens == 16 * 16
