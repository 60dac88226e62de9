"""Positions of packed tokens on the three M-RoPE axes (temporal, height, width).

Text advances all three axes together. An image, or one frame of a video, is a block of h×w
tokens that all start at the running position p: its tokens sit at (p, p + row, p + column), and
the text after it goes on at p + max(h, w). This is vLLM's `get_mrope_input_positions`; frames
of a video are blocks of their own because a frame token and a timestamp stand between them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pretrain.run.errors import KeyeError


def split_frames(grid_thw: np.ndarray) -> np.ndarray:
    """One row per frame: `[M, 3]` rows (t, h, w) become `[sum(t), 3]` rows (1, h, w)."""
    grids = np.asarray(grid_thw, dtype=np.int64).reshape(-1, 3)
    if (grids[:, 0] == 1).all():
        return grids
    frames = np.repeat(grids, grids[:, 0], axis=0)
    frames[:, 0] = 1
    return frames


def visual_mask(
    ids: np.ndarray,
    visual_ids: Sequence[int],
    cu_seqlens: np.ndarray,
    prompt_lengths: np.ndarray | None,
) -> np.ndarray:
    """Which packed tokens stand for a visual feature.

    Args:
        ids: `[T]` packed token ids.
        visual_ids: the placeholder ids.
        cu_seqlens: `[B + 1]` sequence boundaries.
        prompt_lengths: `[B]`; a placeholder id at or after this offset was sampled by the policy
            and is plain text. None when sequences have no sampled part.

    Returns:
        `[T]` bool.
    """
    mask = np.isin(ids, visual_ids)
    if prompt_lengths is None or not mask.any():
        return mask
    lengths = np.diff(cu_seqlens)
    offset = np.arange(len(ids)) - np.repeat(cu_seqlens[:-1], lengths)
    return mask & (offset < np.repeat(prompt_lengths, lengths))


def packed_positions(
    mask: np.ndarray, cu_seqlens: np.ndarray, grid_thw: np.ndarray | None, merge_size: int = 2
) -> np.ndarray:
    """M-RoPE positions of packed sequences.

    Args:
        mask: `[T]` bool from `visual_mask`.
        cu_seqlens: `[B + 1]` sequence boundaries, from 0 to T.
        grid_thw: `[M, 3]` patch grids of the media in order of appearance.
        merge_size: side of the square of patches that becomes one token.

    Returns:
        `[3, T]` int64.

    Raises:
        KeyeError: the placeholders do not add up to the media's tokens.
    """
    total = len(mask)
    advance = np.ones(total, dtype=np.int64)
    where = np.flatnonzero(mask)
    rows = columns = np.zeros(0, dtype=np.int64)
    frames = split_frames(np.zeros((0, 3)) if grid_thw is None else grid_thw)
    height, width = frames[:, 1] // merge_size, frames[:, 2] // merge_size
    count = height * width
    if count.sum() != len(where):
        raise KeyeError(
            f"{len(where)} visual placeholder tokens, but the media have {int(count.sum())} "
            f"visual tokens (patch grids {frames[:, 1:].tolist()[:8]}): the prompt must hold one "
            "placeholder for every 2×2 patches"
        )
    if len(where):
        last = np.cumsum(count) - 1
        index = np.arange(len(where)) - np.repeat(last + 1 - count, count)
        rows, columns = np.divmod(index, np.repeat(width, count))
        # Only a block's last token moves the running position on, past the block's longer side.
        advance[where] = 0
        advance[where[last]] = np.maximum(height, width)
    running = np.concatenate(([0], np.cumsum(advance)))
    start = running[:-1] - np.repeat(running[cu_seqlens[:-1]], np.diff(cu_seqlens))
    positions = np.stack([start, start, start])
    positions[1, where] += rows
    positions[2, where] += columns
    return positions
