"""Questions as rows, and the samples that they stand for.

A row is `{id, how, from, refs, question, answer, task_type, medium}`: `how` is `given`, `rewritten`
or `merged`, `from` are the ids it came from, `refs` say where those samples are (source, index).

Invariant: a row holds no media; its sample is rebuilt from its sources, so it is a pure function
of the row and the sources, and always in think mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pretrain.data.ingest import SampleFiles
from pretrain.data.sample import MEDIA, Sample
from pretrain.data.stream import WorldStream
from pretrain.run.errors import ConfigError
from rl.long_cot.config import EnhanceConfig
from rl.long_cot.merging import merged_sample
from rl.tables import question
from rl.trace_rows import SampleSource, sample_of

Row = dict[str, Any]
WORLD = "world"
"""Name of the tiny world among the sources; files go by their paths."""
BLIND_TEXT = "?"
"""Stands for a question that was nothing but media when it is asked without them."""


def open_sources(cfg: EnhanceConfig, folder: Path) -> dict[str, Any]:
    """The samples of each source by name: one a file, and the tiny world.

    Bad rows of files are copied to `folder`/quarantine.jsonl. Raises `ConfigError` if there is no
    source.
    """
    quarantine = cfg.data.quarantine or str(folder / "quarantine.jsonl")
    opened: dict[str, Any] = {
        name: SampleFiles(replace(cfg.data, files=[name], quarantine=quarantine))
        for name in cfg.data.files
    }
    if cfg.world:
        opened[WORLD] = WorldStream(cfg.tasks, cfg.world_seed, "train", {"think": 1.0})
    if not opened:
        raise ConfigError(
            "long_cot.enhance names no source of questions: set "
            "'long_cot.enhance.data.files=[PATH.jsonl]', or long_cot.enhance.world and .tasks"
        )
    return opened


def unloaded(source: SampleSource, index: int) -> Sample:
    """Sample `index` without reading its media, where they are in files."""
    return source.unloaded(index) if isinstance(source, SampleFiles) else source[index]


def source_size(source: SampleSource, cfg: EnhanceConfig) -> int:
    """Questions taken from a source."""
    if not isinstance(source, SampleFiles):
        return cfg.world
    return min(cfg.rows_per_file or len(source), len(source))


def question_row(how: str, sample: Sample, origin: list[str], refs: list[list[Any]]) -> Row:
    """The row of a question."""
    kinds = {part["type"] for part in sample.media()}
    return {
        "id": sample.id,
        "how": how,
        "from": origin,
        "refs": refs,
        "question": question(sample.messages),
        "answer": sample.answer,
        "task_type": sample.task_type,
        "medium": next((kind for kind in reversed(MEDIA) if kind in kinds), "text"),
    }


@dataclass(slots=True)
class Questions:
    """`questions(row)` is the row's sample, media included."""

    sources: Mapping[str, SampleSource]
    separator: str
    """Between the answers of a merged question."""

    def __call__(self, row: Row) -> Sample:
        """The sample behind a row; `SampleError` if its media have become unreadable."""
        parts = [
            self._part(name, index, id)
            for (name, index), id in zip(row["refs"], row["from"], strict=True)
        ]
        if row["how"] == "merged":
            sample = merged_sample(parts[0], parts[1], self.separator)
        elif row["how"] == "rewritten":
            sample = reworded(parts[0], row["question"])
        else:
            sample = parts[0]
        return replace(sample, id=row["id"], mode="think")

    def _part(self, name: str, index: int, id: str) -> Sample:
        source = self.sources[name]
        # Where two files number their rows alike, the file's name is part of the id.
        own = id.removeprefix(f"{name}:")
        return sample_of(source, {"id": own, "index": index})


def reworded(sample: Sample, text: str) -> Sample:
    """The sample with another question; media stay in front of it."""
    *before, last = sample.messages
    content = last["content"]
    media = [] if isinstance(content, str) else [p for p in content if p["type"] != "text"]
    turn = {"role": last["role"], "content": [*media, {"type": "text", "text": text}]}
    # A hint or a solution may quote the old wording; what is computed stays the same.
    return replace(sample, messages=[*before, turn])


def blind(sample: Sample) -> Sample:
    """The sample without its media, for measuring what can be answered without seeing them."""
    messages = []
    for message in sample.messages:
        content = message["content"]
        if not isinstance(content, str):
            content = [part for part in content if part["type"] == "text"]
            content = content or [{"type": "text", "text": BLIND_TEXT}]
        messages.append({"role": message["role"], "content": content})
    return replace(sample, id=f"{sample.id}/blind", messages=messages)
