"""Instruction following: sets that can be followed, replies that do, and what each earns."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from pretrain.data.render import query
from pretrain.data.sample import Sample
from pretrain.run.errors import ConfigError
from rewards.constraints.kinds import KINDS, satisfied
from rewards.judge.templates import SOFT
from rl.alignment.config import AlignmentConfig, InstructionConfig, JudgeConfig
from rl.alignment.instructions import SOFT_VALUES, TINY, check_kinds, with_constraints
from rl.alignment.marks import marks
from rl.alignment.writer import written_answer, written_instructions

JUDGE = JudgeConfig(url="http://127.0.0.1:9/v1", model="m")


def asked(mode: str = "no_think", **more: Any) -> Sample:
    fields: dict[str, Any] = {
        "id": "q",
        "messages": [{"role": "user", "content": "max of the digits?"}],
        "answer": "7",
        "task_type": "digits/max",
        "rewards": [{"rule": "math", "weight": 2.0}, {"rule": "format", "weight": 0.1}],
        "solution": "digits 37;max 7",
        "mode": mode,
    }
    return Sample(**(fields | more)).validate()


def made(sample: Sample, seed: int = 0, **settings: Any) -> Sample:
    import numpy as np

    judge = settings.pop("judge", JudgeConfig())
    own = InstructionConfig(weight=1.0, **({"scale": "tiny", "count": [2, 3]} | settings))
    cfg = AlignmentConfig(instructions=own, judge=judge)
    return with_constraints(sample, np.random.default_rng(seed), cfg)


def test_written_replies_earn_everything(prompts, judge_reply):
    """Every prompt of the recipe can be followed, in every mode, and every tiny kind comes up."""
    kinds, modes, most = set(), set(), 0
    for number, sample in enumerate(prompts("instructions", 200)):
        text = written_instructions(sample, reason=number % 2 == 0)
        assert text is not None
        score = judge_reply(sample, text)
        found = marks(score)
        assert all(found[key] == 1.0 for key in ("strict", "loose", "answer", "format", "correct"))
        assert score.total == pytest.approx(sum(entry["weight"] for entry in sample.rewards))
        kinds |= {constraint["kind"] for constraint in sample.constraints}
        modes.add(sample.mode)
        most = max(most, len(sample.constraints))
    assert kinds == set(TINY) and modes == {"think", "no_think", "auto_think"} and most == 4


def test_every_part_of_the_reward_is_lost_by_its_own_fault(judge_reply):
    constraints = [
        {"kind": "starts_with", "phrase": "sun"},
        {"kind": "ends_with", "phrase": "dog"},
        {"kind": "keywords_exclude", "keywords": ["rain"]},
    ]
    sample = made(asked(constraints=constraints))
    assert query(sample) == "max of the digits?"  # a row's own constraints stand in its query

    def found(text: str) -> dict[str, float]:
        return marks(judge_reply(sample, text))

    assert found("sun \\boxed{7} dog")["correct"] == 1.0
    wrong = found("sun \\boxed{8} dog")
    assert (wrong["strict"], wrong["answer"], wrong["correct"]) == (1.0, 0.0, 0.0)
    half = found("sun \\boxed{7} rain")
    assert half["strict"] == 0.0 and half["loose"] == pytest.approx(1 / 3)
    assert half["kind/starts_with"] == 1.0 and half["kind/ends_with"] == 0.0
    assert half["answer"] == 1.0 and half["correct"] == 0.0
    assert found("<answer>sun \\boxed{7} dog</answer>")["format"] == 0.0
    empty = found("")
    assert empty["loose"] == empty["kind/starts_with"] == 0.0
    share = judge_reply(sample, "sun \\boxed{7} rain").total
    assert share == pytest.approx(0.5 / 3 + 0.5 * 2.0 + 0.1)


def test_a_gate_lets_nothing_through_without_the_format(judge_reply):
    sample = made(asked("think", constraints=[{"kind": "lowercase"}]), format_gate=True)
    good = "<think>digits 37;max 7</think><answer>sun \\boxed{7}</answer>"
    assert judge_reply(sample, good).total == pytest.approx(2.1)
    assert judge_reply(sample, "<answer>sun \\boxed{7}</answer>").total == 0.0
    assert judge_reply(replace(sample, mode="auto_think"), good).total == pytest.approx(2.1)


def test_a_box_is_asked_for_where_it_is_needed():
    assert query(made(asked("no_think"))).endswith("\\boxed{}")
    assert "boxed" not in query(made(asked("think")))
    assert "boxed" not in query(made(asked("no_think"), answer_weight=0.0))
    unchecked = made(asked("no_think"), answer_weight=0.0)
    assert [entry["rule"] for entry in unchecked.rewards] == [
        "format",
        "constraints",
        "constraints",
    ]


def test_full_scale_words_all_kinds_in_sentences():
    seen: set[str] = set()
    for seed in range(80):
        sample = made(asked(), seed, scale="full", count=[2, 6])
        chosen = [constraint["kind"] for constraint in sample.constraints]
        assert 2 <= len(chosen) <= 6
        seen |= set(chosen)
        repeat = [c for c in sample.constraints if c["kind"] == "repeat_prompt"]
        assert all(c["prompt"] == "max of the digits?" for c in repeat)
    assert len(seen) > 35 and seen <= set(KINDS)


def test_soft_constraints_come_with_a_judge_only():
    plain = made(asked(), soft=2)
    assert not any(c["kind"] in SOFT for c in plain.constraints)
    judged = made(asked(), soft=2, judge=JUDGE, count=[4, 4])
    assert len(judged.constraints) == 4
    soft = [c for c in judged.constraints if c["kind"] in SOFT]
    assert len(soft) == 2 and all(c["value"] in SOFT_VALUES[c["kind"]] for c in soft)
    assert all(SOFT[c["kind"]].format(**c) in query(judged) for c in soft)
    entry = judged.rewards[-1]
    assert (entry["rule"], entry["name"], entry["url"]) == ("soft_constraints", "soft", JUDGE.url)
    assert len(made(asked(), soft=2, judge=JUDGE, count=[3, 3]).constraints) == 3
    only = made(asked(constraints=[{"kind": "tone", "value": "dry"}]), judge=JUDGE)
    assert "constraints" not in [entry["rule"] for entry in only.rewards]
    assert len(SOFT_VALUES) == 20 and set(SOFT_VALUES) < set(SOFT)


def test_tiny_kinds_are_kinds_and_their_telegrams_name_their_arguments():
    draw = random.Random(0)
    for kind, (arguments, wording) in TINY.items():
        constraint = {"kind": kind, **arguments(draw)}
        satisfied(constraint, "sun", "q")  # the arguments are the check's own
        for value in constraint.values():
            if value != kind and isinstance(value, str):
                assert value in wording(constraint)


@pytest.mark.parametrize(
    ("constraints", "text"),
    [
        ([{"kind": "uppercase"}, {"kind": "ends_with", "phrase": "dog"}], "\\boxed{7} DOG"),
        ([{"kind": "quotation"}, {"kind": "keywords_include", "keywords": ["sea"]}], None),
        (
            [
                {"kind": "keyword_count", "keyword": "sun", "minimum": 2, "maximum": 2},
                {"kind": "starts_with", "phrase": "sun"},
            ],
            "sun sun \\boxed{7}",
        ),
        ([{"kind": "bullets", "count": 2}], "* cat\n* \\boxed{7}"),
        ([{"kind": "line_count", "count": 3}, {"kind": "lowercase"}], "cat\ncat\n\\boxed{7}"),
    ],
)
def test_written_answers(constraints: list[dict[str, Any]], text: str | None):
    written = written_answer(constraints, "7")
    assert written is not None and (text is None or written == text)
    assert all(satisfied(c, written.replace("\\boxed{7}", "7")) for c in constraints)


@pytest.mark.parametrize(
    "constraints",
    [
        [
            {"kind": "keyword_count", "keyword": "sun", "minimum": 1, "maximum": 1},
            {"kind": "keywords_include", "keywords": ["sun"]},
            {"kind": "word_count", "minimum": 1, "maximum": 1},
        ],
        [{"kind": "uppercase"}],  # a number alone has no case
        [{"kind": "rhyme_scheme", "scheme": "AA"}],  # no kind of the writer's
    ],
)
def test_what_cannot_be_followed_gives_no_answer(constraints: list[dict[str, Any]]):
    assert written_answer(constraints, "7") is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": "small"}, "scale='small'"),
        ({"count": [1, 3]}, "within 2…6"),
        ({"count": [4, 3]}, "within 2…6"),
        ({"soft": -1}, "soft=-1"),
        ({"weight": -1.0}, "weight=-1"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        InstructionConfig(**settings)


def test_kinds_that_are_unknown_or_do_not_fit_together_are_named():
    with pytest.raises(ConfigError, match="'rhyme_scheme' is none of the kinds of scale tiny"):
        check_kinds(InstructionConfig(scale="tiny", kinds=["rhyme_scheme"]))
    check_kinds(InstructionConfig(scale="full", kinds=["rhyme_scheme"]))
    with pytest.raises(ConfigError, match="fit together"):
        made(asked(), kinds=["uppercase", "lowercase"], count=[2, 2])
    with pytest.raises(ConfigError, match="could be followed"):
        made(asked(), kinds=["quotation", "starts_with"], count=[2, 2])
