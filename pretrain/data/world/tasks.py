"""The task registry, and the tasks on text: OCR of rendered words and written arithmetic.

Invariants: a generator is a pure function of its random state and split; texts are short and
regular (a word is one token, numbers have no inner spaces); nothing in a test split can be an
exact copy of training material where the space is small enough for that to happen (handwritten
digits, word combinations and sums are split by identity, random scenes by seed).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from pretrain.data.sample import Sample, SampleError
from pretrain.data.world.text import WORDS, word_scene

WORLD_VERSION = 2
"""Part of every stream's fingerprint: raise it when the same seed would give other samples."""

TaskGenerator = Callable[[np.random.Generator, str], Sample]
TASKS: dict[str, TaskGenerator] = {}
STEP = ";"
"""Between two steps of a solution. Without spaces, which would be tokens of their own before a
number: they would lengthen every response by a sixth."""
TEST_SHARE = 5
"""One in this many word combinations and sums is held out."""


def task(task_type: str) -> Callable[[TaskGenerator], TaskGenerator]:
    """Register a generator under its task type."""

    def register(generator: TaskGenerator) -> TaskGenerator:
        TASKS[task_type] = generator
        return generator

    return register


def draw(
    task_type: str,
    question: str,
    answer: str,
    *,
    image: np.ndarray | None = None,
    alt: str | None = None,
    rule: dict[str, Any] | None = None,
    solution: str | None = None,
    hints: list[str] | None = None,
) -> Sample:
    """A world sample; its id is its task type until a stream gives it a place.

    `alt` says in words what the image shows, as far as the question needs it. Without `rule` the
    answer is compared as text; every sample has the format reward beside it.
    """
    content: list[dict[str, Any]] = [{"type": "text", "text": question}]
    if image is not None:
        content.insert(0, {"type": "image", "image": image} | ({"alt": alt} if alt else {}))
    return Sample(
        id=task_type,
        messages=[{"role": "user", "content": content}],
        answer=answer,
        task_type=task_type,
        rewards=[
            {"weight": 1.0} | (rule or {"rule": "exact"}),
            {"rule": "format", "weight": 0.1},
        ],
        hints=hints,
        solution=solution,
        mode="no_think",
    )


def textual(sample: Sample) -> Sample:
    """The same question about a description instead of an image or clip: `scene. question`.

    Raises `SampleError` where the medium has no description (its `alt` text).
    """
    messages = []
    for message in sample.messages:
        content = message["content"]
        if not isinstance(content, str) and any(part["type"] != "text" for part in content):
            content = [{"type": "text", "text": _describe(sample, content)}]
        messages.append({"role": message["role"], "content": content})
    return replace(sample, id=f"{sample.id}/text", messages=messages)


def _describe(sample: Sample, content: list[dict[str, Any]]) -> str:
    words = []
    for part in content:
        if part["type"] == "text":
            words.append(part["text"])
        elif part.get("alt"):
            words.append(f"{part['alt']}.")
        else:
            raise SampleError(f"sample {sample.id!r} ({sample.task_type}): its medium has no `alt`")
    return " ".join(words)


def held_out(text: str) -> bool:
    """Whether a piece of text belongs to the test split; stable over processes and machines."""
    return zlib.crc32(text.encode()) % TEST_SHARE == 0


def running_sum(numbers: list[int]) -> str:
    """The additions one after the other: `3+5=8;8+8=16`; the number itself if there is one."""
    steps, total = [], numbers[0]
    for number in numbers[1:]:
        steps.append(f"{total}+{number}={total + number}")
        total += number
    return STEP.join(steps) or str(total)


@task("text/ocr")
def ocr(rng: np.random.Generator, split: str) -> Sample:
    """Read one or two rendered words; combinations of two are held out by hash."""
    while True:
        count = int(rng.integers(1, 3))
        words = [WORDS[index] for index in rng.integers(0, len(WORDS), count)]
        text = " ".join(words)
        if count == 1 or held_out(text) == (split == "test"):
            break
    return draw("text/ocr", "read text", text, image=word_scene(rng, words), alt=f"text {text}")


@task("text/arithmetic")
def arithmetic(rng: np.random.Generator, split: str) -> Sample:
    """A written sum of two to four digits, no image; sums are held out by hash."""
    while True:
        numbers = rng.integers(0, 10, int(rng.integers(2, 5))).tolist()
        question = "+".join(map(str, numbers))
        if held_out(question) == (split == "test"):
            break
    return draw(
        "text/arithmetic",
        f"{question}=?",
        str(sum(numbers)),
        rule={"rule": "math"},
        solution=running_sum(numbers),
    )
