"""Samples as chat: the prompt with its hint and mode tag, and the supervised reply.

The three modes differ in the tag that ends the last user text and in the reply's form:

| mode | tag | reply |
|---|---|---|
| `think` | ` /think` | `<think>…</think><answer>\\boxed{A}</answer>` |
| `no_think` | ` /no_think` | `A` |
| `auto_think` | none | the think form, or `<answer>\\boxed{A}</answer>` at once |
"""

from __future__ import annotations

from typing import Any

from pretrain.data.sample import HINT_LEVELS, Sample, SampleError

TAGS = {"think": " /think", "no_think": " /no_think", "auto_think": ""}


def render(sample: Sample, hint_level: int = 0) -> list[dict[str, Any]]:
    """The sample's messages with hint L`hint_level` (0: none) and the mode's tag.

    Media parts are shared with the sample, texts are not. Raises `SampleError` for a level that
    the sample does not have.
    """
    suffix = TAGS[sample.mode]
    if hint_level:
        suffix = f"\nHint: {hint(sample, hint_level)}{suffix}"
    *before, last = sample.messages
    return [*before, {"role": last["role"], "content": _with_suffix(last["content"], suffix)}]


def query(sample: Sample) -> str:
    """The text of the user's last turn."""
    content = sample.messages[-1]["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def hint(sample: Sample, level: int) -> str:
    """The text of hint L`level`, 1…5; `SampleError` when the sample lacks it."""
    if not 1 <= level <= HINT_LEVELS:
        raise SampleError(f"sample {sample.id!r}: hint level {level} is not in 1…{HINT_LEVELS}")
    text = sample.hints[level - 1] if sample.hints else ""
    if not text:
        raise SampleError(f"sample {sample.id!r}: has no hint L{level}")
    return text


def has_hint(sample: Sample, level: int) -> bool:
    """Whether hint L`level` (1…5) exists for this sample."""
    return bool(sample.hints and 1 <= level <= HINT_LEVELS and sample.hints[level - 1])


def reply(sample: Sample, mode: str | None = None, reason: bool | None = None) -> str:
    """The supervised reply in `mode` (the sample's own by default).

    `reason` chooses the form in `auto_think`; by default it reasons when there is a solution.
    `SampleError` when reasoning is wanted and the sample has no solution.
    """
    mode = mode or sample.mode
    if mode not in TAGS:
        raise SampleError(f"sample {sample.id!r}: mode {mode!r} is not one of {tuple(TAGS)}")
    if mode == "no_think":
        return sample.answer
    boxed = f"<answer>\\boxed{{{sample.answer}}}</answer>"
    if reason is None:
        reason = mode == "think" or sample.solution is not None
    if not reason and mode == "auto_think":
        return boxed
    if sample.solution is None:
        raise SampleError(
            f"sample {sample.id!r} ({sample.task_type}) has no solution to reason with in {mode}"
        )
    return f"<think>{sample.solution}</think>{boxed}"


def conversation(
    sample: Sample, hint_level: int = 0, reason: bool | None = None
) -> list[dict[str, Any]]:
    """`render` plus the assistant's turn: one supervised example in the sample's own mode."""
    text = reply(sample, reason=reason)
    answer = {"role": "assistant", "content": [{"type": "text", "text": text}]}
    return [*render(sample, hint_level), answer]


def _with_suffix(content: str | list[dict[str, Any]], suffix: str) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content + suffix
    parts = [dict(part) for part in content]
    texts = [part for part in parts if part["type"] == "text"]
    if not suffix:
        return parts
    if texts:
        texts[-1]["text"] += suffix
    else:
        parts.append({"type": "text", "text": suffix.lstrip()})
    return parts
