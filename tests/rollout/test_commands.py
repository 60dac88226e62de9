"""`python -m rollout generate` and `chat` as a person runs them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.data.stream import WorldStream
from pretrain.run.errors import KeyeError
from rollout.chat import Conversation
from rollout.config import SamplingConfig
from rollout.generate import user_message
from rollout.seeds import stable_seed

ENGINE = ["engine.kv_cache_mb=64", "sampling.max_tokens=8", "sampling.ignore_eos=true"]


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("media") / "a = picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (84, 84, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("media") / "clip.mp4"
    path.write_bytes(WorldStream({"video/change": 1}, 5)[0].media()[0]["video"])
    return path


def rollout(*words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rollout", *words],
        cwd=Path(__file__).parents[2],
        input=typed,
        capture_output=True,
        text=True,
        timeout=1200,
    )


def expected(pool, encoder, messages: list[dict], seeds: list[int], sampling) -> list[str]:
    """Texts that the pool's engine gives for the same seeds."""
    prompt = encoder.encode(messages, "prompt")
    groups = pool.generate([prompt] * len(seeds), sampling, seeds=seeds)
    decode = encoder.tokenizer.decode
    return [decode(g[0].response_ids.tolist(), skip_special_tokens=True) for g in groups]


@pytest.mark.slow
def test_generate_prints_what_the_engine_samples(
    tiny_checkpoint, picture, encoder, engine_pool, processor
):
    prompt = "how many red, blue=3?"
    done = rollout(
        "generate", f"checkpoint={tiny_checkpoint}", f"prompt={prompt}", f"image={picture}",
        "mode=no_think", "n=3", "seed=7", *ENGINE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    message = user_message(prompt, [str(picture)], [], "no_think")
    sampling = SamplingConfig(max_tokens=8, ignore_eos=True)
    [group] = engine_pool.generate([encoder.encode([message], "p")], sampling, seeds=[7], n=3)
    for k, trajectory in enumerate(group):
        ids = trajectory.response_ids.tolist()
        text = processor.tokenizer.decode(ids, skip_special_tokens=True)
        mean = trajectory.logprobs.mean()
        shown = f"[{k + 1}/3] {text}\n      8 tokens, length, mean log-prob {mean:.3f}"
        # `subprocess` reads text with all line ends made the same.
        assert shown.replace("\r\n", "\n").replace("\r", "\n") in done.stdout


@pytest.mark.slow
def test_chat_is_a_conversation_with_media(tiny_checkpoint, picture, clip, encoder, engine_pool):
    typed = [
        f"/image {picture}",
        "how many red?",
        "and blue?",
        "/sing",
        "/image nowhere.png",
        "what is this?",
        "/new",
        f"/video {clip}",
        "when?",
        "/quit",
        "never sent",
    ]
    done = rollout(
        "chat", f"checkpoint={tiny_checkpoint}", "mode=think", "prompt=sum?", *ENGINE,
        "sampling.temperature=0", typed="\n".join(typed) + "\n",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "/sing is no command" in done.stderr
    assert re.search(r"nowhere\.png.*The message is forgotten", done.stderr)

    sampling = SamplingConfig(max_tokens=8, ignore_eos=True, temperature=0.0)
    turns = [("sum?", [], []), ("how many red?", [str(picture)], [])]
    turns += [("and blue?", [], []), ("when?", [], [str(clip)])]
    replies, messages = [], []
    for text, images, videos in turns:
        messages = [] if text == "when?" else messages
        messages.append(user_message(text, images, videos, "think"))
        [reply] = expected(engine_pool, encoder, messages, [0], sampling)
        messages.append({"role": "assistant", "content": reply})
        replies.append(reply)
    assert done.stdout.endswith("\n".join(replies) + "\n")


def conversation(replies: list) -> tuple[Conversation, list]:
    """A conversation that is answered from a list, and what it asked."""
    asked: list = []

    def answer(messages, turn):
        asked.append((messages, turn))
        reply = replies.pop(0)
        if isinstance(reply, KeyeError):
            raise reply
        yield from reply

    return Conversation(answer, "think"), asked


def test_a_reply_grows_and_becomes_part_of_the_conversation(capsys):
    half = "\N{REPLACEMENT CHARACTER}"
    talk, asked = conversation([["é", f"é{half}", "éü"], ["two"]])
    assert talk.line("one?\n") and talk.line("  \n") and talk.line("two?\n")
    assert capsys.readouterr().out == "éü\ntwo\n"
    (first, turn), (second, later) = asked
    assert (len(first), turn, len(second), later) == (1, 0, 3, 1)
    assert second[1] == {"role": "assistant", "content": "éü"}
    assert not talk.line("/quit")


def test_a_bad_message_is_forgotten_with_its_media(capsys, picture):
    talk, asked = conversation([KeyeError("message 1: it has no end."), ["fine"]])
    talk.line("/image nowhere.png")
    talk.line("what?")
    talk.line(f"/image {picture}")
    talk.line("what?")
    talk.line("again?")
    errors = capsys.readouterr().err
    assert "missing file nowhere.png" in errors and "it has no end. The message is" in errors
    assert [len(messages) for messages, _ in asked] == [1, 1]
    kinds = [[part["type"] for part in messages[0]["content"]] for messages, _ in asked]
    assert kinds == [["image", "text"], ["text"]]


def test_seeds_of_a_conversation_differ_from_turn_to_turn():
    assert stable_seed(0, 0) != stable_seed(0, 1)


def test_what_is_missing_is_named_before_anything_loads(tmp_path):
    done = rollout("generate", "prompt=hi")
    assert done.returncode == 2 and "checkpoint=DIRECTORY" in done.stderr
