"""Settings of the public benchmarks.

No `from __future__ import annotations` here: OmegaConf reads the field types at run time.
"""

from dataclasses import dataclass, field

from pretrain.data.sample import MODES
from pretrain.run.errors import ConfigError
from rl.judging import JudgeConfig


@dataclass
class BenchmarkConfig:
    """How public benchmarks are read, asked and scored."""

    files: dict[str, str] = field(default_factory=dict)
    """Benchmark → its file or folder, where the name in `benchmark_dir` doesn't tell."""
    mode: str = "no_think"
    """Response mode in which all questions are asked: think, no_think or auto_think."""
    samples: int = 0
    """Questions of each benchmark (the first ones); 0 asks all."""
    circular: bool = True
    """MMBench: ask every rotation of the options; a question is right if all of them are."""
    chunk: int = field(default=128, metadata={"identity": False})
    """Questions that are worked on together; an interruption loses at most these."""
    max_bad_share: float = 0.01
    """A benchmark stops when more than this share of its rows can't be used."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """Reads what the rules can't (optional; TempCompass's captioning needs it)."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"benchmark.mode={self.mode!r} is not one of {', '.join(MODES)}")
        for key, least in (("samples", 0), ("chunk", 1)):
            if getattr(self, key) < least:
                raise ConfigError(f"benchmark.{key}={getattr(self, key)} must be at least {least}")
        if not 0 <= self.max_bad_share <= 1:
            raise ConfigError(f"benchmark.max_bad_share={self.max_bad_share} is not in 0…1")
