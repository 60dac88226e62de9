"""Real handwritten digits (the 1,797 images that scikit-learn carries), as 24×24 bitmaps.

Invariant: training and held-out images are strictly apart: one fixed permutation, the first
1,300 are drawn in split "train" and the last 497 in split "test".
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8

from pretrain.data.world.canvas import CELL, background, choose_cells, corner

TRAIN_DIGITS = 1300
SIDE = 24


@lru_cache(maxsize=1)
def digit_images() -> tuple[UInt8[np.ndarray, "n 24 24 1"], np.ndarray]:
    """All n = 1,797 digits in the fixed order: grey bitmaps and their labels (int [n])."""
    from sklearn.datasets import load_digits  # 0.3 s, paid by the first drawer only

    data = load_digits()
    order = np.random.RandomState(0).permutation(len(data.target))
    grey = upsample(data.images[order].astype(np.float32) * (255 / 16), SIDE)
    return grey.astype(np.uint8)[..., None], data.target[order]


def upsample(images: Float[np.ndarray, "n h h"], side: int) -> Float[np.ndarray, "n {side} {side}"]:
    """Bilinear resampling with half-pixel centres (PyTorch's `align_corners=False`)."""
    old = images.shape[-1]
    centre = np.clip((np.arange(side) + 0.5) * old / side - 0.5, 0, old - 1)
    low = np.floor(centre).astype(int)
    high = np.minimum(low + 1, old - 1)
    weight = np.zeros((side, old), np.float32)
    np.add.at(weight, (np.arange(side), low), 1 - (centre - low))
    np.add.at(weight, (np.arange(side), high), centre - low)
    return weight @ images @ weight.T


def digit_pool(split: str) -> range:
    """Indices of the images that may be drawn in a split."""
    total = len(digit_images()[1])
    return range(TRAIN_DIGITS) if split == "train" else range(TRAIN_DIGITS, total)


def digit_scene(
    rng: np.random.Generator, count: int, split: str
) -> tuple[np.ndarray, list[int], list[int]]:
    """An image with `count` digits, one a cell: (uint8 [84, 84, 3], cells, digits)."""
    images, labels = digit_images()
    pool = digit_pool(split)
    cells = choose_cells(rng, count)
    chosen = rng.integers(pool.start, pool.stop, count).tolist()
    image = background(rng)
    shifts = rng.integers(0, CELL - SIDE + 1, (count, 2)).tolist()
    for cell, index, (down, right) in zip(cells, chosen, shifts, strict=True):
        y, x = corner(cell)
        patch = image[y + down : y + down + SIDE, x + right : x + right + SIDE]
        np.maximum(patch, images[index], out=patch)
    return image, cells, [int(labels[index]) for index in chosen]
