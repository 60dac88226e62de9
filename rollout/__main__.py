"""`python -m rollout [COMMAND] key=value …`."""

from __future__ import annotations

import sys

from pretrain.run.command import Command, main
from rollout import generate

COMMANDS = {
    "generate": Command(
        config="rollout",
        schema=generate.GenerateConfig,
        run=generate.run,
        help="Sample responses of a checkpoint to a prompt with images or a video.",
    ),
}

if __name__ == "__main__":
    sys.exit(main("rollout", COMMANDS, default="generate"))
