"""What is timed: prompts, images and forced lengths, the same on both sides.

Invariant: the samples and lengths of a step are a pure function of (workload, step), and every step
of a workload has the same lengths in another order, so the same number of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    micro_batches: tuple[int, ...]
    """Sequences in one forward and backward pass of TRL, all its ranks together: the candidates
    among which the benchmark itself looks for the fastest."""
    group_size: int = 8
    mini_batches: int = 2

    @property
    def responses(self) -> int:
        """Responses of a step."""
        return self.prompts * self.group_size

    @property
    def tokens(self) -> int:
        """Response tokens of a step."""
        return int(self.response_lengths(0).sum())

    def scaled(self, scale: str) -> Workload:
        """`full`: as it is; `small`: a sixteenth of the prompts, to try the benchmark out."""
        if scale == "full":
            return self
        low, high = self.lengths
        micro_batches = dict.fromkeys(max(2, size // 16) for size in self.micro_batches)
        return replace(
            self,
            prompts=self.prompts // 16,
            lengths=(low, max(low, high // 8)),
            micro_batches=tuple(micro_batches),
        )

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
    w.name: w
    for w in (
        Workload("short", 64, (36, 36), images=False, micro_batches=(128, 32, 256)),
        Workload("long-tailed", 32, (8, 512), images=False, micro_batches=(32, 16, 128)),
        Workload("images", 64, (32, 32), images=True, micro_batches=(64, 32, 256)),
    )
}
