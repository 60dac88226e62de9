"""The run directory: `runs/NAME/` with one folder per stage.

Invariants: every file that says "complete" is written atomically (a reader sees the old or the
new content, never a part), and a stage is complete exactly when its `summary.json` carries the
hash of the configuration that produced it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from pretrain.run.command import config_dict, config_hash
from pretrain.run.errors import KeyeError

HASH_FILE = "config.hash"
BY_PEOPLE = ("decisions.jsonl",)
"""What people have written beside a stage's outputs: it belongs to no configuration of it."""
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
# torch and safetensors report a full disk as errors of their own, with only the text to go by.
_FULL_DISK_TEXTS = ("No space left on device", "PytorchStreamWriter failed")


def _free_bytes(path: Path) -> int:
    folder = path
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free


@contextmanager
def disk_guard(path: Path | str) -> Iterator[None]:
    """Turn a failed write under `path` into a `KeyeError` naming the file and the bytes free."""
    path = Path(path).absolute()
    try:
        yield
    except KeyeError:
        raise
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in _FULL_DISK
        if full or any(text in str(error) for text in _FULL_DISK_TEXTS):
            raise KeyeError(
                f"cannot write {path}: the disk is full ({_free_bytes(path):,} bytes free). Free "
                "some space and run the same command again; it goes on from the last complete "
                "state."
            ) from error
        if isinstance(error, OSError):
            raise KeyeError(
                f"cannot write {path}: {error.strerror or error} ({_free_bytes(path):,} bytes "
                "free). Check the path and its permissions and run the same command again."
            ) from error
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write(path: Path | str, data: str | bytes) -> None:
    """Replace `path` by `data` in one step that survives a kill or a power cut.

    Raises `KeyeError` naming the file and the bytes free when it cannot be written; the old
    content is then still there.
    """
    path = Path(path)
    content = data.encode() if isinstance(data, str) else data
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with disk_guard(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        _sync_folder(path.parent)


def read_json(path: Path | str) -> dict[str, Any]:
    """The object in a JSON file, or `{}` if the file is absent; a broken one is a `KeyeError`."""
    path = Path(path)
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise KeyeError(f"{path} is not valid JSON ({error}). Remove it and run again.") from error


def checkpoint_identity(checkpoint: Path | str) -> list[Any]:
    """What tells a checkpoint from another that was at the same path before.

    The hash of the stage that has left it, else names, sizes and times of its weights.
    """
    path = Path(checkpoint)
    made = read_json(path.parent / "summary.json").get("hash")
    if made is not None:
        return [str(checkpoint), made]
    files = sorted(path.glob("*.safetensors"))
    return [str(checkpoint), [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]]


class StageDir:
    """One stage's folder: config, checkpoint, metrics, samples, resume state and summary."""

    def __init__(self, path: Path | str, name: str | None = None) -> None:
        self.path = Path(path)
        self.name = name or self.path.name
        self._started: float | None = None
        self._resumed = False

    @property
    def checkpoint(self) -> Path:
        """The Hugging Face directory the stage leaves."""
        return self.path / "checkpoint"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def samples_file(self) -> Path:
        return self.path / "samples.jsonl"

    @property
    def state(self) -> Path:
        """Folder of the state from which an interrupted stage goes on."""
        return self.path / "state"

    @property
    def summary_file(self) -> Path:
        return self.path / "summary.json"

    def is_complete(self, hash: str) -> bool:
        """Whether the stage was finished under the configuration with this hash."""
        return read_json(self.summary_file).get("hash") == hash

    def begin(self, cfg: Any, hash: str | None = None) -> None:
        """Write `config.yaml`. What another configuration left is set aside as `NAME.previous`,
        except for what people wrote, which stays.

        State left by the *same* configuration stays, so that the stage resumes from it.
        """
        hash = config_hash(cfg) if hash is None else hash
        hash_file = self.path / HASH_FILE
        previous = self.path.with_name(self.path.name + ".previous")
        with disk_guard(self.path):
            if hash_file.exists() and hash_file.read_text() != hash:
                self._take_back(previous)  # a kill may have left it there
                shutil.rmtree(previous, ignore_errors=True)
                os.replace(self.path, previous)
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_back(previous)
        atomic_write(self.path / "config.yaml", yaml.safe_dump(config_dict(cfg), sort_keys=False))
        atomic_write(hash_file, hash)
        self._started = time.time()
        self._resumed = self.state.exists()

    def _take_back(self, previous: Path) -> None:
        for name in BY_PEOPLE:
            if (previous / name).exists() and not (self.path / name).exists():
                os.replace(previous / name, self.path / name)

    def finish(self, summary: dict[str, Any], hash: str) -> None:
        """Write `summary.json`, which marks the stage complete; `summary` holds its metrics."""
        now = time.time()
        record = {
            "name": self.name,
            "hash": hash,
            "seconds": round(now - (self._started or now), 3),
            "resumed": self._resumed,
            "finished": now,
            "checkpoint": str(self.checkpoint) if self.checkpoint.exists() else None,
            "metrics": summary,
        }
        atomic_write(self.summary_file, json.dumps(record, indent=2) + "\n")

    def summary(self) -> dict[str, Any]:
        """`{name, hash, seconds, resumed, finished, checkpoint, metrics}`; `{}` if unfinished.

        `seconds` is the wall time of the attempt that finished the stage; `resumed` says that
        this attempt went on from an earlier one's state.
        """
        return read_json(self.summary_file)


class RunDir:
    """`runs/NAME/`: the stages of one run and their common `summary.json`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def stage(self, name: str) -> StageDir:
        """The folder of stage `name` (which may contain `/`); nothing is created yet."""
        return StageDir(self.path / name, name)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the run for this process; a second process gets a `KeyeError` at once.

        The kernel frees the lock when its process ends, however it ends.
        """
        with disk_guard(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / ".lock").touch()
        with open(self.path / ".lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise KeyeError(
                    f"another process is working in {self.path}. Wait for it, or choose another "
                    "run=NAME."
                ) from error
            yield

    def stage_summaries(self) -> list[dict[str, Any]]:
        """Summaries of the finished stages, in the order in which they were finished."""
        files = self.path.glob("**/summary.json")
        own = self.path / "summary.json"
        found = [
            read_json(file)
            for file in files
            if file != own and not any(".previous" in part for part in file.parts)
        ]
        stages = [record for record in found if "finished" in record and "hash" in record]
        return sorted(stages, key=lambda record: record["finished"])

    def write_summary(self, extra: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write `summary.json` of the whole run: `run`, `stages`, and what `extra` adds.

        Keys that an earlier call added stay unless `extra` replaces them. Returns the content.
        """
        path = self.path / "summary.json"
        content = read_json(path) | {"run": self.path.name, "stages": self.stage_summaries()}
        content |= extra or {}
        atomic_write(path, json.dumps(content, indent=2) + "\n")
        return content
