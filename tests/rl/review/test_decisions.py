"""The decisions file: numbering, staleness, hand-made errors, two processes."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pretrain.run.errors import KeyeError
from rl.review.decisions import (
    RANKINGS,
    VERDICTS,
    Decision,
    DecisionError,
    DecisionLog,
    StaleDecision,
    decide,
    load_decisions,
)


def row(**changes):
    base = {
        "id": "a",
        "version": 1,
        "base_version": 0,
        "action": "accept",
        "reviewer": "ada",
        "time": "2026-11-28T18:00:00+00:00",
    }
    return {key: value for key, value in (base | changes).items() if value is not None}


def write(path: Path, *rows) -> Path:
    lines = [r if isinstance(r, str) else json.dumps(r) for r in rows]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_append_then_load(tmp_path):
    path = tmp_path / "new" / "decisions.jsonl"
    log = DecisionLog(path)
    log.append(decide("a", 0, "edit", "ada", response="better   \u2028 text\n"))
    log.append(decide("b", 0, "drop", "ada"))
    log.append(decide("a", 1, "accept", "bob"))
    log.append(decide("c", 0, "rank", "bob", ranking=[2, 1, 2]))
    loaded = load_decisions(path)
    assert {id: (d.version, d.action) for id, d in loaded.items()} == {
        "a": (2, "accept"),
        "b": (1, "drop"),
        "c": (1, "rank"),
    }
    assert loaded["a"].response == "better   \u2028 text\n"  # bob accepted what ada wrote
    assert loaded["c"].ranking == (2, 1, 2)
    assert [d.reviewer for d in DecisionLog(path).history("a")] == ["ada", "bob"]


def test_a_ranking_hides_no_verdict_and_a_drop_ends_both(tmp_path):
    path = write(
        tmp_path / "d.jsonl",
        row(action="edit", response="x"),
        row(action="rank", ranking=[1, 2], version=2, base_version=1),
        row(id="b", action="rank", ranking=[1, 2]),
        row(id="b", action="drop", version=2, base_version=1),
    )
    assert load_decisions(path)["a"].action == "rank"
    assert load_decisions(path, VERDICTS)["a"].response == "x"
    assert load_decisions(path, RANKINGS)["b"].action == "drop"


def test_a_stale_decision_is_refused_and_nothing_is_written(tmp_path):
    path = tmp_path / "d.jsonl"
    ada, bob = DecisionLog(path), DecisionLog(path)  # two open logs, as two processes have
    ada.append(decide("a", 0, "edit", "ada", response="first"))
    before = path.read_bytes()
    with pytest.raises(StaleDecision, match=r"version 1 \(edit by ada.*based on version 0") as info:
        bob.append(decide("a", 0, "edit", "bob", response="second"))
    assert info.value.current.response == "first"
    assert path.read_bytes() == before
    bob.append(decide("a", 1, "edit", "bob", response="second"))
    assert [d.response for d in DecisionLog(path).history("a")] == ["first", "second"]


def test_a_decision_on_a_version_to_come_is_refused(tmp_path):
    with pytest.raises(DecisionError, match="base_version must be 0"):
        DecisionLog(tmp_path / "d.jsonl").append(decide("a", 3, "accept", "ada"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "a", ', r"not valid JSON in UTF-8"),
        ("[1]", r"must be an object, not list"),
        (row(reviewer=None), r"`reviewer` is missing"),
        (row(respones="x"), r"`respones` is not a field"),
        (row(action="approve"), r"`action` must be one of accept, edit, drop, rank, got 'approve'"),
        (row(action="edit"), r"`response` must be the edited text"),
        (row(action="drop", response="x"), r"`response` must be absent"),
        (row(action="rank", ranking=[1, 3]), r"`ranking` must be the rank of each"),
        (row(action="rank", ranking=[2, 2]), r"`ranking` must be the rank of each"),
        (row(ranking=[1, 2]), r"`ranking` must be absent"),
        (row(version=2), r"`version` must be base_version \+ 1 = 1"),
        (row(version="1"), r"`version` must be"),
        (row(time="yesterday"), r"`time` must be ISO 8601"),
        (row(time="2026-11-28T18:00:00"), r"`time` must be ISO 8601 with a time zone"),
        (row(id=""), r"`id` must be a non-empty string"),
        (row(id="b"), r"version 1 of item 'b' follows version 1"),
        (row(id="c", version=2, base_version=1), r"follows version 0, so base_version must be 0"),
    ],
)
def test_a_wrong_line_is_named_with_its_fix(tmp_path, line, message):
    path = write(tmp_path / "d.jsonl", row(id="b"), line, row(id="z"))
    content = path.read_bytes()
    for read in (load_decisions, DecisionLog):
        with pytest.raises(KeyeError, match=rf"d\.jsonl:2: .*{message}.*Mend or remove"):
            read(path)
    assert path.read_bytes() == content


def test_no_file_says_what_writes_it(tmp_path):
    with pytest.raises(KeyeError, match=r"no decisions file .*python -m rl review"):
        load_decisions(tmp_path / "none.jsonl")


def test_an_editor_that_leaves_a_mark_blank_lines_or_no_last_newline_harms_nothing(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf"
        + json.dumps(row()).encode()
        + b"\r\n\r\n"
        + json.dumps(row(id="b")).encode()
    )
    DecisionLog(path).append(decide("b", 1, "drop", "bob"))
    assert {id: d.action for id, d in load_decisions(path).items()} == {"a": "accept", "b": "drop"}


def test_logs_that_write_at_once_lose_nothing(tmp_path):
    """Four open logs decide on one item until each has succeeded ten times.

    The kernel's lock is between open files, so threads meet it as processes do.
    """
    path = tmp_path / "d.jsonl"

    def work(name: str) -> None:
        log = DecisionLog(path)
        done = 0
        while done < 10:
            log.refresh()
            try:
                log.append(decide("a", log.version("a"), "accept", name))
                done += 1
            except StaleDecision:
                pass

    names = ("ada", "bob", "eve", "max")
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(work, names))
    history = DecisionLog(path).history("a")
    assert [d.version for d in history] == list(range(1, 41))
    assert sorted(d.reviewer for d in history) == sorted([*names] * 10)


def test_rows_round_trip():
    decision = decide("a", 0, "rank", "ada", ranking=[1, 2])
    assert Decision.from_row(json.loads(json.dumps(decision.to_row()))) == decision
