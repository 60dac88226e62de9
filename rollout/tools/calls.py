"""From a turn's text to the results of its calls.

A call is Qwen's, `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, and follows the turn's
reasoning. (Qwen's vocabulary has the tags as single tokens; the tiny one spells them.)

Invariant: a call never raises. What is wrong with it, a missed deadline or a tool that fails is the
text of its result.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jsonschema
from PIL import Image

from pretrain.keye_vl.image_processing import MAX_ASPECT_RATIO
from pretrain.run.console import warn
from rollout.tools.tool import Tool, ToolContext, ToolError, ToolResult

OPEN, CLOSE = "<tool_call>", "</tool_call>"
LONGEST_CALL = 20_000
"""Characters of a call that are looked at."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call as the policy wrote it."""

    name: str = ""
    arguments: Mapping[str, Any] | None = None
    fault: str = ""
    """Why it can't be read; empty for a well-formed call."""


def find_calls(text: str) -> list[ToolCall]:
    """All calls of a turn, in order, ill-formed ones with their fault.

    A call inside the reasoning is a thought, not a call: only what follows the last `</think>`
    counts, and nothing does while `<think>` is open.
    """
    spoken = text.rpartition("</think>")[2]
    if "<think>" in spoken:
        return []
    calls = []
    place = spoken.find(OPEN)
    while place >= 0:
        start = place + len(OPEN)
        following = spoken.find(OPEN, start)
        end = spoken.find(CLOSE, start, None if following < 0 else following)
        body = spoken[start : end if end >= 0 else (following if following >= 0 else None)]
        calls.append(_read(body) if end >= 0 else ToolCall(fault=f"{OPEN} without {CLOSE}"))
        place = following
    return calls


def _read(body: str) -> ToolCall:
    if len(body) > LONGEST_CALL:
        return ToolCall(fault=f"longer than {LONGEST_CALL} characters")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        return ToolCall(fault=f"no JSON: {error}"[:120])
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return ToolCall(fault='must be {"name": …, "arguments": {…}}')
    arguments = value.get("arguments", {})
    if not isinstance(arguments, dict):
        return ToolCall(value["name"], fault="arguments must be an object")
    return ToolCall(value["name"], arguments)


def prepare(
    call: ToolCall, tools: Mapping[str, Tool], context: ToolContext
) -> ToolResult | Callable[[], ToolResult]:
    """What to run for a call, or at once the error text for one that can't be run."""
    if call.fault:
        return failure(f"bad tool call, {call.fault}")
    tool = tools.get(call.name)
    if tool is None:
        return failure(f"no tool {call.name[:40]!r}; there are {', '.join(tools) or 'none'}")
    arguments = dict(call.arguments or {})
    fault = jsonschema.exceptions.best_match(
        jsonschema.Draft202012Validator(tool.parameters).iter_errors(arguments)
    )
    if fault is not None:
        where = fault.json_path.removeprefix("$").lstrip(".")
        return failure(f"{call.name}: {f'{where}: ' if where else ''}{fault.message[:120]}")

    def run() -> ToolResult:
        try:
            return _checked(tool.call(arguments, context))
        except ToolError as error:
            return failure(f"{call.name}: {error}")
        except Exception as error:  # the tool's own fault: the policy goes on, a person is told
            warn(f"tool {call.name} failed for sample {context.sample_id}: {error!r}")
            return failure(f"{call.name} failed")

    return run


def _checked(result: Any) -> ToolResult:
    """A plug-in's result, or `TypeError`/`ValueError` when the policy can't be shown it."""
    if not isinstance(result, ToolResult) or not isinstance(result.text, str):
        raise TypeError(f"{result!r:.80} is no ToolResult with a text")
    if result.image is not None:
        if not isinstance(result.image, Image.Image):
            raise TypeError(f"the image is a {type(result.image).__name__}, not a PIL image")
        short, long = sorted(result.image.size)
        if short < 1 or long > MAX_ASPECT_RATIO * short:
            raise ValueError(f"an image of {long}×{short} pixels can't be shown")
    return result


def failure(text: str) -> ToolResult:
    """The result of a call that didn't work."""
    return ToolResult(f"error: {text}", error=True)


def run_all(
    jobs: Sequence[ToolResult | Callable[[], ToolResult]], workers: int, seconds: float
) -> list[ToolResult]:
    """Results in order; each call in a thread of its own, `workers` at a time.

    A call that takes longer than `seconds` is left behind (a thread can't be killed) and its result
    is an error text.
    """
    results = [job if isinstance(job, ToolResult) else None for job in jobs]
    waiting = [index for index, result in enumerate(results) if result is None][::-1]
    running: dict[int, float] = {}
    done: queue.SimpleQueue[tuple[int, ToolResult]] = queue.SimpleQueue()

    def work(index: int) -> None:
        job = jobs[index]
        assert not isinstance(job, ToolResult)
        done.put((index, job()))

    while waiting or running:
        while waiting and len(running) < workers:
            index = waiting.pop()
            running[index] = time.monotonic() + seconds
            threading.Thread(target=work, args=(index,), daemon=True).start()
        try:
            left = max(min(running.values()) - time.monotonic(), 0.0)
            index, result = done.get(timeout=left)
        except queue.Empty:
            for late in [i for i, end in running.items() if end <= time.monotonic()]:
                del running[late]
                results[late] = failure(f"no result within {seconds:g} s")
            continue
        if running.pop(index, None) is not None:
            results[index] = result
    return [result for result in results if result is not None]
