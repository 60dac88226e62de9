"""The form of a response with tool calls. A shaping rule.

The text that rules read holds the tools' results as `<tool_response>…</tool_response>`; what a tool
has written there can't be mistaken for a section (rollout.tools.turns breaks up tags in it).
"""

from __future__ import annotations

import json
from typing import Any

from rewards.registry import rule
from rewards.result import RewardResult
from rewards.rules.format import format_rule

ERROR = "error:"
"""How the result of a failed call begins."""


@rule(verifier=False)
def agentic_format(
    response: str,
    sample: dict[str, Any],
    min_calls: int = 0,
    max_calls: int | None = None,
    allow_errors: bool = True,
    boxed: bool = True,
) -> RewardResult:
    r"""1.0 if the response has the agentic form, with calls of the sample's tools only, else 0.0.

    The form is that of `format` in agentic mode: rounds of `<think>…</think><tool_call>{JSON with a
    name}</tool_call><tool_response>…</tool_response>`, then `<think>…</think><answer>…</answer>`.
    `min_calls` and `max_calls` bound the rounds; with `allow_errors=False` no call may have failed.
    If the sample has `tools` (a list of names), other names are wrong.
    """
    form = format_rule(response, sample, mode="agentic", boxed=boxed)
    if form.value != 1.0:
        return form
    calls = [json.loads(body)["name"] for body in _bodies(response, "tool_call")]
    fault = _fault(calls, sample.get("tools"), min_calls, max_calls)
    failed = [b for b in _bodies(response, "tool_response") if b.strip().startswith(ERROR)]
    if not fault and failed and not allow_errors:
        fault = f"{len(failed)} failed calls"
    details: dict[str, Any] = {"calls": len(calls), "errors": len(failed)}
    return RewardResult(
        0.0 if fault else 1.0, details=details | ({"reason": fault} if fault else {})
    )


def _fault(calls: list[str], known: Any, least: int, most: int | None) -> str:
    if len(calls) < least:
        return f"{len(calls)} calls, at least {least} are wanted"
    if most is not None and len(calls) > most:
        return f"{len(calls)} calls, at most {most} are wanted"
    unknown = [name for name in calls if isinstance(known, list) and name not in known]
    return f"a call of {unknown[0]!r}, which the sample doesn't have" if unknown else ""


def _bodies(text: str, tag: str) -> list[str]:
    """Contents of the sections, in order; the form is known to be right."""
    pieces = text.split(f"<{tag}>")[1:]
    return [piece.partition(f"</{tag}>")[0] for piece in pieces]
