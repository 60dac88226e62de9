"""Procedural preference pairs: labels are true, order is blind, and the splits don't touch."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from pretrain.data.world.tasks import held_out
from pretrain.run.errors import ConfigError
from rewards.answer import single_answer
from rewards.keye_rm.config import HeldoutPairsConfig
from rewards.keye_rm.defects import DEFECTS, WORST, Draft, correct_draft, wrong_answer
from rewards.keye_rm.evaluate import heldout_pairs
from rewards.keye_rm.pairs import all_marks, example, to_sample
from rewards.keye_rm.parsing import parse
from rewards.keye_rm.templates import DIMENSIONS, Template
from rewards.keye_rm.world_pairs import WorldPairs, WorldPairsConfig

TEMPLATE = Template()
COUNT = 250


@pytest.fixture(scope="module")
def pairs():
    source = WorldPairs(WorldPairsConfig())
    return [source[index] for index in range(COUNT)]


def boxed(response: str) -> str:
    """The answer of a response of any form."""
    if "\\boxed{" not in response:
        return response.strip()
    return response.rpartition("\\boxed{")[2].partition("}")[0]


def test_every_dimension_can_be_violated(pairs):
    assert set(DEFECTS) == set(DIMENSIONS)
    counts = Counter(pair.violated for pair in pairs)
    assert set(counts) == set(DIMENSIONS)
    assert min(counts.values()) >= 8 and counts["correctness"] > 30


def test_marks_tell_the_truth_about_answers(pairs):
    """The better answer is always right; the worse one is wrong exactly where it is marked so."""
    for pair in pairs:
        right = pair.query.answer
        assert boxed(pair.good) == right, pair
        assert pair.bad_marks[pair.violated] == WORST
        assert "correctness" not in pair.good_marks
        shown = boxed(pair.bad)
        if "completeness" in pair.bad_marks and shown == "":
            continue
        if "safety" in pair.bad_marks and "\\boxed{" not in pair.bad:
            assert pair.bad.startswith(right)
            continue
        assert (shown != right) == ("correctness" in pair.bad_marks), pair


def test_arithmetic_of_the_better_response_is_right(pairs):
    checked = 0
    for pair in pairs:
        if pair.good_marks:
            continue
        for step in pair.good.partition("</think>")[0].removeprefix("<think>").split(";"):
            left, sign, result = step.partition("=")
            if sign and set(left) <= set("0123456789+-") and left:
                assert eval(left) == int(result), pair.good
                checked += 1
    assert checked > 150


def test_pairs_are_functions_of_their_index(pairs):
    again = WorldPairs(WorldPairsConfig())
    assert [(p.id, p.good, p.bad) for p in pairs[5:9]] == [
        (p.id, p.good, p.bad) for p in (again[k] for k in range(5, 9))
    ]
    other = WorldPairs(WorldPairsConfig(seed=99))
    assert [other[k].good for k in range(8)] != [pair.good for pair in pairs[:8]]
    assert WorldPairs(WorldPairsConfig()).fingerprint() == again.fingerprint()
    assert other.fingerprint() != again.fingerprint()


def test_held_out_pairs_are_strictly_apart(pairs):
    config = WorldPairsConfig(tasks={"text/arithmetic": 1.0})
    sides = {}
    for split in ("train", "test"):
        source = WorldPairs(config, split)
        questions = [source[k].query.messages[0]["content"][-1]["text"] for k in range(60)]
        sides[split] = {question.removesuffix("=?") for question in questions}
    assert all(not held_out(text) for text in sides["train"])
    assert all(held_out(text) for text in sides["test"])


@pytest.mark.parametrize("prefer", ["shorter", "longer"])
def test_preferred_lengths(prefer):
    source = WorldPairs(WorldPairsConfig(prefer=prefer, max_length_gap=0.5))
    for index in range(40):
        pair = source[index]
        assert getattr(pair, f"{prefer}_is_better") and pair.length_gap <= 0.5


def test_a_configuration_without_pairs_is_an_error():
    config = WorldPairsConfig(defects=dict.fromkeys(DEFECTS, 0.0) | {"redundancy": 1.0})
    config.prefer = "longer"  # a response that repeats itself is never the shorter one
    with pytest.raises(ConfigError, match="prefer=longer"):
        WorldPairs(config)[0]
    with pytest.raises(ConfigError, match="beauty"):
        WorldPairsConfig(defects={"beauty": 1.0})


def test_order_is_blind_and_the_label_follows_it(pairs):
    pair = next(p for p in pairs if p.violated == "grounding")
    for swapped in (False, True):
        sample = to_sample(pair, TEMPLATE, "think", swapped=swapped)
        text = sample.messages[0]["content"][-1]["text"]
        assert sample.answer == "AB"[swapped]
        better = text.index(f"# Response {sample.answer}\n{pair.good}")
        worse = text.index(f"# Response {'BA'[swapped]}\n{pair.bad}")
        assert (better > worse) is swapped
        reply = example(pair, TEMPLATE, "think", swapped)[-1]["content"][0]["text"]
        found = parse(reply, "think", TEMPLATE)
        assert found.verdict == int(swapped)
        assert found.marks[int(swapped)] == dict.fromkeys(DIMENSIONS, 5)
        assert found.marks[1 - int(swapped)]["grounding"] == WORST


def test_a_judgement_may_quote_the_solution_and_both_answers(pairs):
    template = replace(TEMPLATE, analysis="{solution}. ", opening="{label}, {answer}: ")
    pair = next(p for p in pairs if p.violated == "correctness" and p.query.solution)
    good, bad = pair.query.answer, single_answer(pair.bad, None)
    assert good != bad
    for swapped, first, second in ((False, good, bad), (True, bad, good)):
        reply = example(pair, template, "think", swapped)[-1]["content"][0]["text"]
        assert reply.startswith(f"<think>{pair.query.solution}. A, {first}: cred")
        assert f"; B, {second}: cred" in reply
        assert parse(reply, "think", template).verdict == int(swapped)


def test_unmarked_pairs_are_learned_without_reasoning(pairs):
    pair = pairs[0]
    pair = type(pair)(id="x", query=pair.query, good=pair.good, bad=pair.bad)
    conversation = example(pair, TEMPLATE, "think", swapped=True)
    assert conversation[-1]["content"][0]["text"] == "B"
    assert conversation[0]["content"][-1]["text"].endswith(" /no_think")
    assert to_sample(pair, TEMPLATE, "think", swapped=False).mode == "think"  # GSPO needs no marks


def test_marks_are_completed_and_kept_on_the_scale():
    scale = Template(lowest=2, highest=4, dimensions={"clarity": "c", "safety": "s"})
    assert all_marks(scale, {"clarity": 1, "correctness": 1}) == {"clarity": 2, "safety": 4}


def test_length_gap(pairs):
    make = type(pairs[0])
    pair = make("x", pairs[0].query, good="abcd", bad="a" * 16)
    assert pair.length_gap == 0.75 and pair.shorter_is_better and not pair.longer_is_better
    equal = make("x", pairs[0].query, good="ab", bad="ba")
    assert not equal.shorter_is_better and not equal.longer_is_better and equal.length_gap == 0.0


def test_wrong_answers_are_of_the_same_kind():
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert int(wrong_answer(rng, "0")) in (1, 2, 3)
        assert wrong_answer(rng, "17") in {"14", "15", "16", "18", "19", "20"}
        read = wrong_answer(rng, "0358")
        assert len(read) == 4 and sum(a != b for a, b in zip(read, "0358", strict=True)) == 1
        color, shape = wrong_answer(rng, "red circle").split()
        assert (color == "red") != (shape == "circle")
    assert wrong_answer(rng, "<|box_start|>(1,2),(3,4)<|box_end|>") is None


def test_length_pairs_are_right_at_either_length(tmp_path):
    drawn = heldout_pairs(HeldoutPairsConfig(pairs=5, length_pairs=200), tmp_path)
    apart = [pair for pair in drawn if pair.extra.get("length_pair")]
    assert len(drawn) == 205 and len({pair.id for pair in drawn}) == 205
    assert all(pair.violated in ("correctness", "consistency", "grounding") for pair in apart)
    assert all(boxed(pair.good) == pair.query.answer != boxed(pair.bad) for pair in apart)
    reasoned = [("<think>" in pair.good, "<think>" in pair.bad) for pair in apart]
    assert all(sum(sides) == 1 for sides in reasoned)
    assert 0.35 < np.mean([pair.longer_is_better for pair in apart]) < 0.65


@pytest.mark.parametrize(("share", "low", "high"), [(0.8, 0.65, 0.95), (0.0, 0.0, 0.0)])
def test_mixed_pairs_favour_length_as_they_are_told(share, low, high):
    """As collected preferences do: with 0.8 the longer one is right in four of five."""
    config = WorldPairsConfig(
        tasks={"digits/sum": 1.0},
        defects=dict.fromkeys(DEFECTS, 0.0) | {"correctness": 1.0},
        direct_share=0.0,
        mixed_share=1.0,
        mixed_longer_share=share,
    )
    pairs = [WorldPairs(config)[index] for index in range(60)]
    assert low <= np.mean([pair.longer_is_better for pair in pairs]) <= high


def test_equal_steps_have_no_other_order():
    sample = WorldPairs(WorldPairsConfig(tasks={"text/arithmetic": 1.0})).samples[0]
    draft = Draft(["0+0=0", "0+0=0"], "0", "think")
    for seed in range(8):
        changed = DEFECTS["clarity"](np.random.default_rng(seed), sample, draft)
        assert changed is None or changed.steps != draft.steps


def test_defects_leave_the_right_draft_alone(pairs):
    sample = pairs[0].query
    draft = correct_draft(sample, "think")
    before = Draft(list(draft.steps), draft.answer, draft.mode)
    for defect in DEFECTS.values():
        defect(np.random.default_rng(1), sample, draft)
        assert (draft.steps, draft.answer, draft.marks) == (before.steps, before.answer, {})
