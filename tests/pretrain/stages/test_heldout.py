"""Greedy evaluation against plain token-by-token decoding."""

import numpy as np
import pytest
import torch

from pretrain.data.render import render
from pretrain.data.stream import heldout
from pretrain.stages.config import HeldOutConfig
from pretrain.stages.heldout import _decode, _predict, heldout_samples, single_digits


@pytest.fixture
def prompts(encoder):
    samples = heldout({"digits/read": 1.0, "text/arithmetic": 1.0}, 4, seed=3)
    return [encoder.encode(render(sample), sample.id) for sample in samples]


@torch.no_grad()
def greedy(model, prompt, tokens: int) -> list[int]:
    """The likeliest continuation, one unpacked forward pass per token."""
    ids = prompt.ids.tolist()
    media = {}
    if prompt.pixel_values is not None:
        media["pixel_values"] = torch.from_numpy(prompt.pixel_values)
        media["grid_thw"] = torch.from_numpy(prompt.grid_thw)
    for _ in range(tokens):
        logits = model(
            torch.tensor([ids]), prompt_lengths=torch.tensor([len(prompt.ids)]), **media
        ).logits
        ids.append(int(logits[0, -1].argmax()))
    return ids[len(prompt.ids) :]


def test_decode_equals_plain_greedy_decoding(tiny_model, encoder, prompts):
    with torch.no_grad():
        texts = _decode(tiny_model, encoder, prompts, [3, 5, 4, 5])
    for prompt, text, limit in zip(prompts, texts, [3, 5, 4, 5], strict=True):
        expected = greedy(tiny_model, prompt, limit)
        end = tiny_model.config.eos_token_id
        expected = expected[: expected.index(end)] if end in expected else expected
        assert text == encoder.tokenizer.decode(expected)


def test_teacher_forced_agreement_is_greedy_decoding(tiny_model, prompts):
    replies = [np.array(greedy(tiny_model, prompt, 4), np.int32) for prompt in prompts]
    with torch.no_grad():
        predicted = _predict(tiny_model, prompts, replies)
    assert [guess.tolist() for guess in predicted] == [reply.tolist() for reply in replies]
    replies[0][2] += 1  # another answer: the model disagrees at that place, and still before it
    with torch.no_grad():
        changed = _predict(tiny_model, prompts, replies)[0]
    assert changed[:3].tolist() == predicted[0][:3].tolist()
    assert changed[2] != replies[0][2]


def test_every_task_has_its_samples_in_both_modes():
    cfg = HeldOutConfig(tasks=["digits/read", "digits/sum"], samples=5)
    kinds = [(kind, sample.task_type, sample.mode) for kind, sample in heldout_samples(cfg, True)]
    assert kinds.count(("no_think", "digits/read", "no_think")) == 5
    assert kinds.count(("no_think", "digits/sum", "no_think")) == 5
    assert kinds.count(("think", "digits/sum", "think")) == 5  # reading has no reasoning
    assert kinds.count(("reading", "digits/read", "no_think")) == 10
    assert len(kinds) == 25


def test_reading_samples_show_one_held_out_digit():
    samples = single_digits(HeldOutConfig(samples=20))
    assert len(samples) == 40
    assert all(len(sample.answer) == 1 and "/test/" in sample.id for sample in samples)
