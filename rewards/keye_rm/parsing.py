"""Reads a judgement, strictly: what isn't exactly in the template's form is malformed.

A malformed judgement is a status. It is never repaired, and never counts as a tie.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache

from rewards.keye_rm.templates import MODES, Template

_REASONED = re.compile(
    r"<think>((?:(?!</?think>).)*)</think><answer>\\boxed\{([^{}]*)\}</answer>", re.DOTALL
)


@dataclass(slots=True)
class Judgement:
    """One reading of one judgement."""

    verdict: int | None
    """0: the first response is better, 1: the second; None when malformed."""
    marks: tuple[dict[str, int], dict[str, int]] | None = None
    """Marks of the first and of the second response by dimension; None without reasoning."""
    fault: str = ""
    """What is wrong with a malformed judgement."""
    verdict_at: int = -1
    """Where the verdict begins in the text."""

    @property
    def ok(self) -> bool:
        """Whether the judgement could be read."""
        return self.verdict is not None


def parse(text: str, mode: str, template: Template) -> Judgement:
    """The judgement in `text`, the model's reply in `mode` without its end token.

    no_think: the verdict's label and nothing else. think: `<think>` with all marks of both
    responses (and the judge's own work before them, if the template has a place for it)
    `</think><answer>\\boxed{label}</answer>`. Only white space around the whole is free.
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} is not one of {', '.join(MODES)}")
    body = text.strip()
    start = len(text) - len(text.lstrip())
    if not body:
        return Judgement(None, fault="empty")
    if mode == "no_think":
        if body not in template.labels:
            return Judgement(None, fault=f"{body[:40]!r} is not a verdict")
        return Judgement(template.labels.index(body), verdict_at=start)
    found = _REASONED.fullmatch(body)
    if found is None:
        return Judgement(None, fault="not <think>marks</think><answer>\\boxed{verdict}</answer>")
    if found[2] not in template.labels:
        return Judgement(None, fault=f"{found[2][:40]!r} is not a verdict")
    matched = _pattern(json.dumps(template.to_dict())).fullmatch(found[1])
    if matched is None:
        return Judgement(None, fault=f"the marks are not in the template's form: {found[1][:80]!r}")
    marks = [int(mark) for mark in matched.groups()]
    count = len(template.dimensions)
    first = dict(zip(template.dimensions, marks[:count], strict=True))
    second = dict(zip(template.dimensions, marks[count:], strict=True))
    return Judgement(
        template.labels.index(found[2]), (first, second), verdict_at=start + found.start(2)
    )


@lru_cache(maxsize=16)
def _pattern(template: str) -> re.Pattern[str]:
    return Template(**json.loads(template)).pattern()
