"""Programs, judged by unit tests in a sandbox (no network, no files, hard limits)."""

from __future__ import annotations

import ast
import re
from decimal import Decimal
from typing import Any

from rewards.answer import answer_text
from rewards.registry import rule
from rewards.result import RewardResult
from rewards.rules.math import plain_number
from rewards.sandbox.client import Limits, SandboxError, run_isolated

FENCE = re.compile(r"```[ \t]*([\w+-]*)[^\n]*\n(.*?)```", re.DOTALL)
LONGEST = 100_000  # characters of code
DEADLINE_S = 40.0
NEAR = Decimal("5e-7")  # six decimals, as `math` compares


@rule(deadline_s=DEADLINE_S)
def code(
    response: str,
    sample: dict[str, Any],
    tests: list[Any] | None = None,
    partial: bool = False,
    seconds: float = 2.0,
    memory_mb: int = 256,
    by_value: bool = False,
) -> RewardResult:
    """1.0 if the program in the answer passes all tests, else 0.0; `partial`: the share passed.

    The program is the last code block of the answer. `tests` (or the sample's `tests`) is a list
    of `{input, output}` (standard input and expected output), `{call, expected}` (an expression
    and its value), and Python statements (`assert f(2) == 4`, or a whole test function with its
    call). Expected values of the first two kinds, and of asserts that compare with a literal,
    never enter the sandbox, so that no program can fake them. `by_value`: an output that is one
    number is right in any spelling (`42.0` for 42). A test that takes more than `seconds` of CPU
    time is a failed test. Where code cannot be isolated the status is `error`.
    """
    wanted = tests or sample.get("tests")
    if not wanted:
        return RewardResult.failure("the sample has no tests")
    program = extract(answer_text(response, sample.get("mode")) or "")
    if not program or len(program) > LONGEST:
        return RewardResult(0.0, details={"reason": "no program"})
    programs, calls, statements = _sorted(wanted)
    runs: list[dict[str, Any]] = [{"stdin": str(test["input"])} for test in programs]
    runs += [{"calls": [call for call, _ in calls]}] if calls else []
    runs += [{"test": statement} for statement in statements]
    limits = Limits(seconds=seconds, memory_mb=memory_mb)
    try:
        reports = run_isolated(program, runs, limits, stop_at_failure=not partial)
    except SandboxError as error:
        return RewardResult.failure(str(error))
    passed = sum(
        report["status"] == "ok" and _same_output(report["stdout"], str(test["output"]), by_value)
        for report, test in zip(reports, programs, strict=False)
    )
    rest = reports[len(programs) :]
    if calls and rest:
        results = rest.pop(0)["results"]
        passed += sum(
            _same_value(result, value) for result, (_, value) in zip(results, calls, strict=False)
        )
    passed += sum(report["status"] == "ok" for report in rest)
    share = passed / (len(programs) + len(calls) + len(statements))
    failed = next((r for r in reports if r["status"] != "ok"), {})
    details = {"passed": passed, "of": len(programs) + len(calls) + len(statements)}
    if failed:
        details |= {"status": failed["status"], "stderr": failed.get("stderr", "")[-300:]}
    return RewardResult(share if partial else float(share == 1.0), details=details)


def extract(answer: str) -> str:
    """The last code block that says Python or nothing; the whole answer if there is no block."""
    blocks = [
        body
        for kind, body in FENCE.findall(answer)
        if kind.lower() in ("", "py", "python", "python3")
    ]
    return (blocks[-1] if blocks else "" if "```" in answer else answer).strip()


def _sorted(tests: list[Any]) -> tuple[list[dict], list[tuple[str, Any]], list[str]]:
    """Programs with input and output; (call, expected value) pairs; statements."""
    programs: list[dict] = []
    calls: list[tuple[str, Any]] = []
    statements: list[str] = []
    for test in tests:
        if isinstance(test, dict) and "input" in test and "output" in test:
            programs.append(test)
        elif isinstance(test, dict) and "call" in test and "expected" in test:
            calls.append((test["call"], test["expected"]))
        elif isinstance(test, str):
            call = comparison(test)
            calls += [call] if call else []
            statements += [] if call else [test]
        else:
            raise ValueError(f"a test is {{input, output}}, {{call, expected}} or a text: {test!r}")
    return programs, calls, statements


def comparison(test: str) -> tuple[str, Any] | None:
    """(expression, value) of `assert EXPRESSION == LITERAL` and its short forms, else None."""
    try:
        body = ast.parse(test.strip()).body
    except SyntaxError:
        return None
    if len(body) != 1 or not isinstance(body[0], ast.Assert):
        return None
    condition = body[0].test
    if isinstance(condition, ast.Compare) and len(condition.ops) == 1:
        if not isinstance(condition.ops[0], (ast.Eq, ast.Is)):
            return f"bool({ast.unparse(condition)})", True
        try:
            return ast.unparse(condition.left), ast.literal_eval(condition.comparators[0])
        except ValueError:
            return None
    if isinstance(condition, ast.UnaryOp) and isinstance(condition.op, ast.Not):
        return f"bool({ast.unparse(condition.operand)})", False
    return f"bool({ast.unparse(condition)})", True


def _same_output(given: str, wanted: str, by_value: bool) -> bool:
    """Equal line by line, without spaces at line ends and empty lines at the end; or the number."""

    def lines(text: str) -> list[str]:
        return [line.rstrip() for line in text.rstrip().splitlines()]

    if lines(given) == lines(wanted):
        return True
    left, right = plain_number(given.strip()), plain_number(wanted.strip())
    return by_value and left is not None and right is not None and abs(left - right) < NEAR


def _same_value(result: dict[str, Any], wanted: Any) -> bool:
    if "repr" not in result:
        return False
    try:
        value = ast.literal_eval(result["repr"])
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return bool(value == wanted)
