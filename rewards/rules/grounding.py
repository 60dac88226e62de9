"""Where things are: boxes on the 0…999 grid (coordinates normalised to 1000 by 1000)."""

from __future__ import annotations

import re
from typing import Any

from rewards.answer import answer_text
from rewards.registry import rule
from rewards.result import RewardResult

Box = tuple[float, float, float, float]

_NUMBER = r"\s{0,8}(-?\d{1,6}(?:\.\d{1,6})?)\s{0,8}"
_PAIR = rf"[(\[]{_NUMBER},{_NUMBER}[)\]]"
BOX_FORM = re.compile(
    rf"(?:<\|box_start\|>)?{_PAIR}\s{{0,8}},\s{{0,8}}{_PAIR}(?:<\|box_end\|>)?"
    rf"|\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]"
)


def parse_boxes(text: str, limit: int = 256) -> list[Box]:
    """Boxes written `<|box_start|>(x1,y1),(x2,y2)<|box_end|>`, bare, or `[x1, y1, x2, y2]`."""
    found: list[Box] = []
    for match in BOX_FORM.finditer(text):
        x1, y1, x2, y2 = (float(group) for group in match.groups() if group is not None)
        found.append((x1, y1, x2, y2))
        if len(found) == limit:
            break
    return found


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes; a box whose corners are swapped or equal has none."""
    area_a = max(a[2] - a[0], 0.0) * max(a[3] - a[1], 0.0)
    area_b = max(b[2] - b[0], 0.0) * max(b[3] - b[1], 0.0)
    if area_a == 0.0 or area_b == 0.0:
        return 0.0
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0.0) * max(height, 0.0)
    return overlap / (area_a + area_b - overlap)


@rule()
def box_iou(
    response: str, sample: dict[str, Any], threshold: float | None = 0.5, grid: int = 1000
) -> RewardResult:
    """1.0 if the answer's box overlaps the sample's box with IoU ≥ `threshold`, else 0.0.

    With `threshold=None` the value is the IoU itself. With several boxes in the sample's answer
    each is matched to the best free box, and the IoU is the mean over the larger of the two
    counts: extra boxes cost as much as missing ones. Coordinates outside 0…`grid` make it 0.
    """
    wanted = parse_boxes(_box_text(sample.get("answer")))
    if not wanted:
        return RewardResult.failure(f"the sample's answer has no box: {sample.get('answer')!r}")
    text = answer_text(response, sample.get("mode"))
    given = parse_boxes(text or "", limit=4 * len(wanted) + 16)
    if not given:
        return RewardResult(0.0, details={"reason": "no box"})
    if any(not 0 <= coordinate <= grid for box in given for coordinate in box):
        return RewardResult(0.0, details={"reason": f"a coordinate outside 0…{grid}"})
    overlap = mean_overlap(wanted, given)
    value = overlap if threshold is None else float(overlap >= threshold)
    return RewardResult(value, details={"iou": round(overlap, 4)})


def _box_text(answer: object) -> str:
    """Answers may be text, one box as four numbers, or a list of either."""
    if isinstance(answer, (list, tuple)):
        if len(answer) == 4 and all(isinstance(one, (int, float)) for one in answer):
            return "[" + ",".join(str(one) for one in answer) + "]"
        return " ".join(_box_text(one) for one in answer)
    return str(answer)


def mean_overlap(wanted: list[Box], given: list[Box]) -> float:
    """Greedy one-to-one matching by IoU, averaged over max(number wanted, number given)."""
    pairs = sorted(
        ((iou(w, g), i, j) for i, w in enumerate(wanted) for j, g in enumerate(given)),
        key=lambda pair: -pair[0],
    )
    used_wanted: set[int] = set()
    used_given: set[int] = set()
    total = 0.0
    for overlap, i, j in pairs:
        if i not in used_wanted and j not in used_given:
            used_wanted.add(i)
            used_given.add(j)
            total += overlap
    return total / max(len(wanted), len(given))


Point = tuple[float, float]
Polygon = list[Point]

POINT_FORM = re.compile(_PAIR)
ROWS = 1000  # lines of the scan that measures polygons: one a grid unit


def parse_points(text: str, limit: int = 512) -> list[Point]:
    """Points written `(x, y)` or `[x, y]`, in order."""
    found = []
    for match in POINT_FORM.finditer(text):
        found.append((float(match.group(1)), float(match.group(2))))
        if len(found) == limit:
            break
    return found


def crossings(polygon: Polygon, y: float) -> list[tuple[float, float]]:
    """The stretches [x1, x2] of the line at height y inside a polygon (even-odd rule)."""
    places = []
    for (x1, y1), (x2, y2) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        if (y1 <= y) != (y2 <= y):
            places.append(x1 + (y - y1) / (y2 - y1) * (x2 - x1))
    places.sort()
    return list(zip(places[::2], places[1::2], strict=True))


def overlap_length(a: list[tuple[float, float]], b: list[tuple[float, float]]) -> float:
    """Length common to two sets of stretches, each without overlaps in itself."""
    return sum(max(0.0, min(p[1], q[1]) - max(p[0], q[0])) for p in a for q in b)


def polygon_overlap(a: Polygon, b: Polygon, rows: int = ROWS) -> float:
    """IoU of two polygons by a scan of `rows` lines; exact along x, midpoint rule along y."""
    low = min(point[1] for point in [*a, *b])
    high = max(point[1] for point in [*a, *b])
    shared = either = 0.0
    for row in range(rows):
        y = low + (row + 0.5) * (high - low) / rows
        in_a, in_b = crossings(a, y), crossings(b, y)
        both = overlap_length(in_a, in_b)
        shared += both
        either += sum(x2 - x1 for x1, x2 in in_a) + sum(x2 - x1 for x1, x2 in in_b) - both
    return shared / either if either > 0 else 0.0


@rule()
def polygon_iou(
    response: str, sample: dict[str, Any], threshold: float | None = 0.5, grid: int = 1000
) -> RewardResult:
    """1.0 if the answer's polygon overlaps the sample's with IoU ≥ `threshold`, else 0.0.

    Polygons are written `(x1,y1),(x2,y2),(x3,y3),…` in 0…`grid`, with 3 to 200 corners; with
    `threshold=None` the value is the IoU itself.
    """
    wanted = parse_points(_box_text(sample.get("answer")))
    if len(wanted) < 3:
        return RewardResult.failure(f"the sample's answer is no polygon: {sample.get('answer')!r}")
    given = parse_points(answer_text(response, sample.get("mode")) or "")
    if not 3 <= len(given) <= 200:
        return RewardResult(0.0, details={"reason": f"{len(given)} corners"})
    if any(not 0 <= coordinate <= grid for point in given for coordinate in point):
        return RewardResult(0.0, details={"reason": f"a coordinate outside 0…{grid}"})
    overlap = polygon_overlap(wanted, given)
    value = overlap if threshold is None else float(overlap >= threshold)
    return RewardResult(value, details={"iou": round(overlap, 4)})


@rule()
def point_in_box(response: str, sample: dict[str, Any], grid: int = 1000) -> RewardResult:
    """Share of the sample's boxes that a point of the answer hits; extra points cost as much.

    Each box takes one point, each point serves one box; the value is the number of boxes hit over
    the larger of the two counts, so that a rain of points gains nothing.
    """
    wanted = parse_boxes(_box_text(sample.get("answer")))
    if not wanted:
        return RewardResult.failure(f"the sample's answer has no box: {sample.get('answer')!r}")
    given = parse_points(answer_text(response, sample.get("mode")) or "", 4 * len(wanted) + 16)
    if any(not 0 <= coordinate <= grid for point in given for coordinate in point):
        return RewardResult(0.0, details={"reason": f"a coordinate outside 0…{grid}"})
    hits = _most_hits(wanted, given)
    return RewardResult(hits / max(len(wanted), len(given)), details={"hits": hits})


def _most_hits(wanted: list[Box], given: list[Point]) -> int:
    """The largest one-to-one assignment of points to the boxes they lie in (augmenting paths)."""
    taken: dict[int, int] = {}

    def place(box: int, seen: set[int]) -> bool:
        x1, y1, x2, y2 = wanted[box]
        for index, (x, y) in enumerate(given):
            if index not in seen and x1 <= x <= x2 and y1 <= y <= y2:
                seen.add(index)
                if index not in taken or place(taken[index], seen):
                    taken[index] = box
                    return True
        return False

    return sum(place(box, set()) for box in range(len(wanted)))


_TIME = r"(\d{1,6}(?::\d{1,2}){0,2}(?:\.\d{1,6})?)\s{0,4}(?:s|sec|seconds)?"
SPAN_FORM = re.compile(rf"\[?\s{{0,4}}{_TIME}\s{{0,4}}(?:,|-|–|to)\s{{0,4}}{_TIME}\s{{0,4}}\]?")


def parse_spans(text: str, limit: int = 256) -> list[tuple[float, float]]:
    """Time spans in seconds: `[1.5, 4]`, `1.5 - 4 s`, `from 1.5 to 4`, `00:01:05-00:01:09`."""
    found = []
    for match in SPAN_FORM.finditer(text):
        found.append((_seconds(match.group(1)), _seconds(match.group(2))))
        if len(found) == limit:
            break
    return found


def _seconds(text: str) -> float:
    total = 0.0
    for part in text.split(":"):
        total = total * 60 + float(part)
    return total


def union(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same times as spans without overlaps, in order; spans that end before they start go."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(span for span in spans if span[1] > span[0]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


@rule()
def temporal_iou(
    response: str, sample: dict[str, Any], threshold: float | None = 0.5
) -> RewardResult:
    """1.0 if the answer's time spans overlap the sample's with tIoU ≥ `threshold`, else 0.0.

    tIoU: seconds in both over seconds in either, of the unions of all spans. With
    `threshold=None` the value is the tIoU itself.
    """
    wanted = union(parse_spans(_box_text(sample.get("answer"))))
    if not wanted:
        return RewardResult.failure(f"the sample's answer has no span: {sample.get('answer')!r}")
    given = union(parse_spans(answer_text(response, sample.get("mode")) or ""))
    shared = overlap_length(wanted, given)
    either = sum(end - start for start, end in [*wanted, *given]) - shared
    value = shared / either if threshold is None else float(shared / either >= threshold)
    return RewardResult(value, details={"tiou": round(shared / either, 4)})
