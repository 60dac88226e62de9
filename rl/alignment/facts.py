"""The tiny world's documents: facts that no model can know, because a coin has decided them.

Invariant: a fact is a pure function of its entity, so documents, questions and answers agree
whoever computes them; entities of held-out questions are in no training question.
"""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np

from pretrain.data.sample import Sample
from pretrain.data.stream import SPLITS
from pretrain.data.world.shapes import COLORS, SHAPES
from pretrain.data.world.tasks import held_out
from pretrain.data.world.text import WORDS
from rollout.tools.documents import DocumentIndex, Passage
from rollout.tools.search import SearchTool
from rollout.tools.tool import Tool

NUMBERS = range(10, 100)
ATTRIBUTES = {"color": tuple(COLORS), "shape": tuple(SHAPES)}


def fact(entity: str, attribute: str) -> str:
    """What the documents say: `fact("cat 37", "color")` → `red`."""
    values = ATTRIBUTES[attribute]
    digest = hashlib.sha256(f"{attribute} of {entity}".encode()).digest()
    return values[int.from_bytes(digest[:8], "big") % len(values)]


def document(entity: str) -> str:
    """The text of an entity's passage: `red square`."""
    return " ".join(fact(entity, attribute) for attribute in ATTRIBUTES)


@cache
def entities(split: str) -> tuple[str, ...]:
    """All names that questions of a split ask about: a word and a number, `cat 37`."""
    names = (f"{word} {number}" for word in WORDS for number in NUMBERS)
    return tuple(name for name in names if held_out(name) == (split == "test"))


def world_search(results: int = 1) -> Tool:
    """The tool `search` over all facts (`tools.names=[rl.alignment.facts:world_search]`)."""
    names = [name for split in SPLITS for name in entities(split)]
    passages = [Passage(name, name, document(name)) for name in names]
    return SearchTool(DocumentIndex(passages), results)


class FactStream:
    """Questions about facts by index, without end: the retrieval source's tiny world."""

    def __init__(self, seed: int, split: str = "train") -> None:
        self.seed, self.split = seed, split

    def __getitem__(self, index: int) -> Sample:
        """Question `index`: `what color is the cat 37?`; its solution names the entity."""
        rng = np.random.default_rng([self.seed, index, SPLITS.index(self.split), 17])
        names, attributes = entities(self.split), list(ATTRIBUTES)
        entity = names[int(rng.integers(len(names)))]
        attribute = attributes[int(rng.integers(len(attributes)))]
        question = f"what {attribute} is the {entity}?"
        return Sample(
            id=f"facts/{attribute}/{self.split}/{self.seed}/{index}",
            messages=[{"role": "user", "content": [{"type": "text", "text": question}]}],
            answer=fact(entity, attribute),
            task_type=f"facts/{attribute}",
            rewards=[{"rule": "exact", "weight": 1.0}, {"rule": "format", "weight": 0.1}],
            solution=entity,
            mode="think",
        )

    def fingerprint(self) -> str:
        """What makes two streams equal."""
        return f"facts-{self.seed}-{self.split}"
