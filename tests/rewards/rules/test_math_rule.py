"""True and false cases of the math rule, including ways to cheat it."""

import pytest

from rewards.rules.math import math, plain_number


def value(answer: object, given: str, **args) -> float | None:
    response = f"<think>x</think><answer>{given}</answer>"
    return math(response, {"answer": answer, "mode": "think"}, **args).value


TRUE = [
    ("12", "12"),
    ("12", "12.0"),
    ("12", " 12 ."),
    ("12", "+12"),
    ("1234", "1,234"),
    ("0.5", ".5"),
    ("0.5", r"\frac{1}{2}"),
    ("0.5", "1/2"),
    ("0.5", r"50\%"),
    ("50", r"50\%"),
    ("50%", "0.5"),
    ("50%", r"50.0\%"),
    ("-3", "-3"),
    ("x+1", "1+x"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    ("2^{10}", "1024"),
    ("(1,2)", "(1, 2)"),
    ("[0,1)", r"[0, 1)"),
    (r"\{1,2,3\}", r"\{3,1,2\}"),
    (r"(-\infty,2]", r"(-\infty, 2]"),
    ("5 cm", r"5\text{ cm}"),
    ("5", r"5\text{ cm}"),
    ("x=3", "3"),
    (r"\pi", r"\pi"),
    ("1e-7", "1e-7"),
    (["2", "3"], r"\{3, 2\}"),
    (r"\boxed{12}", "12"),
    ("007", "7"),
]
FALSE = [
    ("12", "13"),
    ("12", ""),
    ("12", "twelve"),
    ("12", "121"),
    ("0.333333", "0.34"),
    ("(1,2)", "(2,1)"),
    ("[0,1)", "[0,1]"),
    (r"\{1,2\}", r"\{1,2,3\}"),
    ("x+1", "x+2"),
    ("12", "12, 13, 14, 15"),
    ("12", "11 or 12"),
    ("12", r"x \in \{1,2,12\}"),
    ("12", "n"),
    ("50%", r"0.5\%"),
    ("50%", r"5\%"),
    ("8", "the answer"),
    (["2", "3"], "2"),
    (["2", "3"], r"\{2, 3, 4\}"),
]


@pytest.mark.parametrize(("answer", "given"), TRUE)
def test_equal(answer, given):
    assert value(answer, rf"\boxed{{{given}}}") == 1.0


@pytest.mark.parametrize(("answer", "given"), FALSE)
def test_different(answer, given):
    assert value(answer, rf"\boxed{{{given}}}") == 0.0


def test_many_boxes_are_a_guess():
    stuffed = "".join(rf"\boxed{{{n}}}" for n in range(20))
    assert value("12", stuffed) == 0.0
    assert value("12", r"\boxed{12}\boxed{13}") == 0.0
    assert value("12", r"\boxed{13}\boxed{12}") == 0.0
    assert value("12", r"\boxed{12} that is \boxed{12.0}") == 1.0  # the same answer twice


def test_several_answers_in_any_order():
    assert value(["2", "-3"], r"\boxed{-3} and \boxed{2}") == 1.0
    assert value(["2", "-3"], r"\boxed{-3} and \boxed{3}") == 0.0
    assert value(["2", "-3"], r"\boxed{-3}\boxed{2}\boxed{4}") == 0.0
    assert value(r"\boxed{2}, \boxed{-3}", r"\boxed{-3}\boxed{2}") == 1.0


def test_answer_is_not_taken_from_the_reasoning():
    sample = {"answer": "12", "mode": "think"}
    assert math(r"<think>\boxed{12}</think><answer>\boxed{13}</answer>", sample).value == 0.0
    assert math(r"<think>\boxed{12}</think>", sample).value == 0.0
    assert math("12", {"answer": "12", "mode": "no_think"}).value == 1.0
    assert math("12 or so 13", {"answer": "12", "mode": "no_think"}).value == 0.0


def test_digits():
    assert value("0.333333333", r"\boxed{0.3333334}") == 1.0
    assert value("0.333333333", r"\boxed{0.3333334}", digits=8) == 0.0
    assert value("2.7", r"\boxed{2.71}", digits=1) == 1.0
    long = "1234567890" * 5
    assert value(long, rf"\boxed{{{long}.0000001}}") == 1.0
    assert value(long, rf"\boxed{{{long[:-1]}1}}") == 0.0
    assert value(f"{long}%", rf"\boxed{{{long[:-2]}.90}}") == 1.0


def test_missing_reference_is_an_error():
    assert math("12", {"mode": "no_think"}).status == "error"
    assert math("12", {"answer": "", "mode": "no_think"}).status == "error"


def test_plain_numbers():
    assert plain_number("1,234.5") == plain_number("1234.50")
    for other in ("1,23", "1e5", "12a", "", "1.2.3", "٣"):
        assert plain_number(other) is None
