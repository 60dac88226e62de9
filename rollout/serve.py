"""`python -m rollout serve`: vLLM's OpenAI-compatible server with our model class and plugin.

Served media take the way of training: images through the checkpoint's image processor, videos
through its Slow-Fast plan (`rollout.vllm_model`), so a prompt has the ids it has in Python.
"""

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from pretrain.run.console import say
from pretrain.run.errors import ConfigError, KeyeError
from rollout.config import EngineConfig
from rollout.engine import engine_environment


@dataclass
class ServeConfig:
    """What to serve and where."""

    checkpoint: str = ""
    """Hugging Face directory, e.g. runs/quickstart/rl/checkpoint."""
    name: str = "keye"
    """Name of the model in requests."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 opens the server to the network."""
    port: int = 8000
    """Port to listen on."""
    media_root: str = ""
    """Folder whose files requests may name as file:// URLs; empty: none."""
    engine: EngineConfig = field(default_factory=EngineConfig)


def server_arguments(config: ServeConfig) -> list[str]:
    """Command-line arguments of `vllm serve`."""
    from rollout.vllm_plugin import VIDEO_BACKEND

    engine = config.engine
    options = {
        "host": config.host,
        "port": config.port,
        "served-model-name": config.name,
        "dtype": engine.dtype,
        "max-model-len": engine.max_length,
        "max-num-seqs": engine.max_sequences,
        "max-num-batched-tokens": max(engine.max_batched_tokens, engine.max_length),
        "kv-cache-memory-bytes": engine.kv_cache_mb << 20,
        "block-size": engine.block_size,
        "limit-mm-per-prompt": json.dumps({"image": engine.max_images, "video": 1}),
        # num_frames: the processor's own settings decide, not vLLM's 32 frames.
        "media-io-kwargs": json.dumps(
            {"video": {"video_backend": VIDEO_BACKEND, "num_frames": -1}}
        ),
        "generation-config": "vllm",
    }
    if config.media_root:
        options["allowed-local-media-path"] = config.media_root
    flags = [] if engine.cuda_graphs else ["--enforce-eager"]
    if not engine.prefix_caching:
        flags.append("--no-enable-prefix-caching")
    pairs = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    return [config.checkpoint, *pairs, *flags]


def run(config: ServeConfig) -> None:
    """Become the server process; it ends on SIGINT or SIGTERM."""
    if not config.checkpoint:
        raise ConfigError("give checkpoint=DIRECTORY, e.g. runs/quickstart/rl/checkpoint")
    if not (Path(config.checkpoint) / "config.json").is_file():
        raise KeyeError(f"no checkpoint at {config.checkpoint} (no config.json there)")
    for key, value in engine_environment(config.engine).items():
        os.environ.setdefault(key, value)
    # The server's engine core is a process of its own; our entry point reaches it.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
    say(f"serving {config.checkpoint} as {config.name!r} on http://{config.host}:{config.port}/v1")
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve"]
    sys.stdout.flush()
    os.execv(sys.executable, [*command, *server_arguments(config)])
