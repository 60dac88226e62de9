"""Numbers, chart values and counts."""

import pytest

from rewards.rules.number import chart_value, counting, number, parse_number


def score(rule, answer, given, **args):
    return rule(given, {"answer": answer, "mode": "no_think"}, **args).value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12", (12.0, "")),
        ("-1,234.5", (-1234.5, "")),
        ("−3", (-3.0, "")),
        ("1.2e3", (1200.0, "")),
        (r"1.2 \times 10^{3}", (1200.0, "")),
        ("3/4", (0.75, "")),
        (r"-\frac{3}{4}", (-0.75, "")),
        ("$5", (5.0, "")),
        ("$5.50$", (5.5, "")),
        ("40%", (40.0, "%")),
        (r"40\%", (40.0, "%")),
        ("12 cm", (12.0, "cm")),
        (r"12\text{ cm}^2", (12.0, "cm2")),
        ("60 km/h", (60.0, "km/h")),
        (".5", (0.5, "")),
    ],
)
def test_parse(text, expected):
    assert parse_number(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text", ["", "abc", "1 2", "1, 2", "12 or 13", "1/0", "inf", "nan", "1e999"]
)
def test_no_number(text):
    assert parse_number(text) is None


@pytest.mark.parametrize(
    ("answer", "given", "args", "value"),
    [
        ("3.14159", "3.14", {"absolute": 0.01}, 1.0),
        ("3.14159", "3.2", {"absolute": 0.01}, 0.0),
        ("1000", "1040", {"relative": 0.05}, 1.0),
        ("1000", "1060", {"relative": 0.05}, 0.0),
        ("12", "about 12 apples", {}, 1.0),
        ("12", "between 11 and 13", {}, 0.0),
        ("12", "1 2 3 4 5 6 7 8 9 10 11 12", {}, 0.0),
        ("12 cm", "12 cm", {}, 1.0),
        ("12 cm", "12", {}, 1.0),
        ("12 cm", "12 m", {}, 0.0),
        ("12", "12", {"unit": "kg"}, 0.0),
        ("12", "12 kg", {"unit": "kg"}, 1.0),
        ("12", "", {}, 0.0),
        ("0", "0.0000001", {}, 1.0),
    ],
)
def test_number(answer, given, args, value):
    assert score(number, answer, given, **args) == value


def test_reference_that_is_no_number_is_an_error():
    assert number("3", {"answer": "red", "mode": "no_think"}).status == "error"
    assert counting("3", {"answer": "red", "mode": "no_think"}).status == "error"


@pytest.mark.parametrize(
    ("answer", "given", "value"),
    [
        ("100", "104", 1.0),
        ("100", "105", 1.0),
        ("100", "105.1", 0.0),
        ("100", "95", 1.0),
        ("-20", "-21", 1.0),
        ("-20", "20", 0.0),
        ("0", "0", 1.0),
        ("0", "0.01", 0.0),
        ("50%", "0.5", 1.0),
        ("50%", "50", 0.0),
        ("50%", "51%", 1.0),
        ("Brazil", "brazil", 1.0),
        ("Brazil", "Brazil, Peru", 0.0),
        ("100", "", 0.0),
        ("100", r"\boxed{90}\boxed{100}", 0.0),
    ],
)
def test_chart_value(answer, given, value):
    assert score(chart_value, answer, given) == value


@pytest.mark.parametrize(
    ("answer", "given", "value"),
    [
        ("3", "3", 1.0),
        ("3", "three", 1.0),
        ("three", "there are 3 dogs", 1.0),
        ("3", "There are three dogs.", 1.0),
        ("0", "zero", 1.0),
        ("3", "two or three", 0.0),
        ("3", "2 or 3", 0.0),
        ("3", "3 or four", 0.0),
        ("3", "3.5", 0.0),
        ("3", "-3", 0.0),
        ("3", "many", 0.0),
        ("3", "", 0.0),
    ],
)
def test_counting(answer, given, value):
    assert score(counting, answer, given) == value


def test_counting_partial():
    assert score(counting, "4", "3", partial=True) == 0.75
    assert score(counting, "2", "9", partial=True) == 0.0
