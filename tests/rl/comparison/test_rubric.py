"""The rubric: what is asked, how marks are read, and what the table says."""

from __future__ import annotations

import json

import pytest

from pretrain.data.sample import Sample
from pretrain.data.world import TASKS
from pretrain.run.errors import ConfigError
from rl.comparison.rubric import (
    RubricConfig,
    read_marks,
    rubric_change,
    rubric_request,
    rubric_table,
)
from rl.judging import JudgeConfig

DIMENSIONS = ["correctness", "completeness", "relevance", "fluency", "creativity"]


def sample(task: str = "video/order", **extra: str) -> Sample:
    messages = [{"role": "user", "content": [{"type": "text", "text": "what happens?"}]}]
    return Sample("q", messages, "it falls", task, extra=extra)


def test_five_dimensions_and_eight_capabilities():
    rubric = RubricConfig()
    assert list(rubric.dimensions) == DIMENSIONS and len(rubric.capabilities) == 8
    assert rubric.capability(sample()) == "temporal information understanding"
    assert rubric.capability(sample("digits/read")) == "visual element recognition"
    assert rubric.capability(sample("digits/sum")) == "reasoning"  # the longer pattern counts
    assert rubric.capability(sample("a/b")) == "other"
    assert rubric.capability(sample("a/b", capability="robustness")) == "robustness"
    assert "other" not in {rubric.capability(sample(task)) for task in TASKS}
    with pytest.raises(ConfigError, match="dimension"):
        RubricConfig(dimensions={})


def test_the_request_shows_query_reference_and_response():
    body = rubric_request(sample(), "it flies", RubricConfig(), JudgeConfig(reason_length=50))
    system, user = (message["content"] for message in body["messages"])
    assert "Query:\nwhat happens?" in user and "it falls" in user and "it flies" in user
    assert all(f"- {name}: " in system for name in DIMENSIONS)
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["required"] == ["reason", *DIMENSIONS]
    assert schema["properties"]["fluency"]["enum"] == [1, 2, 3, 4, 5]


def test_marks_are_read_strictly():
    rubric = RubricConfig()
    marks = dict.fromkeys(DIMENSIONS, 3)
    assert read_marks(json.dumps({"reason": "", **marks}), rubric) == marks
    for wrong in (
        marks,
        {"reason": "", **marks, "fluency": 6},
        {"reason": "", **marks, "fluency": True},
        {"reason": "", **marks, "more": 1},
        [1],
    ):
        assert read_marks(json.dumps(wrong), rubric) is None
    assert read_marks("3 3 3 3 3", rubric) is None


def record(name: str, capability: str, first: int, second: int) -> dict:
    return {"id": name, "capability": capability, "marks": {"a": first, "b": second}}


def test_table_and_paired_change():
    records = [record("1", "x", 5, 3), record("2", "x", 3, 3), record("3", "y", 1, 5)]
    records.append({"id": "4", "capability": "y", "marks": None})
    table = rubric_table(records, ["a", "b"])
    assert table["all"]["a"]["value"] == 3.0 and table["all"]["a"]["n"] == 3
    assert table["x"]["overall"]["value"] == 3.5 and table["y"]["b"]["value"] == 5.0
    other = [record("1", "x", 4, 3), record("2", "x", 2, 3), record("4", "y", 1, 1)]
    change = rubric_change(records, other, ["a", "b"])
    assert change["a"]["value"] == 1.0 and change["a"]["n"] == 2  # 3 and 4 lack a partner
    assert change["a"]["high"] - change["a"]["low"] < 1e-9
    assert change["overall"]["value"] == 0.5
    assert rubric_change(records[3:], other, ["a", "b"]) == {}
