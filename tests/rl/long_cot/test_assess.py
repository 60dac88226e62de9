"""Grades A, B and C: by rules, by a judge behind a real endpoint, and when it can't be had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pretrain.run.errors import KeyeError
from rl.long_cot.assess import GRADED, Assessor, assess_paths
from rl.long_cot.config import AssessConfig
from rl.long_cot.judge import BODY, parse_judgement, reward_model_findings
from rl.long_cot.writers import endpoint_writer


def right(sample: Any) -> str:
    return f"<think>{sample.solution}</think><answer>\\boxed{{{sample.answer}}}</answer>"


def graded(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / GRADED).read_text().splitlines()]


@pytest.fixture
def rows(world: Any, make_path: Any) -> tuple[list[Any], Any]:
    """Four questions with a sound path, a flawed one, a wrong one and three that can't be used."""
    found, questions = world(4)
    for row in found:
        sample = questions(row)
        text = right(sample)
        flawed = text.replace("<think>", "<think>2+2=5;")
        row["paths"] = [
            make_path(text, selected=True),
            make_path(flawed, selected=True),
            make_path(text.replace("boxed{", "boxed{9"), correct=False),
            make_path(text, finished=False),
            make_path(sample.answer, reasons=False),
            make_path(text, correct=None, reward=None),
        ]
    return found, questions


def test_grades_follow_answer_and_process(rows: Any, tmp_path: Path):
    found, questions = rows
    summary = assess_paths(found, questions, Assessor(AssessConfig()), tmp_path, 3)
    for row in graded(tmp_path):
        grades = [path["grade"] for path in row["paths"]]
        assert grades == ["A", "B", "C", "C", "C", None]
        texts = [[f["text"] for f in path["findings"]] for path in row["paths"]]
        assert texts[0] == [] and "2+2=5 does not hold (4)" in texts[1]
        assert texts[2:] == [["the answer is wrong"], ["cut off at the token limit"],
                             ["there is no reasoning"], ["a reward rule failed"]]  # fmt: skip
    assert summary["share_A"] == summary["share_B"] == 0.2 and summary["share_C"] == 0.6
    assert summary["ungraded"] == 4 and summary["selected_A"] == summary["selected_B"] == 4


def verdicts(*right: bool, fault: str = "it misreads the picture") -> str:
    steps = [
        {"step": k, "right": good, "fault": "" if good else fault}
        for k, good in enumerate(right, start=1)
    ]
    return json.dumps({"steps": steps})


def test_the_judge_is_asked_step_by_step_about_what_the_rules_let_pass(
    rows: Any, tmp_path: Path, endpoint: Any
):
    found, questions = rows
    counts = [len(row["paths"][0]["steps"]) for row in found]
    first = found[0]["paths"][0]

    def reply(body: dict[str, Any]) -> str:
        steps = endpoint.asked(body).partition("[steps-")[2].count("\n") - 1
        mine = f"1. {first['steps'][0]['text']}\n" in endpoint.asked(body)
        return verdicts(*[not mine] + [True] * (steps - 1))

    endpoint.reply = reply
    judge = endpoint_writer(endpoint.model, "long_cot.judge", temperature=0.0, body=BODY)
    summary = assess_paths(found, questions, Assessor(AssessConfig(), judge), tmp_path, 2)
    assert len(endpoint.bodies) == 4  # the flawed, the wrong and the unselected are not shown
    assert endpoint.bodies[0]["response_format"]["type"] == "json_schema"
    assert endpoint.bodies[0]["temperature"] == 0.0 and min(counts) > 0
    assert endpoint.bodies[0]["messages"][1]["content"][0]["type"] == "image_url"
    judged = graded(tmp_path)[0]["paths"][0]
    assert judged["grade"] == "B"
    assert judged["findings"] == [{"step": 1, "text": "judge: it misreads the picture"}]
    assert summary["selected_A"] == 3 and summary["not_judged"] == 0


def test_a_judge_that_cannot_be_reached_stops_and_the_rest_is_done_later(
    rows: Any, tmp_path: Path, endpoint: Any
):
    found, questions = rows
    steps = len(found[0]["paths"][0]["steps"])
    judge = endpoint_writer(endpoint.model, "long_cot.judge", temperature=0.0)
    assessor = Assessor(AssessConfig(), judge)
    endpoint.reply = lambda body: verdicts(*[True] * steps) if len(endpoint.bodies) == 1 else None
    with pytest.raises(KeyeError, match=r"could be judged by long_cot\.judge \(m, http.*500"):
        assess_paths(found, questions, assessor, tmp_path, 1)
    assert len(graded(tmp_path)) == 1
    endpoint.reply = lambda body: "I think all is well"
    summary = assess_paths(found, questions, assessor, tmp_path, 1)
    rows_after = graded(tmp_path)
    assert [row["paths"][0]["grade"] for row in rows_after] == ["A", "B", "B", "B"]
    assert summary["not_judged"] == 3  # what nobody has judged is no A
    assert "malformed" in rows_after[1]["paths"][0]["findings"][0]["text"]


@pytest.mark.parametrize(
    "answer",
    ["[]", '{"steps": 1}', verdicts(True), verdicts(True, True, True),
     '{"steps": [{"step": 1, "right": "yes", "fault": ""}]}', "{"],
)  # fmt: skip
def test_a_judgement_that_is_not_what_was_asked_is_no_judgement(answer: str):
    with pytest.raises(ValueError):
        parse_judgement(answer, 2)
    assert parse_judgement(verdicts(True, True), 2) == []


def test_low_marks_of_the_reward_model_are_findings(world: Any):
    rows, questions = world(1)

    class Marks:
        """Marks as `KeyeRewardModel.rate_group` gives them (its own tests run it)."""

        def rate_group(self, groups: Any, mode: str, opponents: int) -> Any:
            assert mode == "think" and opponents == 2
            low = {"marks": {"consistency": 0.25, "clarity": 0.1}, "malformed": 1, "fault": "x"}
            unread = {"marks": {}, "malformed": 4, "fault": "no verdict"}
            return [[low, unread], [{"marks": {}, "malformed": 0, "fault": ""}]]

    groups = [(questions(rows[0]), ["a", "b"]), (questions(rows[0]), ["alone"])]
    model: Any = Marks()
    (low, unread), (alone,) = reward_model_findings(model, groups, ["consistency"], 0.5)
    assert [finding.text for finding in low] == ["reward model: consistency 0.25"]
    # What could not be judged is no better than what was found flawed: people look at it.
    assert [finding.text for finding in unread] == ["not judged by the reward model: no verdict"]
    assert alone == []
