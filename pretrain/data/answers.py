"""Comparison of a direct answer with its reference: exact text, or IoU for a grounding box."""

from __future__ import annotations

import re

from pretrain.data.sample import Sample

BOX_SCALE = 1000
"""Grounding coordinates are integers in [0, 1000), relative to the image's width and height."""
BOX_IOU = 0.5
Box = tuple[int, int, int, int]
_BOX = re.compile(r"\(\s*(\d+)\s*,\s*(\d+)\s*\)\s*,\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)")


def format_box(box: Box, width: int, height: int) -> str:
    """A pixel box (x1, y1, x2, y2) in Keye's text form, normalised to 0…999."""
    x1, y1, x2, y2 = (
        min(round(edge * BOX_SCALE / size), BOX_SCALE - 1)
        for edge, size in zip(box, (width, height, width, height), strict=True)
    )
    return f"<|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>"


def parse_box(text: str) -> Box | None:
    """The first box in a text, whether or not its special tokens survived decoding."""
    found = _BOX.search(text)
    if not found:
        return None
    x1, y1, x2, y2 = (int(edge) for edge in found.groups())
    return x1, y1, x2, y2


def box_iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2); 0.0 for an empty or inverted one."""
    wide = min(first[2], second[2]) - max(first[0], second[0])
    high = min(first[3], second[3]) - max(first[1], second[1])
    areas = [max(x2 - x1, 0) * max(y2 - y1, 0) for x1, y1, x2, y2 in (first, second)]
    if min(wide, high, *areas) <= 0:
        return 0.0
    return wide * high / (sum(areas) - wide * high)


def is_correct(sample: Sample, text: str) -> bool:
    """Whether a direct answer is right: equal text after strip, or IoU ≥ 0.5 for grounding.

    The sample's own `box_iou` reward, if it has one, sets another threshold.
    """
    rule = next((rule for rule in sample.rewards if rule["rule"] == "box_iou"), None)
    if rule is None:
        return text.strip() == sample.answer.strip()
    box, reference = parse_box(text), parse_box(sample.answer)
    if box is None or reference is None:
        return False
    return box_iou(box, reference) >= rule.get("threshold", BOX_IOU)
