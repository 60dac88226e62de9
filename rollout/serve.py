"""`python -m rollout serve`: vLLM's OpenAI-compatible server with our model class and plugin.

Served media take the way of training: images through the checkpoint's image processor, videos
through its Slow-Fast plan (`rollout.vllm_model`), so a prompt has the ids it has in Python.
"""

import asyncio
import json
import os
import socket
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
    """Hugging Face directory, e.g. runs/quickstart/gspo/checkpoint."""
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
    """Command-line arguments of vLLM's server."""
    from rollout.vllm_plugin import VIDEO_BACKEND

    engine = config.engine
    options = {
        "host": config.host,
        "port": config.port,
        "served-model-name": config.name,
        "dtype": engine.dtype,
        "model-impl": engine.model_class,
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
        # An unsure model may otherwise fill a JSON answer with blanks up to its limit.
        "structured-outputs-config": json.dumps(
            {"backend": "xgrammar", "disable_any_whitespace": True}
        ),
    }
    if config.media_root:
        options["allowed-local-media-path"] = config.media_root
    flags = [] if engine.cuda_graphs else ["--enforce-eager"]
    if not engine.prefix_caching:
        flags.append("--no-enable-prefix-caching")
    pairs = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    return ["--model", config.checkpoint, *pairs, *flags]


def run(config: ServeConfig) -> None:
    """Serve until SIGINT or SIGTERM.

    `vllm serve` itself asks for the installed package's version under the name `vllm`, which the
    CPU wheel hasn't got; below its command line, this is the same server with the same arguments.
    """
    if not config.checkpoint:
        raise ConfigError("give checkpoint=DIRECTORY, e.g. runs/quickstart/gspo/checkpoint")
    if not (Path(config.checkpoint) / "config.json").is_file():
        raise KeyeError(f"no checkpoint at {config.checkpoint} (no config.json there)")
    _check_port(config.host, config.port)
    for key, value in engine_environment(config.engine).items():
        os.environ.setdefault(key, value)
    # The engine core is a process of its own in any case, and our entry point reaches it. On CPU
    # this keeps the worker inside it: a process less to start (12 s, 0.7 GB).
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1" if config.engine.gpus else "0"
    from vllm.entrypoints.launchers.api_server.entry import run_server
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from rollout import vllm_plugin

    vllm_plugin.register()
    vllm_plugin.check_registered()
    cli_env_setup()
    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(server_arguments(config))
    validate_parsed_serve_args(arguments)
    say(f"serving {config.checkpoint} as {config.name!r} on http://{config.host}:{config.port}/v1")
    try:
        asyncio.run(run_server(arguments))
    except ValueError as error:  # settings that don't fit the checkpoint
        raise KeyeError(f"vLLM can't serve {config.checkpoint}: {error}") from error


def _check_port(host: str, port: int) -> None:
    """A taken port is named at once, not after the model has been loaded."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise KeyeError(
                f"can't listen on {host}:{port}: {error.strerror}. Give another port=, or end the "
                "server that is there."
            ) from error
