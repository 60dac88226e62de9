"""`python -S -m rewards.sandbox.launch`: runs the code of one request in isolation.

Standard input: JSON `{code, runs, limits}`. A run is `{stdin}` (the code as a program), or
`{calls}` (expressions evaluated after the code), or `{test}` (statements after the code). Standard
output: JSON `{runs: [{status, exit, stdout, stderr, results}]}`, or `{missing}` that names what
kind of isolation the machine lacks; then nothing was run.

The process forks once: the child is process 1 of its own process namespace, runs the code in
grandchildren and reports; when it ends the kernel kills everything that is left in there.
"""

from __future__ import annotations

import json
import math
import os
import resource
import secrets
import signal
import subprocess
import sys
import time
import traceback
from typing import IO, Any

from rewards.sandbox.isolation import (
    IsolationError,
    drop_privileges,
    enter_namespaces,
    enter_root,
)

SHOWN = 65_536  # characters of output that are reported
WALL_FACTOR = 3  # limits are CPU seconds, so that a busy machine fails nobody; sleeping ends here

# Runs in the sandbox. Results go to a file descriptor of their own, so that printing is free.
HARNESS = """
import json, os, sys
request = json.loads(sys.stdin.read())
report = os.fdopen(request["report"], "w")
scope = {"__name__": "answer"}
exec(compile(request["code"], "answer.py", "exec"), scope)
for call in request["calls"]:
    try:
        value = eval(call, scope)
        value = value.tolist() if hasattr(value, "tolist") else value
        entry = {"repr": repr(value)[:100000]}
    except BaseException as error:
        entry = {"error": repr(error)[:300]}
    print(json.dumps(entry), file=report, flush=True)
if request["test"]:
    exec(compile(request["test"], "test.py", "exec"), scope)
    print(json.dumps({"passed": request["token"]}), file=report, flush=True)
"""


def main() -> None:
    request = json.load(sys.stdin)
    try:
        enter_namespaces()
        enter_root(request["limits"]["scratch_mb"], request["prefixes"])
    except (IsolationError, OSError) as error:
        json.dump({"missing": str(error)}, sys.stdout)
        return
    sys.stdout.flush()
    if os.fork() == 0:
        code = 1
        try:
            json.dump(_supervise(request), sys.stdout)
            sys.stdout.flush()
            code = 0
        except BaseException:  # a forked copy: the report goes to the caller's error text
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    _, status = os.wait()
    sys.exit(os.waitstatus_to_exitcode(status))


def _supervise(request: dict[str, Any]) -> dict[str, Any]:
    try:
        drop_privileges()
    except (IsolationError, OSError) as error:
        return {"missing": str(error)}
    os.chdir("/tmp")
    reports = []
    until = time.monotonic() + request["limits"]["total_s"]
    for run in request["runs"]:
        seconds = min(request["limits"]["seconds"], until - time.monotonic())
        if seconds <= 0:
            reports.append({"status": "timeout", "stdout": "", "results": []})
            continue
        reports.append(_run(request, run, seconds))
        if request["stop_at_failure"] and reports[-1]["status"] != "ok":
            break
    return {"runs": reports}


def _run(request: dict, run: dict, seconds: float) -> dict[str, Any]:
    """One process; everything it leaves behind is killed before the next."""
    code = request["code"]
    token = secrets.token_hex(16)
    with _scratch() as stdin, _scratch() as stdout, _scratch() as stderr, _scratch() as report:
        if "stdin" in run:
            arguments, text = ["-c", code], run["stdin"]
        else:
            arguments = ["-c", HARNESS]
            tests = {"calls": run.get("calls", []), "test": run.get("test", "")}
            fixed = {"code": code, "token": token, "report": report.fileno()}
            text = json.dumps({**tests, **fixed})
        stdin.write(text)
        stdin.seek(0)
        process = subprocess.Popen(
            [request["python"], "-I", "-B", *arguments],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HOME": "/tmp"},
            preexec_fn=lambda: _limit(request["limits"], seconds),
            pass_fds=[report.fileno()],
        )
        try:
            exit_code = process.wait(WALL_FACTOR * seconds)
            out_of_time = exit_code in (-signal.SIGXCPU, -signal.SIGKILL)
            status = "ok" if exit_code == 0 else "timeout" if out_of_time else "failed"
        except subprocess.TimeoutExpired:
            exit_code, status = -9, "timeout"
        _kill_all()
        results = [_parsed(line) for line in _read(report).splitlines()]
        if run.get("test") and {"passed": token} not in results and status == "ok":
            status = "failed"  # it left before the test had ended
        return {
            "status": status,
            "exit": exit_code,
            "stdout": _read(stdout),
            "stderr": _read(stderr)[-2000:],
            "results": results,
        }


def _limit(limits: dict, seconds: float) -> None:
    memory = limits["memory_mb"] << 20
    for kind, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, max(1, math.ceil(seconds))),
        (resource.RLIMIT_FSIZE, limits["scratch_mb"] << 18),  # a quarter of the scratch space
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))


def _kill_all() -> None:
    """Process 1 may signal everyone in its namespace but itself; repeated, no fork escapes it."""
    while True:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            return
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return


def _scratch() -> IO[str]:
    """A nameless file in the scratch space: nobody can open it again by name."""
    descriptor = os.open("/tmp", os.O_TMPFILE | os.O_RDWR, 0o600)
    return os.fdopen(descriptor, "w+", encoding="utf-8", errors="replace")


def _read(file: IO[str]) -> str:
    file.seek(0)
    return file.read(SHOWN)


def _parsed(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


if __name__ == "__main__":
    main()
