"""Intervals for accuracies: what a table of results needs to be honest.

A prompt is the unit of sampling. Several responses to one prompt are not independent, so their mean
is taken first and the spread is measured over prompts (a cluster-robust standard error).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Z95 = 1.959963984540054
"""The 97.5 % point of the standard normal distribution: two-sided 95 % intervals."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval; `n` counts prompts."""

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float | int]:
        """The form written to `summary.json`."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def wilson(correct: Sequence[bool] | np.ndarray) -> Estimate:
    """Share of `correct` `[n]` with Wilson's score interval (Wilson 1927, eq. 5).

    Raises ValueError when empty: an accuracy of nothing is not 0.
    """
    outcomes = np.asarray(correct, dtype=bool)
    n = outcomes.size
    if n == 0:
        raise ValueError("wilson: no outcomes; evaluate at least one sample")
    share = float(outcomes.mean())
    scale = 1 + Z95**2 / n
    centre = (share + Z95**2 / (2 * n)) / scale
    half = Z95 / scale * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    # At a share of exactly 0 or 1 the closed form misses the end by rounding only.
    low = 0.0 if share == 0 else max(0.0, centre - half)
    high = 1.0 if share == 1 else min(1.0, centre + half)
    return Estimate(share, low, high, n)


def mean_interval(values: Sequence[float] | np.ndarray, *, bounded: bool = True) -> Estimate:
    """Mean of per-prompt values `[n]` with a normal 95 % interval (sample standard error).

    `bounded` clips the interval to [0, 1] (shares); leave it off for differences.
    """
    data = np.asarray(values, dtype=np.float64)
    n = data.size
    if n == 0:
        raise ValueError("mean_interval: no values; evaluate at least one sample")
    mean = float(data.mean())
    half = Z95 * float(data.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    low, high = mean - half, mean + half
    if bounded:
        low, high = max(0.0, low), min(1.0, high)
    return Estimate(mean, low, high, n)


def paired_difference(before: Sequence[float], after: Sequence[float]) -> Estimate:
    """Mean of `after − before` over the same prompts, with its paired 95 % interval.

    Raises ValueError when the two are not of the same length: they are then not paired.
    """
    if len(before) != len(after):
        raise ValueError(
            f"paired_difference: {len(before)} values before, {len(after)} after; "
            "both must come from the same prompts in the same order"
        )
    difference = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    return mean_interval(difference, bounded=False)


def verdict(claims: Sequence[Estimate]) -> str:
    """`reproduced` if all differences are surely above 0, `not reproduced` if one surely isn't."""
    if all(claim.low > 0 for claim in claims):
        return "reproduced"
    if any(claim.high <= 0 for claim in claims):
        return "not reproduced"
    return "undecided"


def leaf(value: Mapping[str, Any], sign: bool = False) -> str:
    """An estimate's dictionary as `0.912 [0.880, 0.936]`; `sign` for differences: `+0.012 […]`."""
    shown = "+.3f" if sign else ".3f"
    return f"{value['value']:{shown}} [{value['low']:{shown}}, {value['high']:{shown}}]"
