"""Direct answers are compared exactly, boxes by their overlap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.answers import (
    box_iou,
    format_box,
    has_other_answers,
    is_correct,
    parse_box,
    parse_span,
    span_iou,
)
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


@given(st.tuples(corner, corner), st.tuples(corner, corner))
def test_overlap_in_time_equals_the_count_of_seconds(first, second):
    seconds = [set(range(*span)) for span in (first, second)]
    union = seconds[0] | seconds[1]
    both = seconds[0] & seconds[1]
    expected = len(both) / len(union) if both else 0.0
    assert span_iou(first, second) == pytest.approx(expected, abs=1e-12)


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


def test_correctness_of_times():
    grounding = WorldStream({"video/grounding": 1}, 1)[0]
    start, end = parse_span(grounding.answer)
    wide = end - start
    assert has_other_answers(grounding)
    assert is_correct(grounding, f"[{start}, {end + 0.9 * wide:.2f}]")  # IoU 1/1.9
    assert not is_correct(grounding, f"[{start}, {end + 1.1 * wide:.2f}]")  # IoU 1/2.1
    assert not is_correct(grounding, f"{start}, {end}")
    assert not has_other_answers(WorldStream({"digits/read": 1}, 1)[0])
