"""`python -m rollout [COMMAND] key=value …`."""

from __future__ import annotations

import os
import sys

# Before torch loads: two OpenMP threads on contended cores can cost ten times one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pretrain.run.command import Command, main
from rollout import chat, generate, serve

COMMANDS = {
    "generate": Command(
        config="rollout",
        schema=generate.GenerateConfig,
        run=generate.run,
        help="Sample responses of a checkpoint to a prompt with images or a video.",
    ),
    "chat": Command(
        config="rollout",
        schema=chat.ChatConfig,
        run=chat.run,
        help="Talk with a checkpoint in the terminal, images and videos included.",
    ),
    "serve": Command(
        config="serve",
        schema=serve.ServeConfig,
        run=serve.run,
        help="Serve a checkpoint over the OpenAI-compatible HTTP interface of vLLM.",
    ),
}

if __name__ == "__main__":
    sys.exit(main("rollout", COMMANDS, default="generate"))
