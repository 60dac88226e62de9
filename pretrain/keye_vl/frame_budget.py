"""How large the frames of a video may be: token budgets and frame sizes.

One token is 28×28 pixels (a 2×2 merge of 14-pixel patches). Every size here is a multiple of 28.

Invariant: in the strict budget no frame has more tokens than its allowance and the video no more
than its total, *after* rounding to 28 pixels. The compatible budget reproduces keye-vl-utils
1.5.2, which allows one token per slow frame too many and rounds below its own minimum.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from pretrain.run.errors import KeyeError

FACTOR = 28
"""Side in pixels of one token."""

MIN_FRAME_TOKENS = 48
"""Least tokens of a video frame (technical report; keye-vl-utils' VIDEO_MIN_TOKENS)."""

MAX_ASPECT = 200
"""Largest side ratio that keye-vl-utils' smart_resize accepts."""

MAX_SQUASH = 2.0
"""A frame is squashed by at most this factor to reach a least number of tokens: 48 tokens come in
grids at most a factor 2 away from any aspect ratio up to 48, while e.g. 47 (a prime) does not."""

TOKEN_PIXELS = FACTOR * FACTOR


class Size(NamedTuple):
    """Height and width of a frame in pixels."""

    height: int
    width: int

    @property
    def tokens(self) -> int:
        """Number of language-model tokens a frame of this size becomes."""
        return self.height * self.width // TOKEN_PIXELS


class Budget(NamedTuple):
    """Sizes of the slow and of the fast frames of one video."""

    slow: Size
    fast: Size


def smart_resize(height: int, width: int, min_tokens: int, max_tokens: int) -> Size:
    """The nearest multiple-of-28 size within the bounds, as keye-vl-utils 1.5.2 rounds it.

    Rounding may leave the result below `min_tokens` (scaling down) or above `max_tokens` (scaling
    up), and a side never falls below 28. Raises KeyeError for a side ratio above 200.
    """
    if max(height, width) / min(height, width) > MAX_ASPECT:
        raise KeyeError(
            f"a frame of {width}×{height} pixels has a side ratio above {MAX_ASPECT}, which the "
            "compatible plan refuses: crop it, or plan with compatible=False"
        )
    min_pixels, max_pixels = min_tokens * TOKEN_PIXELS, max_tokens * TOKEN_PIXELS
    rows = max(FACTOR, round(height / FACTOR) * FACTOR)
    columns = max(FACTOR, round(width / FACTOR) * FACTOR)
    if rows * columns > max_pixels:
        shrink = math.sqrt((height * width) / max_pixels)
        rows = math.floor(height / shrink / FACTOR) * FACTOR
        columns = math.floor(width / shrink / FACTOR) * FACTOR
    elif rows * columns < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows = math.ceil(height * grow / FACTOR) * FACTOR
        columns = math.ceil(width * grow / FACTOR) * FACTOR
    return Size(max(rows, FACTOR), max(columns, FACTOR))


@lru_cache(maxsize=4096)
def fit_size(height: int, width: int, min_tokens: int, max_tokens: int) -> Size:
    """A size with at most `max_tokens` tokens, for a frame of any shape.

    The size of `smart_resize` where that lies within both bounds; else the grid within both bounds
    that is closest to the frame's aspect ratio; and where even that one would squash the frame by
    more than `MAX_SQUASH`, the grid below the upper bound with the most tokens per factor of
    squash (so only the lower bound ever yields, and only to awkward numbers such as primes).
    """
    if max(height, width) / min(height, width) <= MAX_ASPECT:
        size = smart_resize(height, width, min_tokens, max_tokens)
        if min_tokens <= size.tokens <= max_tokens:
            return size
    rows, columns = _grids(max_tokens)
    tokens = rows * columns
    squash = np.abs(np.log(columns / rows) - math.log(width / height))
    allowed = tokens >= min_tokens
    best = np.lexsort((-tokens[allowed], squash[allowed].round(9)))[0]
    choice = np.flatnonzero(allowed)[best]
    if squash[choice] > math.log(MAX_SQUASH) + 1e-9:
        choice = np.argmax(np.log(tokens) - squash)
    return Size(int(rows[choice]) * FACTOR, int(columns[choice]) * FACTOR)


@lru_cache(maxsize=64)
def _grids(max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """All (rows, columns) with rows × columns ≤ `max_tokens`, as two int arrays."""
    pairs = [(r, c) for r in range(1, max_tokens + 1) for c in range(1, max_tokens // r + 1)]
    grid = np.array(pairs, dtype=np.int64)
    return grid[:, 0], grid[:, 1]


def strict_budget(
    height: int,
    width: int,
    slow_frames: int,
    fast_frames: int,
    *,
    total_tokens: int,
    fast_ratio: float,
    min_tokens: int,
    max_tokens: int,
) -> Budget:
    """The largest frames whose real total is within `total_tokens`.

    A slow frame has at most s tokens and a fast one at most max(int(fast_ratio × slow), min), slow
    being the slow frame's real number of tokens. The binary search runs on the unrounded total,
    which bounds the real one from above; the tokens that rounding set free are then offered to
    the slow frames. Needs `(slow_frames + fast_frames) × min_tokens ≤ total_tokens`.
    """

    def sizes(tokens: int) -> Budget:
        slow = fit_size(height, width, min_tokens, tokens)
        fast_tokens = max(int(fast_ratio * slow.tokens), min_tokens)
        return Budget(slow, fit_size(height, width, min_tokens, fast_tokens))

    def estimate(tokens: int) -> int:
        return slow_frames * tokens + fast_frames * max(int(fast_ratio * tokens), min_tokens)

    low, high = min_tokens, max_tokens
    while low < high:
        middle = (low + high + 1) // 2
        if estimate(middle) <= total_tokens:
            low = middle
        else:
            high = middle - 1
    best = sizes(low)
    for tokens in range(low + 1, max_tokens + 1):
        budget = sizes(tokens)
        if _real_total(budget, slow_frames, fast_frames) > total_tokens:
            break
        best = budget
    return best


def _real_total(budget: Budget, slow_frames: int, fast_frames: int) -> int:
    return slow_frames * budget.slow.tokens + fast_frames * budget.fast.tokens


def compatible_budget(
    height: int,
    width: int,
    slow_frames: int,
    fast_frames: int,
    *,
    total_tokens: int,
    fast_ratio: float,
    min_tokens: int,
    max_tokens: int,
) -> Budget:
    """The sizes keye-vl-utils 1.5.2 gives (the second half of its `fetch_video`).

    Its binary search ends on the first number of tokens that *exceeds* the total (or on
    `max_tokens`), a minimum below 48 counts as 48, and a fast frame's allowance is never below 48.
    """
    minimum = max(min_tokens, MIN_FRAME_TOKENS)
    low, high = minimum, max_tokens
    while low < high:
        middle = (low + high) // 2
        fast = max(int(fast_ratio * middle), minimum)
        if slow_frames * middle + fast_frames * fast > total_tokens:
            high = middle
        else:
            low = middle + 1
    slow_size = smart_resize(height, width, minimum, low)
    fast_tokens = max(int(slow_size.tokens * fast_ratio), MIN_FRAME_TOKENS)
    return Budget(slow_size, smart_resize(height, width, minimum, fast_tokens))
