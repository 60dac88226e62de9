"""`python -m rl recipe=quickstart`: post-training from the command line."""

from __future__ import annotations

import sys

from pretrain.run.command import Command, main
from rl.config import RlConfig
from rl.evaluate_command import EvaluateConfig, run_evaluate
from rl.hints import HintsConfig, run_hints
from rl.recipes import run_recipe

COMMANDS = {
    "train": Command(
        config="rl",
        schema=RlConfig,
        run=run_recipe,
        help="run a recipe's stages: pre-training, cold start, GSPO, evaluation",
    ),
    "evaluate": Command(
        config="evaluate",
        schema=EvaluateConfig,
        run=run_evaluate,
        help="held-out accuracy of a checkpoint: greedy, at temperature 1, per mode and task",
    ),
    "hints": Command(
        config="hints",
        schema=HintsConfig,
        run=run_hints,
        help="hints L1…L5 for a data file, written by a model and checked for leaks; resumable",
    ),
}

if __name__ == "__main__":
    sys.exit(main("rl", COMMANDS, default="train"))
