"""`python -m rewards evaluate checkpoint=DIR`: how good a reward model is, and how biased."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from pretrain.run.console import say
from pretrain.run.directory import atomic_write
from pretrain.run.errors import ConfigError
from rewards.keye_rm.config import HeldoutPairsConfig, RewardModelConfig
from rollout.config import EngineConfig


@dataclass
class EvaluateRewardModelConfig:
    """Everything `python -m rewards evaluate` can be told."""

    checkpoint: str = ""
    """The reward model: a Hugging Face directory with its template (`reward_model.json`)."""
    out: str = ""
    """Folder for `pairs.jsonl` (a row a pair and mode) and `evaluation.json`; by default
    `evaluation` beside the checkpoint."""
    heldout: HeldoutPairsConfig = field(default_factory=HeldoutPairsConfig)
    """What is judged."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """vLLM engines."""
    max_tokens: int = 512
    """Longest judgement in think mode."""


def run(config: EvaluateRewardModelConfig) -> int:
    """Judge all pairs, print the tables, write the records."""
    # Here, because torch and Ray take seconds to load and no other command needs them.
    from pretrain.run.ray_cluster import ray_session
    from rewards.keye_rm import evaluate
    from rewards.keye_rm.measures import report
    from rewards.keye_rm.model import KeyeRewardModel

    if not config.checkpoint:
        raise ConfigError("evaluate needs checkpoint=DIRECTORY, a reward model")
    checkpoint = Path(config.checkpoint)
    out = Path(config.out) if config.out else checkpoint.parent / "evaluation"
    served = RewardModelConfig(
        checkpoint=config.checkpoint,
        engine=config.engine,
        max_tokens=config.max_tokens,
        samples=config.heldout.samples,
    )
    pairs = evaluate.heldout_pairs(config.heldout, out)
    with ray_session():
        model = KeyeRewardModel.open(served)
        try:
            records = evaluate.judge_pairs(model, pairs, config.heldout.modes)
        finally:
            model.close()
    found = report(records)
    evaluate.save_records(out / "pairs.jsonl", records)
    atomic_write(out / "evaluation.json", json.dumps(found, indent=2) + "\n")
    evaluate.show(found, str(checkpoint))
    say(f"records: {out}")
    return 0
