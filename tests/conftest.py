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

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
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
def tiny_qwen3(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny Qwen3 with the world's tokenizer: a policy that isn't ours."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    path = tmp_path_factory.mktemp("qwen3") / "checkpoint"
    tokenizer = _plain_tokenizer(tiny_checkpoint)
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = Qwen3Config(vocab_size=len(tokenizer), tie_word_embeddings=True, **DECODER)
    Qwen3ForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tiny_llava(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny LLaVA: CLIP tower on 56×56 images (16 tokens), Llama decoder."""
    import torch
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    path = tmp_path_factory.mktemp("llava") / "checkpoint"
    tokenizer = _plain_tokenizer(tiny_checkpoint)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    side = {"height": 56, "width": 56}
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size=side),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template.replace(
            "<|vision_start|><|image_pad|><|vision_end|>", "<image>"
        ),
    ).save_pretrained(path)
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(vocab_size=len(tokenizer), **DECODER),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    LlavaForConditionalGeneration(config).save_pretrained(path)
    return path


DECODER = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
"""Sizes of the other families' decoders."""


def _plain_tokenizer(checkpoint: Path) -> Any:
    """The world's tokenizer with its chat template, tied to no processor."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_file=str(checkpoint / "tokenizer.json"),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=(checkpoint / "chat_template.jinja").read_text(),
    )


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

    return EngineConfig(
        max_sequences=64, kv_cache_mb=128, hang_seconds=60.0, cpus=0.1, start_seconds=900.0
    )


@pytest.fixture(scope="session")
def engine_pool(ray_cluster: None, engine_config: Any, tiny_checkpoint: Path) -> Iterator[Any]:
    """One engine actor with the tiny checkpoint."""
    from rollout.engines import EnginePool

    pool = EnginePool(engine_config, str(tiny_checkpoint))
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def served(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of `python -m rollout serve` with the tiny checkpoint; a minute on a quiet core."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [f"checkpoint={tiny_checkpoint}", f"port={port}", "engine.kv_cache_mb=64"]
    url = f"http://127.0.0.1:{port}/v1"
    log = tmp_path_factory.mktemp("served") / "log.txt"
    with open(log, "wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "rollout", "serve", *arguments],
            cwd=Path(__file__).parents[1],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 1200
        while True:
            try:
                urllib.request.urlopen(f"{url}/models", timeout=10).close()
                break
            except OSError:
                waiting = server.poll() is None and time.monotonic() < deadline
                assert waiting, f"the server did not start:\n{log.read_text()[-3000:]}"
                time.sleep(0.5)
        yield url
        assert server.poll() is None, f"the server has ended:\n{log.read_text()[-3000:]}"
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


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


JUDGE_STEPS, JUDGE_BATCH = 200, 8


@pytest.fixture(scope="session")
def short_template():
    """Two dimensions and few words: a random model learns to write it in a hundred steps."""
    from rewards.keye_rm.templates import Template

    return Template(
        task="which is right?",
        before="{task}\n",
        after="\n{A}:{a}\n{B}:{b}",
        dimensions=dict.fromkeys(Template().dimensions, "") | {"safety": "s", "clarity": "l"},
        opening="{label}:",
        mark="{name}{mark}",
        between="",
        join=";",
    )


@pytest.fixture(scope="session")
def taught(tiny_checkpoint, encoder, short_template, tmp_path_factory):
    """A checkpoint that judges in the right form, in both modes; how well doesn't matter."""
    import torch
    import torch.nn.functional as F

    from pretrain.keye_vl.checkpoint import load_model
    from pretrain.keye_vl.prompt import pack
    from pretrain.training.checkpoint import write_checkpoint
    from rewards.keye_rm.pairs import example
    from rewards.keye_rm.world_pairs import WorldPairs, WorldPairsConfig

    torch.manual_seed(0)
    model = load_model(tiny_checkpoint, torch.float32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    tasks = {"text/arithmetic": 1.0, "digits/sum": 1.0}
    pairs = WorldPairs(WorldPairsConfig(tasks=tasks, defects={"safety": 1.0, "clarity": 1.0}))
    rng = np.random.default_rng(0)

    def shown(index: int) -> Any:
        """A pair; of every third one the responses are an untrained policy's noise."""
        if index % 3:
            return pairs[index]
        noise = [encoder.tokenizer.decode(rng.integers(300, 1400, 12)) for _ in range(2)]
        return replace(pairs[index], good=noise[0], bad=noise[1])

    for step in range(JUDGE_STEPS):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 10) * (1 - step / JUDGE_STEPS)
        encoded = []
        for index in range(step * JUDGE_BATCH, (step + 1) * JUDGE_BATCH):
            mode, swapped = ("think", "no_think")[index % 2], bool(rng.integers(2))
            asked = example(shown(index), short_template, mode, swapped)
            encoded.append(encoder.encode_example(asked, "test"))
        prompts, replies = zip(*encoded, strict=True)
        packed = pack(prompts, replies, model.config)
        logits = model(**packed.model_inputs()).logits.reshape(-1, model.config.vocab_size)
        loss = F.cross_entropy(logits, packed.targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    path = tmp_path_factory.mktemp("reward_model") / "checkpoint"
    write_checkpoint(model, path, tiny_checkpoint)
    short_template.save(path)
    return path
