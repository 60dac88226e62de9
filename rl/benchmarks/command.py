"""`python -m rl evaluate benchmarks=[…]`: all benchmarks of a list on one policy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretrain.run.command import config_dict
from pretrain.run.console import say, table, warn
from pretrain.run.directory import RunDir, atomic_write, checkpoint_identity
from pretrain.run.errors import ConfigError
from pretrain.run.stages import run_stage
from rl.benchmarks.config import BenchmarkConfig
from rl.benchmarks.run import Loaded, load_benchmark, run_benchmark
from rl.rollouts import Rollouts

RESULTS = "benchmarks.json"


def load_benchmarks(names: Sequence[str], root: str, cfg: BenchmarkConfig) -> list[Loaded]:
    """All benchmarks, before anything is started: what is missing is said at once."""
    if not root:
        raise ConfigError("benchmarks need benchmark_dir=DIRECTORY, where their files are")
    return [load_benchmark(name, Path(root), cfg) for name in dict.fromkeys(names)]


def run_benchmarks(
    loaded: Sequence[Loaded],
    rollouts: Rollouts,
    cfg: BenchmarkConfig,
    checkpoint: Path,
    out: Path,
) -> list[dict[str, Any]]:
    """Run what is not complete, each in `out/benchmarks/NAME`; print and write the tables."""
    folder = RunDir(out / "benchmarks")
    results = []
    with folder.exclusive():
        for one in loaded:
            identity = {
                "benchmark": [cfg.mode, cfg.samples, cfg.circular, cfg.judge.model],
                "files": one.identity(),
                "checkpoint": checkpoint_identity(checkpoint),
                "sampling": config_dict(rollouts.sampling),
            }
            results.append(
                run_stage(
                    folder,
                    one.benchmark.name,
                    identity,
                    lambda stage, one=one: run_benchmark(one, rollouts, cfg, stage),  # type: ignore[misc]
                )
            )
    written = {"checkpoint": str(checkpoint), "mode": cfg.mode, "benchmarks": results}
    atomic_write(out / RESULTS, json.dumps(written, indent=2, ensure_ascii=False) + "\n")
    show(results, f"{checkpoint}, {cfg.mode}")
    say(f"records: {folder.path}/NAME/records.jsonl, tables: {out / RESULTS}")
    return results


def show(results: Sequence[dict[str, Any]], title: str) -> None:
    """One table of headlines, one of sub-scores a benchmark, and a warning for what is left out."""
    rows = []
    for result in results:
        leaf = result["scores"][result["headline"]]
        unread = result["decided_by"]["nothing"] / max(result["prompts"], 1)
        rows.append(
            [
                result["benchmark"],
                result["headline"],
                *cells(leaf),
                f"{unread:.1%}",
                result["bad_rows"],
            ]
        )
    columns = ["benchmark", "score", "value [95 %]", "n", "not readable", "bad rows"]
    table(f"Benchmarks: {title}", columns, rows)
    for result in results:
        own = [[name, *cells(leaf)] for name, leaf in result["scores"].items()]
        if len(own) > 1:
            table(result["benchmark"], ["score", "value [95 %]", "n"], own)
        for part, reason in result["skipped"].items():
            warn(f"{result['benchmark']}: {part} is left out ({reason})")


def cells(leaf: dict[str, Any]) -> list[Any]:
    """Value with interval, and n."""
    return [f"{leaf['value']:.3f} [{leaf['low']:.3f}, {leaf['high']:.3f}]", leaf["n"]]
