r"""Structure of a response: does it have the sections its mode asks for? Shaping rules."""

from __future__ import annotations

from typing import Any

from rewards.answer import TAGS, boxes, sections, strip_end
from rewards.registry import rule
from rewards.result import RewardResult

MODES = ("think", "no_think", "auto_think")


@rule(verifier=False)
def format_rule(response: str, sample: dict[str, Any], mode: str | None = None) -> RewardResult:
    r"""1.0 if the response has the structure of its mode, else 0.0 with the reason.

    think: exactly `<think>…</think><answer>…\boxed{…}…</answer>` with a think section that is not
    empty; no_think: some text and none of these tags; auto_think: the think form, or
    `<answer>…</answer>` at once. `mode` overrides the sample's mode.
    """
    wanted = mode or sample.get("mode") or "think"
    if wanted not in MODES:
        return RewardResult.failure(f"mode {wanted!r} is none of {', '.join(MODES)}")
    reason = _fault(response, wanted)
    return RewardResult(0.0 if reason else 1.0, details={"reason": reason} if reason else {})


def _fault(response: str, mode: str) -> str:
    """What is wrong with the structure, or an empty string."""
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
        return "" if any(box.strip() for box in boxes(parts.answer)) else "no boxed answer"
    if parts.form == "direct" and mode == "auto_think":
        return "" if parts.answer and parts.answer.strip() else "empty answer section"
    return f"{parts.form} structure in {mode} mode"
