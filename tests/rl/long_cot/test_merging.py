"""Merged questions: what they ask, how their answers are judged, and what can't be merged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pretrain.data.sample import Sample
from pretrain.data.stream import WorldStream
from rewards.pool import RewardPool
from rewards.result import is_correct
from rl.long_cot.merged_answer import merged_answer
from rl.long_cot.merging import merged_sample, obstacle


def world(task: str, index: int = 0) -> Sample:
    return WorldStream({task: 1.0}, 5, "train", {"think": 1.0})[index]


def test_a_merged_question_shows_both_and_asks_both():
    first, second = world("digits/sum"), world("shapes/count", 1)
    both = merged_sample(first, second, ", ").validate()
    kinds = [part["type"] for part in both.messages[0]["content"]]
    assert kinds == ["image", "text", "image", "text"]
    assert both.answer == f"{first.answer}, {second.answer}"
    assert both.solution == f"{first.solution};{second.solution}"
    assert both.task_type == "merged/sum+count" and both.mode == "think"
    same = replace(second, messages=[{"role": "user", "content": first.messages[0]["content"]}])
    shared = merged_sample(first, same, ", ")  # two questions on one picture: it is shown once
    assert [part["type"] for part in shared.messages[0]["content"]] == ["image", "text", "text"]


def test_both_halves_must_be_right_each_by_its_own_rule(pool: RewardPool):
    first, second = world("digits/sum"), world("shapes/attribute", 1)
    assert [r["rule"] for r in second.rewards] == ["exact", "format"]
    both = merged_sample(first, second, ", ")
    row = both.to_row(media=False)
    number, word = first.answer, second.answer

    def text(answer: str) -> str:
        return f"<think>x</think><answer>\\boxed{{{answer}}}</answer>"

    answers = [f"{number}, {word}", f"{number}.0,{word.upper()}", f"{word}, {number}",
               f"{number}, nothing", number, f"{number}, {word}, {word}"]  # fmt: skip
    scores = pool.score([(text(answer), row) for answer in answers])
    direct = pool.score([(f"{number}, {word}", row | {"mode": "no_think"})])
    assert [is_correct(score) for score in scores] == [True, True, False, False, False, False]
    values = [score.parts["merged"].value for score in scores]
    assert values == [1.0, 1.0, 0.0, 0.5, 0.0, 0.0]
    assert scores[0].verifiers == ("merged",) and scores[0].total == pytest.approx(1.1)
    assert is_correct(direct[0])


def test_a_part_that_cannot_be_judged_is_a_failure_and_no_zero():
    parts = [{"rule": "math", "answer": ""}, {"rule": "math", "answer": "1"}]
    result = merged_answer("1, 1", {"mode": "no_think"}, parts)
    assert result.value is None and "no answer" in result.details["message"]


def plain(**facts: Any) -> Sample:
    row = {
        "id": "q",
        "messages": [{"role": "user", "content": "1+1?"}],
        "answer": "2",
        "task_type": "math/sum",
        "rewards": [{"rule": "math"}],
    }
    return Sample.from_row(row | facts)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (plain(id="p"), None),
        (world("video/order"), "a video"),
        (plain(answer="1, 2"), "in an answer"),
        (plain(rewards=[{"rule": "judge"}]), "rules judge"),
        (plain(rewards=[]), "rules none"),
        (plain(rewards=[{"rule": "math"}, {"rule": "exact"}]), "rules math, exact"),
        (plain(answers=["2", "two"]), "several answers"),
        (plain(constraints=[{"kind": "length"}]), "constraints"),
        (plain(messages=[{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]),
         "several turns"),
    ],
)  # fmt: skip
def test_what_cannot_be_merged_says_why(other: Sample, reason: str | None):
    found = obstacle(plain(), other, ", ", 8)
    assert found is None if reason is None else reason in (found or "")


def test_there_is_a_limit_to_images():
    image = {"type": "image", "image": np.zeros((28, 28, 3), np.uint8)}
    many = replace(plain(), messages=[{"role": "user", "content": [image] * 5}])
    assert obstacle(many, plain(), ", ", 5) is None and obstacle(many, plain(), ", ", 4)
