"""A JSONL file that grows row by row and can be gone on with after a kill.

Invariant: a row is in the file completely or not at all, and no id is in it twice.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pretrain.run.directory import atomic_write, disk_guard
from pretrain.run.errors import KeyeError


class RowLog:
    """Rows with an `id` each.

    Args:
        path: the file; made with its folder if it is absent. A last line that a kill has cut off is
            removed; a whole one that only lacks its line feed (an editor's) is kept.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_guard(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "ab+") as file:
                file.seek(0)
                content = file.read()
                end = content.rfind(b"\n") + 1
                if _is_row(content[end:]):
                    file.write(b"\n")
                else:
                    file.truncate(end)
        self.ids: set[str] = {row["id"] for row in self.rows()}
        """Ids of the rows that are in the file."""

    def rows(self) -> list[dict[str, Any]]:
        """All rows, in the order in which they were written."""
        rows = []
        with open(self.path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    row = json.loads(line)
                    row["id"]
                except (ValueError, KeyError, TypeError) as error:
                    raise KeyeError(
                        f"{self.path}:{number} is no row with an id ({error!r}). Mend or remove "
                        "that line; the command then does what is missing."
                    ) from error
                rows.append(row)
        return rows

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write rows and bring them to the disk."""
        rows = list(rows)
        text = "".join(map(_line, rows))
        with disk_guard(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self.ids |= {row["id"] for row in rows}

    def replace(self, rows: Iterable[dict[str, Any]]) -> None:
        """Put rows in the place of those with their ids; the file is whole at any moment."""
        changed = {row["id"]: row for row in rows}
        kept = [changed.get(row["id"], row) for row in self.rows()]
        atomic_write(self.path, "".join(map(_line, kept)))


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _is_row(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def digests(files: Sequence[str]) -> list[str]:
    """Hashes of the contents of files that the user gives: a stage that reads them is run again
    when they change. `KeyeError` for one that is absent."""
    missing = [file for file in files if not Path(file).is_file()]
    if missing:
        raise KeyeError(f"{missing[0]} does not exist (from {Path.cwd()})")
    return [_digest(file) for file in files]


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
