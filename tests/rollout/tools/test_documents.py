"""The document index: what it reads, what it finds, and in which order."""

from __future__ import annotations

import json
import math

import pytest

from pretrain.run.errors import ConfigError, KeyeError
from rollout.tools import DocumentIndex, Passage

FACTS = ["red cat 47", "blue cat 12", "red dog 90", "the red red house", "Ölpreis 猫が好き"]


@pytest.fixture(scope="module")
def index():
    return DocumentIndex(Passage(str(k), "", text) for k, text in enumerate(FACTS))


def test_the_passage_with_most_of_the_words_comes_first(index):
    found = index.search("red cat", 3)
    assert found[0].text == "red cat 47"
    assert [p.score for p in found] == sorted((p.score for p in found), reverse=True)
    assert index.search("RED, Cat!", 1)[0].id == "0"


def test_scores_are_robertsons_bm25(index):
    """BM25 with k1 = 1.5, b = 0.75 and Lucene's idf, which bm25s takes by default."""
    lengths = [3, 3, 3, 4, 5]  # 猫, が, 好, き are words of their own
    mean, holding = sum(lengths) / 5, 2
    idf = math.log(1 + (5 - holding + 0.5) / (holding + 0.5))
    wanted = idf / (1 + 1.5 * (1 - 0.75 + 0.75 * 3 / mean))
    assert index.search("cat", 5)[0].score == pytest.approx(wanted, rel=1e-5)


def test_equal_scores_keep_the_documents_order():
    index = DocumentIndex(Passage(str(k), "", "same words") for k in range(50))
    assert [p.id for p in index.search("words", 5)] == ["0", "1", "2", "3", "4"]


def test_unknown_words_find_nothing_and_scripts_without_spaces_are_searched(index):
    assert index.search("zebra", 3) == []
    assert index.search("", 3) == []
    assert index.search("猫", 1)[0].id == "4"
    assert index.search("ölpreis", 1)[0].id == "4"


def test_a_folder_of_files(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "long.md").write_text("\n".join(f"line{k} " * 50 for k in range(10)))
    (tmp_path / "b.jsonl").write_text(
        json.dumps({"text": "one two", "title": "Counting"})
        + "\n\n"
        + json.dumps({"id": "mine", "text": "three"})
    )
    (tmp_path / "ignored.csv").write_text("four")
    index = DocumentIndex.open(tmp_path)
    ids = [p.id for p in index.passages]
    assert ids == ["a/long.md#1", "a/long.md#2", "a/long.md#3", "b.jsonl:1", "mine"]
    assert index.search("counting")[0].text == "one two"
    assert index.search("line9")[0].id == "a/long.md#3"
    assert all(len(p.text.split()) <= 200 for p in index.passages)
    whole = " ".join(" ".join(p.text.split()) for p in index.passages[:3])
    assert whole == " ".join((tmp_path / "a" / "long.md").read_text().split())


def test_a_single_line_longer_than_a_passage_is_cut(tmp_path):
    (tmp_path / "x.txt").write_text(" ".join(f"w{k}" for k in range(450)))
    index = DocumentIndex.open(tmp_path)
    assert [len(p.text.split()) for p in index.passages] == [200, 200, 50]


def test_bad_documents_are_named(tmp_path):
    with pytest.raises(ConfigError, match="no documents at"):
        DocumentIndex.open(tmp_path)
    file = tmp_path / "x.jsonl"
    file.write_text('{"text": "a"}\n{"txt": 1}\n')
    with pytest.raises(ConfigError, match=r'x\.jsonl, line 2 must be an object with a "text"'):
        DocumentIndex.open(file)
    file.write_text("{")
    with pytest.raises(ConfigError, match="line 1 is no JSON"):
        DocumentIndex.open(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        DocumentIndex.open(file)
    with pytest.raises(KeyeError, match="at least one passage"):
        DocumentIndex([Passage("a", "", "...")])
