"""Which frames of a video repeat the last key frame: patch similarity in HSV.

A frame is compared at 48…256 tokens. Each 28×28 patch of the two frames is one vector of 2,352 HSV
bytes; patches are similar when their cosine exceeds the patch threshold, and the frames'
similarity is the share of similar patches (patches that are black in both frames don't count).

Invariant: the decisions are those of keye-vl-utils 1.5.2, whose arithmetic is float32. Here the
dot products are exact integers; only when a cosine lies so close to the threshold that float32
rounding could tip the decision is the package's own arithmetic repeated for that one frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.nn.functional import interpolate

from pretrain.keye_vl.frame_budget import FACTOR, MAX_ASPECT, Size, fit_size, smart_resize

COMPARE_MIN_TOKENS, COMPARE_MAX_TOKENS = 48, 256
"""Bounds of the size at which frames are compared (fixed in keye-vl-utils)."""

FLOAT32_SLACK = 3e-4
"""Bound of the package's float32 error in one cosine: 2,352 terms at 2^-24 each, in the dot
product and (halved by the root) in two norms."""

CHUNK = 8
"""Frames that each thread prepares ahead of the sequential comparison; bounds the memory."""


class Prepared(NamedTuple):
    """A frame ready for comparison: HSV bytes `[H, W, 3]`, squared patch norms `[H/28, W/28]`."""

    hsv: np.ndarray
    square: np.ndarray


def comparison_size(height: int, width: int) -> Size:
    """Size at which frames of `height` × `width` pixels are compared."""
    if max(height, width) / min(height, width) <= MAX_ASPECT:
        return smart_resize(height, width, COMPARE_MIN_TOKENS, COMPARE_MAX_TOKENS)
    return fit_size(height, width, COMPARE_MIN_TOKENS, COMPARE_MAX_TOKENS)


def find_slow(
    frames: Iterable[np.ndarray],
    size: Size,
    *,
    frame_similarity: float,
    patch_similarity: float,
    threads: int = 1,
) -> np.ndarray:
    """Types of the frames: 0 (slow) for the first one and for each one whose similarity to the
    latest slow frame is below `frame_similarity`, else 1 (fast).

    Args:
        frames: uint8 `[H, W, 3]` RGB arrays, C-contiguous.
        size: what `comparison_size` gives for them.
        threads: threads that resize and convert frames ahead of the comparison.
    Returns:
        int32 `[T]`.
    """
    types: list[int] = []
    key: Prepared | None = None
    for current in _prepare_all(frames, size, threads):
        fast = key is not None and is_similar(key, current, frame_similarity, patch_similarity)
        types.append(int(fast))
        if not fast:
            key = current
    return np.array(types, dtype=np.int32)


def _prepare_all(frames: Iterable[np.ndarray], size: Size, threads: int) -> Iterator[Prepared]:
    def prepare(frame: np.ndarray) -> Prepared:
        hsv = cv2.cvtColor(_resize(frame, size), cv2.COLOR_RGB2HSV)
        return Prepared(hsv, _patch_dots(hsv, hsv))

    if threads <= 1:
        yield from map(prepare, frames)
        return
    source = iter(frames)
    with ThreadPoolExecutor(threads) as pool:
        ahead = list(pool.map(prepare, islice(source, CHUNK * threads)))
        while ahead:
            following = pool.map(prepare, islice(source, CHUNK * threads))
            yield from ahead
            ahead = list(following)


def _resize(frame: np.ndarray, size: Size) -> np.ndarray:
    """Antialiased bilinear on uint8, bit-equal to the package's batched call."""
    if frame.shape[:2] == size:
        return frame
    tensor = torch.from_numpy(frame if frame.flags.writeable else frame.copy())
    # A batch of one whose strides are exactly channels-last takes torch's quickest kernel.
    batch = tensor[None].permute(0, 3, 1, 2)
    resized = interpolate(batch, list(size), mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def _patch_dots(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Dot product of each 28×28 patch of two uint8 `[H, W, 3]` images: int64 `[H/28, W/28]`.

    Sums of 28 products of bytes stay below 2^24, so the float32 accumulation is exact.
    """
    height, width, _ = first.shape
    rows, columns = height // FACTOR, width // FACTOR
    first = first.reshape(rows, FACTOR, width * 3)
    second = second.reshape(rows, FACTOR, width * 3)
    sums = np.zeros((rows, width * 3), dtype=np.float32)
    for line in range(FACTOR):
        cv2.accumulateProduct(first[:, line], second[:, line], sums)
    return sums.reshape(rows, columns, FACTOR * 3).sum(-1, dtype=np.float64).astype(np.int64)


def is_similar(
    key: Prepared, current: Prepared, frame_similarity: float, patch_similarity: float
) -> bool:
    """Whether `current` repeats `key`: its share of similar patches is not below the threshold."""
    norms = np.sqrt(key.square.astype(np.float64) * current.square)
    dots = _patch_dots(key.hsv, current.hsv)
    cosine = dots / np.maximum(norms, 1.0)
    counted = (key.square > 0) | (current.square > 0)
    patches = int(counted.sum())
    if patches == 0:
        return True
    surely = int((counted & (cosine > patch_similarity + FLOAT32_SLACK)).sum())
    perhaps = int((counted & (cosine > patch_similarity - FLOAT32_SLACK)).sum())

    def decide(similar: int) -> bool:
        # Rounded to float32 as the package's mean is: 19 of 20 patches are *below* 0.95.
        return not float(np.float32(similar) / np.float32(patches)) < frame_similarity

    if decide(surely) == decide(perhaps):
        return decide(surely)
    return decide(_count_similar_float32(key.hsv, current.hsv, counted, patch_similarity))


def _count_similar_float32(
    first: np.ndarray, second: np.ndarray, counted: np.ndarray, patch_similarity: float
) -> int:
    """Number of similar patches by the package's float32 arithmetic, in its order of operations."""
    normalised = []
    for image in (first, second):
        height, width, _ = image.shape
        patches = torch.from_numpy(image).float().permute(2, 0, 1)
        patches = patches.reshape(3, height // FACTOR, FACTOR, width // FACTOR, FACTOR)
        patches = patches.permute(1, 3, 0, 2, 4).reshape(*counted.shape, -1).contiguous()
        normalised.append(patches / (torch.norm(patches, p=2, dim=-1, keepdim=True) + 1e-8))
    cosine = (normalised[0] * normalised[1]).sum(dim=-1)
    return int((cosine > patch_similarity)[torch.from_numpy(counted)].sum())
