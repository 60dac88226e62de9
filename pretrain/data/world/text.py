"""Font-rendered words: one word a row of the grid, in varying size, place and colour."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pretrain.data.world.canvas import CELL, GRID, SIZE, background
from pretrain.data.world.shapes import COLORS

WORDS = (
    "cat",
    "dog",
    "sun",
    "sea",
    "sky",
    "tree",
    "fish",
    "bird",
    "book",
    "door",
    "hand",
    "milk",
    "rain",
    "snow",
    "star",
    "moon",
)
FONT_SIZES = range(17, 20)
_MARGIN = 4


@cache
def word_alpha(word: str, size: int) -> np.ndarray:
    """Coverage of a word in PIL's built-in font: uint8 [h ≤ 28, w ≤ 84, 1], tightly cropped."""
    font = ImageFont.load_default(size)
    canvas = Image.new("L", (2 * SIZE, 2 * CELL))
    ImageDraw.Draw(canvas).text((4, 8), word, fill=255, font=font)
    return np.asarray(canvas.crop(canvas.getbbox()))[:CELL, :SIZE, None]


def word_scene(rng: np.random.Generator, words: list[str]) -> np.ndarray:
    """An image with the words in order, each in its own row: uint8 [84, 84, 3]."""
    image = background(rng)
    rows = sorted(rng.permutation(GRID)[: len(words)].tolist())
    names = tuple(COLORS.values())
    for row, word in zip(rows, words, strict=True):
        alpha = word_alpha(word, int(rng.integers(FONT_SIZES.start, FONT_SIZES.stop)))
        height, width, _ = alpha.shape
        y = row * CELL + int(rng.integers(0, CELL - height + 1))
        x = int(rng.integers(0, min(_MARGIN, SIZE - width) + 1))
        color = np.array(names[rng.integers(len(names))], np.uint16)
        patch = image[y : y + height, x : x + width]
        patch[:] = (patch * (255 - alpha.astype(np.uint16)) + color * alpha) // 255
    return image
