"""All benchmarks by name."""

from __future__ import annotations

from pretrain.run.errors import ConfigError
from rl.benchmarks.benchmark import Benchmark
from rl.benchmarks.config import BenchmarkConfig
from rl.benchmarks.images import AI2D, MMMU, HallusionBench, MMBench, MMStar, OCRBench
from rl.benchmarks.mathvista import MathVista
from rl.benchmarks.videos import TempCompass, VideoMME, VideoMMMU

BENCHMARKS: dict[str, type[Benchmark]] = {
    kind.name: kind
    for kind in (
        MMMU,
        AI2D,
        MMBench,
        MMStar,
        OCRBench,
        HallusionBench,
        MathVista,
        VideoMME,
        VideoMMMU,
        TempCompass,
    )
}


def open_benchmark(name: str, cfg: BenchmarkConfig) -> Benchmark:
    """The benchmark of this name; case, `-` and `_` don't count. `ConfigError` for an unknown
    one."""
    plain = name.lower().replace("-", "").replace("_", "")
    if plain not in BENCHMARKS:
        raise ConfigError(f"benchmarks: {name!r} is not one of {', '.join(BENCHMARKS)}")
    return BENCHMARKS[plain](cfg)
