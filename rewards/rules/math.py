r"""Mathematical answers, compared by value: math-verify behind cheap exact comparisons.

Most answers of a verifiable task are short numbers. Those are decided without a parser: equal
normalised strings are right, two plain decimals are compared exactly. Only the rest is parsed
(0.2–10 ms each). Nothing here limits its own time: it runs in a worker that is killed.
"""

from __future__ import annotations

import functools
import logging
import re
from decimal import Context, Decimal, localcontext
from typing import Any

from rewards.answer import boxes, final_answers
from rewards.registry import rule
from rewards.result import RewardResult

logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns on each call without timeout

PLAIN_NUMBER = re.compile(r"[+-]?(?:\d{1,60}(?:\.\d{1,60})?|\.\d{1,60})", re.ASCII)
GROUPED_NUMBER = re.compile(r"[+-]?\d{1,3}(?:,\d{3}){1,20}(?:\.\d{1,60})?", re.ASCII)
EXACT = Context(prec=200)
"""Numbers of 60 digits on both sides of the point can be rounded; the default's 28 places can't."""
LONGEST_PARSED = 2000  # characters; longer answers are compared as text only


@rule()
def math(response: str, sample: dict[str, Any], digits: int = 6) -> RewardResult:
    r"""1.0 if the answer equals the sample's answer mathematically, else 0.0 (math-verify).

    Numbers, fractions, units, intervals, sets, tuples, matrices, equations and expressions are
    compared by value, numbers to `digits` decimals. Several boxed answers are right only if the
    sample's answer is a list of as many, in any order; a response that boxes different answers to
    a question with one answer is wrong, whichever it gives last.
    """
    answer = sample.get("answer")
    if answer is None or answer == "":
        return RewardResult.failure("the sample has no answer")
    wanted = _wanted(answer)
    given = final_answers(response, sample.get("mode"))
    if not given:
        return RewardResult(0.0, details={"reason": "no answer"})
    if len(wanted) == 1:
        if len(given) > 1 and not all(_same(wanted[0], one, digits) for one in given):
            return RewardResult(0.0, details={"reason": f"{len(given)} different answers"})
        right = len(given) > 1 or _same(wanted[0], given[0], digits)
        return RewardResult(float(right), details={"answer": given[0][:200]})
    if len(given) == 1:  # all of them in one box
        right = _same("{" + ",".join(wanted) + "}", given[0], digits, as_set=True)
        return RewardResult(float(right), details={"answer": given[0][:200]})
    return RewardResult(float(_match_all(wanted, given, digits)), details={"answers": len(given)})


def _wanted(answer: object) -> list[str]:
    if isinstance(answer, (list, tuple)):
        return [str(one) for one in answer]
    return boxes(str(answer)) or [str(answer)]


def _match_all(wanted: list[str], given: list[str], digits: int) -> bool:
    """Each wanted answer is given once and nothing else is given."""
    left = list(given)
    for one in wanted:
        match = next((candidate for candidate in left if _same(one, candidate, digits)), None)
        if match is None:
            return False
        left.remove(match)
    return not left


def plain_number(text: str) -> Decimal | None:
    """The value of a plain decimal such as `-12`, `.5` or `1,234.0`; None for all else."""
    if PLAIN_NUMBER.fullmatch(text):
        return Decimal(text)
    if GROUPED_NUMBER.fullmatch(text):
        return Decimal(text.replace(",", ""))
    return None


def _values(text: str) -> list[Decimal]:
    """What a number or percentage may mean: `50%` is 50 (if a percentage was asked for) or 0.5."""
    plain = text.removesuffix("%").removesuffix("\\")
    value = plain_number(plain)
    if value is None:
        return []
    return [value] if plain == text else [value, value / 100]


def _bare(text: str) -> str:
    """Without the dollar signs around it, one final full stop, and all white space."""
    squeezed = "".join(text.split())
    if len(squeezed) > 1 and squeezed[0] == squeezed[-1] == "$":
        squeezed = squeezed.strip("$")
    return squeezed.removesuffix(".")


def _same(wanted: str, given: str, digits: int, as_set: bool = False) -> bool:
    left, right = _bare(wanted), _bare(given)
    if not right:
        return False
    if left == right and not as_set:
        return True
    if max(len(left), len(right)) > LONGEST_PARSED:
        return False
    same = _same_numbers(left, right, digits)
    return _same_parsed(wanted, given, digits, as_set) if same is None else same


def _same_numbers(left: str, right: str, digits: int) -> bool | None:
    """Whether two plain numbers or percentages are equal; None when one is neither."""
    with localcontext(EXACT):
        left_values, right_values = _values(left), _values(right)
        if not left_values or not right_values:
            return None
        if len(left_values) == len(right_values):  # two plain numbers, or two percentages
            left_values, right_values = left_values[:1], right_values[:1]
        return any(round(a, digits) == round(b, digits) for a in left_values for b in right_values)


def _same_parsed(wanted: str, given: str, digits: int, as_set: bool) -> bool:
    from math_verify import verify

    return bool(
        verify(
            _parsed(wanted),
            _parsed(given),
            float_rounding=digits,
            timeout_seconds=None,
            allow_set_relation_comp=as_set,
        )
    )


@functools.lru_cache(maxsize=512)
def _parsed(text: str) -> list[Any]:
    """What math-verify reads; kept, because a group shares its reference and often its answers.

    In a box, so that math-verify reads all of it and does not search for a number in it.
    """
    from math_verify import parse

    latex = text if "\\boxed{" in text else f"$\\boxed{{{text.strip().strip('$')}}}$"
    return parse(latex, parsing_timeout=None)
