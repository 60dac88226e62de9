"""Slow-Fast: which frames of a video get many tokens, and how many (Keye-VL-1.5 report, §2.1).

The first frame is slow; a later frame is fast while it repeats the latest slow frame, else it is
the next slow one. A fast frame gets a fraction of a slow frame's tokens, and the slow frames get
as many as the budget of the whole video allows.

Invariant: a `FramePlan` is the only description of a video's tokens. The learner's pixel rows,
the engine's and the prompt text are all made from it, so both sides see the same tokens.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Real

import cv2
import numpy as np
import torch

from pretrain.keye_vl.frame_budget import Size, compatible_budget, strict_budget
from pretrain.keye_vl.frame_similarity import comparison_size, find_slow
from pretrain.run.errors import KeyeError

PATCH = 14
"""Side in pixels of one ViT patch."""


@dataclass
class SlowFastConfig:
    """Settings of the frame plan; the defaults are the technical report's."""

    frame_similarity: float = 0.95
    """Share of similar patches from which on a frame repeats the latest slow one (0…1)."""

    patch_similarity: float = 0.7
    """Cosine above which two 28×28 patches (HSV) are similar."""

    total_tokens: int = 75_000
    """Most vision tokens of a whole video; 1 token is 28×28 pixels."""

    fast_ratio: float = 0.3
    """Tokens of a fast frame as a fraction of a slow frame's, in (0, 1]."""

    min_tokens: int = 48
    """Least tokens of a frame. More than total_tokens // min_tokens frames are subsampled."""

    max_tokens: int = 768
    """Most tokens of a frame."""

    compatible: bool = False
    """Reproduce keye-vl-utils 1.5.2 (with frame_similarity=0.9 and total_tokens=65536 exactly its
    defaults), its overshoot of the budget by one token per slow frame included."""

    threads: int = 1
    """Threads that resize and convert frames; the plan doesn't depend on it."""


