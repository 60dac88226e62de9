"""`python -m rl recipe=quickstart`: post-training from the command line."""

from __future__ import annotations

import sys

from pretrain.run.command import Command, main
from rl.comparison.ablation import AblationConfig, run_ablation
from rl.comparison.command import CompareConfig, RubricCommandConfig, run_compare, run_rubric
from rl.config import RlConfig
from rl.evaluate_command import EvaluateConfig, run_evaluate
from rl.hints.command import HintsConfig, run_hints
from rl.recipes import run_recipe
from rl.review.command import run_review
from rl.review.config import ReviewConfig

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
        help="held-out accuracy of a checkpoint per mode and task, or public benchmarks",
    ),
    "compare": Command(
        config="compare",
        schema=CompareConfig,
        run=run_compare,
        help="Good/Same/Bad of two checkpoints: by rules, a judge, or the reward model",
    ),
    "rubric": Command(
        config="rubric",
        schema=RubricCommandConfig,
        run=run_rubric,
        help="a judge's marks of a checkpoint's responses: five dimensions, eight capabilities",
    ),
    "ablation": Command(
        config="ablation",
        schema=AblationConfig,
        run=run_ablation,
        help="accuracy per task and stage over several evaluations, with paired differences",
    ),
    "hints": Command(
        config="hints",
        schema=HintsConfig,
        run=run_hints,
        help="hints L1…L5 for a data file, written by a model and checked for leaks; resumable",
    ),
    "review": Command(
        config="review",
        schema=ReviewConfig,
        run=run_review,
        help="a local web page on which people accept, edit, drop and rank items",
    ),
}

if __name__ == "__main__":
    sys.exit(main("rl", COMMANDS, default="train"))
