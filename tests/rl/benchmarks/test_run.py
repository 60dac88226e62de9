"""A benchmark asked of the tiny random checkpoint: bad rows, interruptions, and a judge."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pretrain.data.sample import Sample
from pretrain.run.directory import StageDir
from pretrain.run.errors import KeyeError
from rewards.config import RewardConfig
from rewards.pool import RewardPool
from rl.benchmarks.benchmark import Verdict
from rl.benchmarks.command import load_benchmarks, run_benchmarks
from rl.benchmarks.config import BenchmarkConfig
from rl.benchmarks.images import MMStar
from rl.benchmarks.run import RECORDS, load_benchmark, run_benchmark
from rl.judging import JudgeConfig
from rl.rollouts import Rollouts
from rollout.config import SamplingConfig


@pytest.fixture(scope="module")
def rollouts(engine_pool: Any, encoder: Any) -> Iterator[Rollouts]:
    with RewardPool(RewardConfig()) as rewards:
        yield Rollouts(engine_pool, encoder, rewards, SamplingConfig(max_tokens=6))


@pytest.fixture
def folder(tmp_path: Path, tsv: Any, image: Any) -> Path:
    """MMStar's form with five rows: the third has a broken image, the fourth is too long."""
    images = [image(0), image(1), "A" * 100, image(3), image(4)]
    rows = [
        {"index": k, "question": "which?", "A": "red", "B": "blue", "answer": "AB"[k % 2]}
        for k in range(5)
    ]
    rows[3]["question"] = "which? " * 600
    tsv(
        tmp_path / "MMStar.tsv",
        [{**row, "category": "x", "image": one} for row, one in zip(rows, images, strict=True)],
    )
    return tmp_path


def read(stage: StageDir, name: str = RECORDS) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (stage.path / name).read_text().splitlines()]


def test_bad_rows_leave_and_an_interrupted_benchmark_goes_on(rollouts, folder, tiny_checkpoint):
    cfg = BenchmarkConfig(chunk=2, max_bad_share=0.5)
    stage = StageDir(folder / "out" / "benchmarks" / "mmstar")
    loaded = load_benchmarks(["mmstar"], str(folder), cfg)
    (found,) = run_benchmarks(loaded, rollouts, cfg, tiny_checkpoint, folder / "out")
    assert found["prompts"] == 3 and found["bad_rows"] == 2
    assert found["scores"]["accuracy"]["n"] == 3
    records = read(stage)
    assert [record["answer"] for record in records] == ["A", "B", "A"]
    assert all(record["correct"] == (record["extracted"] == record["answer"]) for record in records)
    reasons = {bad["line"]: bad["reason"] for bad in read(stage, "quarantine.jsonl")}
    assert "not an image" in reasons[3] and "at most 512 fit" in reasons[4]
    written = json.loads((folder / "out" / "benchmarks.json").read_text())
    assert written["benchmarks"] == [found]

    # Complete: nothing is asked again. Another file: everything is.
    before = (stage.path / RECORDS).stat().st_mtime_ns
    assert run_benchmarks(loaded, rollouts, cfg, tiny_checkpoint, folder / "out") == [found]
    assert (stage.path / RECORDS).stat().st_mtime_ns == before

    # Killed while it wrote its second record.
    again = StageDir(folder / "again")
    again.path.mkdir()
    lines = (stage.path / RECORDS).read_text().splitlines(keepends=True)
    (again.path / RECORDS).write_text(lines[0] + lines[1][:20])
    assert run_benchmark(loaded[0], rollouts, cfg, again) == found
    assert read(again) == records


def test_too_many_bad_rows_stop_it(rollouts, folder):
    cfg = BenchmarkConfig(max_bad_share=0.1)
    with pytest.raises(KeyeError, match=r"2 of 5 data rows are bad .*max_bad_share=0\.1"):
        run_benchmark(load_benchmark("mmstar", folder, cfg), rollouts, cfg, StageDir(folder / "s"))


class Unsure(MMStar):
    """Leaves every question whose answer is A to the judge, whatever the response."""

    def verdict(self, sample: Sample, answer: str) -> Verdict:
        return Verdict("", False, sure=sample.answer != "A")

    def judge_request(self, sample: Sample, answer: str) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": "which?"}], "max_tokens": 4}


def test_a_judge_that_does_not_answer_is_an_error_and_not_a_score(rollouts, folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
    judge = JudgeConfig(url=url, model="keye", retries=0)
    cfg = BenchmarkConfig(max_bad_share=0.5, judge=judge)
    loaded, stage = load_benchmark("mmstar", folder, cfg), StageDir(folder / "s")
    loaded.benchmark = Unsure(cfg)
    with pytest.raises(KeyeError, match=r"the judge did not answer 2 time.*refused.*same command"):
        run_benchmark(loaded, rollouts, cfg, stage)
    assert [(record["answer"], record["decided_by"]) for record in read(stage)] == [("B", "rule")]
    # Without the judge the other two count, too, as what the rule made of them.
    plain = BenchmarkConfig(max_bad_share=0.5)
    found = run_benchmark(loaded, rollouts, plain, stage)
    assert found["decided_by"] == {"rule": 1, "judge": 0, "nothing": 2}


@pytest.mark.slow
def test_a_served_judge_reads_what_the_rule_cannot(rollouts, folder, served):
    judge = JudgeConfig(url=served, model="keye")
    cfg = BenchmarkConfig(max_bad_share=0.5, judge=judge)
    stage = StageDir(folder / "judged")
    found = run_benchmark(load_benchmark("mmstar", folder, cfg), rollouts, cfg, stage)
    assert found["decided_by"]["judge"] >= 1
    for record in read(stage):
        assert record["decided_by"] in ("rule", "judge", "nothing")
        if record["decided_by"] == "judge":
            assert record["extracted"] in ("A", "B", "Z")
