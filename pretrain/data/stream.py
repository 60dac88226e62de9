"""Endless, seeded streams of world samples.

Invariant: sample i is a pure function of (mix, seed, split, i), and its mode of `modes` as well.
A cursor is therefore one integer, resuming is exact, nothing is ever repeated, any rank can compute
its own share, and the same questions can be asked in another mode.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping

import numpy as np

from pretrain.data.cursor import Cursor
from pretrain.data.sample import MODES, Sample
from pretrain.data.world import TASKS, WORLD_VERSION
from pretrain.run.errors import ConfigError

SPLITS = ("train", "test")


class WorldStream:
    """An endless stream: `stream[i]`, `take(n)` from the cursor on, `state()`/`load_state()`."""

    def __init__(
        self,
        mix: Mapping[str, float],
        seed: int,
        split: str = "train",
        modes: Mapping[str, float] | None = None,
    ) -> None:
        """`mix` weighs task types; `modes` weighs response modes (default: only `no_think`).

        A sample without a solution that would get `think` gets `no_think`: there is nothing to
        imitate. Weights need not sum to one. Raises `ConfigError` for a wrong name or weight.
        """
        self.modes = _weights("modes", modes or {"no_think": 1.0}, MODES)
        self.mix = _weights("mix", mix, tuple(TASKS))
        if split not in SPLITS:
            raise ConfigError(f"split={split!r} is not one of {SPLITS}")
        if seed < 0:
            raise ConfigError(f"seed={seed} must be ≥ 0")
        self.seed, self.split = int(seed), split
        # Part of the seed: stages with equal seeds and other mixes must not see the same scenes.
        self._mix_key = zlib.crc32(json.dumps(self.mix).encode())
        self._tasks, self._task_edges = _edges(self.mix)
        self._mode_names, self._mode_edges = _edges(self.modes)
        self.cursor = Cursor(position=0, fingerprint=self.fingerprint())

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` ≥ 0, whatever the cursor."""
        rng = np.random.default_rng([self.seed, index, SPLITS.index(self.split), self._mix_key])
        where = rng.random(2)
        task_type = self._tasks[int(np.searchsorted(self._task_edges, where[0], "right"))]
        mode = self._mode_names[int(np.searchsorted(self._mode_edges, where[1], "right"))]
        sample = TASKS[task_type](rng, self.split)
        sample.id = f"{task_type}/{self.split}/{self.seed}-{self._mix_key:08x}/{index}"
        sample.mode = "no_think" if mode == "think" and sample.solution is None else mode
        return sample

    def take(self, count: int) -> list[Sample]:
        """The next `count` samples; moves the cursor."""
        start = self.cursor.position
        self.cursor.position += count
        return [self[index] for index in range(start, start + count)]

    def metrics(self) -> dict[str, float]:
        """Counts for the log, under `data/`."""
        return {"data/samples": float(self.cursor.position)}

    def fingerprint(self) -> str:
        """What makes two streams equal, hashed."""
        facts = [WORLD_VERSION, self.mix, self.modes, self.seed, self.split]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def state(self) -> dict[str, int | str]:
        """The cursor, for a checkpoint."""
        return self.cursor.state()

    def load_state(self, state: Mapping[str, int | str]) -> None:
        """Go on where `state` was taken; `KeyeError` if the stream is another one."""
        self.cursor.load_state(state, what=f"the world stream with seed {self.seed}")


def heldout(
    mix: Mapping[str, float],
    n: int,
    seed: int,
    modes: Mapping[str, float] | None = None,
) -> list[Sample]:
    """A fixed held-out set: the first `n` samples of the test stream."""
    return WorldStream(mix, seed, "test", modes).take(n)


def _weights(what: str, weights: Mapping[str, float], names: tuple[str, ...]) -> dict[str, float]:
    for name, weight in weights.items():
        if name not in names:
            raise ConfigError(f"{what}: unknown name {name!r}; there are {', '.join(names)}")
        if not np.isfinite(weight) or weight < 0:
            raise ConfigError(f"{what}: the weight of {name!r} must be ≥ 0, got {weight}")
    kept = {name: float(weight) for name, weight in sorted(weights.items()) if weight > 0}
    if not kept:
        raise ConfigError(f"{what}: no weight is above 0; choose from {', '.join(names)}")
    return kept


def _edges(weights: Mapping[str, float]) -> tuple[list[str], np.ndarray]:
    """Names and the upper edges of their intervals in [0, 1)."""
    edges = np.cumsum(list(weights.values()))
    edges /= edges[-1]
    return list(weights), edges
