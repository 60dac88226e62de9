"""The reward model on a real engine, with rules beside it, and as what a job is rewarded by."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pretrain.data.render import render
from pretrain.data.sample import SampleError
from pretrain.data.stream import WorldStream
from pretrain.run.errors import ConfigError, KeyeError
from rewards.config import RewardConfig
from rewards.keye_rm.config import HeldoutPairsConfig, RewardModelConfig
from rewards.keye_rm.evaluate import heldout_pairs, judge_pairs
from rewards.keye_rm.measures import report
from rewards.keye_rm.model import Comparison, KeyeRewardModel, load_template
from rewards.keye_rm.pairs import question
from rewards.keye_rm.reward import reference, score_groups
from rewards.keye_rm.templates import MODES
from rewards.keye_rm.world_pairs import WorldPairs, WorldPairsConfig
from rewards.pool import RewardFailureError, RewardPool
from rewards.result import is_correct

# Teaching the form and starting an engine take about a minute on quiet cores.
pytestmark = pytest.mark.slow
RESPONSES = ["7", "<answer>\\boxed{8}</answer>", "9", "digits", "7", "<think>2</think>"]


@pytest.fixture(scope="module")
def samples():
    return WorldStream({"digits/sum": 1.0}, seed=4, modes={"think": 1.0}).take(3)


@pytest.fixture(scope="module")
def model(taught, engine_pool, encoder, checkpoint_weights):
    from safetensors.numpy import load_file

    engine_pool.update_weights(load_file(taught / "model.safetensors"), engine_pool.version + 1)
    yield KeyeRewardModel(engine_pool, encoder, load_template(taught), max_tokens=40, batch=16)
    engine_pool.update_weights(checkpoint_weights, engine_pool.version + 1)


@pytest.fixture(scope="module")
def pool():
    with RewardPool(RewardConfig()) as pool:
        yield pool


def test_the_value_is_the_verdict_s_probability_in_both_orders(model, taught, samples, encoder):
    """Against the learner's model: softmax over the whole vocabulary where the verdict stands."""
    import torch

    from pretrain.keye_vl.checkpoint import load_model
    from pretrain.keye_vl.prompt import pack

    learner = load_model(taught).eval()
    labels = [encoder.tokenizer.convert_tokens_to_ids(label) for label in ("A", "B")]
    (preference,) = model.compare([Comparison(samples[0], "17", RESPONSES[1])], "no_think")
    assert preference.malformed == 0 and preference.marks is None and preference.tokens == 4
    expected = []
    for order, shown in enumerate((["17", RESPONSES[1]], [RESPONSES[1], "17"])):
        asked = question(model.template, samples[0], *shown, "no_think")
        prompt = encoder.encode(render(asked), "x")
        packed = pack([prompt], [np.array(labels[:1], np.int32)], learner.config)
        with torch.no_grad():
            logits = learner(**packed.model_inputs()).logits.reshape(-1)
        probabilities = logits.double().softmax(-1)[labels]
        verdict = int(probabilities.argmax())
        assert preference.judgements[order].verdict == verdict
        first = float(probabilities[verdict])
        first = first if verdict == 0 else 1 - first
        expected.append(first if order == 0 else 1 - first)
    assert preference.value == pytest.approx(np.mean(expected), abs=1e-4)


def test_swapping_the_responses_turns_the_preference_round(model, samples):
    there = [Comparison(sample, "17", "<answer>\\boxed{8}</answer>") for sample in samples]
    back = [Comparison(sample, "<answer>\\boxed{8}</answer>", "17") for sample in samples]
    for mode in ("no_think", "think"):
        first, second = model.compare(there, mode), model.compare(back, mode)
        for one, other in zip(first, second, strict=True):
            assert one.value == pytest.approx(1 - other.value, abs=1e-5)
            assert one.verdicts[0] == 1 - other.verdicts[1]


def test_reasoning_gives_marks_for_both_in_their_own_order(model, samples):
    (preference,) = model.compare([Comparison(samples[0], "17", "the right answer is A")], "think")
    assert preference.malformed == 0, preference.judgements
    assert preference.tokens > 20
    first, second = preference.marks
    assert set(first) == set(second) == {"safety", "clarity"}
    template = model.template
    forward, backward = (judgement.marks for judgement in preference.judgements)
    for name in first:
        both = [forward[0][name], backward[1][name]]
        assert first[name] == pytest.approx(np.mean([template.scaled(m) for m in both]))


