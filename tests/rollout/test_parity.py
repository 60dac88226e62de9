"""Engine and learner agree: same prompt ids, same log-probs, before and after a weight update."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pretrain.keye_vl.checkpoint import checkpoint_tensors
from pretrain.keye_vl.prompt import pack
from rollout.config import SamplingConfig
from rollout.tokens import forbidden_ids

PROMPTS = {
    "text": ("sum of the digits? 3+5", []),
    "one image": ("how many red?", [(84, 84)]),
    "images of different sizes": ("max of the digits?", [(84, 84), (140, 60), (30, 200)]),
}


@torch.no_grad()
def learner_logprobs(model, prompt, responses, temperature=1.0):
    """float32 `[sum of lengths]` of our own forward, forbidden ids masked."""
    packed = pack([prompt] * len(responses), responses, model.config)
    logits = model(**packed.model_inputs()).logits.reshape(-1, model.config.vocab_size)
    logits[:, model.forbidden] = -torch.inf
    logprobs = (logits / temperature).log_softmax(-1)
    return logprobs.gather(1, packed.targets[:, None])[:, 0].numpy()


@pytest.fixture
def model(tiny_model, processor):
    tiny_model.forbidden = forbidden_ids(processor.tokenizer)
    return tiny_model


def difference(model, group, temperature=1.0):
    ours = learner_logprobs(model, group[0].prompt, [t.response_ids for t in group], temperature)
    return np.abs(ours - np.concatenate([t.logprobs for t in group])).max()


@pytest.mark.parametrize("name", PROMPTS)
def test_logprobs_equal_our_forward(name, engine_pool, model, make_prompt):
    prompt = make_prompt(*PROMPTS[name])
    [group] = engine_pool.generate([prompt], SamplingConfig(max_tokens=48), seeds=[1], n=4)
    assert sum(len(t.response_ids) for t in group) > 48
    assert difference(model, group) < 1e-4


@pytest.fixture
def clip(encoder):
    """A slow frame, five fast repeats and a change, planned by the processor."""
    rng = np.random.default_rng(3)
    first, second = (rng.integers(0, 256, (84, 84, 3), dtype=np.uint8) for _ in range(2))
    video = [first] * 6 + [second]
    parts = [{"type": "video", "video": video}, {"type": "text", "text": "when?"}]
    return encoder.encode([{"role": "user", "content": parts}], "clip"), np.stack(video)


def test_slow_fast_video_for_a_group_of_eight(engine_pool, model, clip):
    """The second call finds the video in the processor's cache, where vLLM's own class fails."""
    prompt, _ = clip
    assert 1 in prompt.engine_kwargs["frame_types"][0]
    for seed in (1, 2):
        [group] = engine_pool.generate([prompt], SamplingConfig(max_tokens=24), seeds=[seed], n=8)
        assert difference(model, group) < 1e-4


def test_a_video_without_a_plan_is_planned_in_the_engine(engine_pool, model, clip):
    """The engine compares the ids its own plan gives with the learner's, and would refuse."""
    prompt, frames = clip
    bare = dataclasses.replace(prompt, engine_kwargs={}, engine_media={"video": [frames]})
    [group] = engine_pool.generate([bare], SamplingConfig(max_tokens=16), seeds=[4], n=2)
    assert difference(model, group) < 1e-4


def test_logprobs_are_of_the_tempered_distribution(engine_pool, model, make_prompt):
    prompt = make_prompt("how many red?", [(84, 84)])
    sampling = SamplingConfig(max_tokens=32, temperature=0.7)
    [group] = engine_pool.generate([prompt], sampling, seeds=[2], n=4)
    assert difference(model, group, temperature=0.7) < 1e-4


def test_logprobs_after_an_update_are_the_new_weights(
    engine_pool, model, make_prompt, checkpoint_weights
):
    """Image features, prefix cache and the tied output layer must all be renewed."""
    prompts = [make_prompt(*PROMPTS[name]) for name in PROMPTS]
    sampling = SamplingConfig(max_tokens=32)
    before = engine_pool.generate(prompts, sampling, seeds=[3] * 3, n=4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += torch.randn(weight.shape, generator=generator) * weight.std() * 0.3
    weights = {name: tensor.numpy() for name, tensor in checkpoint_tensors(model)}
    try:
        engine_pool.update_weights(weights, version=7)
        after = engine_pool.generate(prompts, sampling, seeds=[3] * 3, n=4)
        for old, new in zip(before, after, strict=True):
            assert difference(model, old) > 1e-2  # the update really changed the policy
            assert difference(model, new) < 1e-4
            assert {t.weight_version for t in new} == {7}
    finally:
        engine_pool.update_weights(checkpoint_weights, version=0)
    again = engine_pool.generate(prompts, sampling, seeds=[3] * 3, n=4)
    for old, new in zip(before, again, strict=True):
        for a, b in zip(old, new, strict=True):
            np.testing.assert_array_equal(a.response_ids, b.response_ids)


def test_visual_tokens_are_never_sampled(engine_pool, model, make_prompt):
    """Of 6,400 tokens of a nearly uniform policy over 500 ids about 90 would be visual ones."""
    prompts = [make_prompt("describe", [(84, 84)], seed) for seed in range(16)]
    sampling = SamplingConfig(max_tokens=100, ignore_eos=True, logprobs=False)
    groups = engine_pool.generate(prompts, sampling, seeds=list(range(16)), n=4)
    sampled = np.concatenate([t.response_ids for group in groups for t in group])
    assert len(sampled) == 6400
    assert len(model.forbidden) == 7
    assert not np.isin(sampled, model.forbidden).any()


def test_greedy_follows_the_argmax_of_our_forward(engine_pool, model, make_prompt):
    prompt = make_prompt("how many red?", [(84, 84)])
    sampling = SamplingConfig(max_tokens=12, temperature=0.0, ignore_eos=True)
    [[trajectory]] = engine_pool.generate([prompt], sampling, seeds=[0])
    packed = pack([prompt], [trajectory.response_ids], model.config)
    with torch.no_grad():
        logits = model(**packed.model_inputs()).logits.reshape(12, -1)
    logits[:, model.forbidden] = -torch.inf
    np.testing.assert_array_equal(logits.argmax(-1).numpy(), trajectory.response_ids)
