"""TRL's side: `GRPOTrainer`s in processes of their own that stop between rollout batches.

The processes of a mode stay up, so one start (20 s of imports) serves all workloads and micro-batch
sizes; each of those gets a trainer of its own, with the checkpoint's weights. Imports at the top
are light: a rank sets its thread count before torch loads.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from scripts.bench.gspo_bench.timing import StepTime, cpu_seconds
from scripts.bench.gspo_bench.workloads import Workload

PHASES = ("generate", "reward", "sync")
CORES = 2


class TooSlow(RuntimeError):
    """A step didn't end in time; its processes are of no use any more."""


class TrlFailed(RuntimeError):
    """A trainer ended with an exception; the message ends with its traceback."""


@dataclass(frozen=True, slots=True)
class TrlMode:
    """One way to run TRL on two cores."""

    generation: str
    """`hf`: transformers' generate; `paged`: its continuous batching
    (`use_transformers_continuous_batching=True`); `vllm`: `use_vllm=True`, colocated."""
    ranks: int
    """1 process with two threads, or 2 data-parallel processes with one thread each."""

    @property
    def threads(self) -> int:
        """Threads of a rank."""
        return CORES // self.ranks

    def __str__(self) -> str:
        return f"{self.generation}, {self.ranks} × {self.threads} threads"

    def runs(self, workload: Workload) -> bool:
        """Whether TRL has this mode for the workload (its continuous batching is text only)."""
        return not (workload.images and self.generation == "paged")


MODES = {
    f"{generation}-{ranks}": TrlMode(generation, ranks)
    for generation in ("hf", "vllm", "paged")
    for ranks in (2, 1)
}


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The same weights twice."""

    keye: Path
    """Keye-VL-1.5, the whole model."""
    qwen3: Path
    """Its language model alone, for text workloads in TRL."""


@dataclass(frozen=True, slots=True)
class TrlJob:
    """What one trainer is told."""

    mode: TrlMode
    workload: Workload
    micro_batch: int
    """Sequences in one pass, all ranks together."""
    checkpoints: Checkpoints
    output: Path
    rank: int = 0

    @property
    def rank_micro_batch(self) -> int:
        """Sequences in one pass of one rank (`per_device_train_batch_size`)."""
        return max(1, min(self.micro_batch // self.mode.ranks, self.per_update))

    @property
    def per_update(self) -> int:
        """Sequences of one optimiser step on one rank."""
        return self.workload.responses // self.workload.mini_batches // self.mode.ranks


class TrlSide:
    """The processes of one mode, as the driver sees them."""

    def __init__(self, mode: TrlMode) -> None:
        """Start them; they import TRL on their own. `ready` waits for that."""
        self.mode = mode
        context = multiprocessing.get_context("spawn")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.pipes: list[Connection] = []
        self.processes: list[Any] = []
        before = dict(os.environ)
        try:
            for rank in range(mode.ranks):
                os.environ.update(_environment(mode, rank, port))
                mine, theirs = context.Pipe()
                process = context.Process(target=run_rank, args=(theirs,), daemon=True)
                process.start()
                theirs.close()
                self.pipes.append(mine)
                self.processes.append(process)
        finally:
            os.environ.clear()
            os.environ.update(before)
        self._imported = False

    def ready(self) -> None:
        """Return when all ranks have imported what they need."""
        if not self._imported:
            self._gather()
            self._imported = True

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the ranks."""
        return tuple(process.pid for process in self.processes)

    def open(self, job: TrlJob) -> None:
        """Replace the trainer by a new one, which stands before its first step."""
        self.ready()
        for rank, pipe in enumerate(self.pipes):
            pipe.send(TrlJob(*(getattr(job, k) for k in _JOB_FIELDS), rank=rank))
        self._gather()

    def step(self, step: int, limit: float = float("inf")) -> StepTime:
        """One rollout batch and its optimiser steps; `TooSlow` after `limit` seconds."""
        cpu = sum(map(cpu_seconds, self.pids))
        started = time.perf_counter()
        for pipe in self.pipes:
            pipe.send(step)
        reports = self._gather(limit)
        wall = time.perf_counter() - started
        phases = {k: max(r["phases"].get(k, 0.0) for r in reports) for k in PHASES}
        phases["learn"] = max(0.0, wall - sum(phases.values()))
        return StepTime(
            wall=wall,
            cpu=sum(map(cpu_seconds, self.pids)) - cpu,
            phases=phases,
            tokens=sum(report["tokens"] for report in reports),
            numbers=reports[0]["numbers"],
        )

    def _gather(self, limit: float = float("inf")) -> list[Any]:
        """One answer of each rank; `TrlFailed` when one is a traceback."""
        answers = []
        deadline = time.monotonic() + limit
        for pipe in self.pipes:
            try:
                while not pipe.poll(min(60.0, max(0.0, deadline - time.monotonic()))):
                    if time.monotonic() >= deadline:
                        raise TooSlow(f"stopped after {limit:.0f} s: too slow")
                answers.append(pipe.recv())
            except EOFError:
                answers.append(f"a process of TRL ({self.mode}) died")
            if isinstance(answers[-1], str):
                raise TrlFailed(answers[-1])
        return answers

    def close(self) -> None:
        """End the ranks."""
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.kill()
            process.join()


_JOB_FIELDS = ("mode", "workload", "micro_batch", "checkpoints", "output")


def _environment(mode: TrlMode, rank: int, port: int) -> dict[str, str]:
    variables = {
        "OMP_NUM_THREADS": str(mode.threads),
        "MKL_NUM_THREADS": str(mode.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "PYTHONWARNINGS": "ignore",
        "DS_ACCELERATOR": "cpu",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    if mode.ranks > 1:
        variables |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(mode.ranks),
            "LOCAL_WORLD_SIZE": str(mode.ranks),
        }
    return variables


def run_rank(pipe: Connection) -> None:
    """Body of a rank's process: a trainer for each job, until the driver closes the pipe."""
    import traceback

    try:
        from scripts.bench.gspo_bench.trl_trainer import train_jobs

        pipe.send(None)
        train_jobs(pipe)
    except EOFError:
        pass  # the driver has what it wanted
    except BaseException:
        pipe.send(traceback.format_exc())
