"""The fine-tuning stage: rows, people's decisions, both phases, and the whole recipe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pretrain.data.ingest import FileDataConfig
from pretrain.data.sample import Sample, SampleError
from pretrain.keye_vl.prompt import EncodedPrompt
from pretrain.run.command import compose
from pretrain.run.directory import RunDir
from pretrain.run.errors import ConfigError, KeyeError
from pretrain.run.metrics import read_rows
from rewards.config import RewardConfig
from rewards.result import RewardResult, Score
from rl import recipes
from rl.config import RlConfig
from rl.groups import Group
from rl.review.decisions import DecisionLog, decide
from rl.review.items import load_items
from rl.sft.config import SftStageConfig
from rl.sft.difficulty import Selection
from rl.sft.rank import SftRank
from rl.sft.rows import RowExamples, curate, first_rows, open_rows, read_verdicts
from rl.sft.stage import SftJobs, sft
from rl.sft.taxonomy import BalancedRows
from rl.sft.training import fine_tune
from rl.stages import Run
from rollout.trajectory import Trajectory


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def data_row(number: int, **columns: Any) -> dict[str, Any]:
    return {
        "id": f"row{number}",
        "messages": [{"role": "user", "content": f"{number}+1=?"}],
        "answer": str(number + 1),
        "task_type": "text/arithmetic" if number % 4 else "text/rare",
        "rewards": [{"rule": "exact"}],
    } | columns


def test_rows_of_files_are_asked_and_answered_directly(tmp_path: Path):
    rows = [
        data_row(0, solution="0+1=1", mode="think"),  # reasons elsewhere, answers at once here
        data_row(1, response="it is 2"),
    ]
    cfg = SftStageConfig(data=FileDataConfig(files=[str(write(tmp_path / "r.jsonl", rows))]))
    source = open_rows(cfg, tmp_path)
    found = first_rows(source, pool=0)
    assert [(row["id"], row["mode"], row["response"]) for row in found] == [
        ("row0", "no_think", "1"),
        ("row1", "no_think", "it is 2"),
    ]
    examples = RowExamples(source, found, BalancedRows([row["task_type"] for row in found]))
    texts = {json.dumps(examples(k)) for k in range(2)}
    assert len(texts) == 2 and all(" /no_think" in text for text in texts)
    own = SftStageConfig(data=cfg.data, mode="")
    assert [row["mode"] for row in first_rows(open_rows(own, tmp_path), 0)] == [
        "think",
        "auto_think",
    ]
    bad = write(tmp_path / "bad.jsonl", [data_row(1, response=" ")])
    cfg = SftStageConfig(data=FileDataConfig(files=[str(bad)]))
    with pytest.raises(SampleError, match=r"'row1': `response` must be a text"):
        first_rows(open_rows(cfg, tmp_path), 0)


def test_rows_of_the_tiny_world_are_its_first_samples(tmp_path: Path):
    cfg = SftStageConfig(tasks={"text/ocr": 1.0, "digits/sum": 1.0}, pool=30)
    rows = first_rows(open_rows(cfg, tmp_path), cfg.pool)
    assert [row["index"] for row in rows] == list(range(30))
    assert all(row["response"] == row["answer"] and row["mode"] == "no_think" for row in rows)
    assert {row["task_type"] for row in rows} == {"text/ocr", "digits/sum"}


def rows_of(count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"row{k}", "index": k, "task_type": "a/b" if k else "c/d", "response": str(k)}
        | {"origin": "data"}
        for k in range(count)
    ]


def verdicts(path: Path) -> list[str]:
    log = DecisionLog(path)
    log.append(decide("row1", 0, "edit", "ann", response="better"))
    log.append(decide("row2", 0, "drop", "ann"))
    log.append(decide("row3", 0, "accept", "ann"))
    log.append(decide("row4", 0, "edit", "ann", response="first"))
    log.append(decide("row4", 1, "accept", "bob"))
    log.append(decide("elsewhere", 0, "drop", "ann"))
    return [str(path)]


def test_a_persons_decision_stands_above_the_filter(tmp_path: Path):
    measures = {"row0": {"accuracy": 1.0, "tokens": 2.0}, "row5": {"accuracy": 0.0, "tokens": 9.0}}
    selection = Selection(measures, easy={"row0", "row1", "row3"}, hard={"row5"})
    decisions = read_verdicts(verdicts(tmp_path / "decisions.jsonl"))
    rows, counts = curate(rows_of(7), selection, decisions)
    found = {row["id"]: row for row in rows}
    # 0 is too easy and 2 was dropped; 1 and 3 are too easy as well, but a person looked at them.
    assert list(found) == ["row1", "row3", "row4", "row5", "row6"]
    assert found["row1"]["response"] == "better" and found["row1"]["origin"] == "human"
    assert found["row4"]["response"] == "first" and found["row3"]["origin"] == "data"
    assert [row["final"] for row in rows] == [True, True, True, True, False]
    assert found["row5"]["accuracy"] == 0.0 and found["row6"]["accuracy"] is None
    assert counts == {
        "rows": 5, "too_easy": 1, "accepted": 2, "edited": 1, "dropped": 1,
        "decisions_unmatched": 1, "final": 4,
        "domains": {"a": {"before": 6, "after": 5}, "c": {"before": 1, "after": 0}},
    }  # fmt: skip


def test_decisions_that_fit_nothing_or_twice_are_refused(tmp_path: Path):
    decisions = read_verdicts(verdicts(tmp_path / "a.jsonl"))
    nothing = Selection({}, set(), set())
    with pytest.raises(KeyeError, match="none of 5 decisions is on a row of the data"):
        curate([rows_of(9)[8]], nothing, decisions)
    with pytest.raises(KeyeError, match="none of 1 rows is left: 1 are too easy, 0 were dropped"):
        curate(rows_of(1), Selection({}, {"row0"}, set()), {})
    again = verdicts(tmp_path / "b.jsonl")
    with pytest.raises(ConfigError, match=r"'row1' is decided on in .*a\.jsonl and in"):
        read_verdicts([str(tmp_path / "a.jsonl"), *again])


class LocalRank:
    """A `RankGroup` of one rank in this process: a single rank needs no rendezvous."""

    def __init__(self) -> None:
        self.rank = SftRank(0, 1, 1)

    def call(self, method: str, *args: Any, phase: str, timeout_s: float) -> list[Any]:
        return [getattr(self.rank, method)(*args)]


def train_here(checkpoint: Path, examples: Any, cfg: Any, stage: Any, **more: Any) -> Any:
    """`run_sft` without processes of its own."""
    ranks: Any = LocalRank()
    return fine_tune(ranks, checkpoint, examples, cfg, stage, **more)


class Answers:
    """In the engines' place: row k is always answered right if k is even, never if it is odd."""

    def __init__(self) -> None:
        self.calls = 0
        self.rewards = SimpleNamespace(config=RewardConfig())

    def groups(self, samples: Sequence[Sample], *, n: int, seed: int, temperature: float) -> Any:
        self.calls += 1
        prompt, ids = EncodedPrompt(np.arange(3, dtype=np.int32), [0]), np.zeros(4, np.int32)
        logprobs = np.zeros(4, np.float32)
        groups = []
        for sample in samples:
            value = float(int(sample.id[3:]) % 2 == 0)
            score = Score(value, {"exact": RewardResult(value)}, ("exact",))
            trajectory = Trajectory(sample.id, prompt, ids, logprobs, 0, 0, 0, "stop")
            groups.append(Group(sample, 0, prompt, [trajectory] * n, ["2"] * n, [score] * n))
        return groups


