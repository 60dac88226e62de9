"""Boxes, points, polygons and time spans against closed forms."""

import math
import random

import pytest

from rewards.rules.grounding import (
    box_iou,
    iou,
    parse_boxes,
    parse_spans,
    point_in_box,
    polygon_iou,
    polygon_overlap,
    temporal_iou,
    union,
)

GOLD = "<|box_start|>(100,100),(200,200)<|box_end|>"


def score(rule, answer, given, **args):
    return rule(given, {"answer": answer, "mode": "no_think"}, **args).value


def test_iou_equals_counting_cells():
    rng = random.Random(1)
    for _ in range(100):
        a, b = ([rng.randrange(20) for _ in range(4)] for _ in range(2))
        inside = [
            [box[0] <= x < box[2] and box[1] <= y < box[3] for x in range(20) for y in range(20)]
            for box in (a, b)
        ]
        both = sum(p and q for p, q in zip(*inside, strict=True))
        either = sum(p or q for p, q in zip(*inside, strict=True))
        wanted = both / either if sum(inside[0]) and sum(inside[1]) else 0.0
        assert iou(tuple(a), tuple(b)) == pytest.approx(wanted)


def test_forms_of_boxes():
    for text in (GOLD, "(100,100),(200,200)", "[100, 100, 200, 200]", "[100,100],[200,200]"):
        assert parse_boxes(text) == [(100.0, 100.0, 200.0, 200.0)]
    assert parse_boxes("(1,2)") == []


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (GOLD, 1.0),
        ("(100,100),(200,200)", 1.0),
        ("[100, 100, 200, 200]", 1.0),
        ("(100,100),(200,150)", 1.0),  # IoU is exactly 0.5
        ("(100,100),(200,149)", 0.0),
        ("(200,200),(100,100)", 0.0),  # corners swapped
        ("(0,0),(999,999)", 0.0),
        ("(100,100),(200,200)" * 20, 0.0),  # stuffing
        ("(100,100),(200,2000)", 0.0),
        ("(-5,100),(200,200)", 0.0),
        ("(100,100),(100,200)", 0.0),
        ("no box", 0.0),
        ("", 0.0),
    ],
)
def test_box_iou(given, value):
    assert score(box_iou, GOLD, given) == value


def test_box_iou_values():
    assert score(box_iou, GOLD, "(100,100),(200,150)", threshold=None) == 0.5
    two = "(0,0),(100,100) (500,500),(600,600)"
    assert score(box_iou, two, "(500,500),(600,600) (0,0),(100,100)", threshold=None) == 1.0
    assert score(box_iou, two, "(0,0),(100,100)", threshold=None) == 0.5
    assert score(box_iou, [0, 0, 100, 100], "(0,0),(100,100)") == 1.0
    assert box_iou("x", {"answer": "red"}).status == "error"


def test_points():
    boxes = "(0,0),(100,100) (50,50),(150,150)"
    assert score(point_in_box, boxes, "(10,10) (120,120)") == 1.0
    assert score(point_in_box, boxes, "(60,60) (10,10)") == 1.0  # needs the right assignment
    assert score(point_in_box, boxes, "(10,10)") == 0.5
    assert score(point_in_box, boxes, "(10,10) (20,20)") == 0.5
    rain = " ".join(f"({x},{y})" for x in range(0, 100, 10) for y in range(0, 100, 10))
    assert score(point_in_box, boxes, rain) < 0.1
    assert score(point_in_box, boxes, "(1500,10)") == 0.0
    assert score(point_in_box, boxes, "") == 0.0


def test_polygon_overlap_equals_closed_forms():
    square = [(0.0, 0.0), (100.0, 0.0), (100.0, 100.0), (0.0, 100.0)]
    shifted = [(x + 50, y) for x, y in square]
    triangle = [(0.0, 0.0), (100.0, 0.0), (0.0, 100.0)]
    assert polygon_overlap(square, square) == pytest.approx(1.0)
    assert polygon_overlap(square, shifted) == pytest.approx(1 / 3, abs=1e-3)
    assert polygon_overlap(square, triangle) == pytest.approx(0.5, abs=1e-3)
    circle = [
        (500 + 100 * math.cos(t * math.tau / 100), 500 + 100 * math.sin(t * math.tau / 100))
        for t in range(100)
    ]
    around = [(400.0, 400.0), (600.0, 400.0), (600.0, 600.0), (400.0, 600.0)]
    area = 50 * math.sin(math.tau / 100) * 1e4  # of the regular 100-gon
    assert polygon_overlap(circle, around) == pytest.approx(area / 4e4, abs=1e-3)


def test_polygon_rule():
    gold = "(0,0),(100,0),(100,100),(0,100)"
    assert score(polygon_iou, gold, gold) == 1.0
    assert score(polygon_iou, gold, "(0,0),(100,0),(0,100)") == pytest.approx(1.0)  # IoU 0.5
    assert score(polygon_iou, gold, "(0,0),(50,0),(0,50)") == 0.0
    assert score(polygon_iou, gold, "(0,0),(100,100)") == 0.0
    assert score(polygon_iou, gold, "(0,0),(5,5)," * 300) == 0.0
    assert score(polygon_iou, gold, "(0,0),(2000,0),(0,2000)") == 0.0
    assert polygon_iou("x", {"answer": "(1,1),(2,2)"}).status == "error"


def test_spans():
    assert parse_spans("<|clip_time_start|>[1.5, 4]<|clip_time_end|> a dog") == [(1.5, 4.0)]
    assert parse_spans("from 1.5 to 4 seconds") == [(1.5, 4.0)]
    assert parse_spans("00:01:05-00:01:09") == [(65.0, 69.0)]
    assert union([(3, 5), (1, 2), (4, 9), (8, 8), (7, 6)]) == [(1, 2), (3, 9)]


@pytest.mark.parametrize(
    ("given", "threshold", "value"),
    [
        ("[2, 6]", 0.5, 1.0),
        ("2s - 6s", 0.5, 1.0),
        ("[2, 4]", 0.5, 1.0),
        ("[2, 3.9]", 0.5, 0.0),
        ("[6, 2]", 0.5, 0.0),
        ("[0, 1000]", 0.5, 0.0),
        ("[2,3] [3,6]", None, 1.0),
        ("[4, 8]", None, 1 / 3),
        ("[2,6]" * 40, None, 1.0),  # the same span again adds nothing and costs nothing
        ("", None, 0.0),
        ("soon", None, 0.0),
    ],
)
def test_temporal_iou(given, threshold, value):
    assert score(temporal_iou, "[2, 6]", given, threshold=threshold) == pytest.approx(value)
