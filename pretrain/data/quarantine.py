"""Bad rows: reported with file, line and reason, copied aside, counted, and skipped.

Invariant: every row that was read is either handed out or in the quarantine file, and a job whose
share of bad rows is above the limit stops with an error that shows the first reasons.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.data.sample import media_to_row
from pretrain.run.directory import disk_guard
from pretrain.run.errors import KeyeError

_SHOWN = 3
_EARLY = 1000


class Quarantine:
    """Counts rows; bad ones go to `path`, one JSON object `{file, line, reason, row}` a line."""

    def __init__(self, path: Path, max_share: float) -> None:
        """`max_share` is the largest tolerated share of bad rows, 0…1.

        Rows that an earlier run already put into the file are not written twice.
        """
        self.path, self.max_share = path, max_share
        self.seen = 0
        self.bad: dict[tuple[str, int], str] = {}
        self._written = _places(path)

    def good(self) -> None:
        """Count a row that is fine."""
        self.seen += 1
        self._check_early()

    def add(self, file: Path, line: int, reason: str, row: Any) -> None:
        """Put a row aside. `line` counts from 1; `row` is the raw text or the parsed object."""
        self.seen += 1
        self.reject(file, line, reason, row)
        self._check_early()

    def reject(self, file: Path, line: int, reason: str, row: Any) -> None:
        """Put a row aside that has been counted as good before."""
        place = (str(file), line)
        if place in self.bad:
            return
        self.bad[place] = reason
        if place in self._written:
            return
        entry = {"file": place[0], "line": line, "reason": reason, "row": _plain(row)}
        with disk_guard(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as out:
                out.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def check(self) -> None:
        """Raise `KeyeError` when the share of bad rows is above the limit, or no row is left."""
        limit = min(self.max_share * self.seen, self.seen - 1)
        if not self.seen or len(self.bad) <= limit:
            return
        shown = list(self.bad.items())[:_SHOWN]
        reasons = "\n".join(f"  {file}:{line}: {reason}" for (file, line), reason in shown)
        raise KeyeError(
            f"{len(self.bad)} of {self.seen} data rows are bad "
            f"({len(self.bad) / self.seen:.1%}, the limit is max_bad_share={self.max_share}):\n"
            f"{reasons}\nAll of them are in {self.path}. Mend the data, or raise max_bad_share to "
            "skip them."
        )

    def metrics(self) -> dict[str, float]:
        """Counts for the log, under `data/`."""
        return {"data/rows": float(self.seen), "data/bad_rows": float(len(self.bad))}

    def _check_early(self) -> None:
        # A wrong file should not be scanned to its end before the job says so.
        if self.seen % _EARLY == 0:
            self.check()


def _places(path: Path) -> set[tuple[str, int]]:
    places = set()
    if path.is_file():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(text)
                places.add((entry["file"], entry["line"]))
            except (ValueError, KeyError, TypeError):
                continue  # a line cut off by a kill: its row is written again
    return places


def _plain(row: Any) -> Any:
    """The row as JSON can hold it."""
    if isinstance(row, bytes):
        return row.decode("utf-8", errors="replace")
    if isinstance(row, Mapping):
        return {str(key): _nested(value) for key, value in row.items()}
    return row


def _nested(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _nested(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nested(item) for item in value]
    value = media_to_row(value)
    return value if isinstance(value, str | int | float | bool | None) else repr(value)
