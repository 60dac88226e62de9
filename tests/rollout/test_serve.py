"""The served checkpoint, asked by the `openai` client, answers as the Python path does."""

from __future__ import annotations

import base64
import io
import itertools
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import openai
import pytest
from PIL import Image

from pretrain.data.stream import WorldStream
from pretrain.run.errors import KeyeError
from rollout.config import EngineConfig, SamplingConfig
from rollout.serve import ServeConfig, run, server_arguments

GREEDY = SamplingConfig(temperature=0.0, max_tokens=16, ignore_eos=True)


def uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def png(height: int, width: int) -> bytes:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def served_part(part: dict) -> dict:
    """One of our message parts as the OpenAI interface spells it."""
    kind = part["type"]
    if kind == "text":
        return part
    return {"type": f"{kind}_url", f"{kind}_url": {"url": part[kind]}}


def parts_of(case: str) -> list[dict]:
    text = {"type": "text", "text": "how many red? /no_think"}
    image = {"type": "image", "image": uri("image/png", png(84, 84))}
    wide = {"type": "image", "image": uri("image/png", png(60, 150))}
    if case == "video":
        clip = WorldStream({"video/change": 1}, 5)[0].media()[0]["video"]
        return [{"type": "video", "video": uri("video/mp4", clip)}, text]
    return {"text": [text], "image": [image, text], "images": [image, text, wide]}[case]


def decoded(part: dict) -> dict:
    """Images as arrays, as `pretrain.data.media` hands them to the encoder."""
    if part["type"] != "image":
        return part
    data = base64.b64decode(part["image"].partition(",")[2])
    return {"type": "image", "image": np.asarray(Image.open(io.BytesIO(data)))}


@pytest.mark.slow
@pytest.mark.parametrize("case", ["text", "image", "images", "video"])
def test_served_prompts_and_greedy_answers_are_those_of_python(case, served, encoder, engine_pool):
    parts = parts_of(case)
    messages = [{"role": "user", "content": [decoded(part) for part in parts]}]
    prompt = encoder.encode(messages, case)
    [[expected]] = engine_pool.generate([prompt], GREEDY, seeds=[0])
    client = openai.OpenAI(base_url=served, api_key="none", max_retries=0, timeout=200)
    for _ in range(2):  # the second time the media come from the server's cache
        answer = client.chat.completions.create(
            model="keye",
            messages=[{"role": "user", "content": [served_part(part) for part in parts]}],
            temperature=0.0,
            max_tokens=GREEDY.max_tokens,
            extra_body={"return_token_ids": True, "ignore_eos": True},
        )
        assert answer.prompt_token_ids == prompt.ids.tolist()
        assert answer.usage.prompt_tokens == len(prompt.ids)
        assert answer.choices[0].token_ids == expected.response_ids.tolist()
        assert len(answer.choices[0].token_ids) == GREEDY.max_tokens
        assert answer.choices[0].finish_reason == "length"


@pytest.mark.slow
def test_what_cannot_be_served_is_refused_and_the_server_goes_on(served):
    client = openai.OpenAI(base_url=served, api_key="none", max_retries=0, timeout=200)

    def ask(*parts: dict) -> openai.types.chat.ChatCompletion:
        content = [*parts, {"type": "text", "text": "sum?"}]
        return client.chat.completions.create(
            model="keye", messages=[{"role": "user", "content": content}], max_tokens=2
        )

    broken = uri("video/mp4", b"this is no video")
    with pytest.raises(openai.BadRequestError, match="can't be read as a video"):
        ask({"type": "video_url", "video_url": {"url": broken}})
    with pytest.raises(openai.APIStatusError, match="allowed-local-media-path"):
        ask({"type": "image_url", "image_url": {"url": "file:///etc/hostname"}})
    assert ask().usage.completion_tokens == 2


@pytest.mark.slow
def test_settings_beyond_the_checkpoint_are_an_error_without_traceback(tiny_checkpoint):
    settings = [f"checkpoint={tiny_checkpoint}", "port=0", "engine.max_length=4096"]
    done = subprocess.run(
        [sys.executable, "-m", "rollout", "serve", *settings],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 2
    assert "max_model_len (4096) is greater than" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_and_a_missing_checkpoint_are_named(tiny_checkpoint, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(KeyeError, match=rf"127\.0\.0\.1:{port}: Address already in use"):
            run(ServeConfig(checkpoint=str(tiny_checkpoint), port=port))
    with pytest.raises(KeyeError, match=r"no checkpoint at .*nowhere"):
        run(ServeConfig(checkpoint=str(tmp_path / "nowhere")))


def test_settings_become_the_servers_arguments():
    engine = EngineConfig(
        max_length=4096, kv_cache_mb=64, prefix_caching=False, model_class="transformers"
    )
    arguments = server_arguments(ServeConfig(checkpoint="dir", name="m", engine=engine))
    pairs = dict(itertools.pairwise(arguments))
    assert pairs["--model"] == "dir" and pairs["--served-model-name"] == "m"
    assert pairs["--max-model-len"] == "4096" and pairs["--kv-cache-memory-bytes"] == str(64 << 20)
    assert pairs["--model-impl"] == "transformers"
    assert "--no-enable-prefix-caching" in arguments and "--enforce-eager" in arguments
    assert "--allowed-local-media-path" not in arguments
    opened = server_arguments(ServeConfig(checkpoint="dir", media_root="/data"))
    assert opened[opened.index("--allowed-local-media-path") + 1] == "/data"
