"""Metrics of a stage: every number goes to `metrics.jsonl` at once and to W&B in the background.

Invariant: `metrics.jsonl` alone is enough to draw every figure; a line is complete or absent
after a kill, and after `truncate(step)` no line is from a step that will be done again.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from pretrain.run.directory import StageDir, atomic_write, disk_guard
from pretrain.run.wandb_writer import WandbConfig, WandbWriter

__all__ = ["MetricLogger", "WandbConfig", "read_rows"]


def read_rows(path: Path | str) -> list[dict[str, Any]]:
    """The rows of a JSONL file; `[]` if it is absent. A last line cut off by a kill is left out."""
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    # What follows the last newline is empty, or a line that was being written.
    return [json.loads(line) for line in lines[:-1] if line.strip()]


def _number(value: Any) -> float | int | None:
    """A JSON number; NaN and infinities, which JSON lacks, become null."""
    number = value if isinstance(value, int) and not isinstance(value, bool) else float(value)
    return number if math.isfinite(number) else None


def _cell(value: Any) -> Any:
    """A table cell for samples.jsonl: pixels are replaced by their shape."""
    if isinstance(value, np.ndarray):
        return {"image": list(value.shape)}
    return value if value is None or isinstance(value, str | bool) else _jsonable(value)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _cell(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cell(item) for item in value]
    try:
        return _number(value)
    except (TypeError, ValueError):
        return str(value)


class MetricLogger:
    """Logs numbers and sample tables of one stage.

    `config` is shown in W&B. Usable as a context manager, which calls `finish` at the end.
    """

    def __init__(self, stage: StageDir, wandb: WandbConfig, config: dict[str, Any]) -> None:
        self.stage = stage
        with disk_guard(stage.path):
            stage.path.mkdir(parents=True, exist_ok=True)
        self.wandb = WandbWriter(stage.path, wandb, config)

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Log scalars under `group/name` keys; `step` never goes back except by `truncate`."""
        row = {key: _number(value) for key, value in values.items()}
        self._append(self.stage.metrics_file, [{"step": step, "time": time.time()} | row])
        self.wandb.log({key: math.nan if v is None else v for key, v in row.items()}, step)

    def table(
        self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int
    ) -> None:
        """Log a table: numbers, texts, and images as `uint8 [H, W, C]` arrays.

        samples.jsonl gets one line a row, `{"step", "table", column: value…}`, without pixels.
        """
        lines = [
            {"step": step, "table": name}
            | {column: _cell(value) for column, value in zip(columns, row, strict=True)}
            for row in rows
        ]
        self._append(self.stage.samples_file, lines)
        self.wandb.table(name, columns, rows, step)

    def truncate(self, step: int) -> None:
        """Drop the rows of steps after `step`, the last complete one, before resuming there."""
        for path in (self.stage.metrics_file, self.stage.samples_file):
            if path.exists():
                kept = [row for row in read_rows(path) if row["step"] <= step]
                atomic_write(path, "".join(json.dumps(row) + "\n" for row in kept))

    def finish(self) -> None:
        """Close the W&B run (waiting a bounded time)."""
        self.wandb.finish()

    def _append(self, path: Path, rows: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with disk_guard(path), open(path, "a", encoding="utf-8") as file:
            file.write(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.finish()
