"""The items file, what the command refuses, and texts as the page shows them."""

from __future__ import annotations

import ast
import json
import socket
from pathlib import Path

import pytest

from pretrain.data.media import MediaConfig
from pretrain.run.command import compose
from pretrain.run.errors import ConfigError, KeyeError
from rl.review.command import run_review
from rl.review.config import ReviewConfig
from rl.review.desk import open_desk
from rl.review.items import load_items
from rl.review.text import confidence_hue, difference_html, split_response

ROOT = Path(__file__).resolve().parents[3]


def configured(*overrides: str) -> ReviewConfig:
    return compose("review", ReviewConfig, list(overrides))


def with_row(items_file: Path, **changes) -> Path:
    """The items with changes to the second one."""
    rows = [json.loads(line) for line in items_file.read_text().splitlines()]
    rows[1] |= changes
    rows[1] = {key: value for key, value in rows[1].items() if value is not ...}
    items_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return items_file


def test_items_are_read_whole(items_file):
    items = load_items(items_file)
    assert [item.grade for item in items] == ["B", "A", "A", "A"]
    assert len(items[1].candidates) == 3
    assert items[0].steps[0].confidence == 0.97
    assert [len(item.sample.media()) for item in items] == [1, 1, 0, 1]


def test_a_confidence_that_was_not_measured_is_none(items_file):
    steps = [{"text": "a", "confidence": float("nan")}, {"text": "b", "confidence": None}]
    item = load_items(with_row(items_file, steps=steps, confidence=...))[1]
    assert [step.confidence for step in item.steps] == [None, None]
    assert item.confidence is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ...}, "`id` must be a non-empty string"),
        ({"messages": ...}, "`messages` is missing"),
        ({"response": ""}, "`response` must be a non-empty string"),
        ({"steps": "a"}, "`steps` must be a list"),
        ({"steps": ["a"]}, "`steps` must be objects with text and confidence"),
        ({"steps": [{"text": "a", "confidence": 1.5}]}, "must have a confidence in 0…1"),
        ({"confidence": "high"}, "`confidence` must have a confidence in 0…1"),
        ({"grade": "C"}, "`grade` must be one of A, B"),
        ({"findings": [3]}, "`findings` must be a non-empty string"),
        ({"candidates": ["one"]}, "`candidates` must be at least two responses"),
        ({"id": "digits/sum/0#ab"}, "is used twice"),
    ],
)
def test_a_wrong_item_is_named_with_its_line(items_file, changes, message):
    with pytest.raises(KeyeError, match=rf"items\.jsonl:2: .*{message}.*Mend or remove"):
        run_review(configured(f"items={with_row(items_file, **changes)}"))


def test_a_line_that_is_no_json_is_named(items_file):
    items_file.write_bytes(b"\xff{}\n" + items_file.read_bytes())
    with pytest.raises(KeyeError, match=r"items\.jsonl:1: not valid JSON"):
        load_items(items_file)


def test_the_command_says_what_is_missing(tmp_path, items_file):
    with pytest.raises(KeyeError, match=r"give items=FILE\.jsonl"):
        run_review(configured())
    with pytest.raises(KeyeError, match=r"there is no items file .*none\.jsonl"):
        run_review(configured(f"items={tmp_path}/none.jsonl"))
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(KeyeError, match="holds no item"):
        run_review(configured(f"items={tmp_path}/empty.jsonl"))
    (tmp_path / "decisions.jsonl").write_text("{}\n")
    with pytest.raises(KeyeError, match=r"decisions\.jsonl:1: `action` is missing.*Mend or remove"):
        run_review(configured(f"items={items_file}"))


def test_a_port_in_use_is_named(items_file):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(KeyeError, match=rf"port={port} cannot be used .*port=0 for a free"):
            run_review(configured(f"items={items_file}", f"port={port}"))


@pytest.mark.parametrize(
    "wrong",
    ["port=70000", "confidence_low=0.9 confidence_high=0.5", "export_to=a import_from=b"],
)
def test_wrong_values_are_configuration_errors(wrong):
    with pytest.raises(ConfigError):
        configured(*wrong.split())


def test_the_rest_of_rl_imports_no_user_interface():
    """Of the modules that import NiceGUI only `server` is imported, by a function."""
    imports: dict[str, set[str]] = {}
    for path in (ROOT / "rl").rglob("*.py"):
        at_once = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.ImportFrom)]
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        imports[name] = {str(node.module) for node in at_once}
    interface = {name for name, found in imports.items() if found & {"nicegui", "fastapi"}}
    assert interface == {f"rl.review.{name}" for name in ("api", "page", "parts", "server")}
    users = {name for name, found in imports.items() if found & interface}
    assert users <= interface
    assert "from rl.review.server import serve" in (ROOT / "rl/review/command.py").read_text()


def test_confidences_run_from_red_to_green():
    hues = [confidence_hue(c, 0.5, 0.9) for c in (0.0, 0.5, 0.7, 0.9, 1.0)]
    assert hues == [0, 0, 60, 120, 120]


def test_the_answer_stands_after_the_reasoning():
    assert split_response("<think>a</think><answer>b</answer>") == (
        "<think>a</think>",
        "<answer>b</answer>",
    )
    assert split_response("only") == ("", "only")


def test_differences_are_marked_and_escaped():
    assert difference_html("3+4=8; <b>", "3+4=7; <i>") == (
        "3+4=<del>8</del><ins>7</ins>; &lt;<del>b</del><ins>i</ins>&gt;"
    )
    assert difference_html("same", "same") == "same"


def test_a_ranking_settles_an_item_and_is_no_verdict(items_file):
    desk = open_desk(str(items_file), "", MediaConfig())
    id = desk.items[1].id
    assert (desk.state(id).done, desk.state(id).status) == (False, "open")
    desk.decide(id, 0, "rank", "ada", ranking=[1, 2, 2])
    assert (desk.state(id).done, desk.state(id).status) == (True, "open")
    desk.decide(id, 1, "drop", "ada")
    assert (desk.state(id).ranking, desk.state(id).status) == ((1, 2, 2), "dropped")
