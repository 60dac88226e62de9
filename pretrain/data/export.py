"""World samples as a file that anyone can read: JSONL rows beside folders of images and clips.

Invariant: an exported file, read back by `pretrain.data.ingest`, gives the samples that were
written, pixel for pixel.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pretrain.data.sample import Sample
from pretrain.data.stream import WorldStream
from pretrain.run.console import progress
from pretrain.run.directory import disk_guard


@dataclass
class ExportConfig:
    """How many samples of which kind go where."""

    path: str = "data/world.jsonl"
    """The file to write; media go to the folders `images` (PNG) and `videos` (mp4) beside it."""
    count: int = 256
    """How many samples."""
    mix: dict[str, float] = field(
        default_factory=lambda: {"digits/sum": 1.0, "digits/max": 1.0, "shapes/count": 1.0}
    )
    """Task types with their weights (see `pretrain.data.world.TASKS`)."""
    modes: dict[str, float] = field(default_factory=lambda: {"think": 1.0})
    """Response modes with their weights."""
    split: str = "train"
    """`train` or `test`: which digits, words and sums may occur."""
    seed: int = 0
    """The stream that the samples are the first of."""


def export(config: ExportConfig) -> int:
    """Write world samples to `config.path`; returns the process's exit status."""
    stream = WorldStream(config.mix, config.seed, config.split, config.modes)
    samples = (stream[index] for index in range(config.count))
    path = Path(config.path)
    write_samples(progress(samples, f"Writing {path}", total=config.count), path)
    return 0


def write_samples(samples: Iterable[Sample], path: Path) -> None:
    """Write rows to `path` and their media beside it; the file appears when it is complete."""
    partial = path.with_name(f".{path.name}.partial")
    with disk_guard(path):
        for folder in ("images", "videos"):
            (path.parent / folder).mkdir(parents=True, exist_ok=True)
        with open(partial, "w", encoding="utf-8") as file:
            for sample in samples:
                file.write(json.dumps(_row(sample, path.parent), ensure_ascii=False) + "\n")
        os.replace(partial, path)


def _row(sample: Sample, folder: Path) -> dict[str, Any]:
    """The sample's row, with media in memory saved and replaced by their relative paths."""
    row = sample.to_row(media=False)
    saved = 0
    for message, original in zip(row["messages"], sample.messages, strict=True):
        if isinstance(original["content"], str):
            continue
        for part, source in zip(message["content"], original["content"], strict=True):
            kind = source["type"]
            if kind == "text":
                continue
            part[kind] = source[kind]
            if isinstance(source[kind], np.ndarray) and source[kind].ndim == 3:
                name = f"images/{sample.id.replace('/', '_')}_{saved}.png"
                Image.fromarray(source[kind]).save(folder / name)
            elif kind == "video" and isinstance(source[kind], bytes):
                name = f"videos/{sample.id.replace('/', '_')}_{saved}.mp4"
                (folder / name).write_bytes(source[kind])
            else:
                continue
            part[kind] = name
            saved += 1
    return row
