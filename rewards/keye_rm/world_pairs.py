"""Preference pairs made from the tiny world's tasks: the right response, and one with a defect.

Invariant: pair i is a pure function of (configuration, i), so no pair is ever repeated, any rank
computes its own share, and resuming is exact. Held-out pairs are made of the world's test split
(digit images, sums and word combinations that no training pair has) with other seeds.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field

import numpy as np

from pretrain.data.sample import Sample
from pretrain.data.stream import WorldStream
from pretrain.data.world import WORLD_VERSION
from pretrain.run.errors import ConfigError
from rewards.keye_rm.defects import DEFECTS, MINOR, Draft, correct_draft
from rewards.keye_rm.pairs import PreferencePair

PREFER = ("any", "shorter", "longer")
_ATTEMPTS = 64
"""Scenes tried for one pair before the configuration is taken to be unsatisfiable."""


@dataclass
class WorldPairsConfig:
    """Which pairs are made."""

    tasks: dict[str, float] = field(
        default_factory=lambda: {
            "digits/sum": 2.0,
            "digits/difference": 2.0,
            "digits/max": 2.0,
            "shapes/attribute": 1.0,
            "shapes/count": 1.0,
            "text/arithmetic": 1.0,
        }
    )
    """Mix of the tiny world's task types."""
    defects: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(DEFECTS, 1.0) | {"correctness": 2.0}
    )
    """Mix of what is wrong with the worse response, by the dimension it violates."""
    direct_share: float = 0.15
    """Share of the pairs whose responses answer at once; only answers can then be wrong."""
    flawed_share: float = 0.1
    """Share of the pairs with a wrong answer whose better response has a small flaw of its own."""
    mixed_share: float = 0.1
    """Share of the pairs with a wrong answer of which one response reasons and one answers at once:
    the wrong one may be the longer or the shorter."""
    mixed_longer_share: float = 0.5
    """Share of those in which the longer one is right. Collected preferences favour length: above
    0.5, so do these."""
    prefer: str = "any"
    """`any`, or only pairs whose better response is the `shorter` or the `longer` one."""
    max_length_gap: float = 1.0
    """Pairs with a larger relative difference in length are left out (1: none)."""
    seed: int = 31
    """Seed of the stream."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.defects if name not in DEFECTS]
        if unknown:
            raise ConfigError(f"defects: {unknown[0]!r} is not one of {', '.join(DEFECTS)}")
        if not any(weight > 0 for weight in self.defects.values()):
            raise ConfigError("defects: no weight is above 0")
        if self.prefer not in PREFER:
            raise ConfigError(f"prefer={self.prefer!r} is not one of {', '.join(PREFER)}")
        shares = ("direct_share", "flawed_share", "mixed_share", "mixed_longer_share")
        for key in (*shares, "max_length_gap"):
            if not 0 <= getattr(self, key) <= 1:
                raise ConfigError(f"{key}={getattr(self, key)} is not in 0…1")


class WorldPairs:
    """`pairs[i]` is the i-th pair of a split."""

    def __init__(self, config: WorldPairsConfig, split: str = "train") -> None:
        self.config, self.split = config, split
        self.samples = WorldStream(config.tasks, config.seed, split)
        self._names = [name for name in DEFECTS if config.defects.get(name, 0) > 0]
        weights = np.array([config.defects[name] for name in self._names])
        self._edges = np.cumsum(weights / weights.sum())

    def __getitem__(self, index: int) -> PreferencePair:
        """Pair `index` ≥ 0. `ConfigError` when the configuration leaves hardly any pair."""
        for attempt in range(_ATTEMPTS):
            place = index * _ATTEMPTS + attempt
            pair = self._draw(place)
            if pair is not None and self._wanted(pair):
                return pair
        raise ConfigError(
            f"no preference pair in {_ATTEMPTS} scenes: tasks, defects, prefer="
            f"{self.config.prefer} and max_length_gap={self.config.max_length_gap} exclude nearly "
            "everything together"
        )

    def fingerprint(self) -> str:
        """What decides the stream, hashed."""
        facts = [WORLD_VERSION, asdict(self.config), self.split]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def _wanted(self, pair: PreferencePair) -> bool:
        config = self.config
        if pair.length_gap > config.max_length_gap:
            return False
        if config.prefer == "shorter":
            return pair.shorter_is_better
        return config.prefer == "any" or pair.longer_is_better

    def _draw(self, place: int) -> PreferencePair | None:
        """A pair of scene `place`, or None if its task cannot have the defect that was drawn."""
        config = self.config
        sample = self.samples[place]
        rng = np.random.default_rng([config.seed, place, 7, self.split == "test"])
        form, other, flaw, drawn = rng.random(4)
        name = self._names[min(int(np.searchsorted(self._edges, drawn)), len(self._names) - 1)]
        mode = _direct_mode(rng) if form < config.direct_share else "think"
        bad = DEFECTS[name](rng, sample, correct_draft(sample, mode))
        if bad is None:
            return None
        good = correct_draft(sample, mode)
        if "correctness" in bad.marks and mode == "think":
            if other < config.mixed_share:
                good, bad = _mixed(rng, sample, good, bad, config.mixed_longer_share)
                name = name if bad.steps else "correctness"  # no reasoning, no other fault
            elif flaw < config.flawed_share:
                small = MINOR[int(rng.integers(len(MINOR)))]
                good = DEFECTS[small](rng, sample, good) or good
                if not good.answer:  # what is left out must not be the answer
                    return None
        texts = good.text(sample), bad.text(sample)
        if texts[0] == texts[1]:
            return None
        return PreferencePair(
            id=f"{sample.id}/{name}",
            query=sample,
            good=texts[0],
            bad=texts[1],
            violated=name,
            good_marks=good.marks,
            bad_marks=bad.marks,
        )


def _mixed(
    rng: np.random.Generator, sample: Sample, good: Draft, bad: Draft, longer_share: float
) -> tuple[Draft, Draft]:
    """The same pair, with either the right or the wrong answer given at once."""
    mode = _direct_mode(rng)
    if rng.random() >= longer_share:
        return correct_draft(sample, mode), bad
    return good, Draft([], bad.answer, mode).flawed("correctness")


def _direct_mode(rng: np.random.Generator) -> str:
    return "no_think" if rng.random() < 0.5 else "auto_think"
