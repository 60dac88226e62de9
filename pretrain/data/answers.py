"""Comparison of a direct answer with its reference: exact text, or overlap of a box or a time."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pretrain.data.sample import Sample

BOX_SCALE = 1000
"""Grounding coordinates are integers in [0, 1000), relative to the image's width and height."""
MIN_IOU = 0.5
Box = tuple[int, int, int, int]
Span = tuple[float, float]
_SPAN = re.compile(r"\[\s*(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)\s*\]")
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


def parse_span(text: str) -> Span | None:
    """The first span of time in a text, `[start, end]` in seconds."""
    found = _SPAN.search(text)
    return (float(found[1]), float(found[2])) if found else None


def span_iou(first: Span, second: Span) -> float:
    """Seconds in both spans over seconds in either; 0.0 for an empty or inverted one."""
    shared = min(first[1], second[1]) - max(first[0], second[0])
    lengths = [max(end - start, 0.0) for start, end in (first, second)]
    if min(shared, *lengths) <= 0:
        return 0.0
    return shared / (sum(lengths) - shared)


OVERLAPS: dict[str, tuple[Callable[[str], Any], Callable[[Any, Any], float]]] = {
    "box_iou": (parse_box, box_iou),
    "temporal_iou": (parse_span, span_iou),
}
"""Rule → how an answer is read and how two of them are compared."""


def has_other_answers(sample: Sample) -> bool:
    """Whether answers other than the reference are right too."""
    return any(rule["rule"] in OVERLAPS for rule in sample.rewards)


def is_correct(sample: Sample, text: str) -> bool:
    """Whether a direct answer is right: equal text after strip, or enough overlap for grounding.

    The threshold is that of the sample's own `box_iou` or `temporal_iou` reward (0.5 by default).
    """
    for rule in sample.rewards:
        if rule["rule"] in OVERLAPS:
            parse, overlap = OVERLAPS[rule["rule"]]
            given, reference = parse(text), parse(sample.answer)
            if given is None or reference is None:
                return False
            return overlap(given, reference) >= rule.get("threshold", MIN_IOU)
    return text.strip() == sample.answer.strip()
