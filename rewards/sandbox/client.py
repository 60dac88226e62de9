"""Asks for code to be run in the sandbox."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_S = 5.0  # namespaces and one interpreter: 0.1 s; more on a machine under full load


class SandboxError(Exception):
    """The code was not run, or the sandbox itself failed; never the code's fault."""


@dataclass(slots=True)
class Limits:
    """What the code may use."""

    seconds: float = 2.0  # of CPU a run (whole seconds); three times as long by the clock
    total_s: float = 20.0  # all runs, by the clock
    memory_mb: int = 256  # address space of a process
    processes: int = 8
    scratch_mb: int = 16  # all files together


def check_isolation() -> None:
    """SandboxError if code cannot be run here: for a job that should say so before it begins."""
    run_isolated("", [{"stdin": ""}], Limits(), stop_at_failure=False)


def run_isolated(
    code: str, runs: list[dict[str, Any]], limits: Limits, stop_at_failure: bool
) -> list[dict[str, Any]]:
    """Reports of the runs (see `rewards.sandbox.launch`), fewer if one failed and it stops there.

    SandboxError names the isolation this machine lacks. The code is never run without it.
    """
    request = {
        "code": code,
        "runs": runs,
        "limits": {name: getattr(limits, name) for name in Limits.__slots__},
        "stop_at_failure": stop_at_failure,
        "python": sys.executable,
        "prefixes": [sys.base_prefix, sys.prefix],
    }
    process = subprocess.Popen(
        [sys.executable, "-S", "-m", "rewards.sandbox.launch"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "PATH": os.defpath},
        text=True,
    )
    try:
        out, err = process.communicate(json.dumps(request), limits.total_s + START_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise SandboxError("the sandbox did not end in time") from None
    try:
        answer = json.loads(out)
    except ValueError:
        raise SandboxError(f"the sandbox failed: {err.strip()[-500:]}") from None
    if "missing" in answer:
        raise SandboxError(
            f"this machine cannot isolate code ({answer['missing']}), so it was not run. "
            "Allow namespaces and seccomp in the container, or score code elsewhere."
        )
    return answer["runs"]
