"""`python -m rl evaluate checkpoint=DIR`: held-out accuracy of one policy, or public benchmarks."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain.run.console import say, table
from pretrain.run.directory import atomic_write
from pretrain.run.errors import ConfigError, KeyeError
from pretrain.run.ray_cluster import ray_session
from rewards.config import RewardConfig
from rewards.keye_rm.config import RewardModelConfig
from rl.benchmarks.command import load_benchmarks, run_benchmarks
from rl.benchmarks.config import BenchmarkConfig
from rl.evaluate import KINDS, EvaluationConfig, evaluate, reasoning_by_difficulty
from rl.session import Session
from rl.stages import heldout_samples
from rl.tool_tasks import with_documents
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
    benchmarks: list[str] = field(default_factory=list)
    """Public benchmarks to run instead: mmmu, ai2d, mmbench, mmstar, ocrbench, hallusionbench,
    mathvista, videomme, videommmu, tempcompass."""
    benchmark_dir: str = ""
    """Directory with their files; nothing is downloaded."""
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    """How they are read, asked and scored."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """vLLM engines."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Limits of a response."""
    tools: ToolConfig = field(default_factory=ToolConfig)
    """What the policy may call in the middle of a response."""
    rewards: RewardConfig = field(default_factory=RewardConfig)
    """How responses are scored."""
    reward_model: RewardModelConfig = field(default_factory=RewardModelConfig)
    """The reward model behind `keye_rm` entries of the rewards."""


def run_evaluate(cfg: EvaluateConfig) -> None:
    """Measure, print the tables, and write the records."""
    if not cfg.checkpoint:
        raise KeyeError("no checkpoint to evaluate: give checkpoint=DIRECTORY")
    if cfg.benchmarks and cfg.tools.names:
        raise ConfigError(
            f"benchmarks={cfg.benchmarks} are asked without tools, but tools.names="
            f"{cfg.tools.names}; leave one of the two out"
        )
    checkpoint = Path(cfg.checkpoint)
    out = Path(cfg.out) if cfg.out else checkpoint.parent / "evaluation"
    out.mkdir(parents=True, exist_ok=True)
    if cfg.benchmarks:
        _benchmarks(cfg, checkpoint, out)
        return
    samples = heldout_samples(cfg.evaluation, out)
    tools = with_documents(cfg.tools, out)
    with (
        ray_session(),
        Session(cfg.engine, cfg.rewards, cfg.sampling, cfg.reward_model, tools) as session,
    ):
        result = evaluate(session.rollouts(checkpoint), samples, cfg.evaluation.modes)
    result.save(out / "evaluation.jsonl")
    tables: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "table": result.table(),
        "by_task": result.by_task(),
        "behaviour": result.behaviour(),
        "reasoning_by_difficulty": reasoning_by_difficulty(result),
    }
    atomic_write(out / "evaluation.json", json.dumps(tables, indent=2) + "\n")
    rows = [
        [mode, task, *(_leaf(kinds[kind]) for kind in KINDS), kinds["greedy"]["n"]]
        for mode, tasks in {m: {"all": t} for m, t in result.table().items()}.items()
        for task, kinds in (tasks | result.by_task()[mode]).items()
    ]
    table(f"{checkpoint} (95 % intervals)", ["mode", "task", *KINDS, "n"], rows)
    _show_reasoning(tables["reasoning_by_difficulty"])
    say(f"records: {out}")


def _benchmarks(cfg: EvaluateConfig, checkpoint: Path, out: Path) -> None:
    loaded = load_benchmarks(cfg.benchmarks, cfg.benchmark_dir, cfg.benchmark)
    with (
        ray_session(),
        Session(cfg.engine, cfg.rewards, cfg.sampling) as session,
    ):
        run_benchmarks(loaded, session.rollouts(checkpoint), cfg.benchmark, checkpoint, out)


def _show_reasoning(found: dict[str, list[dict[str, Any]]]) -> None:
    """How often auto_think reasons, by how often no_think is right on the same prompt."""
    rows = [
        [task, _band(band), _leaf(band["reasoned"]), _leaf(band["accuracy"]), band["n"]]
        for task, bands in found.items()
        for band in bands
    ]
    if rows:
        columns = ["task", "no_think accuracy", "reasoned", "auto_think accuracy", "n"]
        table("auto_think by difficulty", columns, rows)


def _band(band: dict[str, Any]) -> str:
    return "0" if band["to"] == 0 else f"({band['above']:g}, {band['to']:g}]"


def _leaf(leaf: dict[str, float]) -> str:
    return f"{leaf['value']:.3f} [{leaf['low']:.3f}, {leaf['high']:.3f}]"
