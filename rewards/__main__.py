"""`python -m rewards score|calibrate|evaluate|list key=value …`."""

import sys

from pretrain.run.command import Command, main
from rewards import calibration, listing, score
from rewards.keye_rm import command as reward_model

COMMANDS = {
    "score": Command("rewards", score.ScoreConfig, score.run, "run a rule over a file"),
    "calibrate": Command(
        "rewards", calibration.CalibrateConfig, calibration.run, "hold a rule against labels"
    ),
    "evaluate": Command(
        "rewards_evaluate",
        reward_model.EvaluateRewardModelConfig,
        reward_model.run,
        "measure a Keye reward model on held-out pairs",
    ),
    "list": Command("rewards_list", listing.ListConfig, listing.run, "show every rule"),
}

if __name__ == "__main__":
    sys.exit(main("rewards", COMMANDS, default="score"))
