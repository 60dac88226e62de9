"""Samples from JSONL and Parquet files: scanned once, then streamed with a cursor.

Invariants: all rows are validated, and their media opened, before the first one is used, so that a
job with bad data stops before it has spent anything; a bad row never reaches training; every good
row is handed out exactly once an epoch, in an order that only the seed decides.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pretrain.data.cursor import Cursor
from pretrain.data.media import MediaConfig, check_media, load_media
from pretrain.data.quarantine import Quarantine
from pretrain.data.row_files import RowFile, open_rows
from pretrain.data.sample import Sample, SampleError
from pretrain.run.console import progress
from pretrain.run.errors import KeyeError

_PROGRESS_FROM = 10_000
_RUN = {"identity": False}  # bad rows are left out, wherever they are copied and however many


@dataclass
class FileDataConfig:
    """Which files, and how much of them may be bad."""

    files: list[str] = field(default_factory=list)
    """JSONL or Parquet files, one sample a row."""
    media: MediaConfig = field(default_factory=MediaConfig)
    """Which media may be opened."""
    quarantine: str = field(default="", metadata=_RUN)
    """Where bad rows are copied; by default `quarantine.jsonl` in the current folder."""
    max_bad_share: float = field(default=0.01, metadata=_RUN)
    """The job stops when more than this share of the rows is bad."""


class SampleFiles:
    """The good rows of some files, by index; media are loaded when a row is asked for."""

    def __init__(self, config: FileDataConfig) -> None:
        """Scan the files. Raises `KeyeError` for a missing file, no good row or too many bad."""
        if not config.files:
            raise KeyeError("no data file is named; set data.files=[PATH.jsonl, …]")
        self.config = config
        self.quarantine = Quarantine(
            Path(config.quarantine or "quarantine.jsonl"), config.max_bad_share
        )
        self.files = [open_rows(Path(name)) for name in config.files]
        self._good: list[tuple[int, int]] = []
        self._scan()
        self.quarantine.check()
        if not self._good:
            raise KeyeError(f"no row in {', '.join(config.files)} can be used")

    def __len__(self) -> int:
        return len(self._good)

    def __getitem__(self, index: int) -> Sample:
        """Good row `index` with its media loaded; `SampleError` if they have become unreadable."""
        number, row = self._good[index]
        file = self.files[number]
        return load_media(_sample(file, row), file.path.parent, self.config.media)

    def unloaded(self, index: int) -> Sample:
        """Good row `index` as its file has it: media stay paths, data URIs or bytes."""
        number, row = self._good[index]
        return _sample(self.files[number], row)

    def reject(self, index: int, reason: str) -> None:
        """Quarantine a row that turned out to be bad when it was used; check the share."""
        number, row = self._good[index]
        file = self.files[number]
        self.quarantine.reject(file.path, file.line(row), reason, file.raw(row))
        self.quarantine.check()

    def fingerprint(self) -> str:
        """Hash of the files' contents in their order."""
        return "-".join(file.fingerprint for file in self.files)

    def _scan(self) -> None:
        used: dict[str, str] = {}
        for number, file in enumerate(self.files):
            rows: Iterable[int] = range(len(file))
            if len(file) >= _PROGRESS_FROM:
                rows = progress(rows, f"Checking {file.path.name}", total=len(file))
            for row in rows:
                line = file.line(row)
                try:
                    sample = _sample(file, row)
                    if sample.id in used:
                        raise SampleError(f"id {sample.id!r} is already used at {used[sample.id]}")
                    check_media(sample, file.path.parent, self.config.media)
                except SampleError as error:
                    self.quarantine.add(file.path, line, str(error), file.raw(row))
                    continue
                used[sample.id] = f"{file.path}:{line}"
                self._good.append((number, row))
                self.quarantine.good()


class FileStream:
    """An endless stream over files, reshuffled every epoch; the same interface as `WorldStream`."""

    def __init__(self, data: SampleFiles, seed: int, shuffle: bool = True) -> None:
        """`seed` decides the order of every epoch; without `shuffle` it is the files' order."""
        self.data, self.seed, self.shuffle = data, seed, shuffle
        facts = json.dumps([data.fingerprint(), len(data), seed, shuffle])
        self.cursor = Cursor(0, hashlib.sha256(facts.encode()).hexdigest()[:16])
        self._epoch = -1
        self._order = np.arange(0)

    def take(self, count: int) -> list[Sample]:
        """The next `count` samples. A row whose media have become unreadable is quarantined and
        skipped; the share of bad rows is checked then."""
        samples: list[Sample] = []
        while len(samples) < count:
            index = self._index(self.cursor.position)
            self.cursor.position += 1
            try:
                samples.append(self.data[index])
            except SampleError as error:
                self.data.reject(index, str(error))
        return samples

    @property
    def epoch(self) -> float:
        """How often the data have been gone through."""
        return self.cursor.position / len(self.data)

    def metrics(self) -> dict[str, float]:
        """Counts for the log, under `data/`."""
        return self.data.quarantine.metrics() | {"data/epoch": self.epoch}

    def state(self) -> dict[str, int | str]:
        """The cursor, for a checkpoint."""
        return self.cursor.state()

    def load_state(self, state: Mapping[str, int | str]) -> None:
        """Go on where `state` was taken; `KeyeError` if files, seed or order have changed."""
        self.cursor.load_state(state, what=", ".join(self.data.config.files))

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, len(self.data))
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.arange(len(self.data))
            if self.shuffle:
                np.random.default_rng([self.seed, epoch]).shuffle(self._order)
        return int(self._order[place])


def _sample(file: RowFile, row: int) -> Sample:
    return Sample.from_row(file.row(row), default_id=f"{file.path.name}:{file.line(row)}")
