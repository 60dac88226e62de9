"""Calls as a policy may write them: none raises, and each gets an answer in its place."""

from __future__ import annotations

import threading
import time

import pytest
from PIL import Image

from rollout.tools import ToolContext, ToolError, ToolResult
from rollout.tools.calls import find_calls, prepare, run_all


class Echo:
    """Says its argument; fails in every way when told to."""

    name, description, gives_images = "echo", "Says it.", False
    parameters = {  # noqa: RUF012 (as plug-ins write it)
        "type": "object",
        "properties": {"text": {"type": "string"}, "times": {"type": "integer", "maximum": 3}},
        "required": ["text"],
        "additionalProperties": False,
    }

    def call(self, arguments, context):
        if arguments["text"] == "refuse":
            raise ToolError("not that word")
        if arguments["text"] == "break":
            raise ZeroDivisionError
        if arguments["text"] == "number":
            return 3
        if arguments["text"] == "line":
            return ToolResult("", Image.new("RGB", (300, 1)))
        return ToolResult(arguments["text"] * arguments.get("times", 1))


TOOLS = {"echo": Echo()}


def answers(text: str) -> list[str]:
    jobs = [prepare(call, TOOLS, ToolContext("s")) for call in find_calls(text)]
    return [result.text for result in run_all(jobs, workers=2, seconds=5)]


def test_a_well_formed_call():
    text = '<think>x</think><tool_call>{"name": "echo", "arguments": {"text": "a"}}</tool_call>'
    assert answers(text) == ["a"]
    spread = 'text <tool_call>\n{"name": "echo",\n "arguments": {"text": "b", "times": 2}}\n'
    assert answers(spread + "</tool_call> more") == ["bb"]


def test_calls_are_answered_in_order():
    call = '<tool_call>{{"name": "echo", "arguments": {{"text": "{}"}}}}</tool_call>'
    assert answers("".join(call.format(k) for k in range(5))) == ["0", "1", "2", "3", "4"]


def test_a_call_inside_the_reasoning_is_a_thought():
    call = '<tool_call>{"name": "echo", "arguments": {"text": "a"}}</tool_call>'
    assert find_calls(f"<think>{call}</think><answer>1</answer>") == []
    assert find_calls(f"<think>{call}") == []
    assert answers(f"<think>{call}</think>{call}") == ["a"]
    assert find_calls("<answer>1</answer>") == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{", "error: bad tool call, no JSON"),
        ("[1]", "error: bad tool call, must be"),
        ('{"name": 3}', "error: bad tool call, must be"),
        ('{"name": "echo", "arguments": "a"}', "error: bad tool call, arguments must be an object"),
        ('{"name": "nope", "arguments": {}}', "error: no tool 'nope'; there are echo"),
        ('{"name": "echo"}', "error: echo: 'text' is a required property"),
        ('{"name": "echo", "arguments": {"text": 1}}', "error: echo: text: 1 is not of type"),
        (
            '{"name": "echo", "arguments": {"text": "a", "times": 9}}',
            "error: echo: times: 9 is greater than the maximum of 3",
        ),
        ('{"name": "echo", "arguments": {"text": "a", "x": 1}}', "error: echo: Additional"),
        ('{"name": "echo", "arguments": {"text": "refuse"}}', "error: echo: not that word"),
        ('{"name": "echo", "arguments": {"text": "break"}}', "error: echo failed"),
        ('{"name": "echo", "arguments": {"text": "number"}}', "error: echo failed"),
        ('{"name": "echo", "arguments": {"text": "line"}}', "error: echo failed"),
        ("[" * 100_000, "error: bad tool call, longer than"),
        ("[" * 15_000, "error: bad tool call, no JSON"),
    ],
)
def test_a_bad_call_gets_an_error_text(body, message):
    [answer] = answers(f"<tool_call>{body}</tool_call>")
    assert answer.startswith(message)


def test_an_unclosed_call_gets_an_error_text_and_the_next_one_its_answer():
    call = '<tool_call>{"name": "echo", "arguments": {"text": "a"}}'
    assert answers(call) == ["error: bad tool call, <tool_call> without </tool_call>"]
    both = answers(f"{call}{call}</tool_call>")
    assert both == ["error: bad tool call, <tool_call> without </tool_call>", "a"]


def test_a_slow_call_is_left_behind_and_the_others_are_not_held_up():
    released = threading.Event()

    def slow():
        released.wait(20)
        return ToolResult("late")

    def fast(k):
        return lambda: ToolResult(str(k))

    started = time.monotonic()
    results = run_all([slow, *(fast(k) for k in range(20)), ToolResult("ready")], 2, 0.5)
    released.set()
    assert time.monotonic() - started < 5
    assert results[0] == ToolResult("error: no result within 0.5 s", error=True)
    assert [r.text for r in results[1:]] == [*map(str, range(20)), "ready"]


def test_no_more_calls_run_at_once_than_workers():
    running, most = [0], [0]
    lock = threading.Lock()

    def job():
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1
        return ToolResult("x")

    assert len(run_all([job] * 12, workers=3, seconds=5)) == 12
    assert 1 < most[0] <= 3
