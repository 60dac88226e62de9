"""Decisions to Label Studio's tasks and back, and decisions that were made there."""

from __future__ import annotations

import json
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest

from pretrain.data.media import MediaConfig
from pretrain.run.errors import KeyeError
from rl.review.command import run_review
from rl.review.config import ReviewConfig
from rl.review.decisions import load_decisions
from rl.review.desk import Desk, open_desk
from rl.review.label_studio import export_tasks, import_tasks, label_config


@pytest.fixture
def desk(items_file: Path) -> Desk:
    return open_desk(str(items_file), "", MediaConfig())


def as_json(tasks) -> bytes:
    """How Label Studio itself exports: one list."""
    return json.dumps(list(tasks)).encode()


def annotate(task: dict, action: str, **values) -> dict:
    """What an annotator's submission adds to a task, in the form of Label Studio's own export."""
    results = [{"from_name": "action", "type": "choices", "value": {"choices": [action]}}]
    for name, value in values.items():
        kind = "ranker" if name == "ranking" else "textarea"
        inner = {"ranker": value} if kind == "ranker" else {"text": [value]}
        results.append({"from_name": name, "type": kind, "value": inner})
    task["annotations"].append(
        {
            "id": 7,
            "completed_by": {"id": 1, "email": "eve@example.org"},
            "created_at": "2026-11-28T18:00:00.123456Z",
            "was_cancelled": False,
            "result": results,
        }
    )
    return task


def test_a_round_trip_through_files_keeps_every_version(desk, items_file, tmp_path):
    ids = [item.id for item in desk.items]
    desk.decide(ids[0], 0, "edit", "ada", response="better\n\ttext  ")
    desk.decide(ids[0], 1, "accept", "bob")
    desk.decide(ids[1], 0, "rank", "bob", ranking=[1, 3, 1])
    desk.decide(ids[2], 0, "drop", "ada")
    out = tmp_path / "out" / "tasks.jsonl"
    assert run_review(ReviewConfig(items=str(items_file), export_to=str(out))) == 0
    other = tmp_path / "other.jsonl"
    config = ReviewConfig(items=str(items_file), decisions=str(other), import_from=str(out))
    assert run_review(config) == 0
    assert other.read_bytes() == desk.log.path.read_bytes()
    assert run_review(config) == 0  # again: nothing new
    assert load_decisions(other) == load_decisions(desk.log.path)


def test_exported_tasks_and_the_interface_name_each_other(desk):
    """Every name in a result is a control of the interface, every `$value` a field of the data."""
    desk.decide(desk.items[1].id, 0, "rank", "bob", ranking=[2, 1, 3])
    desk.decide(desk.items[1].id, 1, "edit", "bob", response="x")
    tree = xml.fromstring(label_config(3))
    names = {e.get("name"): e.tag.lower() for e in tree.iter() if e.get("name")}
    fields = {value[1:] for e in tree.iter() if (value := e.get("value", "")).startswith("$")}
    for task in export_tasks(desk):
        assert fields <= task["data"].keys()
        for group in (*task["annotations"], *task["predictions"]):
            for result in group["result"]:
                assert names[result["from_name"]] == result["type"]
                assert names[result["to_name"]] in ("text", "list")
                assert next(iter(result["value"])) in (result["type"], "text")
    assert [b.get("name") for b in tree.iter("Bucket")] == ["1", "2", "3"]
    assert {c.get("value") for c in tree.iter("Choice")} == {"accept", "edit", "drop", "rank"}


def test_a_task_shows_media_in_itself_and_escapes_texts(desk):
    first, *_ = export_tasks(desk)
    assert '<img src="data:image/png;base64,' in first["data"]["media"]
    assert first["data"]["item_id"] == desk.items[0].id
    assert "[97%]" in first["data"]["steps"]


