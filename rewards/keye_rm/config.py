"""Settings of the reward model's use and measurement; importing them loads no model code."""

from dataclasses import dataclass, field

from pretrain.data.ingest import FileDataConfig
from pretrain.run.errors import ConfigError
from rewards.keye_rm.templates import MODES
from rewards.keye_rm.world_pairs import WorldPairsConfig
from rollout.config import EngineConfig


@dataclass
class RewardModelConfig:
    """The reward model that serves a job."""

    checkpoint: str = ""
    """A Hugging Face directory, with the template it was trained on; empty: there is none."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """Its own vLLM engines (Ray actors)."""
    max_tokens: int = 512
    """Longest judgement in think mode."""
    samples: int = 1
    """Judgements of each order in think mode; of more than one, drawn at temperature 1, the mean.
    Marks follow one another, and where a judge isn't sure, the likeliest for the response it reads
    first may all be high ones: the likeliest judgement can go by the position, the mean less so."""
    batch: int = field(default=4096, metadata={"identity": False})
    """Judgements in one call to the engines; more are asked in several calls, so that the prompts
    in memory stay bounded."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"samples={self.samples} must be at least 1")


@dataclass
class HeldoutPairsConfig(FileDataConfig):
    """Which pairs are held out: those of `files`, or the tiny world's test split."""

    world: WorldPairsConfig = field(default_factory=lambda: WorldPairsConfig(seed=40_000))
    """The world's pairs; not read when `files` are given. No training stream may use its seed."""
    pairs: int = 600
    """How many; of files at most one epoch."""
    length_pairs: int = 300
    """Further pairs of the world: one response reasons, the other answers at once, and either may
    be the wrong one. Only a liking for length tells them apart by length; none beside `files`."""
    modes: list[str] = field(default_factory=lambda: list(MODES))
    """Modes in which every pair is judged."""
    samples: int = 1
    """As `RewardModelConfig.samples`."""

    def __post_init__(self) -> None:
        wrong = [mode for mode in self.modes if mode not in MODES]
        if wrong or not self.modes:
            raise ConfigError(f"modes={self.modes}: choose from {', '.join(MODES)}")
        if self.pairs < 1:
            raise ConfigError(f"pairs={self.pairs} must be at least 1")
        if self.samples < 1:
            raise ConfigError(f"samples={self.samples} must be at least 1")
        if self.length_pairs < 0:
            raise ConfigError(f"length_pairs={self.length_pairs} must not be below 0")
