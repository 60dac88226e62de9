"""The reward model as the judge of two policies (`python -m rl compare`)."""

from __future__ import annotations

import pytest

from pretrain.data.stream import WorldStream
from rewards.keye_rm.model import KeyeRewardModel, load_template
from rl.comparison.gsb import combine, summary
from rl.comparison.judges import Pair, by_reward_model

pytestmark = pytest.mark.slow  # teaching the form takes a minute on quiet cores


def test_verdicts_of_both_orders(taught, engine_pool, encoder, checkpoint_weights):
    from safetensors.numpy import load_file

    samples = WorldStream({"digits/sum": 1.0}, seed=4, modes={"think": 1.0}).take(4)
    responses = [("17", "9"), ("8", "8"), ("digits", "<answer>\\boxed{8}</answer>"), ("1", "2")]
    pairs = [Pair(sample, *both) for sample, both in zip(samples, responses, strict=True)]
    turned = [Pair(pair.sample, pair.second, pair.first) for pair in pairs]
    engine_pool.update_weights(load_file(taught / "model.safetensors"), engine_pool.version + 1)
    try:
        model = KeyeRewardModel(engine_pool, encoder, load_template(taught), max_tokens=40)
        records = by_reward_model(pairs, model, "no_think")
        opposite = by_reward_model(turned, model, "no_think")
    finally:
        engine_pool.update_weights(checkpoint_weights, engine_pool.version + 1)
    assert records[1]["outcome"] == "same" and records[1]["equal"]
    for record, other in zip(records, opposite, strict=True):
        assert record["preference"] == pytest.approx(1 - other["preference"], abs=1e-5)
        if "verdicts" in record:
            assert record["outcome"] == combine(*record["verdicts"])
    found = summary(records)
    assert found["n"] == 4 and found["inconsistent"]["n"] == 3
    assert found["win_rate"]["value"] == pytest.approx(1 - summary(opposite)["win_rate"]["value"])
