"""(c) Which paths of a question go on: sound before flawed, confident, and unlike each other.

Invariants: only a usable path goes on; a flawed one (B) never takes the place of a sound one (A),
nor does it stand beside one that it nearly repeats.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rewards.rules.edit_distance import similarity
from rl.long_cot.config import SelectConfig
from rl.long_cot.paths import usable
from rl.long_cot.steps import think_text

_UNSPACED = r"\u3040-\u30ff\u3400-\u9fff"  # Chinese and Japanese: each character is a word
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]")


def reasoning_words(response: str) -> list[str]:
    """The words and marks of a response's reasoning: the unit of distances."""
    return _WORD.findall(think_text(response))


class Choice:
    """The paths of one question that go on, by their grades as these become known.

    Args:
        paths: all of the question's paths, each with a `grade`.
        cfg: how many go on, and which.
    """

    def __init__(self, paths: Sequence[dict[str, Any]], cfg: SelectConfig) -> None:
        self.paths, self.cfg = paths, cfg
        self.kept: list[int] = []
        """Places of the paths that go on, in the order in which they were chosen."""
        self._fallen: list[int] = []
        self._words = {
            k: reasoning_words(path["response"]) for k, path in enumerate(paths) if usable(path)
        }
        self._apart: dict[tuple[int, int], float] = {}

    def take_sound(self) -> list[int]:
        """Choose A's for the free places and return them; a chosen one that is a B now leaves."""
        self._fallen += [k for k in self.kept if self.paths[k]["grade"] != "A"]
        self.kept = [k for k in self.kept if self.paths[k]["grade"] == "A"]
        return self._take(self._graded("A"))

    def take_flawed(self) -> list[int]:
        """Choose B's for the places that are still free, first those that were taken for A's."""
        return self._take(self._fallen) + self._take(self._graded("B"))

    def _graded(self, grade: str) -> list[int]:
        return [k for k, path in enumerate(self.paths) if usable(path) and path["grade"] == grade]

    def _take(self, candidates: Sequence[int]) -> list[int]:
        """Keep candidates, one at a time, while places are free and any is unlike those kept.

        The next one has the largest `confidence + diversity · distance to the nearest kept one`
        (max-min selection with a bonus for confidence); the first of all is the most confident.
        """
        taken: list[int] = []
        while len(self.kept) < self.cfg.keep:
            worth = {
                k: self.paths[k]["confidence"] + self.cfg.diversity * apart
                for k in candidates
                if self.paths[k]["confidence"] >= self.cfg.min_confidence
                and k not in self.kept
                and (apart := self._nearest(k)) >= self.cfg.min_distance
            }
            if not worth:
                break
            taken.append(max(worth, key=worth.__getitem__))
            self.kept.append(taken[-1])
        return taken

    def _nearest(self, one: int) -> float:
        return min((self._distance(one, other) for other in self.kept), default=1.0)

    def _distance(self, one: int, other: int) -> float:
        """Share of the longer one's words that an edit would change, 0…1."""
        pair = min(one, other), max(one, other)
        if pair not in self._apart:
            self._apart[pair] = 1.0 - similarity(self._words[pair[0]], self._words[pair[1]])
        return self._apart[pair]
