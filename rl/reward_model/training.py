"""The reward model's training data as the trainers want them: examples by index, and prompts.

Invariant: in which mode a pair is asked follows from the seed and the index alone. Every pair is
asked in both orders, one after the other: a batch then holds as many right verdicts of one label as
of the other, and where the model can't tell, nothing teaches it to prefer a position.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.cursor import Cursor
from pretrain.data.ingest import FileDataConfig
from pretrain.data.sample import Sample
from pretrain.run.errors import ConfigError
from rewards.keye_rm.config import HeldoutPairsConfig
from rewards.keye_rm.files import open_pairs
from rewards.keye_rm.pairs import PreferencePair, example, to_sample
from rewards.keye_rm.templates import MODES, Template
from rewards.keye_rm.world_pairs import WorldPairsConfig
from rl.sft.training import SftConfig


@dataclass
class PairDataConfig(FileDataConfig):
    """Preference pairs of one stage: those of `files`, or the tiny world's."""

    world: WorldPairsConfig = field(default_factory=WorldPairsConfig)
    """The world's pairs; `prefer`, `max_length_gap` and `seed` hold for files too."""
    modes: dict[str, float] = field(default_factory=lambda: {"think": 1.0, "no_think": 2.0})
    """Mix of modes. Pairs of files without marks are learned in no_think mode only; GSPO needs no
    marks."""

    def __post_init__(self) -> None:
        wrong = [mode for mode, weight in self.modes.items() if mode not in MODES or weight < 0]
        if wrong or not sum(self.modes.values()) > 0:
            raise ConfigError(f"modes={self.modes}: give {' and '.join(MODES)} weights ≥ 0")


@dataclass
class RewardSftConfig:
    """One supervised stage."""

    pairs: PairDataConfig = field(default_factory=PairDataConfig)
    """What is learned from."""
    sft: SftConfig = field(default_factory=SftConfig)
    """Optimiser and length."""


def _annealing() -> RewardSftConfig:
    pairs = PairDataConfig(world=WorldPairsConfig(prefer="shorter", seed=32))
    return RewardSftConfig(pairs, SftConfig(steps=100, lr=2e-4))


@dataclass
class RewardTrainingConfig:
    """`recipe=reward_model`: SFT → annealing on shorter-is-better pairs → GSPO."""

    template: Template = field(default_factory=Template)
    """The words of prompt and judgement; stored in every checkpoint of the recipe."""
    sft: RewardSftConfig = field(default_factory=RewardSftConfig)
    """Both modes, from any pairs."""
    anneal: RewardSftConfig = field(default_factory=_annealing)
    """Pairs whose better response is the shorter one: against a liking for length."""
    pairs: PairDataConfig = field(
        default_factory=lambda: PairDataConfig(world=WorldPairsConfig(max_length_gap=0.5, seed=33))
    )
    """GSPO's prompts; pairs whose lengths differ by more than `world.max_length_gap` are out."""
    format_weight: float = 0.2
    """Weight of the format reward beside the outcome's 1."""
    heldout: HeldoutPairsConfig = field(default_factory=HeldoutPairsConfig)
    """What is measured after each stage."""
    calibration_pairs: dict[str, int] = field(
        default_factory=lambda: {"think": 400, "no_think": 2000}
    )
    """Training pairs on which each mode's liking for the first place is measured before. Few of the
    verdicts depend on the place, so it takes many; in think mode each costs a whole reasoning."""

    def __post_init__(self) -> None:
        counts = self.calibration_pairs
        if set(counts) != set(MODES) or min(counts.values()) < 1:
            raise ConfigError(
                f"calibration_pairs={counts} must give {' and '.join(MODES)} at least 1"
            )


class _Drawn:
    """A pair with its mode and order, by index."""

    def __init__(self, config: PairDataConfig, folder: Path) -> None:
        self.source = open_pairs(config, config.world, folder)
        self.seed = config.world.seed
        self.modes = {mode: weight for mode, weight in sorted(config.modes.items()) if weight > 0}
        self._edges = np.cumsum(list(self.modes.values())) / sum(self.modes.values())
        self._last: tuple[int, PreferencePair] | None = None

    def __call__(self, index: int) -> tuple[PreferencePair, str, bool]:
        """Pair, mode, and whether the better response stands second, of example `index`."""
        place, second = divmod(index, 2)
        where, order = np.random.default_rng([self.seed, place, 5]).random(2)
        mode = list(self.modes)[int(np.searchsorted(self._edges, where, "right"))]
        if self._last is None or self._last[0] != place:  # its other order came just before
            self._last = place, self.source[place]
        return self._last[1], mode, bool(order < 0.5) != bool(second)


class JudgementExamples:
    """`examples(i)` is the i-th conversation to imitate, for `rl.sft.training.run_sft`."""

    def __init__(self, config: PairDataConfig, template: Template, folder: Path) -> None:
        self.drawn, self.template = _Drawn(config, folder), template

    def __call__(self, index: int) -> list[dict[str, Any]]:
        """Messages of example `index`, ending with the judgement."""
        pair, mode, swapped = self.drawn(index)
        return example(pair, self.template, mode, swapped)


class JudgementPrompts:
    """Comparisons as the GSPO loop's prompts (a `rl.prompts.PromptSource`)."""

    def __init__(self, config: RewardTrainingConfig, folder: Path) -> None:
        self.config = config
        self.drawn = _Drawn(config.pairs, folder)
        self.cursor = Cursor(0, self.drawn.source.fingerprint())

    def __getitem__(self, index: int) -> Sample:
        """Prompt `index`, whatever the cursor."""
        pair, mode, swapped = self.drawn(index)
        sample = to_sample(
            pair,
            self.config.template,
            mode,
            swapped=swapped,
            format_weight=self.config.format_weight,
        )
        sample.id = f"{sample.id}/{index}"
        return sample

    def take(self, count: int) -> list[Sample]:
        """The next `count` prompts; moves the cursor."""
        start = self.cursor.position
        self.cursor.position += count
        return [self[index] for index in range(start, start + count)]

    def metrics(self) -> dict[str, float]:
        """Counts for the log, under `data/`."""
        return {"data/samples": float(self.cursor.position)}

    def state(self) -> dict[str, Any]:
        """The cursor and a fingerprint of the pairs."""
        return self.cursor.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved cursor; `KeyeError` when the pairs are other pairs."""
        self.cursor.load_state(state, what="the reward model's preference pairs")
