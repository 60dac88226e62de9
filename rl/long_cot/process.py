"""Step-by-step checks of a correct path's reasoning, by rules alone.

Invariant: a finding names a step (0: the whole) and quotes what is wrong in it; no finding means
that nothing checkable is wrong, not that everything is right.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pretrain.data.sample import Sample
from rewards.answer import single_answer
from rewards.rules.math import plain_number
from rewards.rules.shaping import EQUATION, evaluate, wrong_equations
from rewards.rules.text import normalise
from rl.hints.prompts import problem
from rl.long_cot.config import AssessConfig
from rl.long_cot.steps import BOUNDARY, step_texts, think_text

_NUMBER = re.compile(r"(?<![\w.])\d{1,15}(?:\.\d{1,15})?(?![\w])")
_LABEL = re.compile(r"^\W*(?:step\s*)?\d{1,2}\s*[.):]\s+", re.IGNORECASE)
"""The number of a step, as in `2. Add` or `Step 2: add`: it says nothing about the question."""
_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")
_CONTROL = re.compile(r"<\|[^|<>]{1,40}\|>")


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a step."""

    step: int
    """From 1 on; 0 is the reasoning as a whole."""
    text: str
    """What, in words, with the piece quoted."""

    def to_row(self) -> dict[str, Any]:
        """For JSON."""
        return {"step": self.step, "text": self.text}


def check_process(response: str, sample: Sample, cfg: AssessConfig) -> list[Finding]:
    """What the rules find wrong in a response's reasoning, in the order of the steps."""
    steps = step_texts(response)
    if not steps:
        return [Finding(0, "there is no reasoning")]
    findings = []
    for number, step in enumerate(steps, start=1):
        if cfg.equations:
            findings += [Finding(number, fault) for fault in _equation_faults(step)]
    if sample.solution and cfg.solution == "steps":
        findings += _foreign_steps(steps, sample.solution)
    if sample.solution and cfg.solution == "numbers":
        findings += _unsupported_numbers(steps, sample)
    if cfg.conclusion:
        findings += _conclusion_fault(response, sample)
    return sorted(findings, key=lambda finding: finding.step or len(steps) + 1)


def _equation_faults(step: str) -> list[str]:
    faults = []
    for wrong in wrong_equations(step):
        left = wrong.rpartition("=")[0]
        value = evaluate(left.strip())
        faults.append(f"{wrong} does not hold" + (f" ({value})" if value is not None else ""))
    return faults


def _foreign_steps(steps: Sequence[str], solution: str) -> list[Finding]:
    known = {normalise(step) for step in BOUNDARY.split(solution) if step.strip()}
    return [
        Finding(number, f"{step!r} is no step of the solution")
        for number, step in enumerate(steps, start=1)
        if normalise(step) not in known
    ]


def _unsupported_numbers(steps: Sequence[str], sample: Sample) -> list[Finding]:
    """Numbers that come from nowhere: not given, not in the solution, not computed before."""
    texts = (problem(sample), sample.solution or "", sample.answer)
    known = {Decimal(number) for text in texts for number in _NUMBER.findall(text)}
    findings = []
    for number, step in enumerate(steps, start=1):
        # Its result is computed, if it holds; the numbers it starts from must be known.
        results = {Decimal(match.group(2)) for match in EQUATION.finditer(step)}
        foreign = [
            text
            for text in dict.fromkeys(_NUMBER.findall(_LABEL.sub("", step)))
            if Decimal(text) not in known | results
        ]
        if foreign:
            listed = ", ".join(foreign)
            findings.append(
                Finding(number, f"{listed} is neither given, nor in the solution, nor computed")
            )
        known |= results
    return findings


def _conclusion_fault(response: str, sample: Sample) -> list[Finding]:
    """A finding when the answer is not what the reasoning ends with."""
    answer, thought = single_answer(response, "think"), think_text(response)
    if answer is None:
        return [Finding(0, "there is no single answer")]
    parts = sample.extra.get("parts")
    if parts:  # a merged question: each answer must have been found on the way
        missing = [part for part in parts if not _occurs(part, thought)]
        return [Finding(0, f"the reasoning never comes to {part!r}") for part in missing]
    value = plain_number(answer.strip().strip("$"))
    numbers = _NUMBER.findall(thought)
    if value is None:
        if _occurs(answer, thought):
            return []
        return [Finding(0, f"the answer {answer!r} does not occur in the reasoning")]
    if numbers and Decimal(numbers[-1]) == abs(value):
        return []
    ending = f"ends with {numbers[-1]}" if numbers else "holds no number"
    return [Finding(0, f"the reasoning {ending}, the answer is {answer}")]


def _occurs(answer: str, thought: str) -> bool:
    """Whether the words and numbers of an answer occur in the reasoning in their order.

    `red, blue` does in `0.0 red;1.0 blue`: a list is found one by one.
    """
    words = iter(_WORD.findall(_CONTROL.sub(" ", thought).casefold()))
    return all(word in words for word in _WORD.findall(_CONTROL.sub(" ", answer).casefold()))
