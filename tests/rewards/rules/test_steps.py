"""Prescribed steps: a table of reasoning that follows them, and of reasoning that only seems to."""

from __future__ import annotations

import time
from typing import Any

import pytest

from rewards.rules.steps import prescribed_steps

STEPS = [
    {"text": "read the digits", "expect": "digits 358"},
    {"text": "name the largest", "expect": "max 8"},
    {"text": "add them from left to right", "expect": "3+5=8;8+8=16"},
]
ALL, NONE = (True, True, True), (False, False, False)


def judged(think: str, **args: Any) -> Any:
    response = f"<think>{think}</think><answer>\\boxed{{16}}</answer>"
    return prescribed_steps(response, {"steps": STEPS, "mode": "think"}, **args)


CASES = [
    # followed
    ("digits 358;max 8;3+5=8;8+8=16", ALL),
    ("digits 358\nmax 8\n3+5=8\n8+8=16\n", ALL),
    ("1. digits 358\n2. max 8\n3. 3+5=8; 8+8=16", ALL),
    ("Step 1: Digits 358. Step", (True, False, False)),
    ("Digits: 358. Max: 8. 3 + 5 = 8; 8 + 8 = 16", ALL),
    ("- digits 358\n- max 8\n- 3+5=8\n- 8+8=16", ALL),
    ("let me see;digits 358;so;max 8;now;3+5=8;8+8=16;done", ALL),
    ("digits 358;max 8;max 8;3+5=8;8+8=16", ALL),  # said twice, the same way
    # a step is missing, wrong or out of order: the others count
    ("digits 358;3+5=8;8+8=16", (True, False, True)),
    ("digits 358;max 5;3+5=8;8+8=16", (True, False, True)),
    ("max 8;digits 358;3+5=8;8+8=16", 2),
    ("3+5=8;8+8=16;digits 358;max 8", (True, True, False)),
    ("digits 358;max 8;8+8=16;3+5=8", (True, True, False)),  # parts in the wrong order
    ("digits 358;max 8;3+5=8;max 8;8+8=16", (True, True, False)),  # parts torn apart
    ("digits 358;max 8;3+5=8", (True, True, False)),
    # adversarial
    ("digits 358;max 3;max 5;max 8;3+5=8;8+8=16", (True, False, True)),  # hedges a result
    ("digits 358;max 8;3+5=9;3+5=8;8+8=16", (True, True, False)),
    ("digits 358 max 8 3+5=8 8+8=16", NONE),  # not said apart
    ("read the digits;name the largest;add them from left to right", NONE),  # the steps, not done
    ("digits 3580;max 80;3+5=8;8+8=160", NONE),
    ("16", NONE),
]


@pytest.mark.parametrize(("think", "done"), CASES)
def test_table_of_cases(think: str, done: tuple[bool, ...] | int):
    share = judged(think)
    if isinstance(done, int):
        assert share.value == pytest.approx(done / 3)
    else:
        assert tuple(share.details["done"]) == done
        assert share.value == pytest.approx(sum(done) / 3)
    assert judged(think, every=True).value == float(share.value == 1.0)


def test_nothing_else_may_be_said_on_request():
    assert judged("digits 358;max 8;3+5=8;8+8=16", extra=False).value == 1.0
    assert judged("1. digits 358\n2. max 8\n3. 3+5=8; 8+8=16", extra=False).value == 1.0
    assert judged("digits 358;max 8;so;3+5=8;8+8=16", extra=False).value == 0.0


@pytest.mark.parametrize(
    "response",
    [
        "digits 358;max 8;3+5=8;8+8=16",  # no section
        "<answer>digits 358;max 8;3+5=8;8+8=16 \\boxed{16}</answer>",  # not where it belongs
        "<think></think><answer>digits 358;max 8 \\boxed{16}</answer>",
        "<think>digits 358;max 8;3+5=8;8+8=16",  # never closed
        "<think>x</think><think>digits 358;max 8;3+5=8;8+8=16</think><answer>\\boxed{16}</answer>",
    ],
)
def test_steps_outside_the_think_section_do_not_count(response: str):
    assert prescribed_steps(response, {"steps": STEPS}).value == 0.0


def test_two_steps_with_one_label_are_no_hedge():
    steps = [{"text": "", "expect": "add 3"}, {"text": "", "expect": "add 5"}]
    response = "<think>add 3;add 5</think><answer>\\boxed{8}</answer>"
    assert prescribed_steps(response, {"steps": steps}).value == 1.0
    response = "<think>add 3;add 4;add 5</think><answer>\\boxed{8}</answer>"
    assert prescribed_steps(response, {"steps": steps}).value == 0.0


@pytest.mark.parametrize("steps", [None, [], ["read"], [{"text": "read"}], [{"expect": " ; "}]])
def test_steps_that_cannot_be_checked_are_an_error_and_no_zero(steps: Any):
    result = prescribed_steps("<think>a</think><answer>b</answer>", {"steps": steps})
    assert result.status == "error" and "expect" in result.details["message"]


def test_hostile_text_takes_linear_time():
    for text in ("max 8;" * 20_000, ";" * 100_000, "1." * 50_000, "a.\n" * 50_000):
        started = time.process_time()
        judged(text)
        assert time.process_time() - started < 1.0
