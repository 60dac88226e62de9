"""Held-out alignment: what a policy follows, per source, mode and kind, and how that changes.

Invariant: the same prompts in the same order whenever it is called, so changes are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.run.console import table
from pretrain.run.metrics import read_rows
from rl.alignment.config import AlignmentConfig
from rl.alignment.marks import KIND, mean_marks
from rl.alignment.sources import Source
from rl.groups import Group
from rl.rollouts import Rollouts
from rl.row_log import RowLog
from rl.statistics import mean_interval, paired_difference

RECORDS = "alignment.jsonl"
"""A row a held-out prompt, in a measuring stage's folder."""
HOW = ("greedy", "sampled")
"""The most likely response; the mean of those at temperature 1."""
Record = dict[str, Any]


def measure(rollouts: Rollouts, cfg: AlignmentConfig, folder: Path) -> dict[str, Any]:
    """Asks the held-out prompts of every source and writes `folder`/alignment.jsonl; resumable."""
    log = RowLog(folder / RECORDS)
    for name in cfg.sources():
        # By id: a full disk may have kept a part of a source's rows.
        samples = [
            sample
            for sample in Source(name, cfg, folder, heldout=True).first(cfg.heldout)
            if sample.id not in log.ids
        ]
        if not samples:
            continue
        greedy = rollouts.groups(samples, n=1, temperature=0.0, seed=0)
        sampled = rollouts.groups(samples, n=cfg.samples, temperature=1.0, seed=0)
        log.append([_record(one, many) for one, many in zip(greedy, sampled, strict=True)])
    return report(log.rows())


def _record(greedy: Group, sampled: Group) -> Record:
    sample = sampled.sample
    return {
        "id": sample.id,
        "source": sample.extra["alignment"]["source"],
        "kind": sample.extra["alignment"]["kind"],
        "mode": sample.mode,
        "task_type": sample.task_type,
        "greedy": mean_marks(greedy),
        "sampled": mean_marks(sampled) | {"reasoned": float(sampled.reasoned.mean())},
        "tokens": float(np.mean([t.num_sampled for t in sampled.trajectories])),
        "response": greedy.responses[0],
        "constraints": [c["kind"] for c in sample.constraints or []],
    }


def columns(records: Sequence[Record], how: str) -> dict[str, dict[str, float]]:
    """`{figure: {prompt: value}}`.

    `SOURCE/FIGURE` and `SOURCE/MODE/correct`; `kind/NAME`: a constraint kind is satisfied;
    `format/MODE`: structure, over all sources; `form/NAME`: structure and content of a form;
    `reasons/TASK`: reasoning in auto-think mode.
    """
    found: dict[str, dict[str, float]] = {}
    for record in records:
        for figure, value in record[how].items():
            for key in _keys(record, figure):
                found.setdefault(key, {})[record["id"]] = value
    return found


def _keys(record: Record, figure: str) -> list[str]:
    source, mode = record["source"], record["mode"]
    if figure.startswith(KIND):
        return [figure]
    if figure == "formed":
        return [f"form/{record['kind']}"] if source == "formats" else []
    if figure == "reasoned":
        return [f"reasons/{record['task_type']}"] if mode == "auto_think" else []
    keys = [f"{source}/{figure}"]
    if figure == "correct":
        keys.append(f"{source}/{mode}/correct")
    return [*keys, f"format/{mode}"] if figure == "format" else keys


def report(records: Sequence[Record]) -> dict[str, Any]:
    """`{figure: {greedy, sampled}}` with leaves `{value, low, high, n}` (95 % intervals)."""
    found: dict[str, Any] = {}
    for how in HOW:
        for figure, values in columns(records, how).items():
            found.setdefault(figure, {})[how] = mean_interval(list(values.values())).to_dict()
    return dict(sorted(found.items()))


def change(before: Sequence[Record], after: Sequence[Record]) -> dict[str, Any]:
    """`{figure: {greedy, sampled}}`: after − before over the same prompts, paired intervals."""
    found: dict[str, Any] = {}
    for how in HOW:
        old, new = columns(before, how), columns(after, how)
        for figure in old.keys() & new.keys():
            # A prompt whose rewards failed in one of the two is no pair.
            both = [name for name in old[figure] if name in new[figure]]
            if both:
                pair = [[side[figure][name] for name in both] for side in (old, new)]
                found.setdefault(figure, {})[how] = paired_difference(*pair).to_dict()
    return dict(sorted(found.items()))


def load(folder: Path) -> list[Record]:
    """The records that `measure` has left in a stage's folder."""
    return read_rows(folder / RECORDS)


def show(title: str, reports: dict[str, dict[str, Any]], changed: dict[str, Any]) -> None:
    """A table with a row a figure: each measurement's sampled mean and greedy one, the last change.

    ± is half of the 95 % interval.
    """
    names = list(reports)
    rows = []
    for figure in sorted({figure for one in reports.values() for figure in one}):
        found = [reports[name].get(figure, {}) for name in names]
        greedy = " → ".join(f"{one['greedy']['value']:.3f}" for one in found if "greedy" in one)
        cells = [_cell(one.get("sampled"), "{value:.3f} ±{half:.3f}") for one in found]
        last = _cell(
            changed.get(figure, {}).get("sampled"), "{value:+.3f} [{low:+.3f}, {high:+.3f}]"
        )
        rows.append([figure, *cells, greedy, last])
    heads = [name.removeprefix("alignment_") for name in names]
    table(title, ["figure", *heads, "greedy", "change (paired)"], rows)


def _cell(leaf: dict[str, Any] | None, form: str) -> str:
    return form.format(**leaf, half=(leaf["high"] - leaf["low"]) / 2) if leaf else ""
