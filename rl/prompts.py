"""Where a GSPO job's prompts come from: a file of samples, or the tiny world's endless stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from pretrain.data.ingest import FileStream, SampleFiles
from pretrain.data.sample import Sample
from pretrain.data.stream import WorldStream
from rl.config import DataConfig
from rl.tool_tasks import ToolTasks, needs_tools


class PromptSource(Protocol):
    """Prompts in a fixed order, with a cursor that says how far it has been taken."""

    def take(self, count: int) -> list[Sample]:
        """The next `count` samples; moves the cursor."""

    def state(self) -> dict[str, Any]:
        """The cursor and a fingerprint of the data."""

    def metrics(self) -> dict[str, float]:
        """`data/*` counts for the log."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved cursor; `KeyeError` when the data are other data."""


def open_prompts(cfg: DataConfig, folder: Path) -> PromptSource:
    """The source that a configuration names; bad rows are copied to `folder`/quarantine.jsonl."""
    if cfg.files:
        quarantine = cfg.quarantine or str(folder / "quarantine.jsonl")
        return FileStream(SampleFiles(replace(cfg, quarantine=quarantine)), cfg.seed)
    if needs_tools(cfg.tasks):
        return ToolTasks(cfg.tasks, cfg.seed)
    return WorldStream(cfg.tasks, cfg.seed, "train", cfg.modes)
