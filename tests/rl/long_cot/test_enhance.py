"""Questions from several sources: what is collected, merged, reworded and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pretrain.data.ingest import FileDataConfig
from pretrain.run.errors import ConfigError, KeyeError
from rl.long_cot.config import EnhanceConfig, ModelConfig
from rl.long_cot.enhance import REFUSED, collect, merge, rewrite, rewrite_fault
from rl.long_cot.questions import Questions, blind, open_sources
from rl.long_cot.writers import endpoint_writer


@pytest.fixture
def cfg(tmp_path: Path) -> EnhanceConfig:
    """Files with a picture question, its copy, an agent's row and an id used twice; a world."""
    Image.fromarray(np.full((28, 28, 3), 7, np.uint8)).save(tmp_path / "a.png")
    content = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "How many 3s?"}]
    common = {"answer": "24", "task_type": "math/count", "rewards": [{"rule": "math"}]}
    rows = [
        {"id": "a", "messages": [{"role": "user", "content": content}]},
        {"id": "copy", "messages": [{"role": "user", "content": content}]},
        {"id": "agent", "messages": [{"role": "user", "content": "Look."}],
         "response": '<think>x</think><tool_call>{"name": "crop"}</tool_call>'},
    ]  # fmt: skip
    for name in ("one", "two"):
        more = [{"id": "b", "messages": [{"role": "user", "content": f"{name}: 6*4?"}]}]
        written = (rows if name == "one" else []) + more
        text = "".join(json.dumps(row | common) + "\n" for row in written)
        (tmp_path / f"{name}.jsonl").write_text(text)
    data = FileDataConfig(files=[str(tmp_path / f"{name}.jsonl") for name in ("one", "two")])
    return EnhanceConfig(data=data, tasks={"digits/sum": 1.0}, world=3, merge_share=1.0)


def test_sources_are_collected_once_each_with_its_origin(cfg: EnhanceConfig, tmp_path: Path):
    sources = open_sources(cfg, tmp_path)
    rows, left_out = collect(cfg, sources)
    assert [row["id"] for row in rows][:3] == ["a", "b", two_b(tmp_path)] and len(rows) == 6
    assert left_out == {"duplicates": 1, "agentic": 1}
    assert rows[2]["from"] == ["b"] and rows[2]["refs"] == [[cfg.data.files[1], 0]]
    assert [row["medium"] for row in rows] == ["image", "text", "text", "image", "image", "image"]
    sample = Questions(sources, ", ")(rows[0])
    assert sample.media()[0]["image"].shape == (28, 28, 3) and sample.mode == "think"
    unseen = blind(sample)
    assert not unseen.media() and unseen.messages[0]["content"][0]["text"] == "How many 3s?"


def test_merged_rows_keep_where_they_come_from(cfg: EnhanceConfig, tmp_path: Path):
    sources = open_sources(cfg, tmp_path)
    rows, _ = collect(cfg, sources)
    merged = merge(cfg, rows, sources, 8)
    assert len(merged) == 6 and len({row["id"] for row in merged}) == 6
    assert merged == merge(cfg, rows, sources, 8)
    questions = Questions(sources, ", ")
    by_id = {row["id"]: row for row in rows}
    for row in merged:
        first, second = (by_id[origin] for origin in row["from"])
        assert row["refs"] == [*first["refs"], *second["refs"]]
        sample = questions(row)
        assert sample.id == row["id"] and sample.answer == row["answer"]
        assert sample.answer == f"{first['answer']}, {second['answer']}"
    assert merge(cfg, rows[:1], sources, 8) == []


def two_b(folder: Path) -> str:
    """Id of the second row that calls itself b."""
    return f"{folder / 'two.jsonl'}:b"


def test_no_source_is_named_and_fewer_rows_can_be_taken(cfg: EnhanceConfig, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"long_cot\.enhance names no source"):
        open_sources(EnhanceConfig(), tmp_path)
    cfg.rows_per_file, cfg.world = 1, 0
    rows, _ = collect(cfg, open_sources(cfg, tmp_path))
    assert [row["id"] for row in rows] == ["a", "b"]


@pytest.mark.parametrize(
    ("new", "fault"),
    [
        ("What do 6 and 4 make?", None),
        ("", "empty"),
        ("How much is 6 and 4?", "same words"),
        ("What do 6 and 5 make?", "other numbers: 4, 5"),
        ("Do 6 and 4 make ten?", "says the answer"),
        ("<|image_pad|> 6 and 4?", "placeholder"),
        ("Often 6 and 4 make?", None),  # the answer is a word, not a part of one
    ],
)
def test_a_wording_that_changes_the_question_is_refused(new: str, fault: str | None):
    found = rewrite_fault("How much is 6 and 4?", new, "ten")
    assert found is None if fault is None else fault in (found or "")


def test_questions_are_reworded_by_an_endpoint_and_gone_on_with(
    cfg: EnhanceConfig, tmp_path: Path, endpoint: Any
):
    sources = open_sources(cfg, tmp_path)
    rows = collect(cfg, sources)[0][:3]
    cfg.rewrite_share = 1.0
    endpoint.reply = lambda body: (
        "the answer is 24"
        if "two:" in endpoint.asked(body)
        else f"<think>hm</think>Say: {old(body)}"
    )
    writer = endpoint_writer(endpoint.model, "long_cot.writer")
    folder = tmp_path / "enhance"
    new = rewrite(cfg, rows, sources, writer, folder, 1)
    assert [(row["id"], row["from"]) for row in new] == [("a/rewritten", ["a"]),
                                                         ("b/rewritten", ["b"])]  # fmt: skip
    assert new[0]["question"] == "Say: How many 3s?" and new[0]["how"] == "rewritten"
    sample = Questions(sources, ", ")(new[0])
    assert [part["type"] for part in sample.messages[0]["content"]] == ["image", "text"]
    assert sample.messages[0]["content"][1]["text"] == "Say: How many 3s?"
    assert endpoint.bodies[0]["messages"][0]["content"][0]["type"] == "image_url"
    refused = [json.loads(line) for line in (folder / REFUSED).read_text().splitlines()]
    assert [row["id"] for row in refused] == [two_b(tmp_path)] and "numbers" in refused[0]["reason"]
    asked = len(endpoint.bodies)
    assert rewrite(cfg, rows, sources, writer, folder, 1) == new
    assert len(endpoint.bodies) == asked  # nothing is asked for twice


def old(body: dict[str, Any]) -> str:
    """The question that is to be reworded."""
    content = body["messages"][0]["content"]
    return content[-1]["text"].rpartition("\n\n")[2]


def test_a_writer_that_cannot_be_reached_stops_and_keeps_what_is_done(
    cfg: EnhanceConfig, tmp_path: Path, endpoint: Any
):
    sources = open_sources(cfg, tmp_path)
    rows = collect(cfg, sources)[0][:3]
    cfg.rewrite_share = 1.0
    endpoint.reply = lambda body: None if "one:" in old(body) else f"Say: {old(body)}"
    writer = endpoint_writer(endpoint.model, "long_cot.writer")
    with pytest.raises(KeyeError, match=r"nothing could be rewritten by long_cot\.writer.*500"):
        rewrite(cfg, rows, sources, writer, tmp_path / "e", 1)
    endpoint.reply = lambda body: f"Say: {old(body)}"
    asked = len(endpoint.bodies)
    assert len(rewrite(cfg, rows, sources, writer, tmp_path / "e", 1)) == 3
    assert len(endpoint.bodies) == asked + 2
    with pytest.raises(ConfigError, match=r"long_cot\.writer needs url"):
        endpoint_writer(ModelConfig(), "long_cot.writer")
