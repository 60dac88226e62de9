"""Images and frames as normalised patches (numpy and PIL; needs no torchvision).

Sizes follow `keye-vl-utils`: both sides a multiple of 28 pixels (two patches), the aspect ratio
kept, the area within [min_pixels, max_pixels]. Patches leave in row-major order, as vLLM's model
wants them; learner and engine call this same code, so they see the same pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from PIL import Image
from transformers import BaseImageProcessor, BatchFeature

from pretrain.run.errors import KeyeError

PATCH_SIZE = 14
MERGE_SIZE = 2
TOKEN_PIXELS = (PATCH_SIZE * MERGE_SIZE) ** 2
"""Pixels of one visual token (28×28)."""
MAX_ASPECT_RATIO = 200

ImageLike: TypeAlias = Image.Image | np.ndarray | torch.Tensor


def smart_resize(
    height: int, width: int, min_pixels: int, max_pixels: int, factor: int = 28
) -> tuple[int, int]:
    """Size (height, width) in pixels that an image is resized to.

    Raises:
        KeyeError: an empty image, or one more than 200 times as long as wide.
    """
    if min(height, width) < 1:
        raise KeyeError(f"empty image: {height}×{width} pixels")
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise KeyeError(
            f"image of {height}×{width} pixels: the longer side may be at most "
            f"{MAX_ASPECT_RATIO} times the shorter one; crop or pad it"
        )
    rows = max(factor, round(height / factor) * factor)
    columns = max(factor, round(width / factor) * factor)
    if rows * columns > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows = math.floor(height / shrink / factor) * factor
        columns = math.floor(width / shrink / factor) * factor
    elif rows * columns < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return max(rows, factor), max(columns, factor)


def to_rgb(image: ImageLike) -> np.ndarray:
    """`[H, W, 3]` uint8 from a PIL image, or an array or tensor in HWC or CHW order."""
    if isinstance(image, Image.Image):
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    array = image.numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3:
        raise KeyeError(f"an image must have 2 or 3 axes, not shape {array.shape}")
    if array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.dtype != np.uint8:
        raise KeyeError(f"image arrays must be uint8 in 0…255, not {array.dtype}")
    if array.shape[2] == 3:
        return array
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    if array.shape[2] == 4:
        return np.asarray(Image.fromarray(array).convert("RGB"))
    raise KeyeError(f"an image must have 1, 3 or 4 channels, not shape {array.shape}")


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`[H, W, 3]` uint8 image at `size` = (height, width), bicubic."""
    if image.shape[:2] == tuple(size):
        return image
    resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(resized)


class KeyeVL1_5ImageProcessor(BaseImageProcessor):
    """Turns images into `pixel_values` `[N, 3, 14, 14]` float32 and `image_grid_thw` `[M, 3]`.

    Args:
        min_pixels: `max_pixels`: bounds of a resized image's area (4 and 20,480 visual tokens).
        patch_size: side of a patch in pixels.
        merge_size: side, in patches, of what becomes one visual token.
        image_mean: `image_std`: per channel, of pixels scaled to [0, 1].
    """

    model_input_names: ClassVar[list[str]] = ["pixel_values", "image_grid_thw"]

    def __init__(
        self,
        min_pixels: int = 4 * TOKEN_PIXELS,
        max_pixels: int = 20_480 * TOKEN_PIXELS,
        patch_size: int = PATCH_SIZE,
        merge_size: int = MERGE_SIZE,
        temporal_patch_size: int = 1,
        image_mean: Sequence[float] = (0.5, 0.5, 0.5),
        image_std: Sequence[float] = (0.5, 0.5, 0.5),
        size: dict[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        bounds = size or {}
        self.min_pixels = bounds.get("min_pixels", min_pixels)
        self.max_pixels = bounds.get("max_pixels", max_pixels)
        self.size = {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        self.patch_size = patch_size
        self.merge_size = merge_size
        self.temporal_patch_size = temporal_patch_size
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """Size in pixels that an image of this size is resized to."""
        factor = self.patch_size * self.merge_size
        return smart_resize(height, width, self.min_pixels, self.max_pixels, factor)

    def tokens(self, size: tuple[int, int]) -> int:
        """Visual tokens of an image already resized to `size` = (height, width)."""
        factor = self.patch_size * self.merge_size
        return (size[0] // factor) * (size[1] // factor)

    def patchify(self, frames: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
        """Normalised patches of `[T, H, W, 3]` uint8 frames whose sides are multiples of 28.

        Returns:
            `[T * rows * columns, 3, patch, patch]` float32, and one (1, rows, columns) per frame.
        """
        count, height, width, _ = frames.shape
        p = self.patch_size
        rows, columns = height // p, width // p
        cut = frames.reshape(count, rows, p, columns, p, 3).transpose(0, 1, 3, 5, 2, 4)
        std = np.asarray(self.image_std, dtype=np.float32)
        scale = (1.0 / 255.0 / std).astype(np.float32)[:, None, None]
        shift = (np.asarray(self.image_mean, dtype=np.float32) / std)[:, None, None]
        patches = np.empty(cut.shape, dtype=np.float32)
        np.multiply(cut, scale, out=patches)
        patches -= shift
        return patches.reshape(-1, 3, p, p), [(1, rows, columns)] * count

    def encode_image(self, image: ImageLike) -> tuple[np.ndarray, tuple[int, int, int]]:
        """Patches and patch grid (1, rows, columns) of one image."""
        pixels = to_rgb(image)
        pixels = resize(pixels, self.target_size(*pixels.shape[:2]))
        patches, grid = self.patchify(pixels[None])
        return patches, grid[0]

    def preprocess(
        self,
        images: ImageLike | Sequence[ImageLike],
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Patches of a list of images, or of one list a prompt (Hugging Face's interface)."""
        del kwargs
        listed = list(images) if isinstance(images, list | tuple) else [images]
        rows = [item if isinstance(item, list | tuple) else [item] for item in listed]
        encoded = [self.encode_image(image) for row in rows for image in row]
        data = {
            "pixel_values": np.concatenate([patches for patches, _ in encoded]),
            "image_grid_thw": np.array([grid for _, grid in encoded], dtype=np.int64),
        }
        return BatchFeature(data, tensor_type=return_tensors)
