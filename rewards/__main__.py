"""`python -m rewards score|list|calibrate key=value …`."""

import sys

from pretrain.run.command import Command, main
from rewards import calibration, listing, score

COMMANDS = {
    "score": Command("rewards", score.ScoreConfig, score.run, "run a rule over a file"),
    "calibrate": Command(
        "rewards", calibration.CalibrateConfig, calibration.run, "hold a rule against labels"
    ),
    "list": Command("rewards_list", listing.ListConfig, listing.run, "show every rule"),
}

if __name__ == "__main__":
    sys.exit(main("rewards", COMMANDS, default="score"))
