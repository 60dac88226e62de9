"""`python -m pretrain stage=all|init|vit|text|align|multitask|anneal|fuse run=NAME key=value …`."""

from __future__ import annotations

import sys
from pathlib import Path

from pretrain.keye_vl.init import InitConfig, init_checkpoint
from pretrain.run.command import Command, main
from pretrain.run.directory import RunDir
from pretrain.stages.config import PretrainConfig
from pretrain.stages.pipeline import pretrain, print_summary


def run_stages(cfg: PretrainConfig) -> None:
    """Runs the stages asked for and prints their accuracies."""
    run = RunDir(Path("runs") / cfg.run)
    with run.exclusive():
        print_summary(pretrain(cfg, run))


COMMANDS = {
    "stages": Command("pretrain", PretrainConfig, run_stages, "run the pre-training stages"),
    "init": Command(
        "pretrain_init",
        InitConfig,
        init_checkpoint,
        "build a starting checkpoint from a SigLIP vision model and a Qwen3 model",
    ),
}

if __name__ == "__main__":
    sys.exit(main("pretrain", COMMANDS, default="stages"))
