"""Derived numbers by hand, and warnings for values that are silently wrong."""

from __future__ import annotations

import pytest

from pretrain.run.command import compose
from pretrain.run.errors import ConfigError
from rl.config import RlConfig
from rl.launch import derive, warnings


def config(*overrides: str) -> RlConfig:
    return compose("rl", RlConfig, ["recipe=gspo", *overrides])


def test_derived_numbers():
    cfg = config(
        "gspo.prompts_per_step=32",
        "gspo.group_size=4",
        "gspo.steps=10",
        "learner.mini_batches=4",
        "learner.world_size=2",
        "learner.train.zero_stage=2",
        "learner.train.dtype=bf16",
        "engine.dtype=bfloat16",
        "engine.kv_cache_mb=1",
        "sampling.max_tokens=100",
    )
    numbers = derive(cfg, 1000)
    assert numbers.responses_per_step == 128
    assert (numbers.updates_per_rollout, numbers.sequences_per_update) == (4, 32)
    assert numbers.off_policy and numbers.optimiser_steps == 40
    assert numbers.max_tokens_per_step == 12_800
    # 2 bytes of weights, half of 2 bytes of gradients, half of 12 bytes of fp32 state.
    assert numbers.learner_bytes == 1000 * (2 + 1 + 6)
    assert numbers.engine_bytes == 2000 + 2**20


@pytest.mark.parametrize(
    ("overrides", "parameters", "expected"),
    [
        (["learner.clip_high=0.2"], 8_000_000_000, "never acts"),
        (["learner.algorithm=grpo"], 1_000_000, "GSPO's scale"),
        (["learner.mini_batches=1"], 1_000_000, "without meaning"),
        (["sampling.temperature=0.7"], 1_000_000, "another distribution"),
        (["sampling.top_p=0.9"], 1_000_000, "biased"),
    ],
)
def test_silently_wrong_values_are_named(overrides: list[str], parameters: int, expected: str):
    found = warnings(config(*overrides), parameters)
    assert len(found) == 1 and expected in found[0]


def test_the_shipped_recipes_give_no_warning():
    for recipe in ("gspo", "quickstart"):
        cfg = compose("rl", RlConfig, [f"recipe={recipe}"])
        assert warnings(cfg, 1_300_000) == []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("gspo.group_size=1", "at least 2"),
        ("gspo.steps=0", "at least 1"),
        ("stages=[gspo,fly]", "fly"),
        ("gspo.group_sise=8", "group_size"),
        ("learner.algorithm=gpso", "gspo"),
        ("hints.max_level=6", "0…5"),
    ],
)
def test_bad_values_name_key_and_fix(override: str, expected: str):
    with pytest.raises(ConfigError, match=expected):
        config(override)
