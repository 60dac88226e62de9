"""The pool: same results with any number of engines, and with engines that die or hang."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time

import numpy as np
import pytest
import ray

from pretrain.run.errors import KeyeError
from rollout.config import SamplingConfig
from rollout.engines import EnginePool


@pytest.fixture(scope="module")
def two_engines(ray_cluster, engine_config, tiny_checkpoint):
    pool = EnginePool(
        dataclasses.replace(engine_config, count=2, hang_seconds=15.0), str(tiny_checkpoint)
    )
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def prompts(make_prompt):
    sizes = [[], [(84, 84)], [(84, 84), (56, 112)]]
    return [make_prompt("how many red?", sizes[i % 3], i) for i in range(10)]


def process_id(pool: EnginePool, index: int) -> int:
    return ray.get(pool._control(index, "progress"))[0]


def assert_equal(groups, others):
    for group, other in zip(groups, others, strict=True):
        for a, b in zip(group, other, strict=True):
            np.testing.assert_array_equal(a.response_ids, b.response_ids)
            np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)
            assert (a.sample_id, a.finish_reason, a.seed) == (b.sample_id, b.finish_reason, b.seed)


def test_started_engines_have_made_their_first_step(two_engines):
    """What it compiles takes longer than `hang_seconds` on a busy machine: it's the start's."""
    steps = [ray.get(two_engines._control(i, "progress"))[1] for i in (0, 1)]
    assert min(steps) >= 2


def test_two_engines_equal_one(two_engines, engine_pool, prompts):
    sampling = SamplingConfig(max_tokens=32)
    arguments = {"seeds": list(range(10)), "n": 4, "sample_ids": [f"s{i}" for i in range(10)]}
    one = engine_pool.generate(prompts, sampling, **arguments)
    two = two_engines.generate(prompts, sampling, **arguments)
    assert_equal(one, two)
    assert [group[0].sample_id for group in two] == [f"s{i}" for i in range(10)]
    assert [group[0].prompt for group in two] == prompts  # the very objects


def test_dead_and_hung_engines_are_replaced_and_nothing_is_lost(
    two_engines, engine_pool, prompts, checkpoint_weights, capsys
):
    """One engine is killed and the other stopped in the middle of a generation."""
    sampling = SamplingConfig(max_tokens=400, ignore_eos=True)
    shifted = {name: array * np.float32(1.05) for name, array in checkpoint_weights.items()}
    try:
        engine_pool.update_weights(shifted, version=3)
        expected = engine_pool.generate(prompts, sampling, seeds=[1] * 10, n=6)
    finally:
        engine_pool.update_weights(checkpoint_weights, version=0)
    two_engines.update_weights(shifted, version=3)
    dead, hung = process_id(two_engines, 0), process_id(two_engines, 1)

    def harm() -> None:
        time.sleep(0.3)
        os.kill(dead, signal.SIGKILL)
        os.kill(hung, signal.SIGSTOP)

    thread = threading.Thread(target=harm)
    thread.start()
    groups = two_engines.generate(prompts, sampling, seeds=[1] * 10, n=6)
    thread.join()
    # The fresh engines have the pool's weights, not the checkpoint's.
    assert_equal(groups, expected)
    assert {t.weight_version for group in groups for t in group} == {3}
    warnings = capsys.readouterr().err
    assert "engine 0 died in phase 'generation'" in warnings
    assert "engine 1 has made no step for" in warnings
    assert not {dead, hung} & {process_id(two_engines, i) for i in (0, 1)}
    with pytest.raises(OSError):  # the stopped process is gone, not left behind
        os.kill(hung, 0)


def test_an_engine_lost_too_often_ends_the_job_by_name(two_engines, prompts, monkeypatch):
    monkeypatch.setattr(two_engines.config, "restarts", 0)
    os.kill(process_id(two_engines, 1), signal.SIGKILL)
    with pytest.raises(KeyeError, match=r"(?s)engine 1 died .* engine\.restarts"):
        two_engines.generate(prompts, SamplingConfig(max_tokens=4), seeds=[0] * 10)


def test_a_prompt_that_does_not_fit_is_named_and_the_engine_goes_on(engine_pool, make_prompt):
    fine, long = make_prompt("sum?"), make_prompt("red circle " * 200)
    with pytest.raises(KeyeError, match=r"sample long .* engine\.max_length = 1024"):
        engine_pool.generate(
            [fine, long],
            SamplingConfig(max_tokens=900),
            seeds=[0, 1],
            sample_ids=["fine", "long"],
        )
    [[trajectory]] = engine_pool.generate([fine], SamplingConfig(max_tokens=4), seeds=[0])
    assert 1 <= len(trajectory.response_ids) <= 4


def test_ids_that_differ_from_the_learners_are_refused(engine_pool, make_prompt):
    prompt = make_prompt("sum?", [(84, 84)])
    wrong = dataclasses.replace(prompt, ids=prompt.ids[:-1])
    with pytest.raises(KeyeError, match="engine and learner see different prompts for sample odd"):
        engine_pool.generate([wrong], SamplingConfig(), seeds=[0], sample_ids=["odd"])


def test_a_missing_checkpoint_is_named(ray_cluster, engine_config, tmp_path):
    with pytest.raises(KeyeError, match=r"no checkpoint at .*nowhere"):
        EnginePool(engine_config, str(tmp_path / "nowhere"))