def test_the_parts_build_on_each_other_and_decisions_sample_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path
):
    monkeypatch.setattr("rl.sft.stage.run_sft", train_here)
    data = write(tmp_path / "rows.jsonl", [data_row(k) for k in range(12)])
    (tmp_path / "types.tsv").write_text("text/arithmetic\ntext/rare\t2\ntext/absent\n")
    overrides = [
        "recipe=sft", f"checkpoint={tiny_checkpoint}", f"sft.data.files=[{data}]",
        f"sft.balance.taxonomy={tmp_path / 'types.tsv'}", "sft.difficulty.easy_kept=0",
        "sft.difficulty.hard_share=0.5", "sft.review=2", "wandb.mode=disabled",
        "sft.train.steps=2", "sft.train.batch_size=4", "sft.train.world_size=1",
        "sft.anneal.steps=1", "sft.anneal.batch_size=4", "sft.anneal.world_size=1",
    ]  # fmt: skip
    answers = Answers()
    session: Any = SimpleNamespace(rollouts=lambda checkpoint, tools: answers)
    folder = RunDir(tmp_path / "run")

    def new_run(*more: str) -> Run:
        cfg = compose("rl", RlConfig, [*overrides, *more])
        return Run(cfg, folder, session, tiny_checkpoint)

    run = new_run()
    sft(run)
    metrics = {
        name: folder.stage(f"sft/{name}").summary()["metrics"]
        for name in ("rows", "difficulty", "curated", "train", "anneal")
    }
    assert metrics["rows"] == {"rows": 12, "task_types": 2}
    assert (metrics["difficulty"]["all_right"], metrics["difficulty"]["all_wrong"]) == (0.5, 0.5)
    assert metrics["curated"]["too_easy"] == 6 and metrics["curated"]["final"] == 3
    assert metrics["train"]["rows"] == 6 and metrics["anneal"]["rows"] == 3
    # Rows 0, 4 and 8 are rare ones and too easy: that type is left without a row.
    assert metrics["train"]["balance"]["empty_examples"] == ["text/rare", "text/absent"]
    assert run.checkpoint == folder.stage("sft/anneal").checkpoint and run.made_by == "sft/anneal"
    assert (run.checkpoint / "model.safetensors").exists()
    items = load_items(folder.stage("sft/curated").path / "review.jsonl")
    assert len(items) == 2 and items[0].findings == ("0% of sampled answers right, 4 tokens",)

    # Where `python -m rl review` writes them unless told otherwise: beside the items.
    log = DecisionLog(folder.stage("sft/curated").path / "decisions.jsonl")
    log.append(decide("row4", 0, "edit", "ann", response="five"))
    jobs, calls = SftJobs(new_run(f"sft.decisions=[{log.path}]")), answers.calls
    jobs.rows()
    jobs.difficulty()
    curated = jobs.curated()
    assert answers.calls == calls
    assert (curated["rows"], curated["edited"], curated["final"]) == (7, 1, 4)


