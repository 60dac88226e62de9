"""What is timed: prompts, images and forced lengths, the same on both sides.

Invariant: the samples and lengths of a step are a pure function of (workload, step).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.sample import Sample

RULE = f"{Path(__file__).with_name('reward.py')}:checksum"
SEED = 7


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of rollout batch."""

    name: str
    prompts: int
    """Prompts of a step."""
    lengths: tuple[int, int]
    """Shortest and longest response in tokens, drawn log-uniformly; equal: all alike."""
    images: bool
    """One image a prompt, of mixed sizes."""
    trl_micro_batch: int
    """Sequences in one forward pass of TRL on two threads; the fastest of 16 … 256 tried."""
    group_size: int = 8
    mini_batches: int = 2

    @property
    def responses(self) -> int:
        """Responses of a step."""
        return self.prompts * self.group_size

    def response_lengths(self, step: int) -> np.ndarray:
        """int64 `[responses]`: the workload's fixed list of lengths, shuffled for this step."""
        low, high = self.lengths
        quantiles = (np.arange(self.responses) + 0.5) / self.responses
        fixed = np.rint(low * (high / low) ** quantiles).astype(np.int64)
        return np.random.default_rng([SEED, step]).permutation(fixed)

    def samples(self, step: int) -> list[Sample]:
        """The prompts of a step."""
        rng = np.random.default_rng([SEED, step, 1])
        return [self._sample(f"{self.name}/{step}/{i}", rng) for i in range(self.prompts)]

    def _sample(self, name: str, rng: np.random.Generator) -> Sample:
        content: list[dict[str, Any]] = []
        if self.images:
            height, width = rng.integers(56, 225, 2)
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            content.append({"type": "image", "image": pixels})
        digits = " ".join(map(str, rng.integers(0, 10, 8)))
        content.append({"type": "text", "text": f"sum of the digits {digits} ?"})
        return Sample(
            id=name,
            messages=[{"role": "user", "content": content}],
            answer="0",
            task_type="bench/gspo",
            rewards=[{"rule": RULE, "weight": 1.0}],
        )


WORKLOADS = {
    "short": Workload("short", 64, (32, 32), images=False, trl_micro_batch=128),
    "long-tailed": Workload("long-tailed", 32, (8, 512), images=False, trl_micro_batch=32),
    "images": Workload("images", 64, (32, 32), images=True, trl_micro_batch=64),
}
