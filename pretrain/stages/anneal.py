"""Stage `anneal`: curated tasks, answered directly and with reasoning, at a longer context.

The RoPE base is raised before the first step, so the model learns to live with it; a share of the
samples are conversations of many images and questions that fill the extended context.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pretrain.data.render import conversation
from pretrain.data.stream import WorldStream
from pretrain.stages.config import AnnealConfig
from pretrain.stages.stage import StageJob
from pretrain.stages.supervised import Example, SupervisedStage

MAX_TURNS = 256
"""Stride between the streams of two long conversations: they never share a sample."""


class AnnealStage(SupervisedStage):
    """Trains everything on the annealing mix."""

    def __init__(self, job: StageJob, rank: int, world_size: int) -> None:
        super().__init__(job, rank, world_size)
        cfg = self.settings
        rope = self.model.config.rope_parameters
        rope["rope_theta"] = rope["rope_theta"] * cfg.rope_factor
        self.model.config.max_position_embeddings *= cfg.context_factor
        # Its own seed, so that the turns of a conversation are no repetition of single samples.
        self.turns = WorldStream(cfg.mix, seed=job.seed + 1, split="train", modes=self.modes())

    @property
    def settings(self) -> AnnealConfig:
        """The stage's configuration under its own type."""
        assert isinstance(self.job.cfg, AnnealConfig)
        return self.job.cfg

    def context(self) -> int:
        """Longest example in tokens."""
        return self.settings.context * self.settings.context_factor

    def example(self, index: int) -> Example:
        """Sample `index` of the stream, or a conversation that fills part of the new context."""
        draw = np.random.default_rng((self.job.seed, index))
        if draw.random() >= self.settings.long_share:
            return super().example(index)
        length = int(draw.integers(self.settings.context, self.context() + 1))
        return self._long_example(index, length)

    def _long_example(self, index: int, length: int) -> Example:
        """As many question-answer turns as fit into `length` tokens; the last answer is learnt."""
        messages: list[dict[str, Any]] = []
        used = 0
        for turn in range(MAX_TURNS):
            more = conversation(self.turns[index * MAX_TURNS + turn])
            prompt, reply = self.encoder.encode_example(more, f"turn {index}/{turn}")
            used += len(prompt.ids) + len(reply) + 1  # the line break that ends a turn
            if messages and used > length:
                break
            messages += more
        return self.encoder.encode_example(messages, f"conversation {index}")
