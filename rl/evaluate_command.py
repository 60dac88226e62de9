"""`python -m rl evaluate checkpoint=DIR`: held-out accuracy of one policy."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from pretrain.run.console import say, table
from pretrain.run.directory import atomic_write
from pretrain.run.errors import KeyeError
from pretrain.run.ray_cluster import ray_session
from rewards.config import RewardConfig
from rl.evaluate import KINDS, EvaluationConfig, evaluate
from rl.session import Session
from rl.stages import heldout_samples
from rollout.config import EngineConfig, SamplingConfig
from rollout.tools.config import ToolConfig


@dataclass
class EvaluateConfig:
    """Everything `python -m rl evaluate` can be told."""

    checkpoint: str = ""
    """Policy to measure: a Hugging Face directory."""
    out: str = ""
    """Folder for `evaluation.jsonl` (a row a prompt) and `evaluation.json` (tables); by default
    `evaluation` beside the checkpoint."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """What is asked, and in which modes."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """vLLM engines."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Limits of a response."""
    tools: ToolConfig = field(default_factory=ToolConfig)
    """What the policy may call in the middle of a response."""
    rewards: RewardConfig = field(default_factory=RewardConfig)
    """How responses are scored."""


def run_evaluate(cfg: EvaluateConfig) -> None:
    """Measure, print the tables, and write the records."""
    if not cfg.checkpoint:
        raise KeyeError("no checkpoint to evaluate: give checkpoint=DIRECTORY")
    checkpoint = Path(cfg.checkpoint)
    out = Path(cfg.out) if cfg.out else checkpoint.parent / "evaluation"
    out.mkdir(parents=True, exist_ok=True)
    samples = heldout_samples(cfg.evaluation, out)
    with (
        ray_session(),
        Session(cfg.engine, cfg.rewards, cfg.sampling, tools=cfg.tools) as session,
    ):
        result = evaluate(session.rollouts(checkpoint), samples, cfg.evaluation.modes)
    result.save(out / "evaluation.jsonl")
    tables = {
        "checkpoint": str(checkpoint),
        "table": result.table(),
        "by_task": result.by_task(),
        "behaviour": result.behaviour(),
    }
    atomic_write(out / "evaluation.json", json.dumps(tables, indent=2) + "\n")
    rows = [
        [mode, task, *(_leaf(kinds[kind]) for kind in KINDS), kinds["greedy"]["n"]]
        for mode, tasks in {m: {"all": t} for m, t in result.table().items()}.items()
        for task, kinds in (tasks | result.by_task()[mode]).items()
    ]
    table(f"{checkpoint} (95 % intervals)", ["mode", "task", *KINDS, "n"], rows)
    say(f"records: {out}")


def _leaf(leaf: dict[str, float]) -> str:
    return f"{leaf['value']:.3f} [{leaf['low']:.3f}, {leaf['high']:.3f}]"
