"""A shuffled order that is computed place by place.

Invariant: for each key, `permuted(0…size − 1)` is a permutation of 0…size − 1; no list of it is
ever made, so millions of rows cost no memory and any rank can look up any place.
"""

from __future__ import annotations

ROUNDS = 4
"""Four Feistel rounds with independent functions are a strong pseudo-random permutation (Luby and
Rackoff 1988); what is wanted here is only that no pattern is left."""
_MASK = (1 << 64) - 1


def mix(*values: int) -> int:
    """A 64-bit hash of integers (the finaliser of splitmix64, Steele et al. 2014, chained)."""
    state = 0x9E3779B97F4A7C15
    for value in values:
        state = (state ^ (value & _MASK)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


def uniform(*values: int) -> float:
    """A number in [0, 1) that is a hash of integers."""
    return (mix(*values) >> 11) * 2.0**-53


def permuted(place: int, size: int, key: int) -> int:
    """Which of 0…size − 1 stands at `place` of the order `key`; O(1) time, no memory.

    A Feistel network over the next power of four, walked until it lands inside (at most four
    times on average; Black and Rogaway 2002). Raises ValueError for a place outside.
    """
    if not 0 <= place < size:
        raise ValueError(f"place {place} is not in 0…{size - 1}")
    half = max(((size - 1).bit_length() + 1) // 2, 1)
    mask = (1 << half) - 1
    while True:
        left, right = place >> half, place & mask
        for number in range(ROUNDS):
            left, right = right, left ^ (mix(key, number, right) & mask)
        place = left << half | right
        if place < size:
            return place
