"""Progress bars and tables on a terminal; short plain lines anywhere else.

Invariant: a loop of any length prints at most one line every `PLAIN_SECONDS` when the output is
not a terminal, so that a log of a long job stays readable.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Table

Item = TypeVar("Item")

PLAIN_SECONDS = 10.0
PLAIN_WIDTH = 120


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(stderr=stderr, width=width, highlight=False)


console = _console(stderr=False)
error_console = _console(stderr=True)


def say(text: str) -> None:
    """Print one plain line, unwrapped."""
    console.print(escape(text), soft_wrap=True)


def warn(text: str) -> None:
    """Print one yellow warning to standard error; the job goes on."""
    error_console.print(f"[yellow]warning:[/yellow] {escape(text)}", soft_wrap=True)


def fail(text: str) -> None:
    """Print a red error to standard error; the caller ends the job."""
    error_console.print(f"[bold red]error:[/bold red] {escape(text)}", soft_wrap=True)


class Progress:
    """A progress bar moved by hand: a bar on a terminal, a line every ten seconds elsewhere.

    `with Progress("gspo", total=60) as bar: bar.advance(1, "reward 0.57")`
    """

    def __init__(self, description: str, total: int | None = None) -> None:
        self.description = description
        self.total = total
        self.done = 0
        self._note = ""
        self._started = self._printed = time.monotonic()
        self._bar: RichProgress | None = None

    def __enter__(self) -> Self:
        self._started = self._printed = time.monotonic()
        if console.is_terminal:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
            )
            self._task = self._bar.add_task(self.description, total=self.total, note="")
            self._bar.start()
        return self

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Count `steps` more as done; `note` (a few words) replaces the text after the bar."""
        self.done += steps
        self._note = self._note if note is None else note
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=escape(self._note))
        elif time.monotonic() - self._printed >= PLAIN_SECONDS:
            self._print_line()

    def _print_line(self) -> None:
        self._printed = time.monotonic()
        seconds = self._printed - self._started
        of = "" if self.total is None else f"/{self.total}"
        say(f"{self.description}: {self.done}{of} in {seconds:.0f} s  {self._note}".rstrip())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        else:
            self._print_line()


def progress(
    iterable: Iterable[Item], description: str, total: int | None = None
) -> Iterator[Item]:
    """Yield the items of `iterable` while showing how many are done."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with Progress(description, total) as bar:
        for item in iterable:
            yield item
            bar.advance()


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; floats get three decimals and numbers are right-aligned."""
    rows = [list(row) for row in rows]
    shown = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        shown.add_column(column, justify="right" if numeric else "left")
    for row in rows:
        cells = (f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row)
        shown.add_row(*(escape(cell) for cell in cells))
    console.print(shown)
