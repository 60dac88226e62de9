"""Reading of answers, with wrong and ambiguous ones."""

from __future__ import annotations

import pytest

from rl.benchmarks.answers import (
    choice_letter,
    final_answer,
    rotations,
    stated_number,
    yes_or_no,
)
from rl.benchmarks.mmmu_parsing import open_is_correct, parse_choice, parse_open
from rl.benchmarks.videos import first_letter, option_label

ANIMALS = {"A": "cat", "B": "dog", "C": "big dog", "D": "bird"}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B. dog", "B"),
        ("B: because it barks", "B"),
        ("**D**", "D"),
        ("The answer is D.", "D"),
        ("the correct option is (C), clearly", "C"),
        ("I would say D", "D"),
        ("bird", "D"),
        ("Bird.", "D"),
        ("it is a bird", "D"),
        ("A cat", "A"),  # the option's text, with an article
        ("A man feeds a bird", "D"),  # an article is no option
        ("big dog", "C"),  # the text itself goes before what it contains
        ("a big dog", None),  # both dog and big dog are in it
        ("A or B", None),
        ("B, no, D", None),
        ("The answer is A or the answer is B", None),
        ("E", None),
        ("fish", None),
        ("", None),
        ("there is no bird in it, nor anything else that I could name, so nothing fits", None),
    ],
)
def test_choice_letter(answer: str, letter: str | None):
    assert choice_letter(answer, ANIMALS) == letter


def test_options_without_texts_are_named_by_letter_only():
    options = dict.fromkeys("ABCD", "")
    assert choice_letter("C", options) == "C"
    assert choice_letter("something", options) is None


@pytest.mark.parametrize(
    ("response", "mode", "answer"),
    [
        ("B", "no_think", "B"),
        ("<think>A? B?</think><answer>\\boxed{B}</answer>", "think", "B"),
        ("<think>it is A", "think", ""),  # reasoning that doesn't get to an answer
        ("it is \\boxed{4}", "no_think", "4"),
        ("\\boxed{4} or \\boxed{5}", "no_think", "\\boxed{4} or \\boxed{5}"),
        ("<answer>no</answer>", "auto_think", "no"),
    ],
)
def test_final_answer(response: str, mode: str, answer: str):
    assert final_answer(response, mode) == answer


@pytest.mark.parametrize(
    ("answer", "found"),
    [("Yes.", "Yes"), ("No, it isn't", "No"), ("yes and no", None), ("nothing", None), ("", None)],
)
def test_yes_or_no(answer: str, found: str | None):
    assert yes_or_no(answer) == found


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("14", (14.0, True)),
        ("It is 1,234.5 in all", (1234.5, True)),
        ("-3", (-3.0, True)),
        ("2 + 2 = 4", (4.0, True)),
        ("of 12 apples the answer is 7, not 8", (7.0, True)),
        ("12 of 30", (30.0, False)),  # which one?
        ("many", (None, False)),
    ],
)
def test_stated_number(answer: str, found: tuple[float | None, bool]):
    assert stated_number(answer) == found


def test_rotations_keep_the_answer_s_text():
    shifted = rotations({"A": "cat", "B": "dog", "C": "bird"}, "B")
    assert [letter for _, letter in shifted] == ["B", "A", "C"]
    assert all(options[letter] == "dog" for options, letter in shifted)
    assert len({tuple(options.values()) for options, _ in shifted}) == 3


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("(B)", "B"),
        ("The answer is B", "B"),
        ("A . No: B", "B"),  # of several the last
        ("(A) is wrong, I choose C", "A"),  # a bracketed letter goes before a bare one
        ("I think that the picture shows a bird here", "D"),  # by text, in more than five words
        ("bird", None),  # in short answers texts don't count
        ("E", None),
    ],
)
def test_mmmu_choice(response: str, letter: str | None):
    assert parse_choice(response, ANIMALS) == letter


@pytest.mark.parametrize(
    ("response", "answers", "right"),
    [
        ("42", ["42"], True),
        ("The answer is 42.", ["42.0"], True),
        ("x = 3.14159", ["3.14"], True),  # two decimals count
        ("1,200 in total", ["1200"], True),
        ("it grows by 12", ["2"], False),  # a number is no substring
        ("so the result is Paris", ["paris"], True),
        ("the answer is a", ["a"], True),
        ("the answer is cat", ["a"], False),  # one letter needs a space beside it
        ("London", ["paris", "rome"], False),
        ("rome", ["paris", "Rome"], True),
    ],
)
def test_mmmu_open(response: str, answers: list[str], right: bool):
    assert open_is_correct(parse_open(response), answers) is right


def test_videomme_takes_the_first_capital():
    choices = dict.fromkeys("ABCD", "x")
    assert first_letter("C", choices) == "C"
    assert first_letter("The best answer is: B. A dog", choices) == "B"
    assert first_letter("Dogs run: C", choices) == "D"  # the original's weakness, kept
    assert first_letter("none", choices) is None


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("A", "A"),
        ("B. leftward", "B"),
        ("leftward", "B"),
        ("(B)", "B"),
        ("rightward.", "A"),
        ("it goes to the left", None),
    ],
)
def test_tempcompass_choice(text: str, label: str | None):
    assert option_label(text, ["A. rightward", "B. leftward"]) == label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Caption B", "Caption B"),
        ("B", "Caption B"),
        ("Caption A: the ball falls.", "Caption A"),
        ("the ball rises", "Caption B"),
        ("the ball", None),
    ],
)
def test_tempcompass_captions(text: str, label: str | None):
    options = ["Caption A: the ball falls.", "Caption B: the ball rises."]
    assert option_label(text, options) == label
