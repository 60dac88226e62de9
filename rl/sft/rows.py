"""The rows of supervised fine-tuning: from data, through the filter and the reviews, to examples.

A row is `rl.trace_rows`'s, with `origin` `data` or `human`. Invariant: a person's decision stands
above the filter's: what one edited or accepted stays however easy it is, what one dropped leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pretrain.data.ingest import SampleFiles
from pretrain.data.render import render
from pretrain.data.sample import Sample
from pretrain.data.stream import WorldStream
from pretrain.run.errors import ConfigError, KeyeError
from rl.review.decisions import VERDICTS, Decision, load_decisions
from rl.sft.config import SftStageConfig
from rl.sft.difficulty import Selection
from rl.sft.taxonomy import BalancedRows
from rl.trace_rows import Row, SampleSource, given_reply, row_of, sample_of


@dataclass(slots=True)
class AskedIn:
    """The samples of a source, all asked in one mode; in their own if `mode` is empty."""

    source: SampleSource
    mode: str

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` with its media."""
        return self.ask(self.source[index])

    def ask(self, sample: Sample) -> Sample:
        """The sample in the source's mode."""
        return replace(sample, mode=self.mode) if self.mode else sample


def open_rows(cfg: SftStageConfig, folder: Path) -> AskedIn:
    """The samples behind the rows; bad rows of files go to `folder`/quarantine.jsonl."""
    if not cfg.data.files:
        modes = {cfg.mode or "no_think": 1.0}
        return AskedIn(WorldStream(cfg.tasks, cfg.seed, "train", modes), cfg.mode)
    quarantine = cfg.data.quarantine or str(folder / "quarantine.jsonl")
    return AskedIn(SampleFiles(replace(cfg.data, quarantine=quarantine)), cfg.mode)


def first_rows(source: AskedIn, pool: int) -> list[Row]:
    """All rows of files, or the first `pool` samples of the world, with the replies given."""
    data = source.source
    if isinstance(data, SampleFiles):
        samples = (source.ask(data.unloaded(index)) for index in range(len(data)))
    else:
        samples = (source[index] for index in range(pool))
    return [
        row_of(index, sample, given_reply(sample), "data") for index, sample in enumerate(samples)
    ]


def read_verdicts(files: Sequence[str]) -> dict[str, Decision]:
    """Item → decision on its response, out of several files.

    Raises `KeyeError` for an unreadable file or an item that two files decide on.
    """
    verdicts: dict[str, Decision] = {}
    origin: dict[str, str] = {}
    for file in files:
        for item, decision in load_decisions(file, VERDICTS).items():
            if item in verdicts:
                raise ConfigError(
                    f"item {item!r} is decided on in {origin[item]} and in {file}: leave one of "
                    "the files out, or its decision on this item"
                )
            verdicts[item], origin[item] = decision, file
    return verdicts


def curate(
    rows: Sequence[Row], selection: Selection, verdicts: Mapping[str, Decision]
) -> tuple[list[Row], dict[str, Any]]:
    """The rows that are trained on, and counts.

    Each gets `accuracy` and `tokens` (None where nothing was measured) and `final`: whether it is
    for the annealing phase, being hard or reviewed by a person.

    Raises:
        KeyeError: no row is left, or there are decisions and none is on any of the rows.
    """
    ids = {row["id"] for row in rows}
    unmatched = sorted(set(verdicts) - ids)
    if verdicts and len(unmatched) == len(verdicts):
        raise KeyeError(
            f"none of {len(verdicts)} decisions is on a row of the data (the first one is on "
            f"{unmatched[0]!r}): sft.decisions belongs to another data set"
        )
    curated, counts = [], Counter[str]()
    for row in rows:
        verdict = verdicts.get(row["id"])
        if verdict is None and row["id"] in selection.easy:
            counts["too_easy"] += 1
            continue
        if verdict is not None:
            counts[verdict.action] += 1
            if verdict.action == "drop":
                continue
            if verdict.response is not None:
                row = row | {"response": verdict.response, "origin": "human"}
        measure = selection.measures.get(row["id"], {})
        final = verdict is not None or row["id"] in selection.hard
        notes = {key: measure.get(key) for key in ("accuracy", "tokens")}
        curated.append(row | notes | {"final": final})
    if not curated:
        raise KeyeError(
            f"none of {len(rows)} rows is left: {counts['too_easy']} are too easy, "
            f"{counts['drop']} were dropped. Take harder data, or a higher easy_kept."
        )
    return curated, {
        "rows": len(curated),
        "too_easy": counts["too_easy"],
        "accepted": counts["accept"],
        "edited": counts["edit"],
        "dropped": counts["drop"],
        "decisions_unmatched": len(unmatched),
        "final": sum(row["final"] for row in curated),
        "domains": _domains(rows, curated),
    }


def _domains(rows: Sequence[Row], curated: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Rows before and after by domain (types can be tens of thousands)."""
    before, after = (
        Counter(r["task_type"].split("/")[0] for r in some) for some in (rows, curated)
    )
    return {name: {"before": before[name], "after": after[name]} for name in sorted(before)}


class RowExamples:
    """`examples(i)` for fine-tuning: rows drawn balanced over their task types, pure in i."""

    def __init__(self, source: SampleSource, rows: Sequence[Row], draws: BalancedRows) -> None:
        self.source, self.draws = source, draws
        self.rows = rows

    def __call__(self, index: int) -> list[dict[str, Any]]:
        """The conversation of example `index`, the assistant's turn last."""
        row = self.rows[self.draws(index)]
        turn = {"role": "assistant", "content": [{"type": "text", "text": row["response"]}]}
        return [*render(sample_of(self.source, row)), turn]
