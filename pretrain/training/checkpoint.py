"""Resume state and exported checkpoints of a training engine.

Invariant: `state/latest` always names a complete state; a kill at any moment leaves either the
old state or the new one.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from pretrain.run.directory import atomic_write, disk_guard
from pretrain.run.errors import KeyeError
from pretrain.training.engine import TrainingEngine


def rng_state() -> dict[str, Any]:
    """Every random generator's state in this process."""
    state = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Restores what `rng_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


def save_state(engine: TrainingEngine, directory: Path, step: int, progress: dict) -> None:
    """Saves weights, optimiser and RNG of every rank; call it on all ranks.

    Args:
        engine: the engine, between two steps.
        directory: the stage's state folder, shared by all ranks.
        step: optimiser steps done.
        progress: JSON-serialisable rest (data cursor, metrics so far).
    """
    tag = f"step-{step:08d}"
    building = directory / f"{tag}.partial"
    with disk_guard(building):
        if engine.rank == 0:
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir(parents=True)
        dist.barrier()
        engine.deepspeed.save_checkpoint(
            str(building), tag="engine", save_latest=False, exclude_frozen_parameters=False
        )
        torch.save(rng_state(), building / f"rng-{engine.rank}.pt")
    dist.barrier()
    if engine.rank == 0:
        meta = {"step": step, "world_size": engine.world_size, "progress": progress}
        atomic_write(building / "progress.json", json.dumps(meta))
        final = directory / tag
        if final.exists():  # the same step was saved before: that state is complete, keep it
            shutil.rmtree(building)
        else:
            building.rename(final)
        atomic_write(directory / "latest", tag)
        for old in directory.glob("step-*"):
            if old.name != tag:
                shutil.rmtree(old, ignore_errors=True)
    dist.barrier()


def latest_state(directory: Path) -> Path | None:
    """The last complete state under `directory`, or None."""
    pointer = directory / "latest"
    if not pointer.exists():
        return None
    state = directory / pointer.read_text().strip()
    return state if (state / "progress.json").exists() else None


def load_state(engine: TrainingEngine, directory: Path) -> tuple[int, dict] | None:
    """Restores the last complete state into `engine`, on all ranks.

    Returns:
        (steps done, the `progress` given to `save_state`), or None when there is none.

    Raises:
        KeyeError: the state was saved by another number of ranks.
    """
    state = latest_state(directory)
    if state is None:
        return None
    meta = json.loads((state / "progress.json").read_text())
    if meta["world_size"] != engine.world_size:
        raise KeyeError(
            f"{state} was saved by {meta['world_size']} ranks and can't be resumed by "
            f"{engine.world_size}; use the same world_size or delete {directory} to start the "
            "stage again"
        )
    engine.deepspeed.load_checkpoint(str(state), tag="engine")
    engine.steps_done = meta["step"]
    set_rng_state(torch.load(state / f"rng-{engine.rank}.pt", weights_only=False))
    return meta["step"], meta["progress"]


def export_checkpoint(
    engine: TrainingEngine, path: Path, source: Path, *, model: Any = None
) -> None:
    """Writes a Hugging Face checkpoint; call it on all ranks, rank 0 writes.

    Args:
        engine: holds the weights (whole, or sharded by ZeRO-3).
        path: target folder; complete or absent afterwards, also after a kill.
        source: checkpoint whose tokenizer and processor files go along unchanged.
        model: what to write, when the engine trains only a part of it.
    """
    with engine.gathered():
        if engine.rank == 0:
            write_checkpoint(engine.module if model is None else model, path, source)
    dist.barrier()


def write_checkpoint(model: Any, path: Path, source: Path) -> None:
    """Writes `model` in its own precision, with the processor files of `source`."""
    building = path.with_name(path.name + ".partial")
    shutil.rmtree(building, ignore_errors=True)
    with disk_guard(path):
        building.mkdir(parents=True)
        for file in Path(source).iterdir():
            if file.is_file() and not file.name.startswith(("model", "config.json")):
                shutil.copy2(file, building / file.name)
        model.save_pretrained(building)
    shutil.rmtree(path, ignore_errors=True)
    building.rename(path)
