"""Texts of the world, for training the tokenizer.

Invariant: however few texts are asked for, every word of the world occurs, both with a leading
space and at the start of a text, because a reply's first word has no space before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pretrain.data.render import has_hint, hint, render, reply
from pretrain.data.sample import HINT_LEVELS, MODES, Sample
from pretrain.data.world.tasks import TASKS, textual
from pretrain.data.world.text import WORDS

_WORD = re.compile(r"[A-Za-z_]+")
_SPECIAL = re.compile(r"<.*?>")
_SAMPLES_PER_TASK = 60
# Common enough that byte-pair merging completes every word before the vocabulary is full.
_REPEATS = 20


def corpus(n: int, seed: int = 0) -> Iterator[str]:
    """`n` texts of samples, seeded, among them and after them the list of all words."""
    rng = np.random.default_rng(seed)
    names = list(TASKS)
    words = set(WORDS) | {"user", "assistant", "system"}
    for name in names:
        for _ in range(_SAMPLES_PER_TASK):
            for text in _texts(TASKS[name](rng, "train")):
                words.update(_WORD.findall(_SPECIAL.sub("", text)))
    listed = sorted(words)
    for _ in range(_REPEATS):
        yield "".join(f"{word}\n" for word in listed)
        yield "".join(f" {word}" for word in listed)
    made = 0
    while made < n:
        for text in _texts(TASKS[names[rng.integers(len(names))]](rng, "train")):
            yield text
            made += 1


def _texts(sample: Sample) -> Iterator[str]:
    """Everything a model may read or write about one sample, in every mode."""
    for mode in MODES:
        for message in render(replace(sample, mode=mode)):
            yield from (part["text"] for part in message["content"] if part["type"] == "text")
        if mode != "think" or sample.solution is not None:
            yield reply(sample, mode)
    if all(part.get("alt") for part in sample.media()):
        yield textual(sample).messages[-1]["content"][-1]["text"]
    for level in range(1, HINT_LEVELS + 1):
        if has_hint(sample, level):
            yield f"\nHint: {hint(sample, level)} /think"
