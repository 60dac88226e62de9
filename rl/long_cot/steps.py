"""Steps of a reasoning text, and how sure the policy was of each.

Invariant: a step's confidence is taken over exactly the tokens that were sampled for its text; the
text is never tokenised again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

OPEN, CLOSE = "<think>", "</think>"
# A line's end, a semicolon (not LaTeX's thin space), or the end of a sentence.
BOUNDARY = re.compile(r"\n+|(?<!\\);|(?<=[.!?])\s+|(?<=[。！？；])")
_ENUMERATION = re.compile(r"[\W\d_]*")  # "2." alone is the number of the step after it


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a response."""

    text: str
    start: int
    """First token in the response."""
    end: int
    """One after its last token."""
    confidence: float
    """Geometric mean of its tokens' probabilities, 0…1; NaN without log-probs."""


def think_text(response: str) -> str:
    """What stands between <think> and </think>; empty when the response doesn't reason."""
    start, end = _think_span(response)
    return response[start:end]


def _think_span(response: str) -> tuple[int, int]:
    start = response.find(OPEN)
    if start < 0:
        return 0, 0
    end = response.find(CLOSE, start)
    return start + len(OPEN), end if end >= 0 else len(response)


def step_spans(response: str) -> list[tuple[int, int]]:
    """Character spans of the steps of a response's reasoning, without the white space around."""
    start, end = _think_span(response)
    edges = [start]
    for match in BOUNDARY.finditer(response, start, end):
        piece = response[edges[-1] : match.start()]
        # "1." or "(2)" before the sentence that it numbers is no step of its own; a lone result
        # ("12;") ends with a mark that numbers nothing.
        numbering = _ENUMERATION.fullmatch(piece) and piece.rstrip().endswith((".", ")"))
        if not numbering:
            edges.append(match.end())
    edges.append(end)
    spans = []
    for left, right in pairwise(edges):
        piece = response[left:right]
        stripped = piece.strip().removesuffix(";").rstrip()
        if stripped:
            begin = left + len(piece) - len(piece.lstrip())
            spans.append((begin, begin + len(stripped)))
    return spans


def step_texts(response: str) -> list[str]:
    """The texts of the steps of a response's reasoning."""
    return [response[start:end] for start, end in step_spans(response)]


def token_ends(tokenizer: Any, ids: Sequence[int], text: str) -> np.ndarray:
    """int `[R]`: where each token's characters end in `text`, the decoded `ids`.

    Tokens of one character (bytes of it) end together.
    """
    ends, pending, place = np.zeros(len(ids), int), 0, 0
    for index in range(len(ids)):
        piece = tokenizer.decode(list(ids[pending : index + 1]), skip_special_tokens=False)
        if piece.endswith("\ufffd") and index + 1 < len(ids):
            continue
        place += len(piece)
        ends[pending : index + 1] = place
        pending = index + 1
    if place == len(text):
        return ends
    # A tokenizer whose pieces depend on what stands before them: decode every beginning.
    return np.array(
        [
            len(tokenizer.decode(list(ids[: index + 1]), skip_special_tokens=False))
            for index in range(len(ids))
        ],
        int,
    )


def confidence(logprobs: np.ndarray) -> float:
    """exp of the mean log-probability, 0…1; NaN for no token."""
    return float(np.exp(np.mean(logprobs))) if len(logprobs) else float("nan")


def steps_of(response: str, ends: np.ndarray, logprobs: np.ndarray) -> list[Step]:
    """The steps with their tokens and confidences.

    Args:
        response: the decoded text.
        ends: `token_ends` of it, int `[R]` (the end-of-turn token left out).
        logprobs: float `[≥ R]`, or empty when none were asked for.
    """
    steps = []
    for start, end in step_spans(response):
        first = int(np.searchsorted(ends, start, side="right"))
        ending = ends[min(int(np.searchsorted(ends, end, side="left")), len(ends) - 1)]
        last = int(np.searchsorted(ends, ending, side="right"))  # all bytes of a last character
        steps.append(Step(response[start:end], first, last, confidence(logprobs[first:last])))
    return steps
