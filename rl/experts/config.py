"""Settings of domain experts and of merging them (`recipe=experts`).

No `from __future__ import annotations` here: OmegaConf reads the field types at run time.
"""

from dataclasses import dataclass, field

from pretrain.data.ingest import FileDataConfig
from pretrain.run.errors import ConfigError
from rl.sft.training import SftConfig

METHODS = ("uniform", "weighted", "task_arithmetic", "ties")


@dataclass
class ExpertConfig:
    """One domain's expert: fine-tuning of the policy on that domain alone."""

    data: FileDataConfig = field(default_factory=FileDataConfig)
    """Samples with their reply in a column `response`, or with an answer and a solution that make
    one. Without files: the tiny world."""
    tasks: dict[str, float] = field(default_factory=dict)
    """Mix of the tiny world's task types; not read when `data.files` are given."""
    modes: dict[str, float] = field(default_factory=lambda: {"no_think": 1.0})
    """Mix of response modes; the rows of files bring their own."""
    textual: bool = False
    """Whether the tiny world's images and clips are replaced by their descriptions."""
    pool: int = 0
    """So many samples of the tiny world are trained on again and again; 0 repeats none. Not read
    when `data.files` are given."""
    seed: int = 11
    """Seed of the samples and of their order."""
    sft: SftConfig = field(default_factory=SftConfig)
    """Optimiser and length."""
    checkpoints: list[int] = field(default_factory=list)
    """Steps after which a checkpoint is kept, besides the last one (steps/N in the stage)."""

    def __post_init__(self) -> None:
        if self.pool < 0:
            raise ConfigError(f"experts: pool={self.pool} must not be below 0")
        wrong = [step for step in self.checkpoints if not 0 < step <= self.sft.steps]
        if wrong:
            raise ConfigError(
                f"experts: checkpoints has {wrong[0]}, which is not in 1…steps={self.sft.steps}"
            )


@dataclass
class MergeConfig:
    """Base and experts, or any checkpoints of one base, merged into one model."""

    method: str = "uniform"
    """`uniform` or `weighted` average of base and experts; `task_arithmetic`: base + scale · Σ
    weight · (expert − base); `ties`: the same after trimming and election of signs."""
    weights: dict[str, float] = field(default_factory=dict)
    """Name of an expert (or `base`, in an average) → its weight. In `weighted` absent ones are 0,
    in `task_arithmetic` and `ties` 1."""
    scale: float = 1.0
    """Factor of the merged task vector (`task_arithmetic`, `ties`)."""
    density: float = 0.2
    """Share of each task vector's entries that `ties` keeps, the largest."""
    steps: dict[str, int] = field(default_factory=dict)
    """Expert → which of its `checkpoints` is merged; by default the last one."""
    checkpoints: dict[str, str] = field(default_factory=dict)
    """Name → checkpoint: merge these instead of the run's own experts."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"merge.method={self.method!r} is none of {', '.join(METHODS)}")
        if not 0 < self.density <= 1:
            raise ConfigError(f"merge.density={self.density} is not in (0, 1]")
        if self.checkpoints and self.steps:
            raise ConfigError("merge.steps chooses among the run's experts, not merge.checkpoints")
