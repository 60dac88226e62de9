"""The 84×84 canvas: a 3×3 grid of 28-pixel cells, each the size of one visual token.

Invariant: what is drawn for a cell stays inside it, so its name (`tl` … `br`) is exact.
"""

from __future__ import annotations

import numpy as np

CELL = 28
GRID = 3
SIZE = CELL * GRID
POSITIONS = ("tl", "tm", "tr", "ml", "mm", "mr", "bl", "bm", "br")
"""Names of the cells, row by row: top/middle/bottom × left/middle/right."""

# The background is uniform noise in 0…27. A byte table is ten times faster than bounded integers.
_NOISE = bytes(value * 28 // 256 for value in range(256))


def background(rng: np.random.Generator) -> np.ndarray:
    """A dark, noisy canvas: uint8 [84, 84, 3], values 0…27."""
    noise = bytearray(rng.bytes(SIZE * SIZE * 3).translate(_NOISE))
    return np.frombuffer(noise, dtype=np.uint8).reshape(SIZE, SIZE, 3)


def corner(cell: int) -> tuple[int, int]:
    """Row and column, in pixels, of a cell's top-left corner."""
    return cell // GRID * CELL, cell % GRID * CELL


def choose_cells(rng: np.random.Generator, count: int) -> list[int]:
    """`count` different cells, in reading order."""
    return sorted(rng.permutation(GRID * GRID)[:count].tolist())
