"""Grades A, B and C, and what goes on: by rules, a judge behind a real endpoint, a reward model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pretrain.run.errors import KeyeError
from rewards.keye_rm.parsing import Judgement
from rl.config import RlConfig
from rl.long_cot import stages
from rl.long_cot.assess import GRADED, Assessor, assess_paths
from rl.long_cot.config import AssessConfig, SelectConfig
from rl.long_cot.judge import (
    BODY,
    NOT_BETTER,
    parse_judgement,
    replacement_findings,
    reward_model_findings,
)
from rl.long_cot.writers import endpoint_writer


def right(sample: Any) -> str:
    return f"<think>{sample.solution}</think><answer>\\boxed{{{sample.answer}}}</answer>"


def graded(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / GRADED).read_text().splitlines()]


def selected(row: dict[str, Any]) -> list[int]:
    return [k for k, path in enumerate(row["paths"]) if "selected" in path]


@pytest.fixture
def rows(world: Any, make_path: Any) -> tuple[list[Any], Any]:
    """Four questions with a sound path, a flawed one, a wrong one and three that can't be used."""
    found, questions = world(4)
    for row in found:
        sample = questions(row)
        text = right(sample)
        flawed = text.replace("<think>", "<think>2+2=5;")
        row["paths"] = [
            make_path(text),
            make_path(flawed),
            make_path(text.replace("boxed{", "boxed{9"), correct=False),
            make_path(text, finished=False),
            make_path(sample.answer, reasons=False),
            make_path(text, correct=None, reward=None),
        ]
    return found, questions


def test_grades_follow_answer_and_process(rows: Any, tmp_path: Path):
    found, questions = rows
    assessor = Assessor(AssessConfig())
    summary = assess_paths(found, questions, assessor, SelectConfig(), tmp_path, 3)
    for row in graded(tmp_path):
        grades = [path["grade"] for path in row["paths"]]
        assert grades == ["A", "B", "C", "C", "C", None]
        assert selected(row) == [0, 1]
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
    assessor = Assessor(AssessConfig(), judge)
    summary = assess_paths(found, questions, assessor, SelectConfig(), tmp_path, 2)
    assert len(endpoint.bodies) == 4  # the flawed, the wrong and the unusable are not shown
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
        assess_paths(found, questions, assessor, SelectConfig(), tmp_path, 1)
    assert len(graded(tmp_path)) == 1
    endpoint.reply = lambda body: "I think all is well"
    summary = assess_paths(found, questions, assessor, SelectConfig(), tmp_path, 1)
    rows_after = graded(tmp_path)
    assert [row["paths"][0]["grade"] for row in rows_after] == ["A", "B", "B", "B"]
    assert summary["not_judged"] == 3  # what nobody has judged is no A
    assert "malformed" in rows_after[1]["paths"][0]["findings"][0]["text"]


ASIDES = ("", "I look.", "Now I think about it.", "Let me see what there is.")
"""Put before the solution, each makes another path of it."""


@pytest.fixture
def several(world: Any, make_path: Any) -> Callable[[], tuple[list[Any], Any]]:
    """`several()`: three questions with four sound paths, the last of them the likeliest, and one
    that is flawed and likelier still."""

    def make() -> tuple[list[Any], Any]:
        found, questions = world(3)
        for row in found:
            text = right(questions(row))
            sound = [text.replace("<think>", f"<think>{aside}") for aside in ASIDES]
            row["paths"] = [make_path(one, confidence=k / 10) for k, one in enumerate(sound)]
            flawed = text.replace("<think>", "<think>2+2=5;")
            row["paths"].append(make_path(flawed, confidence=0.9))
        return found, questions

    return make


def asked_about(row: dict[str, Any], body: str) -> int:
    """Which path of `several` a judge was asked about, by its first step."""
    aside = body.partition("\n1. ")[2].partition("\n")[0]
    return next(k for k, path in enumerate(row["paths"]) if path["steps"][0]["text"] == aside)


def test_a_flawed_path_goes_on_only_where_a_sound_one_is_lacking(several: Any, tmp_path: Path):
    found, questions = several()
    found[1]["paths"] = found[1]["paths"][3:]
    found[2]["paths"] = found[2]["paths"][4:]
    cfg, assessor = SelectConfig(keep=2, diversity=0.0, min_distance=0.0), Assessor(AssessConfig())
    summary = assess_paths(found, questions, assessor, cfg, tmp_path, 8)
    # The likeliest of each question is flawed.
    assert [selected(row) for row in graded(tmp_path)] == [[2, 3], [0, 1], [0]]
    assert summary["selected_A"] == 3 and summary["selected_B"] == 2


def judged_by(endpoint: Any, wrong: Callable[[str], bool]) -> Assessor:
    """An assessor whose judge finds the first step of some paths wrong."""

    def reply(body: dict[str, Any]) -> str:
        asked = endpoint.asked(body)
        steps = asked.partition("[steps-")[2].count("\n") - 1
        return verdicts(*[not wrong(asked)] + [True] * (steps - 1))

    endpoint.reply = reply
    return Assessor(AssessConfig(), endpoint_writer(endpoint.model, "long_cot.judge"))


