"""Settings of iterated RL (`recipe=iterated`).

No `from __future__ import annotations` here: OmegaConf reads the field types at run time.
"""

from dataclasses import dataclass, field

from pretrain.data.ingest import FileDataConfig
from pretrain.run.errors import ConfigError


@dataclass
class IteratedConfig:
    """What a round does beside its GSPO loop and its cold start."""

    data: FileDataConfig = field(default_factory=FileDataConfig)
    """Cold-start rows: samples with their reply in a column `response`, or with a `solution` that
    makes one. Without files: the tiny world's first `pool` traces."""
    pool: int = 2000
    """Traces of the tiny world (`cold_start.tasks` and the settings beside it); not read when
    `data.files` are given."""
    spoiled_share: float = 0.0
    """Share of the tiny world's traces that get the reply of another question of their task. Its
    own traces are perfect, which nobody's are: so there is something to replace."""
    first_cold_start: bool = True
    """Round 0 fine-tunes the policy on the rows before its GSPO. False for a policy that has had
    its cold start (`recipe=full`): round 0 is then GSPO alone."""
    samples: int = 8
    """Responses that the RL policy gives to each cold-start row."""
    margin: float = 0.0
    """A response takes the place of a row's reply when its reward is higher by more than this."""
    prompts: int = 1000
    """RL prompts that are looked at for the next round, from the first of the configured data on;
    0 takes all rows of its files."""
    filter_samples: int = 8
    """Responses to each of them: kept are those with an accuracy strictly between 0 and 1."""
    chunk: int = 64
    """Rows sampled together; an interruption loses at most these."""
    seed: int = 5
    """Seed of sampling and of the rows' order."""

    def __post_init__(self) -> None:
        for key in ("pool", "samples", "chunk"):
            if getattr(self, key) < 1:
                raise ConfigError(f"iterated.{key}={getattr(self, key)} must be at least 1")
        if self.filter_samples < 2:
            raise ConfigError(
                f"iterated.filter_samples={self.filter_samples}: an accuracy strictly between 0 "
                "and 1 takes at least 2 responses"
            )
        if not 0 <= self.spoiled_share < 1:
            raise ConfigError(f"iterated.spoiled_share={self.spoiled_share} is not in [0, 1)")
        if self.margin < 0 or self.prompts < 0:
            raise ConfigError("iterated.margin and iterated.prompts must not be below 0")