def test_the_liking_for_the_first_place_is_taken_out(engine_pool, encoder, model, samples):
    asked = [
        Comparison(sample, a, b)
        for sample in samples
        for a, b in zip(RESPONSES, "178459", strict=True)
    ]
    bias = {mode: model.measure_first_bias(asked, mode) for mode in MODES}
    template = replace(model.template, first_bias=bias)
    fair = KeyeRewardModel(engine_pool, encoder, template, max_tokens=40)
    for mode in MODES:
        assert fair.measure_first_bias(asked, mode) == pytest.approx(bias[mode], abs=1e-4)
        read = [one.verdicts for one in fair.compare(asked, mode)]
        chosen = [forward == 0 for forward, _ in read] + [backward == 1 for _, backward in read]
        assert abs(np.mean(chosen) - 0.5) <= 1 / len(chosen) + 1e-9
    (single,) = fair.compare(asked[:1], "no_think", both_orders=False)
    (biased,) = model.compare(asked[:1], "no_think", both_orders=False)
    shift = np.log(biased.value / (1 - biased.value)) - np.log(single.value / (1 - single.value))
    assert shift == pytest.approx(bias["no_think"], abs=1e-3)


def test_several_judgements_of_an_order_are_averaged(engine_pool, encoder, model, samples):
    many = KeyeRewardModel(engine_pool, encoder, model.template, max_tokens=40, samples=3)
    asked = [Comparison(sample, "17", "the right answer is A") for sample in samples]
    for once, again in zip(many.compare(asked, "think"), many.compare(asked, "think"), strict=True):
        assert once.value == again.value and len(once.judgements) == 6 and len(once.verdicts) == 2
        forward, backward = once.judgements[:3], once.judgements[3:]
        marks = [j.marks[0] for j in forward if j.marks] + [j.marks[1] for j in backward if j.marks]
        for name, mark in (once.marks or ({}, {}))[0].items():
            scaled = [model.template.scaled(one[name]) for one in marks]
            assert mark == pytest.approx(np.mean(scaled))
    (single,) = model.compare(asked[:1], "no_think")
    (same,) = many.compare(asked[:1], "no_think")
    assert same.value == single.value and len(same.judgements) == 2
    with pytest.raises(ConfigError, match="samples=0 must be at least 1"):
        RewardModelConfig(samples=0)


def test_what_cannot_be_read_has_no_value(engine_pool, encoder, model, samples):
    """Cut off after four tokens, or asked in words it doesn't know: a status, never a tie."""
    short = KeyeRewardModel(engine_pool, encoder, model.template, max_tokens=4)
    (preference,) = short.compare([Comparison(samples[0], "1", "2")], "think")
    assert preference.value is None and preference.malformed == 2
    assert "not ended" in preference.judgements[0].fault
    other = KeyeRewardModel(engine_pool, encoder, replace(model.template, labels=["1", "2"]))
    (preference,) = other.compare([Comparison(samples[0], "1", "2")], "no_think")
    assert preference.value is None and "not a verdict" in preference.judgements[0].fault


def test_group_win_rates_are_means_over_opponents(model, samples):
    groups = [(samples[0], RESPONSES), (samples[1], ["5"]), (samples[2], ["4", "4"])]
    ratings = model.rate_group(groups, "no_think", opponents=5)
    values = [rating["value"] for rating in ratings[0]]
    expected = []
    for response in RESPONSES:
        met = []
        others = list(RESPONSES)
        others.remove(response)
        for other in others:
            if other == response:
                met.append(0.5)
                continue
            (preference,) = model.compare([Comparison(samples[0], response, other)], "no_think")
            met.append(preference.value)
        expected.append(np.mean(met))
    assert values == pytest.approx(expected, abs=1e-5)
    assert values[0] == pytest.approx(values[4], abs=1e-12)  # equal responses, equal rates
    assert np.mean(values) == pytest.approx(0.5, abs=1e-6)
    assert [r["value"] for r in ratings[1]] == [0.5]
    assert [r["value"] for r in ratings[2]] == [0.5, 0.5] and ratings[2][0]["comparisons"] == 0


