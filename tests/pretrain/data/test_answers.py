"""Direct answers are compared exactly, boxes by their overlap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.answers import box_iou, format_box, is_correct, parse_box
from pretrain.data.stream import WorldStream

corner = st.integers(0, 20)
box = st.tuples(corner, corner, corner, corner)


@given(box, box)
def test_iou_equals_the_count_of_pixels(first, second):
    masks = []
    for x1, y1, x2, y2 in (first, second):
        mask = np.zeros((20, 20), bool)
        mask[y1:y2, x1:x2] = True
        masks.append(mask)
    union = (masks[0] | masks[1]).sum()
    expected = (masks[0] & masks[1]).sum() / union if union else 0.0
    assert box_iou(first, second) == pytest.approx(expected, abs=1e-12)


@given(box)
def test_boxes_survive_their_text(edges):
    text = format_box(edges, 1000, 1000)
    assert parse_box(text) == edges
    assert parse_box(text.removeprefix("<|box_start|>").removesuffix("<|box_end|>")) == edges


def test_coordinates_are_normalised_to_less_than_1000():
    assert format_box((0, 21, 84, 42), 84, 84) == "<|box_start|>(0,250),(999,500)<|box_end|>"
    assert parse_box("no box") is None


def test_correctness_of_text_and_of_boxes():
    reading = WorldStream({"digits/read": 1}, 1)[0]
    assert is_correct(reading, f" {reading.answer}\n") and not is_correct(reading, "x")
    grounding = WorldStream({"shapes/grounding": 1}, 1)[0]
    x1, y1, x2, y2 = parse_box(grounding.answer)
    wide = x2 - x1
    assert is_correct(grounding, f"({x1},{y1}),({x2 - wide // 3},{y2})")  # IoU 2/3
    assert not is_correct(grounding, f"({x1},{y1}),({x1 + wide // 3},{y2})")  # IoU 1/3
    assert not is_correct(grounding, "there")
    grounding.rewards[0]["threshold"] = 0.3
    assert is_correct(grounding, f"({x1},{y1}),({x1 + wide // 3 + 1},{y2})")
