"""Length, repetition, language, agreement of reasoning and answer."""

from decimal import Decimal

import pytest

from rewards.rules.shaping import (
    consistency,
    evaluate,
    language,
    length,
    repetition,
    script_shares,
    wrong_equations,
)


def test_length_is_daposs_soft_punishment():
    def at(n: int) -> float:
        return length("x" * n, {}, maximum=100, soft=20)

    assert [at(n) for n in (0, 80, 85, 90, 100)] == [0.0, 0.0, -0.25, -0.5, -1.0]
    assert at(101) == -1.0
    assert length("x", {}, maximum=10, minimum=2) == -1.0
    assert length("one two three", {}, maximum=3, unit="word") == 0.0


def test_repetition():
    assert repetition("a b c d e f g h", {}).value == 0.0
    assert repetition("go on " * 100, {}).value == pytest.approx(-(1 - 2 / 197))
    assert repetition("x" * 1000, {}).value < -0.99  # one endless word
    assert repetition("短", {}).value == 0.0
    assert repetition("a a a a a a", {}, size=1, weight=2.0).value == pytest.approx(-2 * 5 / 6)


@pytest.mark.parametrize(
    ("response", "expected", "value"),
    [
        ("The sum is 8.", "en", 1.0),
        ("答案是八", "zh", 1.0),
        ("答案是八", "en", 0.0),
        ("ответ восемь", "ru", 1.0),
        ("これは八です", "ja", 1.0),
        (r"$x^2$ \frac `code`", "zh", 1.0),  # no prose at all
        ("12", "zh", 1.0),
        ("abcd答案是八", "zh", 0.5),
    ],
)
def test_language(response, expected, value):
    assert language(response, {}, expected=expected).value == value


def test_language_of_the_query():
    query = {"messages": [{"role": "user", "content": [{"type": "text", "text": "是多少？"}]}]}
    assert language("答案是八", query).value == 1.0
    assert language("the answer", query).value == 0.0
    assert language("x", {}, expected="xx").status == "error"
    assert script_shares("<think>") == {}


@pytest.mark.parametrize(
    ("expression", "value"),
    [("3+5", 8), ("8-3-2", 3), ("2*3+4", 10), ("2+3*4", 14), ("7/2", 3.5), ("-2+5", 3), ("2×3", 6)],
)
def test_evaluate(expression, value):
    assert evaluate(expression) == Decimal(str(value))


def test_wrong_equations():
    assert wrong_equations("3+5=8, 8+8=16") == []
    assert wrong_equations("3+5=9, 8+8=16") == ["3+5=9"]
    assert wrong_equations("10/3=3.33") == []
    assert wrong_equations("10/3=3.35") == ["10/3=3.35"]
    assert wrong_equations("1/0=5") == ["1/0=5"]
    assert wrong_equations("x+5=9, 2^3=8, a=3") == []  # not plain equations
    assert wrong_equations("2+3=4+1") == []


def reply(think: str, answer: str) -> str:
    return rf"<think>{think}</think><answer>\boxed{{{answer}}}</answer>"


@pytest.mark.parametrize(
    ("response", "value"),
    [
        (reply("digits 358, 3+5=8, 8+8=16", "16"), 1.0),
        (reply("digits 358, 3+5=8, 8+8=16", "17"), 0.0),  # another answer than concluded
        (reply("digits 358, 3+5=9, 8+8=16", "16"), 0.0),  # right answer, wrong step
        (reply("16 first, then 17", "16"), 0.0),
        (reply("it is red", "red"), 1.0),
        (reply("it is blue", "red"), 0.0),
        (reply("", "16"), 0.0),
        (reply("no numbers here", "16"), 0.0),
        (r"<answer>\boxed{16}</answer>", 1.0),
        ("16", 1.0),
        (r"<think>16<answer>\boxed{16}</answer>", 0.0),
    ],
)
def test_consistency(response, value):
    assert consistency(response, {}).value == value


def test_consistency_without_steps():
    assert consistency(reply("3+5=9, 16", "16"), {}, check_steps=False).value == 1.0