@dataclass(frozen=True, eq=False, slots=True)
class FramePlan:
    """The tokens of one video: T' kept frames, in order of time."""

    frame_indices: np.ndarray
    """int64 `[T']`: which of the given frames are kept, ascending."""

    frame_types: np.ndarray
    """int32 `[T']`: 0 slow, 1 fast."""

    timestamps: np.ndarray
    """float32 `[T']`: seconds from the start of the video."""

    slow_size: tuple[int, int]
    """Height and width in pixels that slow frames are resized to; multiples of 28."""

    fast_size: tuple[int, int]
    """The same of fast frames."""

    @property
    def tokens_per_frame(self) -> np.ndarray:
        """int64 `[T']`: language-model tokens of each kept frame."""
        grid = self.grid_thw
        return grid[:, 1] * grid[:, 2] // 4

    @property
    def total_tokens(self) -> int:
        """Vision tokens of the whole video (without timestamps and marker tokens)."""
        return int(self.tokens_per_frame.sum())

    @property
    def grid_thw(self) -> np.ndarray:
        """int64 `[T', 3]`: one row (1, patch rows, patch columns) per kept frame."""
        sizes = np.array([self.slow_size, self.fast_size], dtype=np.int64) // PATCH
        ones = np.ones((len(self.frame_types), 1), dtype=np.int64)
        return np.concatenate([ones, sizes[self.frame_types]], axis=1)

    def frame_size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels of kept frame `index`."""
        return self.fast_size if self.frame_types[index] else self.slow_size

    def timestamp_texts(self) -> list[str]:
        """The text that precedes each kept frame: seconds with one decimal, e.g. "0.5"."""
        return [format(float(t), ".1f") for t in self.timestamps]

    def processor_kwargs(self) -> dict[str, tuple]:
        """The plan of this video as the processor's and the engine's arguments name it."""
        return {
            "frame_types": tuple(self.frame_types.tolist()),
            "timestamps": tuple(self.timestamps.tolist()),
            "slow_size": tuple(self.slow_size),
            "fast_size": tuple(self.fast_size),
        }


def plan(
    frames: np.ndarray | torch.Tensor,
    fps_or_timestamps: float | Sequence[float] | np.ndarray | torch.Tensor,
    *,
    frame_similarity: float = 0.95,
    patch_similarity: float = 0.7,
    total_tokens: int = 75_000,
    fast_ratio: float = 0.3,
    min_tokens: int = 48,
    max_tokens: int = 768,
    compatible: bool = False,
    threads: int = 1,
) -> FramePlan:
    """Plan the tokens of one video; the keywords are `SlowFastConfig`'s fields.

    Args:
        frames: uint8 RGB `[T, 3, H, W]`, any memory layout (a view of `[T, H, W, 3]` is fastest).
        fps_or_timestamps: frames per second of `frames`, or their T times in seconds.
    Raises:
        KeyeError: frames, times or settings that can't be planned; the text names which and why.
    """
    config = SlowFastConfig(
        frame_similarity=frame_similarity,
        patch_similarity=patch_similarity,
        total_tokens=total_tokens,
        fast_ratio=fast_ratio,
        min_tokens=min_tokens,
        max_tokens=max_tokens,
        compatible=compatible,
        threads=threads,
    )
    return plan_frames(frames, fps_or_timestamps, config)


def plan_frames(
    frames: np.ndarray | torch.Tensor,
    fps_or_timestamps: float | Sequence[float] | np.ndarray | torch.Tensor,
    config: SlowFastConfig,
) -> FramePlan:
    """`plan` with its settings in one object."""
    _check_config(config)
    array = _as_array(frames)
    times, fps = _times(fps_or_timestamps, len(array))
    _, _, height, width = array.shape
    kept = _kept_frames(len(array), fps, config)
    types = find_slow(
        _hwc_frames(array, kept),
        comparison_size(height, width),
        frame_similarity=config.frame_similarity,
        patch_similarity=config.patch_similarity,
        threads=config.threads,
    )
    fast_frames = int(types.sum())
    budget = (compatible_budget if config.compatible else strict_budget)(
        height,
        width,
        len(kept) - fast_frames,
        fast_frames,
        total_tokens=config.total_tokens,
        fast_ratio=config.fast_ratio,
        min_tokens=config.min_tokens,
        max_tokens=config.max_tokens,
    )
    return FramePlan(kept, types, times[kept], Size(*budget.slow), Size(*budget.fast))


def uniform_indices(count: int, keep: int) -> np.ndarray:
    """int64 `[keep]`: `keep` of `count` frames, evenly spaced, the first and the last included."""
    return torch.linspace(0, count - 1, keep).round().long().numpy()


def _kept_frames(count: int, fps: float | None, config: SlowFastConfig) -> np.ndarray:
    keep = min(count, config.total_tokens // config.min_tokens)
    if config.compatible and fps is not None:
        # The package computes the number of frames through the duration in floating point, which
        # loses the last frame for some rates (29 frames at 25 fps become 28).
        keep = max(1, min(keep, int(count / fps * fps)))
    return uniform_indices(count, keep)


def _hwc_frames(array: np.ndarray, kept: np.ndarray) -> Iterator[np.ndarray]:
    """The kept frames as C-contiguous `[H, W, 3]` arrays."""
    for index in kept:
        frame = array[index].transpose(1, 2, 0)
        if frame.flags.c_contiguous:
            yield frame
        else:
            yield cv2.merge([np.ascontiguousarray(plane) for plane in array[index]])


def _as_array(frames: np.ndarray | torch.Tensor) -> np.ndarray:
    array = frames.detach().cpu().numpy() if isinstance(frames, torch.Tensor) else frames
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        kind = getattr(array, "dtype", type(array).__name__)
        raise KeyeError(f"video frames must be a uint8 array or tensor [T, 3, H, W], got {kind}")
    if array.ndim != 4 or array.shape[1] != 3 or 0 in array.shape:
        raise KeyeError(
            f"video frames must have the shape [T, 3, H, W] with T, H, W ≥ 1, got "
            f"{list(array.shape)}; transpose [T, H, W, 3] frames with .transpose(0, 3, 1, 2)"
        )
    return array


def _times(given, count: int) -> tuple[np.ndarray, float | None]:
    """float32 times `[T]` in seconds, and the frame rate if that is what was given."""
    if isinstance(given, Real):
        fps = float(given)
        if not (math.isfinite(fps) and fps > 0):
            raise KeyeError(f"frames per second must be a positive number, got {given}")
        return np.array([(1 / fps) * i for i in range(count)], dtype=np.float32), fps
    array = given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else given
    try:
        times = np.asarray(array, dtype=np.float32)
    except (TypeError, ValueError):
        raise KeyeError(
            f"expected frames per second or {count} timestamps, got {type(given).__name__}"
        ) from None
    if times.shape != (count,):
        raise KeyeError(f"{count} frames need {count} timestamps, got shape {list(times.shape)}")
    if not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise KeyeError("timestamps must be finite and must not decrease")
    return times, None


def _check_config(config: SlowFastConfig) -> None:
    if not 1 <= config.min_tokens <= config.max_tokens:
        raise KeyeError(
            f"min_tokens={config.min_tokens} must be at least 1 and at most "
            f"max_tokens={config.max_tokens}"
        )
    if config.total_tokens < config.min_tokens:
        raise KeyeError(
            f"total_tokens={config.total_tokens} holds not even one frame of "
            f"min_tokens={config.min_tokens}: raise the one or lower the other"
        )
    if not 0 < config.fast_ratio <= 1:
        raise KeyeError(f"fast_ratio={config.fast_ratio} must lie in (0, 1]")
    if config.threads < 1:
        raise KeyeError(f"threads={config.threads} must be at least 1")
