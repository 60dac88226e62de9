"""Answers compared as text."""

from __future__ import annotations

import unicodedata
from typing import Any

from rewards.answer import single_answer
from rewards.registry import rule


def normalise(text: object) -> str:
    """Unicode-compatible form, lower case, single spaces, no quotes or full stop around it."""
    plain = unicodedata.normalize("NFKC", str(text)).casefold()
    return " ".join(plain.split()).strip(" \"'`.“”‘’")


def references(sample: dict[str, Any]) -> list[str]:
    """The accepted answers of a sample: `answer` is one, or a list of alternatives."""
    answer = sample.get("answer")
    if answer is None:
        raise ValueError("the sample has no answer")
    return [str(item) for item in answer] if isinstance(answer, (list, tuple)) else [str(answer)]


@rule()
def exact(response: str, sample: dict[str, Any], case_sensitive: bool = False) -> float:
    """1.0 if the answer equals the sample's answer (or one of a list of accepted answers).

    Spaces are collapsed, Unicode is normalised, surrounding quotes and a final full stop ignored.
    """
    given = single_answer(response, sample.get("mode"))
    if given is None:
        return 0.0

    def form(text: str) -> str:
        return " ".join(text.split()) if case_sensitive else normalise(text)

    return float(form(given) in {form(reference) for reference in references(sample)})
