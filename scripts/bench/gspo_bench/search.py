"""Which way of running TRL is its fastest on this machine: modes and micro-batches, tried out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scripts.bench.gspo_bench.trl_side import (
    Checkpoints,
    TooSlow,
    TrlFailed,
    TrlJob,
    TrlMode,
    TrlSide,
)
from scripts.bench.gspo_bench.workloads import Workload

HOPELESS = 2.0
"""A step that takes this many times the fastest one so far is stopped, and its mode given up."""
PATIENCE = 5.0
"""Seconds granted on top, for what a first step does once."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One step of one way to run TRL."""

    job: TrlJob
    seconds: float
    """Of a whole step; infinite when it doesn't run."""
    cpu: float = 0.0
    """Processor seconds of the step."""
    note: str = ""
    """Why there is no time."""
    stopped: bool = False
    """It ran, hopelessly slowly."""

    def __str__(self) -> str:
        micro = f"micro-batch {self.job.micro_batch}"
        timed = self.note or f"{self.seconds:.2f} s, {self.cpu:.2f} CPU-s"
        return f"{self.job.mode}, {micro}: {timed}"


class TrlPool:
    """The processes of all modes; those that died are started anew when they are needed."""

    def __init__(self, modes: list[TrlMode], checkpoints: Checkpoints, output: Path) -> None:
        """Start them side by side (the unlikely winner only when it is needed)."""
        self.modes, self.checkpoints, self.output = modes, checkpoints, output
        self.sides = {mode: TrlSide(mode) for mode in modes if mode.generation != "paged"}

    def ready(self) -> None:
        """Return when all have started, so that no start disturbs a timing."""
        for side in self.sides.values():
            side.ready()

    def side(self, mode: TrlMode) -> TrlSide:
        """The running processes of `mode`."""
        if mode not in self.sides:
            self.sides[mode] = TrlSide(mode)
        return self.sides[mode]

    def drop(self, mode: TrlMode) -> None:
        """End processes that failed."""
        self.sides.pop(mode).close()

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of all ranks of all modes."""
        return tuple(pid for side in self.sides.values() for pid in side.pids)

    def job(self, mode: TrlMode, workload: Workload, micro_batch: int) -> TrlJob:
        """A trainer of this pool's checkpoints."""
        return TrlJob(mode, workload, micro_batch, self.checkpoints, self.output)

    def close(self) -> None:
        """End all processes."""
        for side in self.sides.values():
            side.close()


def search(pool: TrlPool, workload: Workload) -> list[Trial]:
    """Time every mode, the fastest first.

    A mode's first step (imports, allocations) isn't counted. The first mode of a rank count tries
    all micro-batch sizes; the others of that count take its best one, because they differ in
    generation only. A step that is hopeless is stopped; when it was a mode's first, the same kind
    of generation isn't tried with the other number of ranks.
    """
    trials: list[Trial] = []
    best_size: dict[int, int] = {}
    given_up: set[str] = set()
    for mode in pool.modes:
        if not mode.runs(workload) or mode.generation in given_up:
            continue
        sizes = [best_size[mode.ranks]] if mode.ranks in best_size else workload.micro_batches
        found: list[Trial] = []
        for size in sizes:
            limit = PATIENCE + HOPELESS * min((t.seconds for t in trials), default=float("inf"))
            found.append(_try(pool, pool.job(mode, workload, size), limit, first=not found))
            trials.append(found[-1])
            print(f"   TRL {found[-1]}", flush=True)
            if found[0].note:
                if found[0].stopped:
                    given_up.add(mode.generation)
                break
        best = min(found, key=lambda t: t.seconds)
        if not best.note:
            best_size.setdefault(mode.ranks, best.job.micro_batch)
    if all(t.note for t in trials):
        raise SystemExit(f"TRL runs {workload.name} in none of the modes asked for")
    return sorted(trials, key=lambda t: t.seconds)


def _try(pool: TrlPool, job: TrlJob, limit: float, first: bool) -> Trial:
    """A step of `job`, the second one when it is the `first` of its processes."""
    try:
        side = pool.side(job.mode)
        side.open(job)
        if first:
            side.step(0, limit)
        step = side.step(int(first), limit)
    except TooSlow as error:
        pool.drop(job.mode)
        return Trial(job, float("inf"), note=str(error), stopped=True)
    except TrlFailed as error:
        pool.drop(job.mode)
        reason = str(error).strip().splitlines()[-1]
        return Trial(job, float("inf"), note=f"doesn't run here: {reason[:150]}")
    return Trial(job, step.wall, step.cpu)
