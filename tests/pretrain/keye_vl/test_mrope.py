"""M-RoPE positions against a token-by-token reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.keye_vl.mrope import packed_positions, split_frames, visual_mask
from pretrain.run.errors import KeyeError

IMAGE = 1
grids = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), max_size=3)
sequence = st.tuples(grids, st.integers(1, 4), st.integers(0, 3))


def one_by_one(ids: list[int], frames: list[tuple[int, int]]) -> np.ndarray:
    """Positions of one sequence, built token by token."""
    out: list[tuple[int, int, int]] = []
    position, i = 0, 0
    pending = list(frames)
    while i < len(ids):
        if ids[i] == IMAGE:
            height, width = pending.pop(0)
            for row in range(height):
                for column in range(width):
                    out.append((position, position + row, position + column))
            i += height * width
            position = max(max(entry) for entry in out) + 1
        else:
            out.append((position,) * 3)
            position += 1
            i += 1
    return np.array(out).T


@settings(max_examples=150, deadline=None)
@given(st.lists(sequence, min_size=1, max_size=4))
def test_positions_equal_the_token_by_token_reference(batch):
    ids, expected, bounds, media = [], [], [0], []
    for frames, before, between in batch:
        tokens = [7] * before
        for height, width in frames:
            tokens += [IMAGE] * (height * width) + [7] * between
            media.append((1, 2 * height, 2 * width))
        ids += tokens
        bounds.append(len(ids))
        expected.append(one_by_one(tokens, frames))
    ids, bounds = np.array(ids), np.array(bounds)
    mask = visual_mask(ids, [IMAGE], bounds, None)
    positions = packed_positions(mask, bounds, np.array(media).reshape(-1, 3))
    assert np.array_equal(positions, np.concatenate(expected, 1))


def test_frames_of_a_video_are_blocks_of_their_own():
    rows = split_frames(np.array([[2, 4, 6], [1, 2, 2]]))
    assert rows.tolist() == [[1, 4, 6], [1, 4, 6], [1, 2, 2]]
    # frame token, 1×2 tokens, frame token, 1×2 tokens
    ids = np.array([7, IMAGE, IMAGE, 7, IMAGE, IMAGE])
    mask = visual_mask(ids, [IMAGE], np.array([0, 6]), None)
    positions = packed_positions(mask, np.array([0, 6]), np.array([[2, 2, 4]]))
    assert positions.tolist() == [[0, 1, 1, 3, 4, 4], [0, 1, 1, 3, 4, 4], [0, 1, 2, 3, 4, 5]]


def test_ids_after_the_prompt_are_text():
    ids = np.array([IMAGE, 7, IMAGE, 7, IMAGE, IMAGE])
    mask = visual_mask(ids, [IMAGE], np.array([0, 4, 6]), np.array([2, 1]))
    assert mask.tolist() == [True, False, False, False, True, False]


def test_a_wrong_number_of_placeholders_is_an_error():
    with pytest.raises(KeyeError, match="3 visual placeholder tokens, but the media have 4"):
        packed_positions(np.array([True] * 3), np.array([0, 3]), np.array([[1, 4, 4]]))
