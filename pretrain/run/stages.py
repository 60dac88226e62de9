"""The ledger: a stage that is complete under the same configuration is never run again.

A stage's identity is the hash of its configuration and of the stages it builds on, so a change
upstream re-runs everything downstream of it and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from pretrain.run.command import config_hash
from pretrain.run.console import say
from pretrain.run.directory import RunDir, StageDir
from pretrain.run.errors import KeyeError


def stage_hash(run: RunDir, cfg: Any, inputs: Sequence[str] = ()) -> str:
    """Identity of a stage: its configuration and the identities of the stages named `inputs`.

    Raises `KeyeError` if one of `inputs` is not complete.
    """
    parts = [config_hash(cfg)]
    for name in inputs:
        upstream = run.stage(name).summary().get("hash")
        if upstream is None:
            raise KeyeError(f"stage {name} in {run.path} is not complete; run it first.")
        parts.append(f"{name}={upstream}")
    if len(parts) == 1:
        return parts[0]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def run_stage(
    run: RunDir,
    name: str,
    cfg: Any,
    fn: Callable[[StageDir], dict[str, Any]],
    *,
    inputs: Sequence[str] = (),
) -> dict[str, Any]:
    """Run `fn` in stage `name`'s folder unless it is complete; return what `fn` returned.

    `fn` gets the stage's folder and resumes from its `state` by itself. `inputs` names the stages
    of this run whose checkpoints it reads. An exception leaves the stage resumable.
    """
    stage = run.stage(name)
    hash = stage_hash(run, cfg, inputs)
    if stage.is_complete(hash):
        say(f"{name}: already complete ({stage.summary_file})")
        return stage.summary()["metrics"]
    stage.begin(cfg, hash)
    say(f"{name}: {'resuming' if stage.state.exists() else 'starting'} in {stage.path}")
    metrics = fn(stage)
    stage.finish(metrics, hash)
    run.write_summary()
    return metrics
