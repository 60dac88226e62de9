"""Answers that are one number: with a tolerance, from a chart, or a count."""

from __future__ import annotations

import math
import re
from typing import Any

from rewards.answer import single_answer
from rewards.registry import rule
from rewards.result import RewardResult
from rewards.rules.text import normalise

_DIGITS = r"(?:\d{1,3}(?:,\d{3}){1,12}|\d{1,60})(?:\.\d{0,60})?|\.\d{1,60}"
NUMBER = re.compile(rf"(?<![\w.])([-+−]?)\s?({_DIGITS})(?:[eE]([+-]?\d{{1,3}}))?(?![\d])")
FRACTION = re.compile(
    r"([-+−]?)(\d{1,18})\s?/\s?(\d{1,18})|([-+−]?)\\d?frac\{(\d{1,18})\}\{(\d{1,18})\}"
)
SCIENTIFIC = re.compile(r"\s?(?:\\times|\\cdot|×|x|\*)\s?10\s?\^\s?\{?([+-]?\d{1,3})\}?")
UNIT = re.compile(r"\s*(%|°|[A-Za-zµΩ]+(?:/[A-Za-z]+)?)(?:\^?\{?([23])\}?)?\s*$")
MONEY = re.compile(r"^(?:US)?\\?[$€£¥]\s*")
WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    *("nineteen", "twenty"),
)


def parse_number(text: str) -> tuple[float, str] | None:
    """(value, unit) if the text is one number with an optional unit, else None.

    Reads `1,234.5`, `-3`, `1.2e3`, `1.2 \\times 10^3`, `3/4`, `\\frac{3}{4}`, `$5`, `12 cm^2`,
    `40%` (unit `%`, value 40). A text with two numbers is no number.
    """
    plain = MONEY.sub("", text.strip().strip("$").rstrip(".").strip())
    plain = re.sub(r"\\(?:text|mathrm)\{([^{}]*)\}", r" \1", plain[:200])
    plain = re.sub(r"\\[,;! ]|\\(?=%)", " ", plain).strip()
    if match := FRACTION.match(plain):
        sign, top, bottom = (group for group in match.groups() if group is not None)
        if int(bottom) == 0:
            return None
        value = int(top) / int(bottom)
    elif match := NUMBER.match(plain):
        sign, digits, exponent = match.groups()
        value = float(f"{digits.replace(',', '')}e{exponent or 0}")
    else:
        return None
    rest = plain[match.end() :]
    if power := SCIENTIFIC.match(rest):
        value *= float(f"1e{power.group(1)}")
        rest = rest[power.end() :]
    unit = ""
    if rest.strip():
        found = UNIT.fullmatch(rest.replace("{", "").replace("}", ""))
        if found is None:
            return None
        unit = found.group(1) + (found.group(2) or "")
    if not math.isfinite(value):
        return None
    return (-value if sign in ("-", "−") else value), unit


def find_number(text: str) -> tuple[float, str] | None:
    """The number the text is, or the only different one in it (`about 12 apples`)."""
    whole = parse_number(text)
    if whole is not None:
        return whole
    found = {match.group().replace(" ", "") for match in NUMBER.finditer(text[:2000])}
    return parse_number(found.pop()) if len(found) == 1 else None


@rule()
def number(
    response: str,
    sample: dict[str, Any],
    relative: float = 0.0,
    absolute: float = 1e-6,
    unit: str | None = None,
) -> RewardResult:
    """1.0 if the answer's number is within max(`absolute`, `relative`·|reference|), else 0.0.

    Fractions, thousands separators, powers of ten, currency signs and units are read. If both the
    sample's answer and the response name a unit, or `unit` is given, the units must agree. An
    answer with two different numbers is wrong.
    """
    wanted = parse_number(str(sample.get("answer", "")))
    if wanted is None:
        return RewardResult.failure(f"the sample's answer is no number: {sample.get('answer')!r}")
    given = find_number(single_answer(response, sample.get("mode")) or "")
    if given is None:
        return RewardResult(0.0, details={"reason": "not one number"})
    asked = unit or wanted[1]
    missing = unit is not None and not given[1]
    if missing or (asked and given[1] and given[1] != asked):
        return RewardResult(0.0, details={"reason": f"unit {given[1]!r}, not {asked!r}"})
    error = abs(given[0] - wanted[0])
    near = error <= max(absolute, relative * abs(wanted[0]))
    return RewardResult(float(near), details={"number": given[0]})


@rule()
def chart_value(response: str, sample: dict[str, Any], tolerance: float = 0.05) -> RewardResult:
    """Relaxed accuracy of ChartQA: numbers within `tolerance` (relative), all else exactly.

    As in ChartQA (arXiv 2203.10244 §5) a percentage is its hundredth, a reference of 0 must be
    met exactly, and text is compared without regard to case.
    """
    wanted_text = str(sample.get("answer", "")).strip()
    given_text = (single_answer(response, sample.get("mode")) or "").strip()
    wanted, given = _chart_number(wanted_text), _chart_number(given_text)
    if wanted is None or given is None:
        same = bool(given_text) and normalise(given_text) == normalise(wanted_text)
        return RewardResult(float(same))
    if wanted == 0.0:
        return RewardResult(float(given == 0.0), details={"number": given})
    near = abs(given - wanted) / abs(wanted) <= tolerance
    return RewardResult(float(near), details={"number": given})


def _chart_number(text: str) -> float | None:
    found = parse_number(text)
    if found is None:
        return None
    return found[0] / 100.0 if found[1] == "%" else found[0]


@rule()
def counting(response: str, sample: dict[str, Any], partial: bool = False) -> RewardResult:
    """1.0 if the count is right, else 0.0. Words up to twenty are read ("three dogs").

    `partial=True`: 1 − |error| / max(reference, 1), at least 0, for counts that are hard.
    """
    wanted = _count(str(sample.get("answer", "")))
    if wanted is None:
        return RewardResult.failure(f"the sample's answer is no count: {sample.get('answer')!r}")
    given = _count(single_answer(response, sample.get("mode")) or "")
    if given is None:
        return RewardResult(0.0, details={"reason": "not one count"})
    error = abs(given - wanted)
    value = max(0.0, 1.0 - error / max(wanted, 1)) if partial else float(error == 0)
    return RewardResult(value, details={"count": given})


def _count(text: str) -> int | None:
    """The one whole number ≥ 0 in a text, in digits or words."""
    found = find_number(text)
    words = {word for word in re.findall(r"[a-z]+", text[:2000].lower()) if word in WORDS}
    if found is not None:
        whole = found[0] >= 0 and found[0] == int(found[0])
        named = {WORDS.index(word) for word in words} - {int(found[0])}
        return int(found[0]) if whole and not named else None
    if len(words) == 1 and not NUMBER.search(text[:2000]):
        return WORDS.index(words.pop())
    return None
