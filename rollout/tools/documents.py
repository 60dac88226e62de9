"""A local document index: BM25 over passages (Robertson's formula as `bm25s` computes it).

Invariant: the same documents and query give the same passages in the same order on every machine;
passages with equal scores stand in the order of the documents.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.run.errors import ConfigError, KeyeError

PASSAGE_WORDS = 200
"""Longer texts are cut into passages of about this many words, at ends of paragraphs and lines."""
SUFFIXES = (".jsonl", ".txt", ".md")
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")
"""A word is a run of letters and digits, or one character of a script without spaces."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document."""

    id: str
    """The document's `id`, or where it stands: `file.jsonl:12`, `folder/file.txt`. Passages of a
    longer document have `#1`, `#2` … after it."""
    title: str
    text: str
    score: float = 0.0
    """BM25 score for the query it was found with."""


def document_files(path: str | Path) -> dict[str, Path]:
    """Name → file of the documents at `path`, a file or a folder, in their order."""
    root = Path(path)
    if root.is_dir():
        files = sorted(p for p in root.rglob("*") if p.suffix in SUFFIXES and p.is_file())
        return {str(file.relative_to(root)): file for file in files}
    return {root.name: root} if root.is_file() else {}


class DocumentIndex:
    """Passages in memory, found by their words."""

    def __init__(self, passages: Iterable[Passage]) -> None:
        """Raises `KeyeError` when no passage has a word."""
        import bm25s  # 0.5 s, for those who search

        self.passages = list(passages)
        words = [_words(f"{p.title} {p.text}") for p in self.passages]
        if not any(words):
            raise KeyeError("a document index needs at least one passage with a word in it")
        self._bm25 = bm25s.BM25()
        self._bm25.index(words, show_progress=False)
        self._known = {word for found in words for word in found}

    @classmethod
    def open(cls, path: str | Path) -> DocumentIndex:
        """Index a .jsonl file or a folder; `ConfigError` naming the file, line and fault."""
        files = document_files(path)
        if not files:
            raise ConfigError(
                f"no documents at {path}: give a .jsonl file, or a folder of {', '.join(SUFFIXES)} "
                "files (tools.documents=PATH)"
            )
        return cls(p for name, file in files.items() for p in _read(file, name))

    def __len__(self) -> int:
        return len(self.passages)

    def search(self, query: str, count: int = 3) -> list[Passage]:
        """The `count` best passages that share a word with the query, best first."""
        words = [word for word in _words(query) if word in self._known]
        if not words:
            return []
        scores = self._bm25.get_scores(words)
        best = np.argsort(-scores, kind="stable")[:count]
        return [_scored(self.passages[i], float(scores[i])) for i in best if scores[i] > 0]


def _scored(passage: Passage, score: float) -> Passage:
    return Passage(passage.id, passage.title, passage.text, score)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _read(file: Path, name: str) -> Iterator[Passage]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"documents: {file} can't be read as UTF-8 text: {error}") from error
    if file.suffix != ".jsonl":
        yield from _passages(name, file.stem, text)
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            row = _row(line, f"{file}, line {number}")
            yield from _passages(
                str(row.get("id", f"{name}:{number}")), str(row.get("title") or ""), row["text"]
            )


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"documents: {where} is no JSON: {error}") from error
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise ConfigError(
            f'documents: {where} must be an object with a "text" (optionally "id" and "title")'
        )
    return row


def _passages(name: str, title: str, text: str) -> Iterator[Passage]:
    """A document's passages: whole lines, and a line cut only when it alone is too long."""
    pieces: list[list[str]] = [[]]
    size = 0
    for line in text.strip().splitlines():
        words = line.split()
        for start in range(0, max(len(words), 1), PASSAGE_WORDS):
            part = words[start : start + PASSAGE_WORDS]
            if size and size + len(part) > PASSAGE_WORDS:
                pieces.append([])
                size = 0
            pieces[-1].append(line.strip() if len(words) <= PASSAGE_WORDS else " ".join(part))
            size += len(part)
    for number, lines in enumerate(pieces, 1):
        joined = "\n".join(lines).strip()
        if joined:
            yield Passage(name if len(pieces) == 1 else f"{name}#{number}", title, joined)
