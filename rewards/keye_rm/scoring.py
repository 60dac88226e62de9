"""From log-probabilities to preferences, and from preferences to win rates: pure functions.

A preference is the probability that the first of two responses is better, asked in both orders and
averaged, so that a liking for one position cancels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np


def verdict_token(decode: Callable[[list[int]], str], ids: Sequence[int], at: int) -> int:
    """Index of the response token that writes character `at` of the decoded response.

    Args:
        decode: token ids → text.
        ids: the response's tokens, end token left out.
        at: a character's place in `decode(ids)`.
    """
    for index in range(len(ids) - 1, 0, -1):
        if len(decode(list(ids[:index]))) <= at:
            return index
    return 0


def first_preferred(verdict: int, logprob: float) -> float:
    """Probability that the first response is better, by the verdict token's log-probability.

    What the verdict's token leaves is the other label's: strict parsing lets nothing else pass, and
    a trained model gives nothing else any mass. Where it still does, the verdict wins: the value
    stays on its side of one half.
    """
    chosen = max(min(math.exp(logprob), 1.0), 0.5)
    return chosen if verdict == 0 else 1.0 - chosen


def unbiased(preferred: float, bias: float) -> float:
    """A probability without `bias`, log-odds for the first place that have no reason (contextual
    calibration, Zhao et al. 2021, arXiv 2102.09690)."""
    if not bias or preferred in (0.0, 1.0):
        return preferred
    return 1.0 / (1.0 + math.exp(bias - math.log(preferred / (1.0 - preferred))))


def first_bias(preferred: Sequence[float]) -> float:
    """Median log-odds of preferences for the first place, over pairs asked in both orders.

    Without it as many of those verdicts name the first place as the second. Raises ValueError when
    there are none.
    """
    if not preferred:
        raise ValueError("first_bias: no judgement could be read, so no bias can be measured")
    bounded = np.clip(np.asarray(preferred, np.float64), 1e-9, 1 - 1e-9)
    return float(np.median(np.log(bounded) - np.log1p(-bounded)))


def over_samples(values: Sequence[float | None]) -> float | None:
    """Mean of the preferences that could be read; None if there is none."""
    read = [value for value in values if value is not None]
    return sum(read) / len(read) if read else None


def over_orders(forward: float | None, backward: float | None) -> float | None:
    """Preference for A from "A or B?" and "B or A?"; None if both judgements are malformed.

    One readable judgement is used alone rather than throwing it away.
    """
    return over_samples([forward, None if backward is None else 1.0 - backward])


def schedule(size: int, opponents: int) -> list[tuple[int, int]]:
    """Pairs of a group of `size` in which each meets `opponents` others (all, if fewer).

    Neighbours on a circle: pairs (i, i + d) for d = 1, 2, …, so everybody meets equally many. Each
    distance gives two opponents, the opposite of an even circle one; an odd number in an odd group
    is rounded up.
    """
    wanted = min(opponents, size - 1)
    distances = list(range(1, wanted // 2 + 1))
    if wanted % 2 and size % 2:
        distances.append(wanted // 2 + 1)
    pairs = [(i, (i + distance) % size) for distance in distances for i in range(size)]
    if wanted % 2 and size % 2 == 0:
        pairs += [(i, i + size // 2) for i in range(size // 2)]
    return pairs


def win_rates(
    size: int, pairs: Sequence[tuple[int, int]], preferences: Sequence[float | None]
) -> np.ndarray:
    """Mean preference of each of `size` responses over its opponents: float64 `[size]`.

    NaN for a response of which no comparison could be read.
    """
    wins: list[list[float]] = [[] for _ in range(size)]
    for (first, second), value in zip(pairs, preferences, strict=True):
        if value is not None:
            wins[first].append(value)
            wins[second].append(1.0 - value)
    return np.array([np.mean(values) if values else np.nan for values in wins])
