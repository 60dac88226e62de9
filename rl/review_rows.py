"""Rows of an items file for `python -m rl review`, made from samples and what policies answered.

Invariant: an item carries its media with it, so that the file can be reviewed anywhere; where its
candidates are ranked, its id names them, so that no ranking is ever read as one of other responses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from pretrain.data.sample import Sample


def item_row(
    sample: Sample, response: str, findings: Sequence[str] = (), candidates: Sequence[str] = ()
) -> dict[str, Any]:
    """One line of an items file.

    Args:
        sample: question and reference, its media loaded.
        response: what is edited, accepted or dropped.
        findings: why a person should look.
        candidates: responses to rank, none or at least two.
    """
    row = sample.to_row()
    kept = {key: row[key] for key in ("messages", "answer", "task_type", "mode")}
    item = {"id": sample.id} | kept | {"response": response, "findings": list(findings)}
    if candidates:
        item |= {"id": ranking_id(sample.id, candidates), "candidates": list(candidates)}
    return item


def ranking_id(name: str, candidates: Sequence[str]) -> str:
    """A sample's id with a mark of the candidates: other responses to it are another item."""
    mark = hashlib.sha256("\x1f".join(candidates).encode()).hexdigest()[:8]
    return f"{name}@{mark}"