def test_items_for_review_are_exported_without_curating_again(tmp_path: Path):
    data = write(tmp_path / "rows.jsonl", [data_row(k) for k in range(12)])
    answers = Answers()
    session: Any = SimpleNamespace(rollouts=lambda checkpoint, tools: answers)
    folder = RunDir(tmp_path / "run")
    found = []
    for wanted in (0, 3, 3, 1):
        overrides = [f"sft.data.files=[{data}]", f"sft.review={wanted}"]
        overrides += ["recipe=sft", "sft.difficulty.easy_kept=0"]
        run = Run(compose("rl", RlConfig, overrides), folder, session, tmp_path)
        jobs = SftJobs(run)
        jobs.rows()
        jobs.difficulty()
        jobs.curated()
        items = read_rows(folder.stage("sft/curated").path / "review.jsonl")
        found.append((len(items), folder.stage("sft/curated").summary()["finished"]))
    assert [count for count, _ in found] == [0, 2, 2, 1]  # a quarter of 6 rows that stay is hard
    assert len({finished for _, finished in found}) == 1 and answers.calls == 1


RULE = """
from rewards.registry import rule

@rule(verifier=True)
def lucky(response, sample):
    '''1 if the response holds a 3 or a 7: an untrained policy manages it sometimes.'''
    return float('3' in response or '7' in response)
"""


@pytest.mark.slow
def test_the_recipe_measures_filters_reviews_and_anneals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path, ray_cluster: None
):
    monkeypatch.setattr(recipes, "RUNS", tmp_path / "runs")
    (tmp_path / "rules.py").write_text(RULE)
    rewards = [{"rule": f"{tmp_path / 'rules.py'}:lucky"}]
    data = write(tmp_path / "rows.jsonl", [data_row(k, rewards=rewards) for k in range(16)])
    (tmp_path / "types.tsv").write_text("text/arithmetic\ntext/rare\t2\ntext/absent\n")
    overrides = [
        "recipe=sft", f"checkpoint={tiny_checkpoint}", "run=r", "stages=[sft]",
        f"sft.data.files=[{data}]", f"sft.balance.taxonomy={tmp_path / 'types.tsv'}",
        "sft.difficulty.hard_share=0.5", "sft.difficulty.easy_accuracy=0.75", "sft.review=4",
        "sft.train.steps=2", "sft.train.batch_size=4", "sft.train.world_size=1",
        "sft.anneal.steps=2", "sft.anneal.batch_size=4", "sft.anneal.world_size=1",
        "engine.count=1", "engine.max_length=128", "engine.kv_cache_mb=64", "engine.cpus=0.1",
        "engine.hang_seconds=300", "engine.start_seconds=1200", "sampling.max_tokens=12",
        "wandb.mode=disabled",
    ]  # fmt: skip

    def run(*more: str) -> RunDir:
        recipes.run_recipe(compose("rl", RlConfig, [*overrides, *more]))
        return RunDir(recipes.RUNS / "r")

    folder = run()
    measured = folder.stage("sft/difficulty").summary()["metrics"]
    assert measured["rows"] == 16 and measured["unknown"] == 0 and 0 < measured["tokens"] <= 12
    curated = folder.stage("sft/curated").summary()["metrics"]
    assert curated["rows"] + curated["too_easy"] == 16 and curated["final"] > 0
    balance = folder.stage("sft/train").summary()["metrics"]["balance"]
    assert (balance["types"], balance["empty_examples"]) == (2, ["text/absent"])
    for name in ("sft/train", "sft/anneal"):
        assert [row["step"] for row in read_rows(folder.stage(name).metrics_file)] == [1, 2]

    items = load_items(folder.stage("sft/curated").path / "review.jsonl")
    log = DecisionLog(tmp_path / "decisions.jsonl")
    log.append(decide(items[0].id, 0, "edit", "ann", response="37"))
    sampled = folder.stage("sft/difficulty").summary()
    folder = run(f"sft.decisions=[{log.path}]")
    assert folder.stage("sft/difficulty").summary() == sampled  # nothing was sampled again
    edited = {row["id"]: row for row in read_rows(folder.stage("sft/curated").path / "rows.jsonl")}
    assert edited[items[0].id]["response"] == "37"
    assert folder.stage("sft/curated").summary()["metrics"]["edited"] == 1
