"""Responses cut short by a weight update go on under the new weights, token by token."""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest
import torch

from pretrain.keye_vl.checkpoint import checkpoint_tensors
from pretrain.keye_vl.prompt import pack
from rollout.config import SamplingConfig
from rollout.tokens import forbidden_ids

LONG = SamplingConfig(max_tokens=160, ignore_eos=True)


@pytest.fixture
def prompts(encoder, make_prompt):
    """Text, one image, several images, and a video of slow and fast frames."""
    rng = np.random.default_rng(3)
    first, second = (rng.integers(0, 256, (84, 84, 3), dtype=np.uint8) for _ in range(2))
    parts = [{"type": "video", "video": [first] * 6 + [second]}, {"type": "text", "text": "when?"}]
    return [
        make_prompt("sum of the digits? 3+5", []),
        make_prompt("how many red?", [(84, 84)]),
        make_prompt("max of the digits?", [(84, 84), (140, 60), (56, 112)]),
        encoder.encode([{"role": "user", "content": parts}], "clip"),
    ]


@torch.no_grad()
def learner_logprobs(model, processor, trajectory):
    """float32 `[R]` of our own forward over the whole response, forbidden ids masked."""
    packed = pack([trajectory.prompt], [trajectory.response_ids], model.config)
    logits = model(**packed.model_inputs()).logits.reshape(-1, model.config.vocab_size)
    logits[:, forbidden_ids(processor.tokenizer)] = -torch.inf
    return logits.log_softmax(-1).gather(1, packed.targets[:, None])[:, 0].numpy()


def generate_and_pause(pool, prompts, n, seconds):
    """The groups of a `generate` that is paused after `seconds`."""
    result = {}

    def run():
        result["groups"] = pool.generate(prompts, LONG, seeds=list(range(len(prompts))), n=n)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(seconds)
    pool.pause()
    thread.join()
    pool.resume()
    return result["groups"]


def interrupted(pool, prompts, n):
    """Tries until some response was cut in its middle: how far a second gets depends on load."""
    for attempt in range(40):
        groups = generate_and_pause(pool, prompts, n, seconds=0.05 * 2 ** (attempt % 5))
        cut = [t for g in groups for t in g if t.finish_reason == "paused" and len(t.response_ids)]
        if cut:
            return groups
    raise AssertionError("generation was never caught in its middle")


def test_a_continuation_has_the_old_and_the_new_policys_logprobs(
    engine_pool, tiny_model, processor, prompts, checkpoint_weights
):
    """With prefix caching on: keys and values of the old weights must not be read again."""
    assert engine_pool.config.prefix_caching
    started = interrupted(engine_pool, prompts, n=8)
    old = {id(t): learner_logprobs(tiny_model, processor, t) for g in started for t in g}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in tiny_model.parameters():
            weight += torch.randn(weight.shape, generator=generator) * weight.std() * 0.3
    weights = {name: tensor.numpy() for name, tensor in checkpoint_tensors(tiny_model)}
    try:
        engine_pool.update_weights(weights, version=7)
        done = engine_pool.complete(started, LONG)
    finally:
        engine_pool.update_weights(checkpoint_weights, version=0)
    stale = 0
    for first, last in zip(
        (t for g in started for t in g), (t for g in done for t in g), strict=True
    ):
        cut = len(first.response_ids)
        assert len(last.response_ids) == LONG.max_tokens and last.finish_reason == "length"
        np.testing.assert_array_equal(last.response_ids[:cut], first.response_ids)
        assert np.abs(old[id(first)] - last.logprobs[:cut]).max(initial=0.0) < 1e-4
        if first.finish_reason == "paused":
            assert last.stale_tokens == cut and last.weight_version == 7
            new = learner_logprobs(tiny_model, processor, last)
            assert np.abs(new[cut:] - last.logprobs[cut:]).max() < 1e-4
            stale += cut
    assert stale > 0


def test_an_interruption_without_an_update_changes_nothing(engine_pool, prompts):
    """The noise is counted by token, so the continuation samples what would have come anyway."""
    whole = engine_pool.generate(prompts, LONG, seeds=list(range(len(prompts))), n=2)
    joined = engine_pool.complete(interrupted(engine_pool, prompts, n=2), LONG)
    for one, other in zip(whole, joined, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a.response_ids, b.response_ids)
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-4)
    short = dataclasses.replace(LONG, max_tokens=8)
    assert len(engine_pool.generate(prompts[:1], short, seeds=[0])[0][0].response_ids) == 8