def test_annotations_made_there_become_decisions(desk):
    tasks = list(export_tasks(desk))
    texts = [item.response for item in desk.items]
    annotate(tasks[0], "edit", response="mended", reviewer="eve")
    annotate(tasks[1], "rank", ranking={"1": ["2"], "2": ["1", "3"], "3": [], "_": []})
    annotate(tasks[2], "accept", response=texts[2])  # the prefilled text, untouched
    annotate(tasks[3], "accept", response=texts[3] + " more")  # accepted what one has changed
    report = import_tasks(desk, as_json(tasks), "tasks.json")
    assert (report.added, report.known, report.refused) == (4, 0, [])
    made = [desk.log.history(item.id)[0] for item in desk.items]
    assert [d.action for d in made] == ["edit", "rank", "accept", "edit"]
    assert [d.response for d in made] == ["mended", None, None, texts[3] + " more"]
    assert made[1].ranking == (2, 1, 2)
    assert [d.reviewer for d in made[:2]] == ["eve", "label-studio:eve@example.org"]
    assert made[0].time == "2026-11-28T18:00:00.123456+00:00"
    again = import_tasks(desk, as_json(tasks), "tasks.json")
    assert (again.added, again.known, again.refused) == (0, 4, [])


def test_an_annotation_on_an_old_version_is_refused_and_the_rest_is_taken(desk, items_file, capsys):
    tasks = list(export_tasks(desk))
    annotate(tasks[0], "edit", response="there")
    annotate(tasks[2], "drop")
    desk.decide(desk.items[0].id, 0, "edit", "ada", response="here")
    path = items_file.with_name("annotated.json")
    path.write_bytes(as_json(tasks))
    assert run_review(ReviewConfig(items=str(items_file), import_from=str(path))) == 2
    shown = capsys.readouterr()
    assert "is at version 1 (edit by ada" in shown.err
    assert "1 decisions added" in shown.out and "1 refused" in shown.out
    decisions = load_decisions(desk.log.path)
    assert decisions[desk.items[0].id].response == "here"
    assert decisions[desk.items[2].id].action == "drop"


def test_a_cancelled_annotation_counts_for_nothing(desk):
    tasks = list(export_tasks(desk))
    annotate(tasks[0], "drop")["annotations"][0]["was_cancelled"] = True
    assert import_tasks(desk, as_json(tasks), "tasks.json").added == 0


def broken(name: str, tasks: list[dict]) -> bytes:
    task = annotate(tasks[1], "rank", ranking={"1": ["1"], "2": ["2"], "3": ["3"]})
    results = task["annotations"][0]["result"]
    if name == "ranking":
        results[1]["value"] = {"ranker": {"1": ["1"], "_": ["2", "3"]}}
    elif name == "id":
        task["data"]["item_id"] = "nothing"
    elif name == "data":
        del task["data"]
    elif name == "version":
        task["data"]["version"] = "new"
    elif name == "time":
        task["annotations"][0]["created_at"] = "yesterday"
    elif name == "action":
        results[0]["value"] = {"choices": ["approve"]}
    elif name == "value":
        results[0]["value"] = {}
    elif name == "result":
        task["annotations"][0]["result"] = "none"
    return as_json(tasks)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ranking", "must put each of the 3 candidates into a bucket"),
        ("id", "no item has the id 'nothing'"),
        ("data", "a task needs `data` with an `item_id`"),
        ("version", "`data.version` must be a number from 0 on"),
        ("time", "`created_at` must be ISO 8601"),
        ("action", "`action` must be one of"),
        ("value", "result 'action' has no value of type 'choices'"),
        ("result", "`result` must be a list of objects"),
    ],
)
def test_a_wrong_task_is_named_and_nothing_is_written(desk, name, message):
    tasks = list(export_tasks(desk))
    annotate(tasks[0], "drop")
    with pytest.raises(KeyeError, match=rf"tasks\.json, task 2: .*{message}.*Nothing was imported"):
        import_tasks(desk, broken(name, tasks), "tasks.json")
    assert desk.log.path.read_bytes() == b""


def test_a_cut_off_line_is_named(desk):
    with pytest.raises(KeyeError, match=r"tasks\.jsonl:2: not valid JSON"):
        import_tasks(desk, b'\n{"data": \n', "tasks.jsonl")
