"""What people decided about items: an append-only JSONL file, and how importers read it.

Invariants: a line that is written stays as it is; the decisions on an item are numbered 1, 2, 3, …
and each is based on the one before it, so nobody's decision is overwritten unseen; a file with one
wrong line is refused as a whole, so no decision is lost unnoticed.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from typing import Any

from pretrain.run.directory import disk_guard
from pretrain.run.errors import KeyeError

ACTIONS = ("accept", "edit", "drop", "rank")
VERDICTS = ("accept", "edit", "drop")
"""What is decided about an item's response; the actions an importer of traces reads."""
RANKINGS = ("rank", "drop")
"""What is decided about an item's candidates; the actions an importer of preferences reads."""


class DecisionError(KeyeError):
    """A decision that cannot be; the text says which field is wrong and how to mend it."""


class StaleDecision(KeyeError):
    """Somebody else decided on the item first; `current` is that decision."""

    def __init__(self, current: Decision, base_version: int) -> None:
        self.current = current
        super().__init__(
            f"item {current.id!r} is at version {current.version} ({current.action} by "
            f"{current.reviewer}, {current.time}), and this decision is based on version "
            f"{base_version}. Nothing was written: look at the newer version and decide again."
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """One person's decision on one item."""

    id: str
    """The item's id."""
    version: int
    """1 for the first decision on the item, then one more each time."""
    base_version: int
    """The version the reviewer saw; 0 is the item as the model left it."""
    action: str
    """`accept`, `edit`, `drop` or `rank`."""
    reviewer: str
    """Who decided."""
    time: str
    """When, in ISO 8601 with the time zone."""
    response: str | None = None
    """`edit`: the new text of the whole response. `accept`: the earlier edit that is accepted, or
    None for the item's own response (`load_decisions` fills it in)."""
    ranking: tuple[int, ...] | None = None
    """`rank`: the rank of each candidate in the item's order, 1 is the best; equal ranks are
    ties."""

    def __post_init__(self) -> None:
        for key in ("id", "reviewer"):
            value = getattr(self, key)
            _require(
                isinstance(value, str) and bool(value.strip()), key, value, "a non-empty string"
            )
        _require(_whole(self.base_version), "base_version", self.base_version, "a number from 0 on")
        _require(
            _whole(self.version) and self.version == self.base_version + 1,
            "version",
            self.version,
            f"base_version + 1 = {self.base_version + 1}",
        )
        _require(self.action in ACTIONS, "action", self.action, f"one of {', '.join(ACTIONS)}")
        _require(_is_time(self.time), "time", self.time, "ISO 8601 with a time zone")
        self._check_content()

    def _check_content(self) -> None:
        text, ranking = self.response, self.ranking
        _require(text is None or isinstance(text, str), "response", text, "a string")
        if self.action == "edit":
            _require(bool(text and text.strip()), "response", text, "the edited text")
        else:
            wanted = f"absent: {self.action} has no text"
            _require(text is None or self.action == "accept", "response", text, wanted)
        if self.action != "rank":
            _require(ranking is None, "ranking", ranking, f"absent: {self.action} ranks nothing")
            return
        ranks = ranking if isinstance(ranking, tuple) else ()
        count = len(ranks)
        _require(
            count > 1 and all(_whole(r) and 1 <= r <= count for r in ranks) and 1 in ranks,
            "ranking",
            ranking,
            "the rank of each of the k ≥ 2 candidates, from 1 (best) to k",
        )

    def to_row(self) -> dict[str, Any]:
        """The row of the decisions file; absent fields are left out."""
        row = {key: value for key, value in asdict(self).items() if value is not None}
        return row | ({"ranking": list(self.ranking)} if self.ranking else {})

    @classmethod
    def from_row(cls, row: Any) -> Decision:
        """Raises `DecisionError` that names the first wrong field."""
        if not isinstance(row, Mapping):
            raise DecisionError(f"a decision must be an object, not {type(row).__name__}")
        known = {f.name for f in fields(cls)}
        needed = known - {"response", "ranking"}
        missing, unknown = sorted(needed - set(row)), sorted(set(row) - known)
        if missing:
            raise DecisionError(f"`{missing[0]}` is missing; a decision has {_names(needed)}")
        if unknown:
            raise DecisionError(f"`{unknown[0]}` is not a field; there are {_names(known)}")
        ranking = row.get("ranking")
        return cls(**{**row, "ranking": tuple(ranking) if isinstance(ranking, list) else ranking})


def decide(
    id: str,
    base_version: int,
    action: str,
    reviewer: str,
    response: str | None = None,
    ranking: list[int] | tuple[int, ...] | None = None,
) -> Decision:
    """A decision made now, on the version with number `base_version`."""
    return Decision(
        id=id,
        version=base_version + 1 if _whole(base_version) else 0,
        base_version=base_version,
        action=action,
        reviewer=reviewer,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        response=response,
        ranking=tuple(ranking) if isinstance(ranking, list) else ranking,
    )


def load_decisions(path: Path | str, actions: Collection[str] = ACTIONS) -> dict[str, Decision]:
    """The latest decision on each item, out of those with one of `actions`.

    Pass `VERDICTS` to import traces and `RANKINGS` to import preferences: the latest decision of
    the other kind then hides nothing. Of an `accept` the response is the text accepted: the latest
    earlier edit, or None if the item's own response stands.

    Raises:
        KeyeError: the file is absent, or a line of it is no decision or breaks an item's numbering;
            the text names the file, the line, the reason and the fix.
    """
    path = Path(path)
    if not path.is_file():
        raise KeyeError(f"there is no decisions file {path}: `python -m rl review` writes it")
    histories = _parse(path, path.read_bytes())
    latest = {}
    for id, history in histories.items():
        chosen = [decision for decision in history if decision.action in actions]
        if chosen:
            latest[id] = chosen[-1]
    return latest


class DecisionLog:
    """The decisions file, open for appending; several processes and threads may share it.

    Args:
        path: the file; made with its folder if it is absent. Raises `KeyeError` like
            `load_decisions`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._histories: dict[str, list[Decision]] = {}
        self._seen = (-1, -1)
        self._lock = RLock()
        with disk_guard(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
        self.refresh()

    def refresh(self) -> None:
        """Read what others have written since."""
        with self._lock:
            stat = self.path.stat()
            if (stat.st_size, stat.st_mtime_ns) != self._seen:
                self._histories = _parse(self.path, self.path.read_bytes())
                self._seen = (stat.st_size, stat.st_mtime_ns)

    def history(self, id: str) -> list[Decision]:
        """All decisions on an item, the oldest first."""
        return list(self._histories.get(id, []))

    def version(self, id: str) -> int:
        """Number of decisions on an item."""
        return len(self._histories.get(id, []))

    def append(self, decision: Decision) -> Decision:
        """Write a decision and bring it to the disk; returns it with the response it stands for.

        Raises `StaleDecision` if the item has a newer version than `decision.base_version`, and
        `KeyeError` if the item has no such version yet or the file cannot be read or written.
        """
        with self._lock, disk_guard(self.path), open(self.path, "ab+") as file:
            # Held until the file is closed: another process's decision is before or after this one.
            fcntl.flock(file, fcntl.LOCK_EX)
            self.refresh()
            history = self._histories.get(decision.id, [])
            if history and decision.base_version < len(history):
                raise StaleDecision(history[-1], decision.base_version)
            decision = _follow(history, decision)
            file.seek(0)
            content = file.read()
            line = json.dumps(decision.to_row(), ensure_ascii=False) + "\n"
            cut = b"" if content.endswith(b"\n") or not content else b"\n"
            file.write(cut + line.encode())
            file.flush()
            os.fsync(file.fileno())
            stat = os.fstat(file.fileno())
            self._histories.setdefault(decision.id, []).append(decision)
            self._seen = (stat.st_size, stat.st_mtime_ns)
        return decision


def _parse(path: Path, content: bytes) -> dict[str, list[Decision]]:
    """Every item's decisions in order; see `load_decisions` for the errors."""
    histories: dict[str, list[Decision]] = {}
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            decision = Decision.from_row(json.loads(line))
            history = histories.setdefault(decision.id, [])
            history.append(_follow(history, decision))
        except (ValueError, DecisionError) as error:
            if not isinstance(error, DecisionError):
                error = DecisionError(f"not valid JSON in UTF-8 ({error})")
            raise KeyeError(
                f"{path}:{number}: {error}. Mend or remove that line; the file is not read "
                "before, so that no decision is left out unnoticed."
            ) from None
    return histories


def _follow(history: list[Decision], decision: Decision) -> Decision:
    """The decision as the next of an item's history; an `accept` gets the text it accepts."""
    if decision.base_version != len(history):
        raise DecisionError(
            f"version {decision.version} of item {decision.id!r} follows version {len(history)}, "
            f"so base_version must be {len(history)} and version {len(history) + 1}"
        )
    if decision.action != "accept" or decision.response is not None:
        return decision
    return replace(decision, response=edited_text(history))


def edited_text(history: list[Decision]) -> str | None:
    """The text that the latest edit left, or None if the item's own response stands."""
    return next((d.response for d in reversed(history) if d.response is not None), None)


def _require(condition: bool, key: str, value: Any, wanted: str) -> None:
    if not condition:
        raise DecisionError(f"`{key}` must be {wanted}, got {value!r}")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _names(keys: Collection[str]) -> str:
    return ", ".join(sorted(keys))
