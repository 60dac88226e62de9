"""Texts as the page shows them: confidences as colours, answers, differences."""

from __future__ import annotations

import difflib
import html
import re

_CLOSE = "</think>"
_GREEN = 120
"""Hue in degrees; red is 0."""


def confidence_hue(confidence: float, low: float, high: float) -> int:
    """Hue of a confidence: 0 (red) up to `low`, 120 (green) from `high`, evenly between."""
    share = (confidence - low) / (high - low)
    return round(_GREEN * min(max(share, 0.0), 1.0))


def split_response(response: str) -> tuple[str, str]:
    """Reasoning and what follows it; the reasoning is empty if the response doesn't reason."""
    before, close, after = response.rpartition(_CLOSE)
    return (before + close, after) if close else ("", response)


def difference_html(old: str, new: str) -> str:
    """`new` as HTML with words that `old` lacks in <ins>, and words that it lost in <del>."""
    a, b = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (old, new))
    pieces = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        gone, come = html.escape("".join(a[i:j])), html.escape("".join(b[k:m]))
        if kind == "equal":
            pieces.append(come)
            continue
        pieces.append(f"<del>{gone}</del>" if gone else "")
        pieces.append(f"<ins>{come}</ins>" if come else "")
    return "".join(pieces)
