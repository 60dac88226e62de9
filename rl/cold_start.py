"""The cold start's traces: which reply each sample of the tiny world is answered with.

Invariant: trace i is a pure function of (configuration, i); none is ever repeated.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from pretrain.data.render import conversation, has_hint
from pretrain.data.sample import HINT_LEVELS, Sample
from pretrain.data.stream import WorldStream
from rl.config import ColdStartConfig


def shown_level(sample: Sample, draw: float, share: float, always: Collection[str] = ()) -> int:
    """The level of the hint that an example of `sample` shows; 0: none.

    Args:
        sample: one without the drawn level, or in mode no_think, shows none.
        draw: uniform in [0, 1).
        share: of the samples that show a hint, their levels evenly.
        always: task types of which all do.
    """
    share = 1.0 if sample.task_type in always else share
    if draw >= share or sample.mode == "no_think":
        return 0
    level = 1 + int(draw / share * HINT_LEVELS)
    return level if has_hint(sample, level) else 0


class ColdStartTraces:
    """`traces(i)` is the i-th conversation, its reply included.

    In auto-think mode `direct_share` of the traces answer at once and the rest reason first: the
    policy learns both forms, not yet when each is right. That is left for RL to find.
    """

    def __init__(self, cfg: ColdStartConfig) -> None:
        self.cfg = cfg
        self.stream = WorldStream(cfg.tasks, cfg.seed, "train", cfg.modes)

    def __call__(self, index: int) -> list[dict[str, Any]]:
        """Messages of trace `index`, ending with the assistant's turn."""
        sample = self.stream[index]
        form, draw = np.random.default_rng([self.cfg.seed, index, 3]).random(2)
        reason = sample.solution is not None and form >= self.cfg.direct_share
        level = shown_level(sample, draw, self.cfg.hinted_share, self.cfg.hinted_tasks)
        return conversation(sample, level, reason if sample.mode == "auto_think" else None)
