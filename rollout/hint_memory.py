"""Which hint a prompt needed last time, so that it isn't found out again from L0.

Invariant: what is remembered never rises by itself. A prompt that is solved at the level it starts
from starts lower the next time, down to no hint at all: hints are weaned off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pretrain.run.errors import KeyeError


class HintMemory:
    """Minimal sufficient hint level by prompt id.

    Args:
        decay: levels by which a prompt's level falls each time its starting level was enough (or
            when even the highest level wasn't: it is tried with less again). 0.5 falls a whole
            level at every other visit.
        size: prompts that are remembered; the ones that have not been seen longest are forgotten.
    """

    def __init__(self, decay: float, size: int) -> None:
        self.decay, self.size = decay, size
        self._levels: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._levels)

    def start(self, prompt_id: str) -> int:
        """The level to begin with; 0 for a prompt that needs no hint or is not known."""
        return math.ceil(self._levels.get(prompt_id, 0.0))

    def record(self, prompt_id: str, started: int, needed: int) -> None:
        """Take note of a visit that began at level `started` and was solved at level `needed`.

        A prompt that nothing solved counts as solved at the highest level that was tried.
        """
        level = self._levels.pop(prompt_id, 0.0)
        level = float(needed) if needed > started else min(level, needed) - self.decay
        if level <= 0:
            return
        self._levels[prompt_id] = level
        if len(self._levels) > self.size:
            del self._levels[next(iter(self._levels))]

    def state(self) -> dict[str, Any]:
        """For the resume state, JSON-serialisable; the order is that of the last visits."""
        return {"levels": dict(self._levels)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved memory; `KeyeError` for a level outside 0…5."""
        levels = {str(name): float(level) for name, level in state["levels"].items()}
        wrong = {name: level for name, level in levels.items() if not 0 < level <= 5}
        if wrong:
            name, level = next(iter(wrong.items()))
            raise KeyeError(
                f"the saved hint memory has level {level:g} for prompt {name!r}, which is not in "
                "0…5; the resume state is damaged: remove the stage's state folder to start anew"
            )
        self._levels = levels
