"""Fixtures shared by all rooms: a tiny checkpoint, one Ray session, one vLLM engine.

Starting them takes 10, 5 and 15–30 seconds, so each exists once per test session. A test that
changes weights must put the checkpoint's own back (`checkpoint_weights`).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_MODE", "offline")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny Keye-VL-1.5 with the world's tokenizer; treat it as read-only."""
    from pretrain.data.world import corpus
    from pretrain.keye_vl.create import ModelConfig, create_checkpoint

    path = tmp_path_factory.mktemp("tiny") / "checkpoint"
    create_checkpoint(path, ModelConfig(), corpus(2000), seed=0)
    return path


@pytest.fixture(scope="session")
def processor(tiny_checkpoint: Path) -> Any:
    """The tiny checkpoint's processor."""
    from pretrain.keye_vl.checkpoint import load_processor

    return load_processor(tiny_checkpoint)


@pytest.fixture(scope="session")
def encoder(processor: Any) -> Any:
    """Encodes prompts for the tiny checkpoint, up to 512 tokens."""
    from pretrain.keye_vl.prompt import PromptEncoder

    return PromptEncoder(processor, 512)


@pytest.fixture
def tiny_model(tiny_checkpoint: Path) -> Any:
    """The tiny checkpoint's model in fp32 and evaluation mode; the test may change it."""
    from pretrain.keye_vl.checkpoint import load_model

    return load_model(tiny_checkpoint).eval()


@pytest.fixture(scope="session")
def checkpoint_weights(tiny_checkpoint: Path) -> dict[str, np.ndarray]:
    """The tiny checkpoint's weights as an engine is given them."""
    from safetensors.numpy import load_file

    return load_file(tiny_checkpoint / "model.safetensors")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray session for the whole test run."""
    from pretrain.run.ray_cluster import ray_session

    # More logical CPUs than cores: engines, ranks and workers of several fixtures live together.
    with ray_session(cpus=8, object_store_mb=256):
        yield


@pytest.fixture(scope="session")
def engine_config() -> Any:
    """Settings of the shared engines: small caches; patient, since test machines are busy."""
    from rollout.config import EngineConfig

    return EngineConfig(max_sequences=64, kv_cache_mb=128, hang_seconds=60.0, cpus=0.1)


@pytest.fixture(scope="session")
def engine_pool(ray_cluster: None, engine_config: Any, tiny_checkpoint: Path) -> Iterator[Any]:
    """One engine actor with the tiny checkpoint."""
    from rollout.engines import EnginePool

    pool = EnginePool(engine_config, str(tiny_checkpoint))
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def make_prompt(encoder: Any) -> Callable[..., Any]:
    """`make_prompt(text, sizes, seed)`: a prompt with noise images of `(height, width)` sizes."""

    def make(text: str, sizes: list[tuple[int, int]] | None = None, seed: int = 0) -> Any:
        rng = np.random.default_rng(seed)
        images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes or []]
        parts = [{"type": "image", "image": image} for image in images]
        parts.append({"type": "text", "text": text})
        return encoder.encode([{"role": "user", "content": parts}], f"{text}/{seed}")

    return make
