"""The pool's scheduler: one thread that keeps workers busy and kills the ones that hang.

Invariants:
- each call is delivered exactly once, as a result, a time-out or an error;
- only the call that was running is blamed for a killed or dead worker, the others run elsewhere;
- calls never wait behind a hanging one: what a stuck worker has not begun is given to others;
- a killed worker is replaced by a spare that is already forked and has its rules loaded.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import threading
import time
from collections import deque
from typing import Any

from rewards.config import RewardConfig
from rewards.processes import Call, Template, Worker
from rewards.result import RewardResult

LARGEST_PIECE = 64  # calls given to a worker at once
STUCK_S = 0.05  # after this the calls behind the current one may go elsewhere
ASYNC_GRACE_S = 1.0  # async calls keep their own deadlines; the process gets this much longer
STARVED_FACTOR = 4.0  # a call that gets no CPU may take this many deadlines
IDLE_WAIT_S = 0.5


class Dispatcher:
    """Runs calls on worker processes. `add` and `need` are for any thread, the rest for its own."""

    def __init__(self, config: RewardConfig) -> None:
        self.config = config
        self.facts: dict[str, dict[str, Any] | str] = {}  # per rule: what it is, or why it failed
        self.restarts = 0
        self.failure: BaseException | None = None
        self._template = Template(config.memory_mb)
        self._template.start()
        self._lock = threading.Condition()
        self._queue: deque[Call] = deque()
        self._unknown: deque[str] = deque()
        self._pending = 0
        self._closing = False
        self._workers: list[Worker] = []
        self._spare: Worker | None = None
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, name="reward-dispatch", daemon=True)
        self._thread.start()

    # -------------------------------------------------- called by the pool

    def need(self, names: set[str]) -> None:
        """Blocks until each rule's facts are known (loaded once in a worker)."""
        with self._lock:
            self._raise_failure()
            new = [n for n in names if n not in self.facts and n not in self._unknown]
            self._unknown.extend(new)
            self._wake()
            while any(n not in self.facts for n in names):
                self._raise_failure()
                self._lock.wait(IDLE_WAIT_S)

    def add(self, calls: list[Call]) -> None:
        """Queues calls; blocks while more than `max_pending` wait."""
        with self._lock:
            while self._pending and self._pending + len(calls) > self.config.max_pending:
                self._raise_failure()
                self._lock.wait(IDLE_WAIT_S)
            self._raise_failure()
            self._pending += len(calls)
            self._queue.extend(calls)
            self._wake()

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._wake()
        self._thread.join(15)
        self._template.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it is awake; closed: it has ended
            os.write(self._wake_write, b"x")

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise RuntimeError("the reward pool stopped") from self.failure
        if self._closing:
            raise RuntimeError("the reward pool is closed")

    # ---------------------------------------------------------- the thread

    def _run(self) -> None:
        try:
            while not self._closing:
                self._hand_out()
                for key, _ in self._selector.select(self._next_check()):
                    if key.data is None:
                        os.read(self._wake_read, 4096)
                    else:
                        self._read(key.data)
                for worker in list(self._workers):
                    self._check(worker)
        except BaseException as error:  # without this a waiting caller would wait forever
            self.failure = error
        finally:
            self._abandon()

    def _abandon(self) -> None:
        with self._lock:
            left = [*self._queue, *(call for worker in self._workers for call in worker.calls)]
            self._queue.clear()
            self._lock.notify_all()
        for call in left:
            why = f"stopped: {self.failure!r}" if self.failure else "was closed"
            call.deliver([RewardResult.failure(f"the reward pool {why}") for _ in call.responses])
        for worker in self._workers:
            worker.connection.close()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _next_check(self) -> float:
        if not any(w.busy for w in self._workers):
            return IDLE_WAIT_S if self._spare else 0.0
        return STUCK_S / 2

    # ------------------------------------------------------- giving out work

    def _hand_out(self) -> None:
        with self._lock:
            wanted = bool(self._queue or self._unknown)
        if not self._workers or (wanted and len(self._workers) < self.config.workers):
            self._workers.append(self._fresh())
        for worker in [w for w in self._workers if not w.busy]:
            names, calls = self._next_piece()
            if names or calls:
                self._send(worker, names, calls)
            elif not wanted and self._spare is None and not any(w.busy for w in self._workers):
                self._spare = self._fork()
        if self._spare is not None and not self._spare.busy:
            new = self.facts.keys() - self._spare.known
            if new:
                self._send(self._spare, sorted(new), [])

    def _next_piece(self) -> tuple[list[str], list[Call]]:
        """Rules to be loaded for their facts, or a few calls: all async or all not."""
        with self._lock:
            if self._unknown:
                return [self._unknown.popleft()], []
            if not self._queue:
                return [], []
            first = self._queue.popleft()
            calls = [first]
            if first.alone:
                return [first.rule], calls
            limit = self.config.async_concurrency
            if not first.is_async:
                share = len(self._queue) // (4 * self.config.workers) + 1
                limit = min(LARGEST_PIECE, share)
            while self._queue and len(calls) < limit:
                if self._queue[0].is_async != first.is_async or self._queue[0].alone:
                    break
                calls.append(self._queue.popleft())
            return list(dict.fromkeys(call.rule for call in calls)), calls

    def _send(self, worker: Worker, names: list[str], calls: list[Call]) -> None:
        try:
            worker.send_work(names, calls)
        except OSError:
            self._bury(worker, "could not be given work", blame=False)

    def _fork(self) -> Worker:
        for attempt in range(3):
            try:
                worker = self._template.fork()
                break
            except OSError:
                if attempt == 2:
                    raise
                self._template.close()
                self._template = Template(self.config.memory_mb)
                self._template.start()
        self._selector.register(worker.connection, selectors.EVENT_READ, worker)
        return worker

    def _fresh(self) -> Worker:
        worker, self._spare = self._spare or self._fork(), None
        return worker

    # ------------------------------------------------------- taking results

    def _read(self, worker: Worker) -> None:
        """Takes in what a worker has sent; buries it if its socket is closed."""
        closed = False
        while True:
            try:
                data = worker.connection.recv(1 << 18)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                closed = True
                break
            for message in worker.reader.feed(data):
                self._take(worker, message)
        if closed and (worker in self._workers or worker is self._spare):
            self._bury(worker, "died", blame=True)

    def _take(self, worker: Worker, message: tuple) -> None:
        worker.mark()
        if message[0] == "loaded":
            worker.loading.popleft()
            self._learn(message[1], message[2])
        elif message[0] == "done":
            call = next((c for c in worker.calls if c.id == message[1]), None)
            if call is not None:  # else it was given to another worker meanwhile
                worker.calls.remove(call)
                results = [
                    RewardResult(value, status, seconds, json.loads(details) if details else {})
                    for value, status, seconds, details in message[2]
                ]
                self._finish(call, results)
        else:
            worker.busy = False
            if message[1]:
                self._bury(worker, "was retired", blame=False)

    def _learn(self, name: str, facts: dict[str, Any] | str) -> None:
        with self._lock:
            self.facts.setdefault(name, facts)
            self._lock.notify_all()

    def _finish(self, call: Call, results: list[RewardResult]) -> None:
        with self._lock:
            self._pending -= 1
            self._lock.notify_all()
        call.deliver(results)

    # --------------------------------------------------- hanging and dead workers

    def _check(self, worker: Worker) -> None:
        if not worker.busy or worker not in self._workers:
            return
        elapsed = time.monotonic() - worker.since
        if elapsed < STUCK_S:
            return
        self._read(worker)  # this thread may itself have been late
        if not worker.busy or worker not in self._workers:
            return
        elapsed = time.monotonic() - worker.since
        limit = self._limit(worker)
        if elapsed >= limit:
            if elapsed < limit * STARVED_FACTOR and worker.starved(elapsed):
                return
            self._kill(worker, elapsed)
        elif elapsed >= STUCK_S and not worker.is_async and len(worker.calls) > 1:
            self._reclaim(worker)

    def _limit(self, worker: Worker) -> float:
        if worker.loading:
            return self.config.load_s
        if worker.is_async:
            return max(call.deadline_s for call in worker.calls) + ASYNC_GRACE_S
        return worker.calls[0].deadline_s if worker.calls else self.config.deadline_s

    def _reclaim(self, worker: Worker) -> None:
        """Takes back what a stuck worker has not begun, if another worker is free to do it."""
        idle = any(not w.busy for w in self._workers) or len(self._workers) < self.config.workers
        if worker.loading or worker.stopping or not idle:
            return
        current, *rest = worker.calls
        worker.calls = deque([current])
        worker.send_stop()
        self._put_back(rest)

    def _kill(self, worker: Worker, elapsed: float) -> None:
        if worker.loading:
            name = worker.loading[0]
            self._learn(name, f"rule {name!r}: loading it took more than {self.config.load_s:g} s")
            self._fail_rule(worker, name)
        elif worker.is_async and len(worker.calls) > 1:
            for call in worker.calls:  # one of them blocks the others: find out which
                call.alone = True
        elif worker.calls:
            call = worker.calls.popleft()
            message = f"killed: no result within {call.deadline_s:g} s"
            self._finish(
                call, [RewardResult.failure(message, "timeout", elapsed) for _ in call.responses]
            )
        self._bury(worker, "hung", blame=False)

    def _fail_rule(self, worker: Worker, name: str) -> None:
        """Every waiting call of a rule that cannot be loaded is an error."""
        with self._lock:
            mine = [call for call in [*worker.calls, *self._queue] if call.rule == name]
            self._queue = deque(call for call in self._queue if call.rule != name)
        worker.calls = deque(call for call in worker.calls if call.rule != name)
        message = str(self.facts[name])
        for call in mine:
            self._finish(call, [RewardResult.failure(message) for _ in call.responses])

    def _bury(self, worker: Worker, why: str, blame: bool) -> None:
        """Removes a worker, puts back what it had not begun, and lets a spare take its place."""
        self._selector.unregister(worker.connection)
        how = self._template.end(worker, 0.5 if blame else 0.0)
        self.restarts += 1
        if worker is self._spare:
            self._spare = None
        else:
            self._workers.remove(worker)
        if blame and worker.loading:
            name = worker.loading[0]
            self._learn(name, f"rule {name!r}: loading it ended the worker ({how})")
            self._fail_rule(worker, name)
        elif blame and worker.calls and not worker.is_async:
            call = worker.calls.popleft()
            message = f"the rule's process {why} ({how})"
            self._finish(call, [RewardResult.failure(message) for _ in call.responses])
        elif blame and len(worker.calls) == 1:
            call = worker.calls.popleft()
            self._finish(call, [RewardResult.failure(f"the rule's process {why} ({how})")])
        elif blame:
            for call in worker.calls:
                call.alone = True
        self._put_back(list(worker.calls))
        worker.calls.clear()

    def _put_back(self, calls: list[Call]) -> None:
        with self._lock:
            self._queue.extendleft(reversed(calls))
