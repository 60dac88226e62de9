"""The processes in which rules run: a template that forks workers, and the workers themselves.

`python -m rewards.worker FD MEMORY_MB` is the template. It imports what the built-in rules need
once, then forks a worker in about 10 ms whenever the pool asks, so that a killed worker is replaced
at once. It stays single-threaded (a fork copies one thread only) and never runs a rule itself.

Invariants: a worker serves one pool and ends when the pool's end of its socket closes; the template
ends when the pool does, and takes every worker and whatever the worker started with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import importlib
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import Any

from rewards import wire
from rewards.call import Callee, details_json
from rewards.registry import RuleError, load
from rewards.result import RewardResult

PRELOADED = ("math_verify", "rewards.rules.math", "rewards.rules.text", "rewards.rules.grounding")
PR_SET_PDEATHSIG = 1


# ---------------------------------------------------------------- template


def template(control: socket.socket, memory_mb: int) -> None:
    """Answers the pool's requests: `fork` (+ a socket) → pid; `end PID SECONDS` → how it ended."""
    for module in PRELOADED:
        importlib.import_module(module)
    builtin_math = importlib.import_module("rewards.rules.math")
    builtin_math.math("\\boxed{x+1}", {"answer": "1+x"})  # the parser's lazy set-up, once for all
    gc.freeze()  # the collector of a worker leaves the shared pages alone
    control.send(b"ready")
    workers: set[int] = set()
    while True:
        data, fds, _, _ = socket.recv_fds(control, 4096, 1)
        if not data:
            break
        command, *arguments = data.decode().split()
        if command == "fork":
            pid = os.fork()
            if pid == 0:
                control.close()
                _worker(socket.socket(fileno=fds[0]), memory_mb)
            os.close(fds[0])
            workers.add(pid)
            control.send(str(pid).encode())
        else:
            pid = int(arguments[0])
            workers.discard(pid)
            control.send(_end(pid, float(arguments[1])).encode())
    for pid in workers:
        _end(pid)


def _end(pid: int, patience_s: float = 0.0) -> str:
    """Kills a worker and its process group; says how it ended. Only its parent may reap a pid.

    `patience_s` lets a worker whose socket has just closed end by itself, to learn the cause.
    """
    until = time.monotonic() + patience_s
    ended, status = os.waitpid(pid, os.WNOHANG)
    while not ended and time.monotonic() < until:
        time.sleep(0.001)
        ended, status = os.waitpid(pid, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if not ended:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return "killed"
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def _worker(connection: socket.socket, memory_mb: int) -> None:
    """Life of a forked worker; never returns."""
    code = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        _limit(memory_mb)
        serve(connection, memory_mb)
        code = 0
    except BaseException as error:  # the end of a forked copy: nothing above may go on
        print(f"reward worker: {error!r}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def _limit(memory_mb: int) -> None:
    """Private memory (RLIMIT_DATA, not address space: mapped libraries are not the rule's)."""
    used = resident_mb()
    limit = (used + memory_mb) << 20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def resident_mb() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() >> 20


# ------------------------------------------------------------------ worker


def serve(connection: socket.socket, memory_mb: int) -> None:
    """Loads rules and runs calls until the pool closes the socket.

    In: ("work", names to load, calls) with calls `(id, name, responses, sample, args, deadline_s)`,
    or ("stop",), which ends the work in progress after the current call.
    Out: ("loaded", name, facts or error text), ("done", id, results), and ("idle", retire) once a
    piece of work has ended.
    """
    callees: dict[str, Callee | str] = {}
    start_mb = resident_mb()
    while (message := wire.read_message(connection)) is not None:
        if message[0] == "work":
            _, names, calls = message
            for name in names:
                _load(connection, callees, name)
            if any(_is_async(callees[call[1]]) for call in calls):
                asyncio.run(_run_async(connection, callees, calls))
            else:
                _run(connection, callees, calls)
        retire = resident_mb() - start_mb > memory_mb // 2
        connection.sendall(wire.pack(("idle", retire)))


def _is_async(callee: Callee | str) -> bool:
    return isinstance(callee, Callee) and callee.rule.is_async


def _load(connection: socket.socket, callees: dict[str, Callee | str], name: str) -> None:
    facts: dict[str, Any] | str
    try:
        rule = load(name)
        callees[name] = Callee(rule)
        facts = {
            "verifier": rule.verifier,
            "is_async": rule.is_async,
            "is_batched": rule.is_batched,
            "deadline_s": rule.deadline_s,
        }
    except RuleError as error:
        callees[name] = facts = str(error)
    except BaseException as error:  # a plug-in that exits while it is imported
        callees[name] = facts = f"rule {name!r}: loading it failed: {error!r}"
    connection.sendall(wire.pack(("loaded", name, facts)))


def _run(connection: socket.socket, callees: dict[str, Callee | str], calls: list[tuple]) -> None:
    for number, (call_id, name, responses, sample, args, _deadline) in enumerate(calls):
        if number and select.select([connection], [], [], 0)[0]:
            wire.read_message(connection)  # only "stop" comes while work is in progress
            return
        callee = callees[name]
        if isinstance(callee, str):
            results = [RewardResult.failure(callee) for _ in responses]
        else:
            results = callee(responses, sample, args)
        _send(connection, call_id, results)


async def _run_async(
    connection: socket.socket, callees: dict[str, Callee | str], calls: list[tuple]
) -> None:
    """All calls at once (the pool sends as many as may be in flight); each has its deadline."""

    async def one(call: tuple) -> None:
        call_id, name, responses, sample, args, deadline_s = call
        callee = callees[name]
        if isinstance(callee, str):
            _send(connection, call_id, [RewardResult.failure(callee) for _ in responses])
            return
        started = time.perf_counter()
        try:
            results = await asyncio.wait_for(callee.call_async(responses, sample, args), deadline_s)
        except TimeoutError:
            seconds = time.perf_counter() - started
            message = f"no result within {deadline_s:g} s"
            results = [RewardResult.failure(message, "timeout", seconds) for _ in responses]
        _send(connection, call_id, results)

    await asyncio.gather(*(one(call) for call in calls))


def _send(connection: socket.socket, call_id: int, results: list[RewardResult]) -> None:
    plain = [(r.value, r.status, r.seconds, details_json(r.details)) for r in results]
    connection.sendall(wire.pack(("done", call_id, plain)))


if __name__ == "__main__":
    template(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
