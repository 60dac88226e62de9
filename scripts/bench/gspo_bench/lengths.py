"""Our engine with one forced length per response. (A module of its own: engine processes load it,
and nothing else of the benchmark.)"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from rollout.config import SamplingConfig
from rollout.engine import Engine


@dataclass
class ForcedLengths(SamplingConfig):
    """Every response runs to its own length, whatever it samples."""

    ignore_eos: bool = True
    by_seed: dict[int, int] = field(default_factory=dict)
    """Seed of a response → its length in tokens."""


class ForcedLengthEngine(Engine):
    """An engine that reads a response's length from `ForcedLengths`."""

    def _params(self, sampling: ForcedLengths, seed: int, *rest: Any) -> Any:
        length = sampling.by_seed.get(seed, sampling.max_tokens)
        return super()._params(replace(sampling, max_tokens=length), seed, *rest)
