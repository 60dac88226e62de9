"""Benchmark files: found in a directory, read row by row.

Invariant: a row keeps its file and line (from 1), so that everything said about it can be looked
up. Empty cells are absent; column names longer than a letter are lower case (`L2-category` and
`l2-category` are one).
"""

from __future__ import annotations

import ast
import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.data.sample import SampleError
from pretrain.run.errors import KeyeError

SUFFIXES = (".tsv", ".parquet", ".jsonl", ".json")
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(slots=True)
class Row:
    """One row of a benchmark's file."""

    file: Path
    line: int
    """Line (TSV: record) or row number, from 1; the header doesn't count."""
    values: dict[str, Any]
    """Cells that are not empty."""

    def get(self, *names: str) -> Any:
        """The first of these columns that has a value, or None."""
        return next((self.values[name] for name in names if name in self.values), None)

    def text(self, *names: str) -> str:
        """The same as a text; "" if there is none. 3.0 reads 3: columnar readers make floats."""
        value = self.get(*names)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return "" if value is None else str(value).strip()

    def need(self, *names: str) -> str:
        """The same; `SampleError` naming the column if it is empty."""
        text = self.text(*names)
        if not text:
            raise SampleError(f"column {' or '.join(map(repr, names))} is empty")
        return text

    def listed(self, *names: str) -> list[Any]:
        """A column that holds a list, or a list written as text (Python or JSON)."""
        value = self.get(*names)
        if isinstance(value, str):
            value = parse_literal(value)
        if value is None:
            return []
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise SampleError(f"column {names[0]!r} must hold a list, got {str(value)[:60]!r}")
        return list(value)


def parse_literal(text: str) -> Any:
    """A Python or JSON literal, or the text itself if it is none."""
    for parse in (ast.literal_eval, json.loads):
        try:
            return parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return text


def find_files(root: Path, stems: Sequence[str], given: str, form: str) -> list[Path]:
    """The files of one benchmark.

    Args:
        root: the benchmarks' directory.
        stems: how its file or folder is called, the usual name first; case, `-` and `_` don't
            count, and more may follow (`MMBench_DEV_EN_V11.tsv` is found by `MMBench`).
        given: a file or folder named by the user; then nothing is looked for.
        form: what is expected, for the error.
    """
    if given:
        path = Path(given) if Path(given).exists() else root / given
        if not path.exists():
            raise KeyeError(f"benchmark file {given} does not exist (nor {path}). Expected: {form}")
        found = [path] if path.is_file() else _data_files(path)
    else:
        if not root.is_dir():
            raise KeyeError(f"benchmark_dir={root} is no directory (from {Path.cwd()})")
        found = next((files for stem in stems if (files := _named(root, stem))), [])
    if not found:
        raise KeyeError(
            f"no file {' or '.join(stems)}*({'|'.join(SUFFIXES)}), nor a folder of that name with "
            f"such files, in {given or root}. Expected: {form}"
        )
    return found


def one_table(files: Sequence[Path], key: str) -> None:
    """`KeyeError` if these files are not one table (shards of one are): which is meant?"""
    names = {_SHARD.sub("", path.stem) for path in files}
    if len(names) > 1:
        raise KeyeError(
            f"several files could be meant: {', '.join(map(str, files))}. Name one with "
            f"benchmark.files.{key}=PATH"
        )


def read_rows(files: Sequence[Path], required: Sequence[Sequence[str]], form: str) -> list[Row]:
    """All rows of some files. `KeyeError` naming file, column and form if a column is missing.

    `required`: each a column under its possible names; one of them must be there.
    """
    rows: list[Row] = []
    for path in files:
        own = [
            Row(path, line, _clean(values)) for line, values in enumerate(_values(path), start=1)
        ]
        if not own:
            raise KeyeError(f"{path} has no rows. Expected: {form}")
        columns = {name for row in own for name in row.values}
        for names in required:
            if not columns & set(names):
                raise KeyeError(
                    f"{path} lacks the column {' or '.join(map(repr, names))} (it has "
                    f"{', '.join(sorted(columns))}). Expected: {form}"
                )
        rows += own
    return rows


def _named(root: Path, stem: str) -> list[Path]:
    """Data files of this name, and those in folders of this name."""
    found: list[Path] = []
    for path in sorted(root.iterdir()):
        if _plain(path.name).startswith(_plain(stem)):
            found += [path] if path.suffix in SUFFIXES else _data_files(path)
    return found


def _data_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()


def _clean(values: Mapping[str, Any]) -> dict[str, Any]:
    """Cells with a value; the `metadata` object of MathVista is spread out."""
    spread = dict(values)
    if isinstance(spread.get("metadata"), Mapping):
        spread |= spread.pop("metadata")
    return {
        (name if len(name) == 1 else name.lower()): value
        for name, value in spread.items()
        if value is not None and value != "" and value == value  # NaN is not equal to itself
    }


def _values(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix == ".tsv":
        yield from _tsv(path)
    elif path.suffix == ".parquet":
        yield from _parquet(path)
    else:
        yield from _json(path)


def _tsv(path: Path) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(sys.maxsize)  # a cell may hold an image
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t")
        try:
            for values in reader:
                values.pop(None, None)  # type: ignore[call-overload]
                yield values
        except (csv.Error, UnicodeDecodeError) as error:
            raise KeyeError(f"{path} cannot be read as TSV: {error}") from None


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
        for batch in table.iter_batches(batch_size=256):
            yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise KeyeError(f"{path} cannot be read as Parquet: {error}") from None


def _json(path: Path) -> Iterator[Mapping[str, Any]]:
    """JSONL, a JSON list, `{id: row}` (MathVista) or `{video: {dim: [row]}}` (TempCompass)."""
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".jsonl":
            content: Any = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            content = json.loads(text)
    except ValueError as error:
        raise KeyeError(f"{path} is not valid JSON: {error}") from None
    if isinstance(content, Mapping):
        content = list(_nested(content))
    if not isinstance(content, list) or not all(isinstance(row, Mapping) for row in content):
        raise KeyeError(f"{path} must hold rows: a list of objects, or an object of objects")
    yield from content


def _nested(content: Mapping[str, Any]) -> Iterator[Any]:
    for key, value in content.items():
        if (
            isinstance(value, Mapping)
            and value
            and all(isinstance(v, list) for v in value.values())
        ):
            for dim, questions in value.items():
                for question in questions:
                    yield {"video_id": key, "dim": dim, **question}
        elif isinstance(value, Mapping):
            yield {"pid": key, **value}
        else:
            yield value
