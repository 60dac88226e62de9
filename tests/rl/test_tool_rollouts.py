"""Tools with the real engine, reward workers and learner.

A random policy never writes a call, so its first turn is put into its mouth; everything after it is
sampled by the engine, from a prompt that holds the result.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pretrain.data.sample import Sample
from rewards.config import RewardConfig
from rewards.pool import RewardPool
from rl.groups import to_training
from rl.learner import LearnerConfig, LearnerGroup
from rl.rollouts import Rollouts, rollout_metrics
from rollout.config import SamplingConfig
from rollout.engine import Response
from rollout.tools import DocumentIndex, Passage, ToolConfig
from rollout.tools.crop import CropTool
from rollout.tools.loop import ToolLoop
from rollout.tools.search import SearchTool

CROP = '<tool_call>{"name": "crop", "arguments": {"box": [0, 0, 499, 999]}}</tool_call>'
SEARCH = '<tool_call>{"name": "search", "arguments": {"query": "cat"}}</tool_call>'
SAMPLING = SamplingConfig(max_tokens=120)
FREE = 12
"""Tokens that the policy may sample itself."""


class FirstTurnGiven:
    """Engines whose first turn is a call; the log-probs of a given turn aren't asked of anyone."""

    def __init__(self, pool, tokenizer):
        self.pool, self.tokenizer = pool, tokenizer
        self.config, self.version = pool.config, pool.version

    def respond(self, requests, sampling):
        if any(max(request.starts) for request in requests):
            short = [replace(r, limits=[min(n, FREE) for n in r.limits]) for r in requests]
            return self.pool.respond(short, sampling)
        return [[self._call(request)] * len(request.seeds) for request in requests]

    def _call(self, request):
        ids = self.tokenizer(CROP if request.media else SEARCH)["input_ids"]
        ids = np.array([*ids, self.tokenizer.eos_token_id], np.int32)
        return Response(ids, np.zeros(len(ids), np.float32), "stop")


def make_sample(number: int, image: bool) -> Sample:
    rng = np.random.default_rng(number)
    content = [{"type": "text", "text": "number of cat?"}]
    if image:
        pixels = rng.integers(0, 256, (112, 84, 3), dtype=np.uint8)
        content.insert(0, {"type": "image", "image": pixels})
    return Sample(
        id=f"s{number}",
        messages=[{"role": "user", "content": content}],
        answer="47",
        task_type="tools/test",
        rewards=[{"rule": "agentic_format", "weight": 1.0}],
        extra={"tools": ["crop" if image else "search"]},
    )


@pytest.fixture
def rollouts(engine_pool, encoder):
    tools = {
        "search": SearchTool(DocumentIndex([Passage("a", "", "cat 47"), Passage("b", "", "dog")])),
        "crop": CropTool(),
    }
    cfg = ToolConfig(names=["search", "crop"], prompt="names")
    engines = FirstTurnGiven(engine_pool, encoder.tokenizer)
    with RewardPool(RewardConfig(workers=1)) as rewards:
        loop = ToolLoop(engines, encoder, tools, cfg)
        yield Rollouts(engine_pool, encoder, rewards, SAMPLING, tools=loop)


@pytest.fixture(scope="module")
def learner(ray_cluster, tiny_checkpoint):
    group = LearnerGroup(LearnerConfig(timeout_s=120), tiny_checkpoint, total_updates=1)
    yield group
    group.close()


def test_engine_and_learner_agree_on_what_follows_a_result(rollouts, learner, encoder):
    samples = [make_sample(0, True), make_sample(1, False), make_sample(2, True)]
    groups = rollouts.groups(samples, n=4, seed=1)
    shown = groups[0].responses[0]
    assert shown.startswith(f"{CROP}<tool_response>\nimage 2\n<image>\n</tool_response>")
    assert groups[1].responses[0].startswith(f"{SEARCH}<tool_response>\n[1] cat 47\n")
    metrics = rollout_metrics(groups)
    assert metrics["tools/calls"] == 1 and metrics["tools/turns_mean"] == 2
    assert metrics["tools/errors"] == 0

    sequences = to_training([with_rewards(group) for group in groups])
    assert len(sequences) == 12 and sum(s.media is not None for s in sequences) == 8
    for one in sequences:  # the given turn is no sample of this policy's
        given = len(encoder.tokenizer(CROP if one.media else SEARCH)["input_ids"]) + 1
        one.sampled = one.sampled.copy()
        one.sampled[:given] = False
        assert 1 <= one.num_sampled <= FREE
    report = learner.update(sequences)
    assert report["mismatch/logprob_max"] < 1e-4
    assert report["perf/response_tokens"] == sum(one.num_sampled for one in sequences)
    assert all(np.isfinite(one.ratio) for one in sequences)


def with_rewards(group):
    """The group as if its responses differed in reward: else there is nothing to learn."""
    scores = [replace(score, total=float(k)) for k, score in enumerate(group.scores)]
    return replace(group, scores=scores)


def test_a_response_does_not_depend_on_what_is_generated_beside_it(rollouts):
    samples = [make_sample(0, True), make_sample(1, False)]
    together = rollouts.groups(samples, n=2, seed=1)
    alone = [rollouts.groups([sample], n=2, seed=1)[0] for sample in samples]
    for group, other in zip(together, alone, strict=True):
        for a, b in zip(group.trajectories, other.trajectories, strict=True):
            np.testing.assert_array_equal(a.response_ids, b.response_ids)
    first, second = together[0].trajectories
    assert first.response_ids.tolist() != second.response_ids.tolist()
