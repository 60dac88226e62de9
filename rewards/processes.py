"""The pool's side of the worker processes: the template, and one handle a worker."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewards import wire

START_S = 60.0  # the template imports math-verify: 1 s, much longer on a machine under full load
SEND_S = 30.0  # an idle worker reads at once; one that does not is dead
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True, eq=False)
class Call:
    """One call of one rule: a response, or a whole group's for batched rules."""

    id: int
    rule: str
    responses: list[str]
    sample: dict[str, Any]
    args: dict[str, Any]
    deadline_s: float
    is_async: bool
    deliver: Any  # called with the list of RewardResults
    alone: bool = False  # it shared a killed batch of async calls: next time on its own


@dataclass(eq=False)
class Worker:
    """A worker process: its socket, what it is doing, and since when."""

    pid: int
    connection: socket.socket
    reader: wire.Reader = field(default_factory=wire.Reader)
    known: set[str] = field(default_factory=set)
    loading: deque[str] = field(default_factory=deque)
    calls: deque[Call] = field(default_factory=deque)
    busy: bool = False
    stopping: bool = False
    since: float = 0.0  # when the current call started, as far as the pool can tell
    cpu_since: float = 0.0

    @property
    def is_async(self) -> bool:
        return bool(self.calls) and self.calls[0].is_async

    def send_work(self, names: Iterable[str], calls: Iterable[Call]) -> None:
        """Gives an idle worker its next piece of work. OSError if it has died."""
        self.loading = deque(n for n in names if n not in self.known)
        self.known.update(self.loading)
        self.calls = deque(calls)
        self.busy, self.stopping = True, False
        plain = [(c.id, c.rule, c.responses, c.sample, c.args, c.deadline_s) for c in self.calls]
        self.connection.settimeout(SEND_S)
        try:
            self.connection.sendall(wire.pack(("work", list(self.loading), plain)))
        finally:
            self.connection.setblocking(False)
        self.mark()

    def send_stop(self) -> None:
        self.stopping = True
        with contextlib.suppress(OSError):
            self.connection.send(wire.pack(("stop",)))

    def mark(self) -> None:
        """The current call starts now."""
        self.since, self.cpu_since = time.monotonic(), self.cpu_seconds()

    def cpu_seconds(self) -> float:
        fields = self._stat()
        return (int(fields[11]) + int(fields[12])) / TICKS if fields else 0.0

    def starved(self, elapsed: float) -> bool:
        """Whether it wants a CPU and has got less than a fifth of one since the call started."""
        fields = self._stat()
        used = self.cpu_seconds() - self.cpu_since
        return bool(fields) and fields[0] == "R" and used < elapsed / 5

    def _stat(self) -> list[str]:
        """/proc/PID/stat from the state on; empty if the process is gone."""
        try:
            with open(f"/proc/{self.pid}/stat") as file:
                return file.read().rpartition(")")[2].split()
        except OSError:
            return []


class Template:
    """The process that forks workers. Restarted if it dies."""

    def __init__(self, memory_mb: int) -> None:
        self._memory_mb = memory_mb
        self._control: socket.socket | None = None
        self._process: subprocess.Popen | None = None
        self._ready = False

    def start(self) -> None:
        """Starts the process without waiting for it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join([root, *(p for p in sys.path if p and p != root)])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        environment |= {"OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-m", "rewards.worker", str(theirs.fileno())]
        self._process = subprocess.Popen(
            [*command, str(self._memory_mb)],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=2,  # what a rule prints belongs in the log, not in a command's output
        )
        theirs.close()
        ours.settimeout(START_S)
        self._control, self._ready = ours, False

    def fork(self) -> Worker:
        """A fresh worker. OSError if the template has died (start it again)."""
        assert self._control is not None
        if not self._ready:
            self._receive()
            self._ready = True
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        socket.send_fds(self._control, [b"fork"], [theirs.fileno()])
        theirs.close()
        pid = int(self._receive())
        ours.setblocking(False)
        return Worker(pid, ours)

    def end(self, worker: Worker, patience_s: float = 0.0) -> str:
        """Kills a worker and everything in its process group; returns how it ended."""
        worker.connection.close()
        assert self._control is not None
        try:
            self._control.send(f"end {worker.pid} {patience_s}".encode())
            return self._receive()
        except OSError:
            return "its template process died"

    def _receive(self) -> str:
        assert self._control is not None
        answer = self._control.recv(4096)
        if not answer:
            raise ConnectionResetError("the reward worker template ended")
        return answer.decode()

    def close(self) -> None:
        """Ends the template, which ends the workers."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
