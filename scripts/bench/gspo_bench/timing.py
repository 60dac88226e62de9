"""Seconds of one step, by phase, and the processor time that a tree of processes used."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil


@dataclass(slots=True)
class StepTime:
    """One rollout batch with its optimiser steps."""

    wall: float
    """Seconds from the first prompt to the last weight update."""
    cpu: float
    """Processor seconds of all processes of the side."""
    phases: dict[str, float] = field(default_factory=dict)
    """Wall seconds by phase."""
    tokens: int = 0
    """Response tokens sampled and learned from."""
    numbers: dict[str, float] = field(default_factory=dict)
    """What the step computed, to compare the sides: see `report.NUMBERS`."""


class Phases:
    """Adds up wall seconds by name; a phase inside another one is taken off the outer one."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._open: list[str] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        self._open.append(name)
        try:
            yield
        finally:
            self._open.pop()
            spent = time.perf_counter() - started
            self.seconds[name] += spent
            if self._open:
                self.seconds[self._open[-1]] -= spent

    def take(self) -> dict[str, float]:
        """The seconds since the last call."""
        taken = dict(self.seconds)
        self.seconds.clear()
        return taken


def cpu_seconds(root: int, *, without: tuple[int, ...] = ()) -> float:
    """User and system seconds so far of process `root` and its descendants.

    `without`: processes left out, with their descendants.
    """
    total = 0.0
    waiting = [psutil.Process(root)]
    while waiting:
        process = waiting.pop()
        try:
            times = process.cpu_times()
            total += times.user + times.system
            waiting += [child for child in process.children() if child.pid not in without]
        except psutil.NoSuchProcess:
            continue
    return total
