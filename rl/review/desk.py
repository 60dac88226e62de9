"""The reviewers' desk: items with what has been decided on each, shared by page and HTTP.

Invariant: a decision is written to the decisions file before anybody sees it as made; what is shown
is always what that file holds, whoever wrote it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from pretrain.data.media import MediaConfig
from pretrain.run.errors import KeyeError
from rl.review.decisions import (
    Decision,
    DecisionError,
    DecisionLog,
    decide,
    edited_text,
)
from rl.review.items import ReviewItem, load_items
from rl.review.media import Medium, item_media

STATUS = {"accept": "accepted", "edit": "edited", "drop": "dropped"}
_CACHED_ITEMS = 16
"""Items whose media stay decoded: the one on the screen of each of a few reviewers."""


@dataclass(frozen=True, slots=True)
class ItemState:
    """What has been decided on an item so far."""

    item: ReviewItem
    history: tuple[Decision, ...]
    """The oldest first."""

    @property
    def version(self) -> int:
        """Number of the latest decision; 0 if there is none."""
        return len(self.history)

    @property
    def status(self) -> str:
        """`open`, `accepted`, `edited` or `dropped`."""
        verdicts = [d.action for d in self.history if d.action in STATUS]
        return STATUS[verdicts[-1]] if verdicts else "open"

    @property
    def response(self) -> str:
        """The text that stands: the latest edit, or the model's."""
        return edited_text(list(self.history)) or self.item.response

    @property
    def ranking(self) -> tuple[int, ...] | None:
        """The latest ranking of the candidates."""
        return next((d.ranking for d in reversed(self.history) if d.ranking), None)

    @property
    def done(self) -> bool:
        """Whether there is a verdict or a ranking (whose best candidate can stand for the item)."""
        return bool(self.history)

    def summary(self) -> dict[str, Any]:
        """The item in a list."""
        return {
            "id": self.item.id,
            "task_type": self.item.sample.task_type,
            "grade": self.item.grade,
            "confidence": self.item.confidence,
            "candidates": len(self.item.candidates),
            "status": self.status,
            "ranked": self.ranking is not None,
            "version": self.version,
        }


@dataclass(frozen=True, slots=True)
class Draft:
    """A text that a reviewer has not saved yet."""

    text: str
    base_version: int
    """Version that the reviewer had on the screen."""


class Desk:
    """Items and decisions of one review.

    Args:
        items: items file; relative paths of media start from its folder.
        decisions: decisions file, made if it is absent.
        media: which media may be opened.

    Raises:
        KeyeError: a file cannot be read, with its name, line and fix.
    """

    def __init__(self, items: Path, decisions: Path, media: MediaConfig) -> None:
        self.items = load_items(items)
        self.base, self.media_config = items.parent, media
        self.log = DecisionLog(decisions)
        self._by_id = {item.id: item for item in self.items}
        self._media: OrderedDict[str, list[Medium]] = OrderedDict()
        self._lock = Lock()
        self.drafts: dict[tuple[str, str], Draft] = {}
        """Unsaved texts by (reviewer, item id), kept while the server runs."""

    def item(self, id: str) -> ReviewItem:
        """Raises `KeyError` for an id that no item has."""
        return self._by_id[id]

    def state(self, id: str) -> ItemState:
        """An item with its decisions; `KeyError` for an id that no item has."""
        self.log.refresh()
        return ItemState(self._by_id[id], tuple(self.log.history(id)))

    def states(self) -> list[ItemState]:
        """All items in the order of their file."""
        self.log.refresh()
        return [ItemState(item, tuple(self.log.history(item.id))) for item in self.items]

    def decide(
        self,
        id: str,
        base_version: int,
        action: str,
        reviewer: str,
        response: str | None = None,
        ranking: list[int] | None = None,
    ) -> Decision:
        """Write one decision.

        Raises `StaleDecision` if the item has a newer version than `base_version`, `DecisionError`
        for what is no decision on this item, `KeyError` for an id that no item has.
        """
        return self.append(decide(id, base_version, action, reviewer, response, ranking))

    def append(self, decision: Decision) -> Decision:
        """Write a decision made elsewhere; raises like `decide`."""
        count = len(self._by_id[decision.id].candidates)
        if decision.ranking is not None and len(decision.ranking) != count:
            raise DecisionError(
                f"`ranking` has {len(decision.ranking)} ranks and item {decision.id!r} has {count} "
                "candidates"
            )
        return self.log.append(decision)

    def media(self, id: str) -> list[Medium]:
        """What to show of an item's media. Raises `KeyeError` naming item and medium."""
        with self._lock:
            if id not in self._media:
                self._media[id] = item_media(self._by_id[id].sample, self.base, self.media_config)
                while len(self._media) > _CACHED_ITEMS:
                    self._media.popitem(last=False)
            self._media.move_to_end(id)
            return self._media[id]


def open_desk(items: str, decisions: str, media: MediaConfig) -> Desk:
    """The desk of an items file; decisions lie in decisions.jsonl beside it unless named."""
    if not items:
        raise KeyeError("no items to review: give items=FILE.jsonl")
    path = Path(items)
    return Desk(path, Path(decisions) if decisions else path.parent / "decisions.jsonl", media)