def test_the_next_sound_path_comes_for_one_that_the_judge_finds_flawed(
    several: Any, tmp_path: Path, endpoint: Any
):
    found, questions = several()
    # Of the first question all but one are wrong for the judge, of the second all, of the last the
    # likeliest.
    own = [questions(row).solution for row in found]
    wrong = [lambda k: k != 1, lambda k: True, lambda k: k == 3]
    asked: Counter[tuple[int, int]] = Counter()

    def is_wrong(body: str) -> bool:
        number = next(n for n, solution in enumerate(own) if solution.split(";")[-1] in body)
        k = asked_about(found[number], body)
        asked[number, k] += 1
        return wrong[number](k)

    assessor = judged_by(endpoint, is_wrong)
    cfg = SelectConfig(keep=2, diversity=0.0, min_distance=0.0)
    summary = assess_paths(found, questions, assessor, cfg, tmp_path, 8)
    rows = graded(tmp_path)
    # A's, then those that were taken for A's, in the order of their confidence; the path with the
    # wrong equation comes after them.
    assert [selected(row) for row in rows] == [[1, 3], [2, 3], [1, 2]]
    assert [[p["grade"] for p in row["paths"]] for row in rows] == [
        ["B", "A", "B", "B", "B"], ["B"] * 5, ["A", "A", "A", "B", "B"]
    ]  # fmt: skip
    assert asked == {(0, k): 1 for k in range(4)} | {(1, k): 1 for k in range(4)} | {
        (2, k): 1 for k in (1, 2, 3)
    }
    assert rows[2]["paths"][0]["findings"] == []  # a spare one that only the rules have seen
    assert summary["selected_A"] == 3 and summary["selected_B"] == 3


def test_an_interruption_between_rounds_leaves_the_file_as_it_would_have_been(
    several: Any, tmp_path: Path, endpoint: Any
):
    cfg = SelectConfig(keep=2, diversity=0.0, min_distance=0.0)
    assessor = judged_by(endpoint, lambda body: "1. Let me see" in body)
    whole = assess_paths(*several(), assessor, cfg, tmp_path / "a", 1)
    assert whole["selected_A"] == 6 and len(endpoint.bodies) == 9
    reply, before = endpoint.reply, len(endpoint.bodies)
    # The second question's first round is answered, its second isn't.
    endpoint.reply = lambda body: reply(body) if len(endpoint.bodies) <= before + 5 else None
    with pytest.raises(KeyeError, match="nothing could be judged"):
        assess_paths(*several(), assessor, cfg, tmp_path / "b", 1)
    assert len(graded(tmp_path / "b")) == 1
    endpoint.reply = reply
    assert assess_paths(*several(), assessor, cfg, tmp_path / "b", 8) == whole
    assert (tmp_path / "b" / GRADED).read_text() == (tmp_path / "a" / GRADED).read_text()


def test_the_reward_model_marks_a_path_that_is_chosen_alone(
    several: Any, tmp_path: Path, reward_model: Any
):
    found, questions = several()
    model = reward_model(lambda text: 1 if "Let me see" in text or "I look" in text else 4)
    assessor = Assessor(AssessConfig(reward_dimensions=["clarity"]), reward_model=model)
    cfg = SelectConfig(keep=1, min_distance=0.0)
    assess_paths(found, questions, assessor, cfg, tmp_path, 8)
    for row in graded(tmp_path):
        assert selected(row) == [2]
        low, flawed = row["paths"][3], row["paths"][4]
        assert low["findings"] == [{"step": 0, "text": "reward model: clarity 0.00"}]
        # The flawed one is what they were compared with, but was not asked about.
        assert all("reward model" not in finding["text"] for finding in flawed["findings"])
        assert [p["grade"] for p in row["paths"]] == ["A", "A", "A", "B", "B"]
        pairs = {frozenset((row["paths"][k]["response"], flawed["response"])) for k in (2, 3)}
        assert pairs <= {frozenset(pair) for pair in model.pairs}
    assert len(model.pairs) == 3 * 2 * 2  # questions, rounds, orders


def test_nothing_is_confident_enough(several: Any, tmp_path: Path):
    cfg = SelectConfig(min_confidence=0.95)
    with pytest.raises(KeyeError, match=r"none of 15 .*select\.min_confidence=0\.95 .*0\.900"):
        assess_paths(*several(), Assessor(AssessConfig()), cfg, tmp_path, 8)


def test_other_settings_of_choosing_re_run_the_assessment_and_not_the_sampling(
    monkeypatch: pytest.MonkeyPatch,
):
    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        stages, "_stage", lambda run, name, identity, *_, **__: seen.update({name: identity})
    )
    run: Any = SimpleNamespace(cfg=RlConfig())
    stages.paths(run)
    stages.assess(run)
    select = run.cfg.long_cot.select
    assert any(part is select for part in seen["assess"])
    assert not any(part is select for part in seen["paths"])


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


def test_a_replacement_must_be_preferred_in_a_judgement_of_each_order(
    world: Any, reward_model: Any
):
    rows, questions = world(1)

    class OneOrder(reward_model):
        def _answer(self, comparison: Any, swapped: bool) -> Any:
            unread = Judgement(None, fault="no verdict"), None, 1
            return unread if swapped else super()._answer(comparison, swapped)

    def findings(model: Any) -> list[str]:
        items = [(questions(rows[0]), "new", "old")]
        (found,) = replacement_findings(model, items, ["clarity"], 0.5)
        return [finding.text for finding in found]

    assert findings(reward_model({"new": 5, "old": 3}.get)) == []
    assert findings(reward_model({"new": 3, "old": 5}.get)) == [NOT_BETTER]
    assert findings(OneOrder({"new": 5, "old": 3}.get)) == [NOT_BETTER]
    unread = findings(reward_model(lambda text: None))
    assert unread == ["not judged by the reward model: no verdict", NOT_BETTER]
