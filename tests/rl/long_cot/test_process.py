"""Rule-based process checks: what they find, what they let pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pretrain.data.sample import Sample
from pretrain.data.world import TASKS
from rl.long_cot.config import AssessConfig
from rl.long_cot.process import check_process


def sample(**facts: Any) -> Sample:
    row = {
        "id": "q",
        "messages": [{"role": "user", "content": "Tom has 3 bags of 8. How many?"}],
        "answer": "24",
        "task_type": "math/word",
        "solution": "Each bag holds 8. 3*8=24",
    }
    return Sample.from_row(row | facts)


def found(thought: str, given: str = "24", cfg: AssessConfig | None = None, **facts: Any) -> Any:
    text = f"<think>{thought}</think><answer>\\boxed{{{given}}}</answer>"
    return [(f.step, f.text) for f in check_process(text, sample(**facts), cfg or AssessConfig())]


def test_sound_reasoning_has_no_findings():
    assert found("There are 3 bags. 8+8=16 and 16+8=24, so 24.") == []
    assert found("8*3 = 24") == []
    assert found("1. Look at the bags.\n(2) Step two\nStep 7: 3*8=24") == []
    assert found("red circle is there", "red", answer="red", solution=None) == []


@pytest.mark.parametrize(
    ("thought", "step", "piece"),
    [
        ("There are 3 bags. 3*8=25. But the answer is 24", 2, "3*8=25 does not hold (24)"),
        ("There are 7 bags. The result is 24", 1, "7 is neither given"),
        ("There are 3 bags of 8. So 16", 0, "the reasoning ends with 16, the answer is 24"),
        ("There are bags", 0, "holds no number"),
        ("", 0, "no reasoning"),
    ],
)
def test_a_finding_names_the_step_and_quotes_it(thought: str, step: int, piece: str):
    findings = found(thought)
    assert [s for s, text in findings if piece in text] == [step], findings


def test_a_number_may_come_from_an_equation_but_only_after_it():
    assert found("8+8=16. Then 16 and 24") == []
    assert found("16 first. Then 8+8=16, 24")[0][0] == 1


def test_each_check_can_be_switched_off():
    thought = "7*2=15"
    every = AssessConfig()
    kinds = {"equations": "does not hold", "conclusion": "ends with", "solution": "neither given"}
    for key, piece in kinds.items():
        assert any(piece in text for _, text in found(thought, cfg=every))
        off = AssessConfig(**{key: "off" if key == "solution" else False})
        assert not any(piece in text for _, text in found(thought, cfg=off))


def test_the_worlds_own_solutions_pass_strictly_and_spoiled_ones_do_not():
    cfg = AssessConfig(solution="steps")
    rng = np.random.default_rng(3)
    kinds = ("digits/sum", "digits/difference", "digits/max", "shapes/count", "shapes/count_sum")
    kinds += ("shapes/attribute", "text/arithmetic", "video/order", "video/grounding")
    for kind in kinds:
        for _ in range(20):
            one = TASKS[kind](rng, "train")
            text = f"<think>{one.solution}</think><answer>\\boxed{{{one.answer}}}</answer>"
            assert check_process(text, one, cfg) == [], (kind, text)
    spoiled = sample(solution="digits 35;max 5", answer="5", task_type="digits/max")
    text = "<think>digits 38;max 5</think><answer>\\boxed{5}</answer>"
    assert [(f.step, f.text) for f in check_process(text, spoiled, cfg)] == [
        (1, "'digits 38' is no step of the solution")
    ]


def test_a_merged_answer_must_be_found_in_parts():
    facts = {"answer": "24, 8", "parts": ["24", "8"], "solution": None}
    assert found("3*8=24; a bag holds 8", "24, 8", **facts) == []
    assert found("3*8=24", "24, 7", answer="24, 7", parts=["24", "7"], solution=None) == [
        (0, "the reasoning never comes to '7'")
    ]
