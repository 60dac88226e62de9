"""Steps of a response, mapped to the tokens that were sampled for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rl.long_cot.steps import confidence, step_texts, steps_of, token_ends


@pytest.mark.parametrize(
    ("thought", "steps"),
    [
        ("digits 358;3+5=8;8+8=16", ["digits 358", "3+5=8", "8+8=16"]),
        ("First I look. There are 2.5 apples. So 5.", ["First I look.", "There are 2.5 apples.",
                                                         "So 5."]),
        ("1. Count them.\n2. Add: 3.\n\nDone", ["1. Count them.", "2. Add: 3.", "Done"]),
        ("先看图。有两个;所以2", ["先看图。", "有两个", "所以2"]),
        (r"$a\;b$ is 3", [r"$a\;b$ is 3"]),
        ("12;\n;  ;x", ["12", "x"]),
        ("  ", []),
    ],
)  # fmt: skip
def test_reasoning_is_cut_where_a_step_ends(thought: str, steps: list[str]):
    assert step_texts(f"<think>{thought}</think><answer>\\boxed{{1;2}}</answer>") == steps


def test_what_does_not_reason_has_no_steps_and_an_open_thought_reaches_the_end():
    assert step_texts("12. Done.") == []
    assert step_texts("<think>a;b") == ["a", "b"]


def tokens(processor: Any, text: str) -> list[int]:
    return processor.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_steps_confidence_is_that_of_its_own_tokens(processor: Any):
    text = "<think>digits 358;3+5=8;8+8=16</think><answer>\\boxed{16}</answer>"
    ids = tokens(processor, text)
    ends = token_ends(processor.tokenizer, ids, text)
    logprobs = -np.arange(1, len(ids) + 2, dtype=np.float32) / 10  # one more: the end of the turn
    steps = steps_of(text, ends, logprobs)
    assert [step.text for step in steps] == ["digits 358", "3+5=8", "8+8=16"]
    for step in steps:
        covered = processor.tokenizer.decode(ids[step.start : step.end])
        assert step.text in covered and len(covered) <= len(step.text) + len("think>;")
        mean = np.mean([-(k + 1) / 10 for k in range(step.start, step.end)])
        assert step.confidence == pytest.approx(np.exp(mean), rel=1e-6)
    assert steps[0].end <= steps[1].start + 1 and steps[-1].end < len(ids)
    assert confidence(np.log(np.array([0.5, 0.125]))) == pytest.approx(0.25)


def test_token_ends_add_up_whatever_the_bytes_are(processor: Any):
    text = "<think>é先🍎;b</think>"  # characters of two, three and four byte tokens
    ids = tokens(processor, text)
    ends = token_ends(processor.tokenizer, ids, text)
    assert ends[-1] == len(text) and (np.diff(ends) >= 0).all()
    steps = steps_of(text, ends, np.zeros(len(ids)))
    assert [step.text for step in steps] == ["é先🍎", "b"]
    assert processor.tokenizer.decode(ids[steps[0].start : steps[0].end]).strip(">;") == "é先🍎"
    # Cut in the middle of a character: what is decoded so far ends with it.
    cut = ids[: len(ids) - len(tokens(processor, ";b</think>")) - 1]
    shown = processor.tokenizer.decode(cut)
    assert token_ends(processor.tokenizer, cut, shown)[-1] == len(shown)
