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
