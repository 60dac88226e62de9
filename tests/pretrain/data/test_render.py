"""Prompts carry the hint and the mode tag; replies have the form of their mode."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pretrain.data.render import conversation, has_hint, hint, render, reply
from pretrain.data.sample import Sample, SampleError

SAMPLE = Sample(
    id="q1",
    messages=[{"role": "user", "content": [{"type": "text", "text": "sum?"}]}],
    answer="8",
    task_type="digits/sum",
    hints=["two digits", "at tl tr", "", "digits 35", "3+5=8 answer 8"],
    solution="digits 35;3+5=8",
)


def prompt(sample, level=0):
    return render(sample, level)[-1]["content"][-1]["text"]


@pytest.mark.parametrize(
    ("mode", "text", "hinted"),
    [
        ("think", "sum? /think", "sum?\nHint: at tl tr /think"),
        ("no_think", "sum? /no_think", "sum?\nHint: at tl tr /no_think"),
        ("auto_think", "sum?", "sum?\nHint: at tl tr"),
    ],
)
def test_the_hint_comes_after_the_query_and_the_tag_last(mode, text, hinted):
    sample = replace(SAMPLE, mode=mode)
    assert prompt(sample) == text and prompt(sample, 2) == hinted
    assert sample.messages[0]["content"][0]["text"] == "sum?"  # rendering changes nothing


def test_only_the_last_user_text_gets_the_tag():
    image = {"type": "image", "image": "a.png"}
    earlier = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    last = {"role": "user", "content": [{"type": "text", "text": "see"}, image]}
    messages = render(replace(SAMPLE, mode="think", messages=[*earlier, last]))
    assert messages[:2] == earlier
    assert messages[2]["content"] == [{"type": "text", "text": "see /think"}, image]
    alone = replace(SAMPLE, mode="think", messages=[{"role": "user", "content": [image]}])
    assert render(alone)[0]["content"] == [image, {"type": "text", "text": "/think"}]
    plain = replace(SAMPLE, mode="think", messages=[{"role": "user", "content": "sum?"}])
    assert render(plain)[0]["content"] == "sum? /think"


def test_a_missing_hint_level_is_an_error_that_can_be_asked_for_before():
    assert [has_hint(SAMPLE, level) for level in range(7)] == [0, 1, 1, 0, 1, 1, 0]
    with pytest.raises(SampleError, match="no hint L3"):
        render(SAMPLE, 3)
    with pytest.raises(SampleError, match="level 6"):
        hint(SAMPLE, 6)
    with pytest.raises(SampleError, match="no hint L1"):
        render(replace(SAMPLE, hints=None), 1)


THOUGHT = r"<think>digits 35;3+5=8</think><answer>\boxed{8}</answer>"


@pytest.mark.parametrize(
    ("mode", "reason", "text"),
    [
        ("think", None, THOUGHT),
        ("no_think", None, "8"),
        ("no_think", True, "8"),
        ("auto_think", None, THOUGHT),
        ("auto_think", True, THOUGHT),
        ("auto_think", False, r"<answer>\boxed{8}</answer>"),
    ],
)
def test_replies(mode, reason, text):
    assert reply(SAMPLE, mode, reason) == text
    messages = conversation(replace(SAMPLE, mode=mode), reason=reason)
    assert messages[-1] == {"role": "assistant", "content": [{"type": "text", "text": text}]}


def test_reasoning_needs_a_solution():
    bare = replace(SAMPLE, solution=None)
    assert reply(bare, "auto_think") == r"<answer>\boxed{8}</answer>"
    with pytest.raises(SampleError, match=r"q1.*no solution"):
        reply(bare, "think")
    with pytest.raises(SampleError, match=r"q1.*no solution"):
        reply(bare, "auto_think", reason=True)
    with pytest.raises(SampleError, match="'fast'"):
        reply(bare, "fast")
