r"""Structure of a response: does it have the sections its mode asks for? Shaping rules."""

from __future__ import annotations

import json
import re
from typing import Any

from rewards.answer import TAGS, boxes, sections, strip_end
from rewards.registry import rule
from rewards.result import RewardResult

MODES = ("think", "no_think", "auto_think", "agentic")
AGENTIC_TAGS = ("think", "tool_call", "tool_response", "answer")


@rule(verifier=False)
def format_rule(
    response: str, sample: dict[str, Any], mode: str | None = None, boxed: bool = True
) -> RewardResult:
    r"""1.0 if the response has the structure of its mode, else 0.0 with the reason.

    think: exactly `<think>…</think><answer>…\boxed{…}…</answer>` with a think section that is not
    empty; no_think: some text and none of these tags; auto_think: the think form, or
    `<answer>…</answer>` at once; agentic: any number of `<think>…</think><tool_call>{JSON with a
    name}</tool_call><tool_response>…</tool_response>` rounds, then the think form. `mode`
    overrides the sample's mode. `boxed=False`: the answer section needs some text and no box, for
    answers that are JSON, a list or code.
    """
    wanted = mode or sample.get("mode") or "think"
    if wanted not in MODES:
        return RewardResult.failure(f"mode {wanted!r} is none of {', '.join(MODES)}")
    reason = _fault(response, wanted, boxed)
    return RewardResult(0.0 if reason else 1.0, details={"reason": reason} if reason else {})


def _fault(response: str, mode: str, boxed: bool) -> str:
    """What is wrong with the structure, or an empty string."""
    if mode == "agentic":
        return _agentic_fault(strip_end(response), boxed)
    if mode == "no_think":
        text = strip_end(response)
        if not text:
            return "empty response"
        return "tags in a no_think response" if any(tag in text for tag in TAGS) else ""
    parts = sections(response)
    if parts.form == "think":
        assert parts.think is not None and parts.answer is not None
        if not parts.think.strip():
            return "empty think section"
        return _answer_fault(parts.answer, boxed)
    if parts.form == "direct" and mode == "auto_think":
        return _answer_fault(parts.answer or "", boxed=False)
    return f"{parts.form} structure in {mode} mode"


def _answer_fault(answer: str, boxed: bool) -> str:
    if not answer.strip():
        return "empty answer section"
    return "no boxed answer" if boxed and not any(box.strip() for box in boxes(answer)) else ""


def _agentic_fault(text: str, boxed: bool) -> str:
    """Reads section after section; each must be the next one its predecessor allows."""
    allowed = {
        "": ("think",),
        "think": ("tool_call", "answer"),
        "tool_call": ("tool_response",),
        "tool_response": ("think",),
        "answer": (),
    }
    place, last = 0, ""
    while (place := _skip_spaces(text, place)) < len(text):
        rest = text[place : place + 64]
        name = next((n for n in allowed[last] if rest.startswith(f"<{n}>")), None)
        if name is None:
            return f"{rest[:20]!r} after {last or 'the start'}"
        start = place + len(name) + 2
        end = text.find(f"</{name}>", start)
        if end < 0:
            return f"{name} is not closed"
        if fault := _section_fault(name, text[start:end], boxed):
            return fault
        place, last = end + len(name) + 3, name
    return "" if last == "answer" else f"ends with {last or 'nothing'}"


def _skip_spaces(text: str, place: int) -> int:
    match = re.compile(r"\s*").match(text, place)
    return match.end() if match else place


def _section_fault(name: str, body: str, boxed: bool) -> str:
    if not body.strip():
        return f"empty {name}"
    if any(f"<{tag}>" in body for tag in AGENTIC_TAGS):
        return f"a section inside {name}"
    if name == "answer":
        return _answer_fault(body, boxed)
    if name == "tool_call":
        try:
            call = json.loads(body)
        except (ValueError, RecursionError):
            return "a tool call that is no JSON"
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            return "a tool call without a name"
    return ""
