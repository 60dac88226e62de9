"""The sample table: a few groups of a step, as a person wants to see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rl.groups import Group
from rl.sequences import TrainingSequence

COLUMNS = (
    "id",
    "mode",
    "hint_level",
    "media",
    "question",
    "answer",
    "response",
    "reward",
    "parts",
    "advantage",
    "ratio",
)
RESPONSES = 2
"""Responses shown of a group: its best and its worst."""


def sample_table(
    groups: Sequence[Group], sequences: Sequence[TrainingSequence], count: int
) -> tuple[Sequence[str], list[list[Any]]]:
    """Columns and rows for `MetricLogger.table`.

    Of `count` groups (evenly spread over the batch) the best and the worst response are shown,
    with every reward part by name. `advantage` and `ratio` are None for a response that was in no
    update.
    """
    trained = {id(s.response_ids): s for s in sequences}
    chosen = sorted({int(i) for i in np.linspace(0, len(groups) - 1, min(count, len(groups)))})
    rows = []
    for group in (groups[index] for index in chosen):
        order = np.argsort(np.nan_to_num(group.rewards, nan=-np.inf), kind="stable")
        for row in dict.fromkeys([int(order[-1]), int(order[0])][:RESPONSES]):
            rows.append(_row(group, row, trained))
    return COLUMNS, rows


def _row(group: Group, row: int, trained: dict[int, TrainingSequence]) -> list[Any]:
    sequence = trained.get(id(group.trajectories[row].response_ids))
    score = group.scores[row]
    return [
        group.sample.id,
        group.sample.mode,
        group.hint_level,
        _first_image(group),
        question(group.sample.messages),
        group.sample.answer,
        group.responses[row],
        score.total,
        {
            name: part.value if part.status == "ok" else part.status
            for name, part in score.parts.items()
        },
        sequence.advantage if sequence else None,
        sequence.ratio if sequence else None,
    ]


def question(messages: Sequence[dict[str, Any]]) -> str:
    """The text of the last message, media left out."""
    content = messages[-1]["content"]
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part["type"] == "text")


def _first_image(group: Group) -> np.ndarray | None:
    """The first image or first frame as uint8 `[H, W, 3]`, as the engine was given it."""
    media = group.prompt.engine_media
    if media.get("image"):
        return np.asarray(media["image"][0])
    return np.asarray(media["video"][0][0]) if media.get("video") else None
