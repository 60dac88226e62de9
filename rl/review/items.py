"""What a person is asked to review: traces with their steps, and candidates to rank.

A line of the items file is `{id, messages, answer, task_type, mode, response, steps: [{text,
confidence}], confidence, grade, findings, candidates?}`; the first five are a sample's, media
included, and `candidates` are responses that can be ranked.

Invariant: a file with one wrong line is refused as a whole, so that nobody takes a part of the work
for all of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.data.sample import Sample, SampleError
from pretrain.run.errors import KeyeError

GRADES = ("A", "B")
"""A: answer and reasoning are right; B: the answer is right, the reasoning is flawed."""
_SAMPLE_KEYS = ("id", "messages", "images", "videos", "answer", "task_type", "mode")


@dataclass(frozen=True, slots=True)
class ReviewStep:
    """One step of the reasoning."""

    text: str
    confidence: float | None
    """The policy's probability per token, 0…1; None if it wasn't measured."""


@dataclass(frozen=True, slots=True)
class ReviewItem:
    """One line of the items file."""

    sample: Sample
    """Question, media (not loaded), reference answer, task type and mode."""
    response: str
    """The whole response as the model wrote it: version 0."""
    steps: tuple[ReviewStep, ...]
    """The reasoning in steps."""
    confidence: float | None
    """The policy's probability per token over the whole response."""
    grade: str | None
    """One of `GRADES`, or None for items that are only ranked."""
    findings: tuple[str, ...]
    """What the automatic assessment found fault with."""
    candidates: tuple[str, ...]
    """Responses to rank; none or at least two."""

    @property
    def id(self) -> str:
        """The sample's id."""
        return self.sample.id

    @classmethod
    def from_row(cls, row: Any) -> ReviewItem:
        """Raises `SampleError` that names the first wrong field."""
        if not isinstance(row, Mapping):
            raise SampleError(f"an item must be an object, not {type(row).__name__}")
        if not isinstance(row.get("id"), str) or not row["id"].strip():
            raise SampleError("`id` must be a non-empty string")
        sample = Sample.from_row({key: row[key] for key in _SAMPLE_KEYS if key in row})
        try:
            return cls(
                sample=sample,
                response=_text(row.get("response"), "response"),
                steps=tuple(_step(step) for step in _list(row, "steps")),
                confidence=_confidence(row.get("confidence"), "confidence"),
                grade=_grade(row.get("grade")),
                findings=tuple(_text(text, "findings") for text in _list(row, "findings")),
                candidates=_candidates(row),
            )
        except SampleError as error:
            raise SampleError(f"item {sample.id!r}: {error}") from None


def load_items(path: Path | str) -> list[ReviewItem]:
    """All items of a file, in its order.

    Raises `KeyeError` for a file that is absent or empty, or naming the file, the line, the reason
    and the fix of the first wrong line.
    """
    path = Path(path)
    if not path.is_file():
        raise KeyeError(f"there is no items file {path}; a review stage of a run writes it")
    items: dict[str, ReviewItem] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            item = ReviewItem.from_row(json.loads(line))
            if item.id in items:
                raise SampleError(f"id {item.id!r} is used twice")
        except (ValueError, SampleError) as error:
            if not isinstance(error, SampleError):
                error = SampleError(f"not valid JSON in UTF-8 ({error})")
            raise KeyeError(
                f"{path}:{number}: {error}. Mend or remove that line; decisions already made stay."
            ) from None
        items[item.id] = item
    if not items:
        raise KeyeError(f"{path} holds no item, so there is nothing to review")
    return list(items.values())


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise SampleError(f"`{key}` must be a non-empty string, got {value!r}")
    return value


def _list(row: Mapping[str, Any], key: str) -> list[Any]:
    value = row.get(key)
    if value is not None and not isinstance(value, list):
        raise SampleError(f"`{key}` must be a list, got {value!r}")
    return value or []


def _step(step: Any) -> ReviewStep:
    if not isinstance(step, Mapping):
        raise SampleError(f"`steps` must be objects with text and confidence, got {step!r}")
    return ReviewStep(
        _text(step.get("text"), "steps.text"), _confidence(step.get("confidence"), "steps")
    )


def _confidence(value: Any, key: str) -> float | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1:
        raise SampleError(f"`{key}` must have a confidence in 0…1 or none, got {value!r}")
    return float(value)


def _grade(value: Any) -> str | None:
    if value is not None and value not in GRADES:
        raise SampleError(f"`grade` must be one of {', '.join(GRADES)}, got {value!r}")
    return value


def _candidates(row: Mapping[str, Any]) -> tuple[str, ...]:
    candidates = tuple(_text(text, "candidates") for text in _list(row, "candidates"))
    if len(candidates) == 1:
        raise SampleError("`candidates` must be at least two responses, or absent")
    return candidates
