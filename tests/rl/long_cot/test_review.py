"""Items for people, automatic mending, and what decisions do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pretrain.run.errors import KeyeError
from rl.long_cot.assess import Assessor, assess_paths
from rl.long_cot.config import AssessConfig, ReviewConfig, SelectConfig
from rl.long_cot.judge import NOT_BETTER
from rl.long_cot.refine import REFINED, apply_decisions, read_decisions
from rl.long_cot.review import ITEMS, KEPT, Refiner, item_id, make_items, redundancy
from rl.long_cot.writers import endpoint_writer
from rl.review.decisions import DecisionLog, decide
from rl.review.items import load_items
from rl.row_log import RowLog


def text(sample: Any, before: str = "", answer: str | None = None) -> str:
    given = answer if answer is not None else sample.answer
    return f"<think>{before}{sample.solution}</think><answer>\\boxed{{{given}}}</answer>"


@pytest.fixture
def graded(world: Any, make_path: Any, tmp_path: Path) -> tuple[list[Any], Any]:
    """Three questions, each with a sound, a flawed and a redundant path."""
    rows, questions = world(3)
    for row in rows:
        sample = questions(row)
        row["paths"] = [
            make_path(text(sample), tokens=20),
            make_path(text(sample, "2+2=5;"), tokens=24),
            make_path(text(sample, "1+1=2;1+1=2;"), tokens=40),
            make_path(text(sample, answer="99"), correct=False, tokens=2),
        ]
    assessor, select = Assessor(AssessConfig(solution="off")), SelectConfig(keep=3)
    assess_paths(rows, questions, assessor, select, tmp_path / "assess", 8)
    return RowLog(tmp_path / "assess" / "graded.jsonl").rows(), questions


def items_of(folder: Path, graded: Any, refiner: Any = None) -> dict[str, Any]:
    rows, questions = graded
    return make_items(rows, questions, ReviewConfig(), folder, 2, refiner)


@pytest.fixture
def apply(graded: Any, tmp_path: Path, scorer: Any) -> Any:
    """`apply(decisions, **settings)`: the summary, and the rows of refined.jsonl."""

    def run(decisions: Any, **settings: Any) -> Any:
        kept, items = (RowLog(tmp_path / name).rows() for name in (KEPT, ITEMS))
        cfg, out = ReviewConfig(**settings), tmp_path / "refined"
        summary = apply_decisions(kept, items, decisions, graded[1], scorer, cfg, out)
        return summary, RowLog(out / REFINED).rows()

    return run


def test_items_hold_all_that_a_decision_needs(graded: Any, tmp_path: Path):
    summary = items_of(tmp_path, graded)
    assert summary == {"kept": 3, "items": 6, "flawed": 3, "redundant": 3}
    items = load_items(tmp_path / ITEMS)  # as the review page reads them
    flawed, redundant = items[0], items[1]
    assert flawed.grade == "B" and flawed.findings == ("step 1: 2+2=5 does not hold (4)",)
    assert redundant.grade == "A" and redundant.findings == (
        "40 tokens, the shortest correct path has 20", "step 2: repeats step 1",
    )  # fmt: skip
    assert len(flawed.candidates) == 3 and flawed.candidates[0] == flawed.response
    assert flawed.steps[0].text == "2+2=5" and flawed.steps[0].confidence == 0.5
    media = flawed.sample.media()
    assert media[0]["image"].startswith("data:image/png;base64,") and flawed.sample.mode == "think"


def test_an_interrupted_review_has_every_item_once(graded: Any, tmp_path: Path):
    whole = items_of(tmp_path / "a", graded)
    items_of(tmp_path / "b", graded)
    kept = tmp_path / "b" / KEPT  # killed after the items, before their questions were done
    kept.write_text("".join(kept.read_text().splitlines(keepends=True)[:1]))
    assert items_of(tmp_path / "b", graded) == whole
    for name in (ITEMS, KEPT):
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()


def test_what_is_as_short_as_it_can_be_is_not_redundant(make_path: Any):
    short, long = (
        make_path("<think>a;b</think>", tokens=10),
        make_path("<think>c</think>", tokens=15),
    )
    wrong = make_path("<think>d</think>", tokens=1, correct=False)
    row = {"paths": [short, long, wrong]}
    assert redundancy(long, row, 1.5) == [] and redundancy(short, row, 1.0) == []
    assert len(redundancy(long, row, 1.4)) == 1


def test_without_decisions_the_policy_decides(graded: Any, tmp_path: Path, apply: Any):
    items_of(tmp_path, graded)
    summary, rows = apply({})
    assert summary["unreviewed_kept"] == 3 and summary["unreviewed_dropped"] == 3
    assert summary["traces"] == 6 and all(len(row["traces"]) == 2 for row in rows)
    settings = {"unreviewed_flawed": "keep", "unreviewed_redundant": "drop"}
    _, rows = apply({}, **settings)
    assert [[t["grade"] for t in row["traces"]] for row in rows] == [["A", "B"]] * 3


def test_decisions_are_applied_to_the_texts_they_were_made_on(
    graded: Any, tmp_path: Path, apply: Any
):
    items_of(tmp_path, graded)
    questions = graded[1]
    by_question: dict[str, list[Any]] = {}
    for one in RowLog(tmp_path / ITEMS).rows():
        by_question.setdefault(one["question_id"], []).append(one)
    (first, longer), (second, _), (third, fourth) = by_question.values()
    sample = questions(next(r for r in graded[0] if r["id"] == first["question_id"]))
    log = DecisionLog(tmp_path / "decisions.jsonl")
    new = text(sample, "look: ")
    for decision in (
        decide(first["id"], 0, "edit", "ann", response=new),
        # What is ranked later is for preferences: the text edited before stays.
        decide(first["id"], 1, "rank", "bob", ranking=[*range(1, len(first["candidates"]) + 1)]),
        decide(longer["id"], 0, "drop", "ann"),
        decide(second["id"], 0, "edit", "ann", response=text(sample, answer="98")),
        decide(third["id"], 0, "accept", "bob"),
        decide(fourth["id"], 0, "rank", "bob", ranking=[3, 1, 2]),
        decide("gone#123", 0, "accept", "bob"),
    ):
        log.append(decision)
    decisions = read_decisions(tmp_path / "decisions.jsonl", required=True)
    summary, rows = apply(decisions)
    counts = {key: summary[key] for key in ("accepted", "edited", "ranked", "dropped")}
    assert counts == {"accepted": 1, "edited": 1, "ranked": 1, "dropped": 1}
    assert summary["refused_edits"] == 1 and summary["unknown_decisions"] == 1
    assert summary["unreviewed_kept"] == 1 and summary["unreviewed_dropped"] == 0
    traces = [[(t["origin"], t["response"]) for t in row["traces"]] for row in rows]
    assert traces[0][1] == ("edited", new) and len(traces[0]) == 2
    assert [origin for origin, _ in traces[1]] == ["sampled", "unreviewed_kept"]
    assert ("accepted", third["response"]) in traces[2]
    # Ranked first was the second candidate: the sound path, which is there already.
    assert fourth["candidates"][1] in [t for _, t in traces[2]] and len(traces[2]) == 2
    assert all(t["grade"] == "A" for row in rows for t in row["traces"])


def test_a_bad_review_file_is_refused_with_its_line(graded: Any, tmp_path: Path, apply: Any):
    items_of(tmp_path, graded)
    file = tmp_path / "decisions.jsonl"
    assert read_decisions(file, required=False) == {}
    with pytest.raises(KeyeError, match="no decisions file"):
        read_decisions(file, required=True)
    one = RowLog(tmp_path / ITEMS).rows()[0]
    row = decide(one["id"], 0, "accept", "ann").to_row()
    file.write_text(json.dumps(row) + "\n" + json.dumps(row | {"action": "maybe"}) + "\n")
    with pytest.raises(KeyeError, match=r"decisions\.jsonl:2: .*action.*maybe"):
        read_decisions(file, required=False)
    file.write_text(json.dumps(decide(one["id"], 0, "rank", "ann", ranking=[1, 2]).to_row()) + "\n")
    with pytest.raises(KeyeError, match="ranks 2 candidates, the item has 3"):
        apply(read_decisions(file, required=True))


def test_nothing_left_says_what_to_do(graded: Any, tmp_path: Path, apply: Any):
    rows, questions = graded
    for row in rows:
        row["paths"] = row["paths"][1:2]
    items_of(tmp_path, (rows, questions))
    with pytest.raises(KeyeError, match=r"no trace is left of 3 questions and 3 items"):
        apply({})


def test_flawed_paths_are_mended_by_a_writer_and_assessed_again(
    graded: Any, tmp_path: Path, endpoint: Any, scorer: Any
):
    rows, questions = graded
    samples = [questions(row) for row in rows]

    def reply(body: dict[str, Any]) -> str:
        asked = endpoint.asked(body)
        assert "- step 1: 2+2=5 does not hold (4)" in asked
        number = next(k for k, s in enumerate(samples) if s.solution + "</think>" in asked)
        sample = samples[number]
        replies = [f"Here: {text(sample, 'now: ')}", text(sample, answer="99"), "I can't"]
        return replies[number]

    endpoint.reply = reply
    writer = endpoint_writer(endpoint.model, "long_cot.writer")
    refiner = Refiner(writer, Assessor(AssessConfig(solution="off")), scorer)
    summary = items_of(tmp_path, graded, refiner)
    assert summary == {
        "kept": 4, "items": 5, "flawed": 2, "redundant": 3, "refined": 1, "refined_not_better": 0,
    }  # fmt: skip
    kept = RowLog(tmp_path / KEPT).rows()
    mended = [t for t in kept[0]["traces"] if t["origin"] == "refined"]
    assert mended[0]["response"] == text(samples[0], "now: ") and mended[0]["confidence"] is None
    assert mended[0]["id"] == item_id(rows[0]["id"], mended[0]["response"])
    endpoint.reply = lambda body: None
    with pytest.raises(KeyeError, match="nothing could be mended"):
        items_of(tmp_path / "again", graded, refiner)


def test_a_mended_text_takes_the_place_only_if_the_reward_model_prefers_it(
    graded: Any, tmp_path: Path, endpoint: Any, scorer: Any, reward_model: Any
):
    rows, questions = graded
    samples = [questions(row) for row in rows]
    # The first is better than the flawed one, the second as good, the third can't be judged.
    marks = {"better: ": 5, "as good: ": 3, "odd: ": None}

    def reply(body: dict[str, Any]) -> str:
        asked = endpoint.asked(body)
        number = next(k for k, s in enumerate(samples) if s.solution + "</think>" in asked)
        return text(samples[number], list(marks)[number])

    endpoint.reply = reply
    model = reward_model(
        lambda response: next((m for before, m in marks.items() if before in response), 3)
    )
    cfg = AssessConfig(solution="off", reward_dimensions=["clarity"], reward_least=0.5)
    writer = endpoint_writer(endpoint.model, "long_cot.writer")
    refiner = Refiner(writer, Assessor(cfg, reward_model=model), scorer)
    summary = items_of(tmp_path, graded, refiner)
    assert summary == {
        "kept": 4, "items": 5, "flawed": 2, "redundant": 3, "refined": 1, "refined_not_better": 2,
    }  # fmt: skip
    kept = RowLog(tmp_path / KEPT).rows()
    mended = [t["response"] for row in kept for t in row["traces"] if t["origin"] == "refined"]
    assert mended == [text(samples[0], "better: ")]
    flawed = [one for one in RowLog(tmp_path / ITEMS).rows() if one["cause"] == "flawed"]
    for one, sample in zip(flawed, samples[1:], strict=True):
        assert one["response"] == text(sample, "2+2=5;") and one["grade"] == "B"
        assert one["findings"] == ["step 1: 2+2=5 does not hold (4)", NOT_BETTER]
    # Each against the path it would replace, in both orders.
    new = [text(sample, before) for sample, before in zip(samples, marks, strict=True)]
    old = [text(sample, "2+2=5;") for sample in samples]
    both = [pair for a, b in zip(new, old, strict=True) for pair in ((a, b), (b, a))]
    assert model.pairs == both


def test_a_preferred_text_that_is_marked_low_is_not_used(
    graded: Any, tmp_path: Path, endpoint: Any, scorer: Any, reward_model: Any
):
    endpoint.reply = lambda body: (
        endpoint.asked(body).partition("Response:\n")[2].partition("\n")[0].replace("2+2=5", "hm")
    )
    model = reward_model(lambda response: 2 if "hm" in response else 1)
    cfg = AssessConfig(solution="off", reward_dimensions=["clarity"])
    writer = endpoint_writer(endpoint.model, "long_cot.writer")
    refiner = Refiner(writer, Assessor(cfg, reward_model=model), scorer)
    summary = items_of(tmp_path, graded, refiner)
    assert len(model.pairs) == 6 and summary["flawed"] == 3
    assert summary["refined"] == summary["refined_not_better"] == 0
