"""TRL's side: a `GRPOTrainer` in processes of its own that stop between rollout batches.

Imports at the top are light: a rank sets its thread count before torch loads.
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


@dataclass(frozen=True, slots=True)
class TrlMode:
    """One way to run TRL on two cores."""

    generation: str
    """`hf`: transformers' generate; `vllm`: `use_vllm=True`, colocated."""
    ranks: int
    """1 process with two threads, or 2 data-parallel processes with one thread each."""

    def __str__(self) -> str:
        return f"{self.generation}, {self.ranks} × {2 // self.ranks} threads"


MODES = {
    f"{generation}-{ranks}": TrlMode(generation, ranks)
    for generation in ("hf", "vllm")
    for ranks in (1, 2)
}


@dataclass(slots=True)
class TrlJob:
    """What one rank is told."""

    mode: TrlMode
    workload: Workload
    keye: Path
    qwen3: Path
    output: Path
    rank: int
    port: int


class TrlSide:
    """A running trainer, as the driver sees it."""

    def __init__(
        self, mode: TrlMode, workload: Workload, checkpoints: tuple[Path, Path], output: Path
    ) -> None:
        self.workload = workload
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
                job = TrlJob(mode, workload, *checkpoints, output, rank, port)
                process = context.Process(target=run_rank, args=(job, theirs), daemon=False)
                process.start()
                theirs.close()
                self.pipes.append(mine)
                self.processes.append(process)
        finally:
            os.environ.clear()
            os.environ.update(before)
        for pipe in self.pipes:
            _receive(pipe)  # the trainer stands before its first step

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the ranks."""
        return tuple(process.pid for process in self.processes)

    def step(self, step: int) -> StepTime:
        """One rollout batch and its optimiser steps."""
        cpu = sum(map(cpu_seconds, self.pids))
        started = time.perf_counter()
        for pipe in self.pipes:
            pipe.send(step)
        reports = [_receive(pipe) for pipe in self.pipes]
        wall = time.perf_counter() - started
        phases = {k: max(r["phases"].get(k, 0.0) for r in reports) for k in PHASES}
        phases["learn"] = max(0.0, wall - sum(phases.values()))
        return StepTime(
            wall=wall,
            cpu=sum(map(cpu_seconds, self.pids)) - cpu,
            phases=phases,
            tokens=sum(report["tokens"] for report in reports),
        )

    def close(self) -> None:
        """End the ranks."""
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.kill()
            process.join()


PHASES = ("generate", "reward", "sync")


def _receive(pipe: Connection) -> Any:
    answer = pipe.recv()
    if isinstance(answer, str):
        raise RuntimeError(f"TRL failed:\n{answer}")
    return answer


def _environment(mode: TrlMode, rank: int, port: int) -> dict[str, str]:
    threads = str(2 // mode.ranks)
    variables = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
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


def run_rank(job: TrlJob, pipe: Connection) -> None:
    """Body of a rank's process: build the trainer, and train until the driver closes the pipe."""
    import traceback

    try:
        from scripts.bench.gspo_bench.trl_trainer import build_trainer

        build_trainer(job, pipe).train()
    except EOFError:
        pass  # the driver has what it wanted
    except BaseException:
        pipe.send(traceback.format_exc())
