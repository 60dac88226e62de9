"""What a judge is asked where a rule can't tell, and what its replies count for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pretrain.run.errors import ConfigError
from rl.benchmarks.config import BenchmarkConfig
from rl.benchmarks.run import load_benchmark
from rl.judging import JudgeConfig

JUDGED = BenchmarkConfig(judge=JudgeConfig(url="http://127.0.0.1:9/v1", model="m"))


def first(root: Any, name: str) -> tuple[Any, Any]:
    """A benchmark of `root` and its first sample."""
    loaded = load_benchmark(name, root, JUDGED)
    return loaded.benchmark, loaded.benchmark.sample(loaded.rows[0], loaded.media)


def options(body: dict[str, Any]) -> dict[str, Any]:
    return body["response_format"]["json_schema"]["schema"]["properties"]


def test_an_option_may_be_meant_by_other_words(tmp_path, tsv, image):
    row = {"index": 0, "question": "which?", "A": "cat", "B": "dog", "answer": "B"}
    tsv(tmp_path / "MMStar.tsv", [{**row, "image": image()}])
    benchmark, sample = first(tmp_path, "mmstar")
    body = benchmark.judge_request(sample, "man's best friend")
    assert options(body)["option"]["enum"] == ["A", "B", "Z"]
    assert "man's best friend" in body["messages"][1]["content"]
    assert benchmark.judge_verdict(sample, {"option": "B"}).correct
    assert not benchmark.judge_verdict(sample, {"option": "Z"}).correct
    assert benchmark.judge_request(sample, " ") is None  # nothing to read


def test_mathvista_normalises_what_the_judge_extracts(tmp_path, tsv, image):
    base = {"index": 0, "question": "how many?", "image": image(), "question_type": "free_form"}
    tsv(tmp_path / "MathVista.tsv", [{**base, "answer_type": "integer", "answer": "12"}])
    benchmark, sample = first(tmp_path, "mathvista")
    assert benchmark.judge_verdict(sample, {"answer": "12.0"}).correct
    assert benchmark.judge_verdict(sample, {"answer": "1,200"}).extracted == "1200"
    assert not benchmark.judge_verdict(sample, {"answer": "a dozen"}).correct
    choice = {"question_type": "multi_choice", "answer_type": "text", "answer": "isosceles"}
    choice |= {"choices": "['scalene', 'isosceles']"}
    tsv(tmp_path / "MathVista.tsv", [{**base, **choice}])
    benchmark, sample = first(tmp_path, "mathvista")
    # An extraction that is no option stands for the nearest one, as in the original.
    for reply in ("B", "(b) isosceles", "isosceles", "isoscele triangle"):
        assert benchmark.judge_verdict(sample, {"answer": reply}).correct, reply
    assert not benchmark.judge_verdict(sample, {"answer": "scalen"}).correct


def test_not_knowing_is_right_only_without_the_figure(tmp_path, tsv, image):
    for figure, right in ((0, True), (1, False)):
        row = {"index": f"HB_VS_chart_0_{figure}_0", "question": "Is it?", "answer": "No"}
        row |= {"category": "VS", "l2-category": "chart"}
        tsv(tmp_path / "HallusionBench.tsv", [row])
        benchmark, sample = first(tmp_path, "hallusionbench")
        assert benchmark.judge_verdict(sample, {"answer": "Unknown"}).correct is right
        assert benchmark.judge_verdict(sample, {"answer": "No"}).correct


def test_captions_are_scored_by_what_can_be_answered_from_them(tmp_path):
    folder = tmp_path / "TempCompass"
    folder.mkdir()
    (folder / "v.mp4").write_bytes(b"x")
    row = {"video_id": "v", "dim": "action", "question": "Describe", "answer": ""}
    row |= {"mc_question": "What falls?\nA. a ball\nB. a cup", "mc_answer": "B. a cup"}
    (folder / "captioning.json").write_text(json.dumps([row]))
    benchmark, sample = first(tmp_path, "tempcompass")
    assert not benchmark.verdict(sample, "a cup falls").sure
    body = benchmark.judge_request(sample, "a cup falls")
    assert options(body)["option"]["enum"] == ["A", "B", "none"]
    assert benchmark.judge_verdict(sample, {"option": "B"}).correct
    assert not benchmark.judge_verdict(sample, {"option": "none"}).correct
    empty = benchmark.verdict(sample, "")
    assert empty.sure and not empty.correct


def test_a_judge_needs_both_address_and_model():
    for wrong in ({"url": "http://127.0.0.1:9/v1"}, {"model": "m"}):
        with pytest.raises(ConfigError, match=r"judge\.(url|model)="):
            JudgeConfig(**wrong)
