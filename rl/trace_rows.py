"""Cold-start data as rows that can be replaced one by one.

A row is `{id, index, mode, question, answer, response, origin}`. Its sample, media included, is
`source[index]`; `origin` says where the reply comes from: `data`, `spoiled`, or the round that
replaced it.

Invariant: rows keep their order and their number over all rounds; only replies change.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pretrain.data.ingest import SampleFiles
from pretrain.data.render import render, reply
from pretrain.data.sample import Sample, SampleError
from pretrain.run.directory import atomic_write
from pretrain.run.errors import KeyeError
from pretrain.run.metrics import read_rows
from rl.cold_start import ColdStartTraces, shown_level
from rl.config import ColdStartConfig
from rl.iterated.config import IteratedConfig
from rl.tables import question
from rollout.tools.calls import OPEN

Row = dict[str, Any]


class SampleSource(Protocol):
    """Samples by index: a world stream, or the good rows of files."""

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` with its media."""


def sample_of(source: SampleSource, row: Row) -> Sample:
    """The row's sample, media included.

    Raises `KeyeError` when another sample is at its place by now: rows are told apart by position
    among the good ones, and a medium that was lost or mended since moves those behind it.
    """
    sample = source[row["index"]]
    if sample.id != row["id"]:
        raise KeyeError(
            f"row {row['id']!r} was made when sample {row['index']} of the data was that one; now "
            f"it is {sample.id!r}. A picture or video was lost or mended meanwhile: restore it, or "
            "start another run, whose rows are made of the data as it is now."
        )
    return sample


def open_source(cfg: IteratedConfig, cold_start: ColdStartConfig, folder: Path) -> SampleSource:
    """The samples behind the rows; bad rows of files go to `folder`/quarantine.jsonl."""
    if not cfg.data.files:
        return ColdStartTraces(cold_start).stream
    quarantine = cfg.data.quarantine or str(folder / "quarantine.jsonl")
    return SampleFiles(replace(cfg.data, quarantine=quarantine))


def first_rows(cfg: IteratedConfig, cold_start: ColdStartConfig, folder: Path) -> list[Row]:
    """The rows before any round."""
    source = open_source(cfg, cold_start, folder)
    if isinstance(source, SampleFiles):
        samples = [source.unloaded(index) for index in range(len(source))]
        return [row_of(k, sample, given_reply(sample), "data") for k, sample in enumerate(samples)]
    traces = ColdStartTraces(cold_start)
    rows = []
    for index in range(cfg.pool):
        text = traces(index)[-1]["content"][0]["text"]
        rows.append(row_of(index, source[index], text, "data"))
    return _spoil(rows, cfg)


def row_of(index: int, sample: Sample, response: str, origin: str) -> Row:
    return {
        "id": sample.id,
        "index": index,
        "task_type": sample.task_type,
        "mode": sample.mode,
        "question": question(sample.messages),
        "answer": sample.answer,
        "response": response,
        "origin": origin,
    }


def calls_tools(sample: Sample) -> bool:
    """Whether the row's own response calls a tool."""
    response = sample.extra.get("response")
    return isinstance(response, str) and OPEN in response


def given_reply(sample: Sample) -> str:
    """A row's own reply: its `response`, or the one that its solution makes.

    Raises `SampleError` for one that isn't a text, or that calls tools: it is learned whole.
    """
    response = sample.extra.get("response")
    if response is None:
        return reply(sample)
    if not isinstance(response, str) or not response.strip():
        raise SampleError(f"sample {sample.id!r}: `response` must be a text, got {response!r}")
    if calls_tools(sample):
        raise SampleError(
            f"sample {sample.id!r}: its `response` calls tools, and here a response is learned "
            "whole, their results included. Give such rows to the LongCoT cold start "
            "(long_cot.enhance.data.files), which learns the policy's own turns, or leave them out"
        )
    return response


def _spoil(rows: list[Row], cfg: IteratedConfig) -> list[Row]:
    """Some rows with the reply of the next row of the same task and mode with another answer."""
    chance = np.random.default_rng([cfg.seed, 7]).random(len(rows))
    spoiled = []
    for index, row in enumerate(rows):
        donor = next(
            (
                other
                for k in range(1, len(rows))
                if (other := rows[(index + k) % len(rows)])["answer"] != row["answer"]
                and all(other[key] == row[key] for key in ("task_type", "mode"))
            ),
            None,
        )
        if chance[index] < cfg.spoiled_share and donor is not None:
            row = row | {"response": donor["response"], "origin": "spoiled"}
        spoiled.append(row)
    return spoiled


def save_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as JSONL, atomically."""
    atomic_write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


class TraceExamples:
    """`examples(i)` for fine-tuning: the rows in a new order every epoch, pure in i.

    A `hinted_share` of the examples with hints show one, and all of `hinted_tasks`, as in the first
    cold start; the reply is the row's all the same.
    """

    def __init__(
        self,
        source: SampleSource,
        path: Path,
        seed: int,
        hinted_share: float = 0.0,
        hinted_tasks: Collection[str] = (),
    ) -> None:
        self.source, self.path, self.seed = source, path, seed
        self.hinted = hinted_share, hinted_tasks
        self.rows = read_rows(path)

    def __call__(self, index: int) -> list[dict[str, Any]]:
        """The conversation of example `index`, the assistant's turn last."""
        epoch, place = divmod(index, len(self.rows))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))
        row = self.rows[int(order[place])]
        turn = {"role": "assistant", "content": [{"type": "text", "text": row["response"]}]}
        sample = sample_of(self.source, row)
        draw = float(np.random.default_rng([self.seed, index, 3]).random())
        return [*render(sample, shown_level(sample, draw, *self.hinted)), turn]
