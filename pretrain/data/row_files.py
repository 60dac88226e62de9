"""Random access to the rows of a JSONL or Parquet file, and its fingerprint.

Invariant: a row is known by its line (JSONL) or number (Parquet), both counted from 1, and the
file's content decides its fingerprint: the same rows in another order are another file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from pretrain.data.sample import SampleError
from pretrain.run.errors import KeyeError

_CHUNK = 1 << 20


class RowFile(Protocol):
    """What both kinds of file offer."""

    path: Path
    fingerprint: str

    def __len__(self) -> int:
        """How many rows there are."""
        ...

    def line(self, index: int) -> int:
        """Line or row number, from 1, of row `index`."""
        ...

    def raw(self, index: int) -> Any:
        """The row before parsing, for the quarantine."""
        ...

    def row(self, index: int) -> dict[str, Any]:
        """The parsed row; `SampleError` when it cannot be parsed."""
        ...

    def column(self, name: str) -> Iterator[Any]:
        """A column's values, of the rows that can be parsed and have it."""
        ...


class JsonlFile:
    """One JSON object a line; blank lines are skipped. Only line offsets are kept in memory."""

    def __init__(self, path: Path) -> None:
        """Index the file; one pass, which also hashes it."""
        self.path = path
        self._starts: list[tuple[int, int, int]] = []
        digest = hashlib.blake2b(digest_size=16)
        offset = 0
        with open(path, "rb") as file:
            for number, text in enumerate(file, start=1):
                digest.update(text)
                if text.strip():
                    self._starts.append((offset, len(text), number))
                offset += len(text)
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._starts)

    def line(self, index: int) -> int:
        return self._starts[index][2]

    def raw(self, index: int) -> bytes:
        offset, length, _ = self._starts[index]
        with open(self.path, "rb") as file:
            file.seek(offset)
            return file.read(length).strip()

    def row(self, index: int) -> dict[str, Any]:
        try:
            return json.loads(self.raw(index))
        except ValueError as error:
            raise SampleError(f"not valid JSON: {error}") from None

    def column(self, name: str) -> Iterator[Any]:
        with open(self.path, "rb") as file:
            for text in file:
                with suppress(ValueError):
                    row = json.loads(text)
                    if isinstance(row, dict) and name in row:
                        yield row[name]


class ParquetFile:
    """Rows through `datasets`, memory-mapped; images keep their encoded bytes."""

    def __init__(self, path: Path) -> None:
        """Open (on first use convert) and hash the file; `KeyeError` if it is no Parquet file."""
        import datasets  # 2 s to import, and only Parquet needs it

        self.path = path
        digest = hashlib.blake2b(digest_size=16)
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        self.fingerprint = digest.hexdigest()
        datasets.disable_progress_bars()
        try:
            data = datasets.Dataset.from_parquet(str(path))
        except Exception as error:
            cause = error.__cause__ or error
            raise KeyeError(f"{path} cannot be read as Parquet: {cause}") from None
        # Arrow rows are undecoded: a corrupt image then spoils its own row and no other.
        self._data = data.with_format("arrow")

    def __len__(self) -> int:
        return len(self._data)

    def line(self, index: int) -> int:
        return index + 1

    def raw(self, index: int) -> dict[str, Any]:
        return self._data[index : index + 1].to_pylist()[0]

    def row(self, index: int) -> dict[str, Any]:
        return self.raw(index)

    def column(self, name: str) -> Iterator[Any]:
        if name in self._data.column_names:  # the others, media among them, are not read
            for part in self._data.select_columns([name]).iter(batch_size=1000):
                yield from part[name].to_pylist()


def open_rows(path: Path) -> RowFile:
    """Open a data file by its suffix; `KeyeError` naming the path and the known formats."""
    kinds: dict[str, Callable[[Path], RowFile]]
    kinds = {".jsonl": JsonlFile, ".parquet": ParquetFile}
    if path.suffix not in kinds:
        raise KeyeError(f"{path}: unknown data format; use one of {', '.join(kinds)}")
    if not path.is_file():
        raise KeyeError(f"data file {path} does not exist (from {Path.cwd()}); mend `files`")
    return kinds[path.suffix](path)
