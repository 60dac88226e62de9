"""Weights & Biases behind a queue: training never waits for it and never fails because of it.

Invariant: every W&B call happens in one background thread. Whatever goes wrong there (service does
not start, no network, full queue) becomes one warning; `metrics.jsonl` holds every number anyway.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.run.console import warn
from pretrain.run.errors import ConfigError

MODES = ("auto", "offline", "online", "disabled")
QUEUE_LIMIT = 10_000
# Loaded machines have taken more than ten seconds to start W&B's service process.
START_SECONDS = 60.0
# An unreachable server is retried for this long.
CONNECT_SECONDS = 30.0
FINISH_SECONDS = 60.0
# W&B keeps the files of a table it is about to upload in the home folder unless told otherwise;
# a folder that the user chose stays.
_FOLDERS = {"WANDB_DATA_DIR": "data", "WANDB_CACHE_DIR": "cache"}
_LIVE: set[WandbWriter] = set()
_LIVE_LOCK = threading.Lock()
_CHOSEN_FOLDERS = frozenset(name for name in _FOLDERS if name in os.environ)


@dataclass
class WandbConfig:
    """Where the run's metrics go besides `metrics.jsonl`."""

    mode: str = "auto"
    """`auto`: online if logged in, else offline (WANDB_MODE, if set, decides); or `offline`,
    `online`, `disabled`. An offline run is uploaded later by `wandb sync`."""
    project: str = "keye-rl"
    """W&B project; made on first use."""
    entity: str | None = None
    """W&B user or team; null: the logged-in user's default."""
    name: str | None = None
    """Name shown in W&B; null: the run's and the stage's folder."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"wandb.mode={self.mode}: choose one of {', '.join(MODES)}.")


class WandbWriter:
    """One W&B run of a stage, fed through a queue.

    `folder`: the run's files go to `folder/wandb`; the id kept there lets a resumed stage go on
    with the same W&B run. `config`: shown as the run's configuration.
    """

    def __init__(self, folder: Path, wandb: WandbConfig, config: dict[str, Any]) -> None:
        self.folder = folder
        self.settings = wandb
        self.config = config
        self.files: Path | None = None
        self._queue: queue.Queue[Callable[[Any], None] | None] = queue.Queue(QUEUE_LIMIT)
        self._warned = False
        self._broken = threading.Event()
        mode = wandb.mode
        self.mode = os.environ.get("WANDB_MODE", mode) if mode == "auto" else mode
        self._thread: threading.Thread | None = None
        if self.mode != "disabled":
            self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
            self._thread.start()

    def log(self, values: dict[str, float], step: int) -> None:
        """Queue the values of one step."""
        self._put(lambda run: run.log(values, step=step))

    def table(
        self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int
    ) -> None:
        """Queue a table; `uint8 [H, W, C]` arrays become images, dicts their JSON text.

        W&B derives a column's type from its first row, so dicts with other keys would be refused.
        """

        def send(run: Any) -> None:
            import wandb

            def cell(value: Any) -> Any:
                if isinstance(value, np.ndarray):
                    return wandb.Image(value)
                return json.dumps(value) if isinstance(value, dict) else value

            data = [[cell(value) for value in row] for row in rows]
            run.log({name: wandb.Table(columns=list(columns), data=data)}, step=step)

        self._put(send)

    def finish(self) -> bool:
        """Write out what is queued and close the run; whether it was complete in bounded time."""
        if self._thread is None:
            return True
        try:
            self._queue.put(None, timeout=FINISH_SECONDS)
            self._thread.join(START_SECONDS + CONNECT_SECONDS + FINISH_SECONDS)
        except queue.Full:
            self._broken.set()
        done = not self._thread.is_alive() and not self._broken.is_set()
        if not done:
            self._warn("it did not finish in time")
        self._thread = None
        return done

    def _put(self, action: Callable[[Any], None]) -> None:
        if self._thread is None or self._broken.is_set():
            return
        try:
            self._queue.put_nowait(action)
        except queue.Full:
            self._broken.set()
            self._warn("it does not keep up")

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            warn(
                f"W&B: {reason}. Training goes on; all numbers are in "
                f"{self.folder / 'metrics.jsonl'}."
            )

    def _work(self) -> None:
        """The background thread: start the run, then do what the queue brings."""
        with _LIVE_LOCK:
            _LIVE.add(self)
        try:
            run = self._start()
            while (action := self._queue.get()) is not None:
                action(run)
            run.finish()
            self._flush()
        # Whatever it is, it must not end the training; BaseException because W&B's service
        # raises SystemExit-like errors of its own.
        except BaseException as error:
            self._broken.set()
            self._warn(f"{type(error).__name__}: {str(error).strip() or 'no details'}")
        finally:
            with _LIVE_LOCK:
                _LIVE.discard(self)

    def _flush(self) -> None:
        """Wait until the run's file is written: W&B's `finish` returns a moment before that.

        Only the end of its service process is sure to come after. Other stages of this process
        may still be using it; the last of them ends it.
        """
        with _LIVE_LOCK:
            _LIVE.discard(self)
            if not _LIVE:
                import wandb

                wandb.teardown()

    def _start(self) -> Any:
        for variable, name in _FOLDERS.items():
            if variable not in _CHOSEN_FOLDERS:
                os.environ[variable] = str(self.folder / "wandb" / name)
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        mode = self.mode
        if mode == "auto":
            mode = "online" if wandb.login(prompt=False) else "offline"
        try:
            return self._init(wandb, mode, self._run_id())
        except Exception as error:
            if mode != "online":
                raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error)
            warn(
                f"W&B cannot be reached ({reason}); logging offline. Upload later: wandb sync "
                f"{self.folder / 'wandb'}/offline-run-*"
            )
            # The service still holds the first id for the attempt that failed.
            return self._init(wandb, "offline", f"{self._run_id()}-offline")

    def _init(self, wandb: Any, mode: str, run_id: str) -> Any:
        run = wandb.init(
            project=self.settings.project,
            entity=self.settings.entity,
            name=self.settings.name or f"{self.folder.parent.name}/{self.folder.name}",
            id=run_id,
            dir=str(self.folder),
            config=self.config,
            mode=mode,
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            settings=wandb.Settings(
                init_timeout=CONNECT_SECONDS,
                x_service_wait=START_SECONDS,
                finish_timeout=FINISH_SECONDS,
                silent=True,
                console="off",
                disable_code=True,
                disable_git=True,
            ),
        )
        self.files = Path(run.settings.sync_dir)
        return run

    def _run_id(self) -> str:
        file = self.folder / "wandb" / "id"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(os.urandom(6).hex())
        return file.read_text()