def test_scores_beside_rules_and_dimensions_by_name(model, samples, pool):
    entries = [
        {"rule": "exact", "weight": 1.0},
        {"rule": "keye_rm", "weight": 0.5, "opponents": 2, "mode": "think"},
        {"rule": "keye_rm", "weight": 0.0, "against": "reference", "name": "held_against"},
    ]
    asked = [replace(sample, rewards=entries) for sample in samples[:2]]
    right = f"<answer>\\boxed{{{asked[0].answer}}}</answer>"
    scores = score_groups(asked, [[right, "x", "y"], ["x", "y", "z"]], pool, model)
    first = scores[0][0]
    names = ["exact", "keye_rm", "held_against", "keye_rm/clarity", "keye_rm/safety"]
    assert list(first.parts) == names
    assert first.parts["exact"].value == 1.0 and first.verifiers == ("exact",)
    assert first.total == pytest.approx(1.0 + 0.5 * first.parts["keye_rm"].value)
    assert is_correct(first) and not is_correct(scores[0][1])
    assert 0 <= first.parts["keye_rm/safety"].value <= 1
    assert first.parts["keye_rm"].details["comparisons"] == 2
    rates = [score.parts["keye_rm"].value for score in scores[1]]
    known = [rate for rate in rates if rate is not None]  # this judge is barely taught
    assert known and all(0 <= rate <= 1 for rate in known)
    alone = replace(samples[0], rewards=[{"rule": "keye_rm"}])
    (only,) = score_groups([alone], [["x", "y"]], pool, model)
    assert only[0].total + only[1].total == pytest.approx(1.0, abs=1e-6)
    assert only[0].verifiers == ("keye_rm",) and only[0].by_model


def test_a_gate_closes_the_model_s_part_too(model, samples, pool):
    entries = [{"rule": "format", "gate": True, "weight": 0.1}, {"rule": "keye_rm"}]
    asked = replace(samples[0], rewards=entries)
    (scores,) = score_groups([asked], [["no format at all", "none here"]], pool, model)
    assert [score.total for score in scores] == [0.0, 0.0]
    assert scores[0].parts["keye_rm"].value is not None


def test_unreadable_judgements_are_failures_that_stop_a_job(engine_pool, encoder, model, samples):
    short = KeyeRewardModel(engine_pool, encoder, model.template, max_tokens=4)
    asked = replace(samples[0], rewards=[{"rule": "keye_rm", "mode": "think"}])
    with (
        RewardPool(RewardConfig(max_failed_share=0.5)) as strict,
        pytest.raises(RewardFailureError, match="no judgement could be read"),
    ):
        score_groups([asked], [["1", "2"]], strict, short)
    with RewardPool(RewardConfig(max_failed_share=1.0)) as lenient:
        (scores,) = score_groups([asked], [["1", "2"]], lenient, short)
    assert scores[0].total is None and scores[0].parts["keye_rm"].status == "error"


def test_settings_that_cannot_be_are_named(model, samples, pool):
    asked = replace(samples[0], rewards=[{"rule": "keye_rm", "against": "nobody"}])
    with pytest.raises(SampleError, match="nobody"):
        score_groups([asked], [["1", "2"]], pool, model)
    with pytest.raises(KeyeError, match="checkpoint"):
        KeyeRewardModel.open(RewardModelConfig())


def test_references(samples):
    sample = samples[0]
    assert reference(sample) == (
        f"<think>{sample.solution}</think><answer>\\boxed{{{sample.answer}}}</answer>"
    )
    assert reference(replace(sample, mode="no_think")) == sample.answer
    assert reference(replace(sample, extra={"reference": "so"})) == "so"
    bare = replace(sample, solution=None)
    assert reference(bare) == f"<answer>\\boxed{{{sample.answer}}}</answer>"


def test_an_evaluation_judges_every_pair_in_both_modes(model, tmp_path):
    world = WorldPairsConfig(tasks={"text/arithmetic": 1.0}, seed=40_000)
    config = HeldoutPairsConfig(world=world, pairs=10, length_pairs=0)
    pairs = heldout_pairs(config, tmp_path)
    assert [pair.id for pair in pairs] == [WorldPairs(world, "test")[k].id for k in range(10)]
    records = judge_pairs(model, pairs, config.modes)
    assert [r["mode"] for r in records] == ["think"] * 10 + ["no_think"] * 10
    found = report(records)
    short = found["modes"]["no_think"]
    assert short["tokens"]["value"] == 2.0 and short["malformed"]["value"] == 0.0
    assert found["modes"]["think"]["tokens"]["value"] > 15
    right = [r["value"] is not None and r["value"] > 0.5 for r in records[10:]]
    assert short["accuracy"]["value"] == np.mean(right) and found["agreement"]["n"] <= 10
    assert json.loads(json.dumps(found)) == found
