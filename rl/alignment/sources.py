"""The mix of prompt sources: plain samples, made into alignment prompts, in a fixed order.

Invariant: prompt i of a source is a pure function of (configuration, i), and which source comes at
a place of the mix is one of (configuration, place). So a cursor is one integer a source.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.cursor import Cursor
from pretrain.data.ingest import SampleFiles
from pretrain.data.sample import Sample, SampleError
from pretrain.data.stream import WorldStream
from pretrain.run.command import config_hash
from pretrain.run.errors import ConfigError
from rl.alignment.config import DEFAULT_TASKS, AlignmentConfig, PlainSource, SourceConfig
from rl.alignment.formats import with_format
from rl.alignment.instructions import with_constraints
from rl.alignment.prompts import marked
from rl.alignment.retrieval import with_retrieval
from rl.alignment.steps import with_steps
from rl.alignment.tracks import with_both_tracks, with_preference
from rl.row_log import digests
from rl.tool_tasks import LOOKUP, ToolTasks

Maker = Callable[[Sample, np.random.Generator, AlignmentConfig], Sample]
MAKERS: dict[str, Maker] = {
    "general": lambda sample, rng, cfg: sample,
    "instructions": with_constraints,
    "formats": with_format,
    "steps": with_steps,
    "preference": with_preference,
    "retrieval": with_retrieval,
    "dual_track": with_both_tracks,
}
"""Source → what it makes of a sample: its prompt and its rewards. `SampleError` for a row that
cannot be used."""


class Source:
    """Prompts of one source by index, without end.

    Args:
        name: key of `MAKERS`.
        cfg: the whole mix.
        folder: bad rows of files are copied to `quarantine_NAME.jsonl` there.
        heldout: the held-out rows or the world's test split instead of what is trained on.
    """

    def __init__(self, name: str, cfg: AlignmentConfig, folder: Path, heldout: bool = False):
        own: PlainSource = getattr(cfg, name)
        self.name, self.cfg, self.heldout = name, cfg, heldout
        self.seed = cfg.heldout_seed if heldout else own.seed
        self._order: tuple[int, np.ndarray] | None = None
        self.data: WorldStream | ToolTasks | SampleFiles
        if not own.files:
            split = "test" if heldout else "train"
            if isinstance(own, SourceConfig):
                self.data = WorldStream(own.tasks or DEFAULT_TASKS, self.seed, split, own.modes)
            else:  # retrieval
                self.data = ToolTasks(own.tasks or {LOOKUP: 1.0}, self.seed, split)
            return
        files = own.heldout if heldout else own.files
        if not files:
            raise ConfigError(
                f"alignment.{name}.heldout names no file, so this source cannot be measured; give "
                f"held-out rows: 'alignment.{name}.heldout=[PATH.jsonl]'"
            )
        quarantine = own.quarantine or str(folder / f"quarantine_{name}.jsonl")
        self.data = SampleFiles(replace(own, files=files, quarantine=quarantine))

    def __getitem__(self, index: int) -> Sample:
        """Prompt `index`; `SampleError` when the row behind it cannot be used."""
        sample = self.data[self.row(index)]
        rng = np.random.default_rng(
            [self.cfg.seed, zlib.crc32(self.name.encode()), self.seed, index, self.heldout]
        )
        made = MAKERS[self.name](sample, rng, self.cfg)
        return marked(made, self.name, made.extra.get("alignment", {}).get("kind", "plain"))

    def row(self, index: int) -> int:
        """Which sample stands behind prompt `index`; files are reshuffled every epoch."""
        if not isinstance(self.data, SampleFiles):
            return index
        epoch, place = divmod(index, len(self.data))
        if self.heldout:
            return place
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch])
            self._order = epoch, rng.permutation(len(self.data))
        return int(self._order[1][place])

    def first(self, count: int) -> list[Sample]:
        """The first `count` prompts, of files at most all rows; unusable ones are left out."""
        if isinstance(self.data, SampleFiles):
            count = min(count, len(self.data))
        found = [self.usable(index) for index in range(count)]
        return [sample for sample in found if sample is not None]

    def usable(self, index: int) -> Sample | None:
        """Prompt `index`, or None if its row cannot be used: it is then in quarantine.

        Raises `KeyeError` when too large a share of the rows is bad.
        """
        try:
            return self[index]
        except SampleError as error:
            if not isinstance(self.data, SampleFiles):
                raise
            self.data.reject(self.row(index), str(error))
            return None

    def fingerprint(self) -> str:
        """What decides the rows: of files also how many are good, as a lost image shifts them."""
        data = self.data
        if isinstance(data, SampleFiles):
            return f"{data.fingerprint()}-{len(data)}"
        return data.cursor.fingerprint if isinstance(data, ToolTasks) else data.fingerprint()


class AlignmentPrompts:
    """The mix as GSPO takes it: `take`, `state`, `load_state`, `metrics`."""

    def __init__(self, cfg: AlignmentConfig, folder: Path) -> None:
        self.cfg = cfg
        weights = {name: own.weight for name, own in cfg.sources().items()}
        self.sources = {name: Source(name, cfg, folder) for name in weights}
        self._names = list(weights)
        self._edges = np.cumsum(list(weights.values())) / sum(weights.values())
        self.taken = dict.fromkeys(weights, 0)
        """Index of the next prompt of each source."""
        facts = [mix_identity(cfg), [source.fingerprint() for source in self.sources.values()]]
        self.cursor = Cursor(0, config_hash(facts))

    def take(self, count: int) -> list[Sample]:
        """The next `count` prompts; moves the cursor."""
        samples: list[Sample] = []
        while len(samples) < count:
            name = self.name(self.cursor.position)
            sample = self.sources[name].usable(self.taken[name])
            self.taken[name] += 1
            if sample is None:  # the place of the mix stays this source's
                continue
            self.cursor.position += 1
            samples.append(sample)
        return samples

    def name(self, place: int) -> str:
        """The source at a place of the mix."""
        where = np.random.default_rng([self.cfg.seed, 11, place]).random()
        return self._names[int(np.searchsorted(self._edges, where, "right"))]

    def state(self) -> dict[str, Any]:
        """The cursors, for a checkpoint."""
        return self.cursor.state() | {"taken": dict(self.taken)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from saved cursors; `KeyeError` if the mix is another one."""
        self.cursor.load_state(state, what="the mix of alignment sources")
        self.taken = dict(state["taken"])

    def metrics(self) -> dict[str, float]:
        """Prompts taken of each source, under `data/`."""
        return {f"data/{name}": float(count) for name, count in self.taken.items()}


def mix_identity(cfg: AlignmentConfig) -> dict[str, Any]:
    """What decides the prompts and their rewards: settings, and what the sources' files hold."""
    sources = cfg.sources()
    files = {name: digests(own.files) for name, own in sources.items()}
    return {"sources": sources, "files": files, "judge": cfg.judge, "seed": cfg.seed}
