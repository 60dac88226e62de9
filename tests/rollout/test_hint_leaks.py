"""What a hint of each level may not say."""

from __future__ import annotations

from typing import Any

import pytest

from pretrain.data.sample import Sample
from pretrain.data.stream import WorldStream
from rollout.hint_leaks import contains_answer, leak, sample_leak

README_HINTS = [
    "look at the right angle",
    "split it in two",
    "area = ½·b·h",
    "½·6·8 = 24",
    "24 + 18 = 42",
]


def test_sound_hints_of_all_levels_pass():
    assert [leak(level, text, "42") for level, text in enumerate(README_HINTS, 1)] == [None] * 5
    world = WorldStream({"digits/sum_hard": 1.0}, seed=0)
    refused = [
        level
        for index in range(100)
        for level, text in enumerate(world[index].hints, 1)
        if leak(level, text, world[index].answer)
    ]
    assert len(refused) <= 5  # "there are 5 digits" where the sum is 5


@pytest.mark.parametrize(
    ("level", "text", "answer", "reason"),
    [
        (1, "the area is 42", "42", "L1 contains the answer ('42')"),
        (4, "so it must be 42.0", "42", "contains the answer ('42.0')"),
        (4, "exactly forty, then 1,042", "1042", "contains the answer ('1,042')"),
        (2, "there are Three of them", "3", "contains the answer ('Three')"),
        (3, "think of the Eiffel  tower", "eiffel tower", "contains the answer"),
        (4, "pick option B", "B", "contains the answer ('option B')"),
        (4, "the answer is no", "no", "contains the answer"),
        (4, "它是埃菲尔铁塔", "埃菲尔铁塔", "contains the answer"),
        (4, "thus x is 7", r"\boxed{7}", "contains the answer ('7')"),
        (3, "take 6·8 first", "24", "L3 contains a calculation ('6·8')"),
        (3, "b = 6 here", "24", "L3 contains a calculation ('= 6')"),
        (3, "３＋４", "24", "L3 contains a calculation"),
        (2, "area = half of b times h", "24", "L2 contains a formula ('=')"),
        (2, "think of a + b", "24", "L2 contains a formula ('a + b')"),
        (2, r"the ratio \frac{a}{b}", "24", "L2 contains a formula"),
        (1, "use Pythagoras", "24", "L1 names a method ('use')"),
        (1, "the theorem of Thales", "24", "L1 names a method ('theorem')"),
        (1, "利用勾股定理", "24", "L1 names a method"),
    ],
)
def test_a_hint_that_says_too_much_is_refused_with_the_reason(level, text, answer, reason):
    assert reason in leak(level, text, answer)


@pytest.mark.parametrize(
    ("level", "text", "answer"),
    [
        (3, "area = ½·b·h", "24"),  # L3 may name the formula
        (4, "½·6·8 = 24", "48"),  # L4 may calculate
        (5, "24 + 18 = 42", "42"),  # L5 is the solution
        (2, "use the theorem of Pythagoras", "24"),  # L2 may name a method
        (1, "there is a right angle at point A", "A"),  # a letter that is not named as the answer
        (1, "no two sides are equal", "no"),
        (1, "the 142 trees and the 42nd one's shade", "2"),  # a digit inside of a number
        (1, "red or blue and/or green", "green tea"),
        (1, "a catalogue of shapes", "cat"),
    ],
)
def test_what_a_level_may_say_is_not_refused(level, text, answer):
    assert leak(level, text, answer) is None


def test_signs_do_not_hide_a_number():
    assert contains_answer("it is 5 below", "-5") == "5"
    assert contains_answer("anything", "") is None


def test_alternatives_and_the_words_of_the_right_option_are_the_answer_too():
    def asked(question: str, answer: str, **extra: Any) -> Sample:
        messages = [{"role": "user", "content": [{"type": "text", "text": question}]}]
        return Sample(id="q", messages=messages, answer=answer, task_type="a/b", extra=extra)

    capital = asked("Which is the capital?\nA. Lyon\n(B) Paris\nC) Nice", "B")
    assert sample_leak(2, "think of Paris", capital) == "L2 contains the answer ('Paris')"
    assert sample_leak(2, "think of Lyon and Nice", capital) is None
    car = asked("what is it?", "car", answers=["car", "automobile"])
    assert sample_leak(1, "an automobile", car) == "L1 contains the answer ('automobile')"
    assert sample_leak(5, "an automobile", car) is None
