"""Coloured shapes on the grid: one object a cell, with jitter in place, size and colour."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from pretrain.data.world.canvas import CELL, POSITIONS, background, choose_cells, corner

SHAPES = ("circle", "square", "triangle", "cross")
COLORS = {
    "red": (230, 40, 40),
    "green": (40, 200, 60),
    "blue": (60, 80, 240),
    "yellow": (235, 220, 50),
    "purple": (180, 60, 200),
}
RADII = range(8, 13)
_JITTER = 2
_COLOR_NOISE = 15


class Thing(NamedTuple):
    """One drawn object; `box` is (x1, y1, x2, y2) in pixels, right and bottom exclusive."""

    cell: int
    color: str
    shape: str
    box: tuple[int, int, int, int]

    @property
    def place(self) -> str:
        """The name of its cell."""
        return POSITIONS[self.cell]

    def __str__(self) -> str:
        return f"{self.place} {self.color} {self.shape}"


def shape_mask(shape: str, radius: int, down: int, right: int) -> Bool[np.ndarray, "28 28"]:
    """Which pixels of a cell a shape covers whose centre is moved by (`down`, `right`) pixels."""
    y, x = np.mgrid[0:CELL, 0:CELL] - (CELL - 1) / 2
    y, x = y - down, x - right
    if shape == "circle":
        return x**2 + y**2 <= radius**2
    if shape == "square":
        return (abs(x) <= radius * 0.88) & (abs(y) <= radius * 0.88)
    if shape == "triangle":
        return (y <= radius * 0.8) & (abs(x) <= (y + radius) * 0.6) & (y >= -radius)
    bars = (abs(x) <= radius * 0.35) | (abs(y) <= radius * 0.35)
    return bars & (abs(x) <= radius) & (abs(y) <= radius)


@cache
def _stamp(shape: str, radius: int, down: int, right: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """A mask [28, 28, 1] and its tight box inside the cell."""
    mask = shape_mask(shape, radius, down, right)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return mask[..., None], tuple(int(edge) for edge in box)


def choose_things(
    rng: np.random.Generator, count: int, colors: int = len(COLORS), shapes: int = len(SHAPES)
) -> list[tuple[int, str, str]]:
    """`count` random (cell, colour, shape), out of the first `colors` and `shapes`."""
    names = tuple(COLORS)
    picks = rng.integers(0, (colors, shapes), (count, 2)).tolist()
    cells = choose_cells(rng, count)
    return [(cell, names[c], SHAPES[s]) for cell, (c, s) in zip(cells, picks, strict=True)]


def draw_things(
    rng: np.random.Generator, things: list[tuple[int, str, str]]
) -> tuple[np.ndarray, list[Thing]]:
    """Draw them on a fresh background: (uint8 [84, 84, 3], the things with their boxes)."""
    image = background(rng)
    count = len(things)
    radii = rng.integers(RADII.start, RADII.stop, count).tolist()
    shifts = rng.integers(-_JITTER, _JITTER + 1, (count, 2)).tolist()
    noise = rng.integers(-_COLOR_NOISE, _COLOR_NOISE + 1, (count, 3))
    base = np.array([COLORS[color] for _, color, _ in things])
    paint = np.clip(base + noise, 0, 255).astype(np.uint8)
    drawn = []
    for number, (cell, color, shape) in enumerate(things):
        mask, (x1, y1, x2, y2) = _stamp(shape, radii[number], *shifts[number])
        y, x = corner(cell)
        np.copyto(image[y : y + CELL, x : x + CELL], paint[number], where=mask)
        drawn.append(Thing(cell, color, shape, (x + x1, y + y1, x + x2, y + y2)))
    return image, drawn
