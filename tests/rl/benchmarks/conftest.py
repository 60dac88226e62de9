"""Benchmark files made in the form of the published ones, and scoring of given responses."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rl.answering import Answer
from rl.benchmarks.config import BenchmarkConfig
from rl.benchmarks.run import _record, load_benchmark, report, score


def png(seed: int = 0, size: int = 56) -> str:
    """A noise image as base64."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def write_tsv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A TSV file as pandas writes it: a header, quotes where needed, empty cells for None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def tsv() -> Callable[..., Path]:
    return write_tsv


@pytest.fixture
def image() -> Callable[..., str]:
    return png


@pytest.fixture
def scored(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`scored(name, responses)`: the report of a benchmark in tmp_path, a response a prompt."""

    def run(
        name: str, responses: Sequence[str], cfg: BenchmarkConfig | None = None, client: Any = None
    ) -> dict[str, Any]:
        cfg = cfg or BenchmarkConfig()
        loaded = load_benchmark(name, tmp_path, cfg)
        samples = [loaded.benchmark.sample(row, loaded.media) for row in loaded.rows]
        for sample in samples:
            sample.mode = cfg.mode
        given = [
            (sample, Answer(text, 1, True)) for sample, text in zip(samples, responses, strict=True)
        ]
        outcomes = score(loaded.benchmark, given, client)
        records = [
            _record(loaded.benchmark, sample, answer, *outcome)
            for (sample, answer), outcome in zip(given, outcomes, strict=True)
        ]
        found = report(loaded, records, 0)
        return found | {"records": records, "samples": samples}

    return run
