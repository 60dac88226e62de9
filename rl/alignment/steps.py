"""Reasoning in 3–5 prescribed steps: they stand in the prompt; outcome and process are rewarded.

In the tiny world every step is mechanical, so a rule knows what each must write. Rows of files
bring their `steps`: texts, or `{text, expect}` where a rule can check the step. A judge, if there
is one, sees the process of either.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np

from pretrain.data.sample import Sample, SampleError
from pretrain.data.world.tasks import STEP, running_sum
from rl.alignment.config import AlignmentConfig
from rl.alignment.prompts import answer_entries, format_entry, marked, with_query

FEWEST, MOST = 3, 5
DIGITS = re.compile(r"digits (\d+)")
WORDING = {
    "digits": "write `digits` and all digits in reading order",
    "count": "write `count` and how many there are",
    "first": "write `first` and the first digit",
    "end": "write `end` and the last digit",
    "max": "write `max` and the largest digit",
    "min": "write `min` and the smallest digit",
    "plus": "add the digits one after the other, as 1+2=3",
    "minus": "subtract the smallest from the largest, as 3-2=1",
}
"""Steps of the tiny world by the word that the short prompt names them with."""
EXTRA = ("count", "first", "end", "max", "min")
"""Steps that may come anywhere between reading the digits and what the question needs."""
NEEDED: dict[str, tuple[str, ...]] = {
    "digits/sum": ("plus",),
    "digits/sum_hard": ("plus",),
    "digits/max": ("max",),
    "digits/difference": ("max", "min", "minus"),
}
"""What a question needs after the digits, the last of them at the end."""


def with_steps(sample: Sample, rng: np.random.Generator, cfg: AlignmentConfig) -> Sample:
    """The steps are added to the query (a row's own stand in it already) and rewarded."""
    own = cfg.steps
    given = sample.extra.get("steps")
    steps = _given(sample, given) if given else _drawn(sample, rng)
    checkable = all(step.get("expect") for step in steps)
    judged = cfg.judge.entry("judge", name="process", task="steps", weight=own.judge_weight)
    if not checkable and not judged:
        raise SampleError(
            f"sample {sample.id!r}: nothing can check its steps. Set alignment.judge.url and "
            "alignment.judge.model, or give each step what it must write: {text, expect}"
        )
    rewards = [*answer_entries(sample, own.answer_weight)]
    if checkable:
        rewards.append({"rule": "prescribed_steps", "name": "steps", "weight": own.steps_weight})
    rewards += [*judged, *format_entry(own.format_weight, own.format_gate)]
    made = replace(sample, rewards=rewards, extra=sample.extra | {"steps": steps})
    if not given:
        solution = STEP.join(step["expect"] for step in steps)
        names = ", ".join(step["name"] for step in steps)
        listed = "\n".join(f"{k}. {WORDING[s['name']]}" for k, s in enumerate(steps, start=1))
        full = f"Reason in exactly these steps, in this order, with `;` between them:\n{listed}"
        made = with_query(replace(made, solution=solution), names if own.short else full)
    return marked(made, "steps", str(len(steps)))


def _given(sample: Sample, given: Any) -> list[dict[str, Any]]:
    steps = [step if isinstance(step, dict) else {"text": step} for step in given]
    bad = [step for step in steps if not isinstance(step.get("text"), str) or not step["text"]]
    if bad or not FEWEST <= len(steps) <= MOST:
        raise SampleError(
            f"sample {sample.id!r}: `steps` must be {FEWEST} to {MOST} texts or "
            f"{{text, expect}} objects, got {given!r}"
        )
    return steps


def _drawn(sample: Sample, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Reading the digits, some extra steps in a random order, and those that the task needs."""
    found = DIGITS.search(sample.solution or "")
    needed = NEEDED.get(sample.task_type)
    if found is None or needed is None:
        raise SampleError(
            f"sample {sample.id!r} ({sample.task_type}): steps can be prescribed for "
            f"{', '.join(NEEDED)}, or for rows that bring `steps`"
        )
    digits = [int(digit) for digit in found.group(1)]
    count = int(rng.integers(FEWEST, MOST + 1))
    early, last = list(needed[:-1]), needed[-1]
    free = [name for name in EXTRA if name not in needed]
    extra = rng.permutation(free)[: max(count - 1 - len(needed), 0)].tolist()
    between = rng.permutation([*early, *extra]).tolist()
    names = ["digits", *between, last]
    return [
        {"name": name, "text": WORDING[name], "expect": _expected(name, digits)} for name in names
    ]


def _expected(name: str, digits: list[int]) -> str:
    if name == "plus":
        return running_sum(digits)
    if name == "minus":
        return f"{max(digits)}-{min(digits)}={max(digits) - min(digits)}"
    values: dict[str, Any] = {
        "digits": "".join(map(str, digits)),
        "count": len(digits),
        "first": digits[0],
        "end": digits[-1],
        "max": max(digits),
        "min": min(digits),
    }
    return f"{name} {values[name]}"
