"""Iterated RL: which replies are replaced, what is kept of it, and how an interruption ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pretrain.data.ingest import FileDataConfig
from pretrain.data.sample import Sample, SampleError
from pretrain.data.stream import WorldStream
from pretrain.run.errors import ConfigError, KeyeError
from pretrain.run.metrics import read_rows
from rewards.result import RewardResult, Score
from rl.config import ColdStartConfig
from rl.iterated.config import IteratedConfig
from rl.iterated.prompt_filter import ChosenPrompts, filter_prompts
from rl.iterated.rejection import Candidates, reject_and_replace
from rl.trace_rows import TraceExamples, first_rows, open_source, save_rows

COLD = ColdStartConfig(
    tasks={"digits/sum": 1.0, "digits/max": 1.0}, modes={"think": 1.0, "no_think": 1.0}
)


def score(value: float | None, verifiers: tuple[str, ...] = ("math",)) -> Score:
    part = RewardResult.failure("broken") if value is None else RewardResult(min(value, 1.0))
    return Score(value, {"math": part}, verifiers)


def best(
    *values: float | None,
    margin: float = 0.0,
    verifiers: tuple[str, ...] = ("math",),
    by_model: bool = False,
) -> int:
    scores = [replace(score(value, verifiers), by_model=by_model) for value in values]
    return Candidates([""] * len(values), scores, [True] * len(values)).best(margin)


def test_only_a_better_response_takes_the_place_of_a_reply():
    assert best(1.0, 1.0, 1.1) == 2
    assert best(1.1, 1.1, 0.0) == 0  # as good is not better
    assert best(1.0, 1.1, 1.2, margin=0.15) == 2 and best(1.0, 1.1, margin=0.15) == 0
    assert best(0.0, 0.1) == 0 and best(0.0, 0.1, verifiers=()) == 1  # a verifier must accept it
    assert best(0.4, 0.7, by_model=True) == 1  # a reward model accepts nothing, it prefers
    assert best(None, 1.0) == 0 and best(0.0, None) == 0  # a failed reward says nothing
    assert Candidates(["", ""], [score(0.0), score(1.0)], [True, False]).best(0.0) == 0


class FakeRollouts:
    """A policy that answers each sample's question right in its second response.

    A text's reward is 1 if it holds the answer, and 0.1 more for a tag.
    """

    sampling = None

    def __init__(self, stop_after: int = 10**6) -> None:
        self.calls, self.stop_after = 0, stop_after
        self.encoder = SimpleNamespace(encode=lambda messages, name: name)
        self.engines = SimpleNamespace(generate=self.generate)

    def generate(self, prompts: Any, sampling: Any, *, seeds: Any, n: int, sample_ids: Any) -> Any:
        self.calls += 1
        if self.calls > self.stop_after:
            raise KeyboardInterrupt
        made = [[(name, k) for k in range(n)] for name in sample_ids]
        return [[SimpleNamespace(text=t, finish_reason="stop") for t in group] for group in made]

    def decode(self, trajectory: Any) -> str:
        name, k = trajectory.text
        return f"<think>x</think>{self.answers[name] if k == 1 else 'unknown'}"

    def score(self, samples: Sequence[Sample], texts: Any) -> list[list[Score]]:
        def one(sample: Sample, text: str) -> Score:
            right = text.rpartition(">")[2].strip("}") == sample.answer or (
                f"{{{sample.answer}}}" in text or text == sample.answer
            )
            return score(right + 0.1 * ("<think>" in text and right))

        return [[one(s, t) for t in group] for s, group in zip(samples, texts, strict=True)]

    answers: dict[str, str]


class FailingRollouts(FakeRollouts):
    """Its rewards fail, all of them."""

    def score(self, samples: Sequence[Sample], texts: Any) -> list[list[Score]]:
        return [[score(None) for _ in group] for group in texts]


def reject(folder: Path, stop_after: int = 10**6, policy: Any = FakeRollouts) -> dict[str, Any]:
    cfg = IteratedConfig(pool=40, spoiled_share=0.3, samples=3, chunk=8)
    rows = first_rows(cfg, COLD, folder)
    rollouts = policy(stop_after)
    rollouts.answers = {row["id"]: row["answer"] for row in rows}
    source = open_source(cfg, COLD, folder)
    return reject_and_replace(
        rows, source, rollouts, cfg, folder / "rejection", number=1, policy="round0/gspo abc"
    )


def test_wrong_replies_are_replaced_and_every_replacement_is_traced(tmp_path: Path):
    summary = reject(tmp_path)
    rows = {row["id"]: row for row in read_rows(tmp_path / "rejection" / "rows.jsonl")}
    lineage = read_rows(tmp_path / "rejection" / "lineage.jsonl")
    before = first_rows(IteratedConfig(pool=40, spoiled_share=0.3), COLD, tmp_path)
    spoiled = {row["id"] for row in before if row["origin"] == "spoiled"}
    plain = {row["id"] for row in before if row["mode"] == "no_think"}
    assert 4 < len(spoiled) < 20 and list(rows) == [row["id"] for row in before]
    # Spoiled ones are wrong; a direct answer is right, and 0.1 worse than the policy's here.
    assert {entry["id"] for entry in lineage} == spoiled | plain
    for entry in lineage:
        old = next(row for row in before if row["id"] == entry["id"])
        assert entry["old"]["response"] == old["response"]
        assert entry["old"]["origin"] == old["origin"]
        assert entry["new"]["response"] == rows[entry["id"]]["response"]
        assert entry["new"]["reward"] > entry["old"]["reward"] and entry["new"]["sample"] == 1
        assert entry["policy"] == "round0/gspo abc" and rows[entry["id"]]["origin"] == "round1"
    kept = [row for row in before if row["id"] not in spoiled | plain]
    assert all(rows[row["id"]]["response"] == row["response"] for row in kept)
    assert summary["replaced_share"] == len(lineage) / 40
    assert summary["correct_before"] == pytest.approx(1 - len(spoiled) / 40)
    assert summary["correct_after"] == 1 and summary["reward_after"] > summary["reward_before"]
    assert summary["policy_accuracy"] == pytest.approx(1 / 3)
    assert summary["origins"] == {"data": len(kept), "round1": len(lineage)}


def test_where_all_rewards_failed_no_mean_is_made_up(tmp_path: Path):
    summary = reject(tmp_path, policy=FailingRollouts)
    assert summary["failed_share"] == 1 and summary["replaced_share"] == 0
    assert summary["reward_before"] is None and summary["reward_after"] is None
    json.dumps(summary, allow_nan=False)


def test_an_interrupted_rejection_ends_as_an_unbroken_one(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = reject(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        reject(tmp_path / "b", stop_after=2)
    rows = tmp_path / "b" / "rejection" / "rows.jsonl"
    assert len(read_rows(rows)) == 16
    # Killed between the two files: lineage of 16 rows, 15 rows and half of one, which a judge
    # might score otherwise the second time.
    text = rows.read_text()
    rows.write_text(text[: text.rstrip().rfind("\n") + 40])
    lineage = rows.with_name("lineage.jsonl")
    last = json.loads(text.splitlines()[-1])["id"]
    stale = {"id": last, "round": 1, "new": {"response": "another"}}
    kept = [line for line in lineage.read_text().splitlines() if json.loads(line)["id"] != last]
    lineage.write_text("\n".join([*kept, json.dumps(stale)]) + "\n")
    assert reject(tmp_path / "b") == whole
    for name in ("rows.jsonl", "lineage.jsonl"):
        paths = [tmp_path / run / "rejection" / name for run in "ab"]
        assert paths[0].read_text() == paths[1].read_text()


def test_rows_are_learnt_in_a_new_order_every_epoch(tmp_path: Path):
    cfg = IteratedConfig(pool=10)
    rows = first_rows(cfg, COLD, tmp_path)
    save_rows(tmp_path / "rows.jsonl", rows)
    examples = TraceExamples(open_source(cfg, COLD, tmp_path), tmp_path / "rows.jsonl", seed=3)
    epochs = [
        [examples(10 * epoch + k)[-1]["content"][0]["text"] for k in range(10)]
        for epoch in range(2)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(row["response"] for row in rows)
    assert epochs[0] != epochs[1]
    source: Any = {index: WorldStream({"digits/sum": 1.0}, seed=9)[index] for index in range(10)}
    with pytest.raises(KeyeError, match=r"was made when sample \d of the data was that one; now"):
        TraceExamples(source, tmp_path / "rows.jsonl", seed=3)(0)
    conversation = examples(4)
    assert [message["role"] for message in conversation] == ["user", "assistant"]
    assert conversation[0]["content"][0]["image"].shape[-1] == 3


def test_a_share_of_the_rows_shows_hints_and_their_replies_stay(tmp_path: Path):
    cold = ColdStartConfig(tasks={"digits/sum_hard": 1.0}, modes={"think": 1.0})
    cfg = IteratedConfig(pool=200)
    save_rows(tmp_path / "rows.jsonl", first_rows(cfg, cold, tmp_path))
    source = open_source(cfg, cold, tmp_path)
    plain, hinted, again = (
        TraceExamples(source, tmp_path / "rows.jsonl", seed=3, hinted_share=share)
        for share in (0.0, 0.5, 0.5)
    )
    shown = 0
    for index in range(200):
        before, after = plain(index), hinted(index)
        assert str(after) == str(again(index)) and "Hint: " not in str(before)
        assert before[-1] == after[-1]
        shown += "\nHint: " in after[0]["content"][-1]["text"]
    assert shown / 200 == pytest.approx(0.5, abs=0.145)  # ±4 standard errors
    always = TraceExamples(source, tmp_path / "rows.jsonl", 3, hinted_tasks=["digits/sum_hard"])
    assert all("\nHint: " in always(k)[0]["content"][-1]["text"] for k in range(9))


def test_rows_of_files_bring_their_reply_or_a_solution(tmp_path: Path):
    path = tmp_path / "cold.jsonl"
    base = {"messages": [{"role": "user", "content": "1+1?"}], "answer": "2", "task_type": "a/b"}
    own = base | {"id": "own", "response": "two, so 2", "mode": "no_think"}
    made = base | {"id": "made", "solution": "1+1=2", "mode": "think"}
    path.write_text("".join(json.dumps(row) + "\n" for row in (own, made)))
    cfg = IteratedConfig(
        data=FileDataConfig(files=[str(path)], quarantine=str(tmp_path / "q.jsonl"))
    )
    replies = [row["response"] for row in first_rows(cfg, COLD, tmp_path)]
    assert replies == ["two, so 2", "<think>1+1=2</think><answer>\\boxed{2}</answer>"]
    path.write_text(json.dumps(own | {"response": 7}) + "\n")
    with pytest.raises(SampleError, match="`response` must be a text"):
        first_rows(cfg, COLD, tmp_path)
    calls = '<tool_call>{"name": "search"}</tool_call><tool_response>2</tool_response>2'
    path.write_text(json.dumps(own | {"response": calls}) + "\n")
    with pytest.raises(SampleError, match=r"'own': its `response` calls tools.*learned whole"):
        first_rows(cfg, COLD, tmp_path)


class SometimesRight:
    """Accuracy of prompt i: (i mod 5) / 4; nothing is known of those with i mod 5 in `unknown`."""

    def __init__(self, unknown: Sequence[int] = ()) -> None:
        self.unknown = unknown

    def groups(self, samples: Sequence[Sample], *, n: int, seed: int) -> list[Any]:
        groups = []
        for sample in samples:
            share = int(sample.id.rpartition("/")[2]) % 5
            found = SimpleNamespace(sample=sample, tokens=12 * n, accuracy=share / n)
            if share in self.unknown:  # judged by a reward model: it differs, or doesn't
                found.accuracy, found.informative = None, share == 2
            groups.append(found)
        return groups


def test_prompts_with_an_accuracy_strictly_between_0_and_1_are_kept(tmp_path: Path):
    stream = WorldStream({"digits/sum": 1.0}, seed=1)
    rollouts: Any = SometimesRight()
    settings = {"samples": 4, "chunk": 4, "seed": 0}
    summary = filter_prompts(stream, 20, rollouts, tmp_path, **settings)
    assert summary == {
        "prompts": 20, "kept": 12, "unknown": 0,
        "all_wrong": 0.2, "all_right": 0.2, "accuracy": 0.5,
    }  # fmt: skip
    log = tmp_path / "accuracy.jsonl"
    whole = log.read_text()
    log.write_text("".join(whole.splitlines(keepends=True)[:6]))
    assert filter_prompts(stream, 20, rollouts, tmp_path, **settings) == summary
    assert log.read_text() == whole
    prompts = ChosenPrompts.kept(stream, tmp_path, seed=2)
    first = [int(s.id.rpartition("/")[2]) for s in prompts.take(12)]
    assert sorted(first) == [i for i in range(20) if i % 5 not in (0, 4)]
    second = [int(s.id.rpartition("/")[2]) for s in prompts.take(12)]
    assert sorted(second) == sorted(first) and second != first
    assert prompts.metrics() == {"data/prompts": 12, "data/epoch": 2}
    again = ChosenPrompts.kept(stream, tmp_path, seed=2)
    again.load_state({**prompts.state(), "position": 12})
    assert [int(s.id.rpartition("/")[2]) for s in again.take(12)] == second
    with pytest.raises(KeyeError, match="filtered prompts"):
        ChosenPrompts(stream, [1, 2], 2).load_state(prompts.state())


def test_prompts_that_a_reward_model_judges_are_kept_where_it_tells_responses_apart(tmp_path: Path):
    stream, rollouts = WorldStream({"digits/sum": 1.0}, seed=1), SometimesRight(unknown=(2, 3))
    summary = filter_prompts(stream, 20, rollouts, tmp_path, samples=4, chunk=4, seed=0)  # type: ignore[arg-type]
    assert (summary["unknown"], summary["kept"]) == (8, 8)  # i mod 5 is 1, or 2
    assert summary["accuracy"] == pytest.approx((0 + 1 + 4) / 3 / 4)


def test_a_filter_that_keeps_nothing_stops(tmp_path: Path):
    stream = WorldStream({"digits/sum": 1.0}, seed=1)
    rollouts: Any = SometimesRight()
    with pytest.raises(KeyeError, match="none of 1 RL prompts"):
        filter_prompts(stream, 1, rollouts, tmp_path, samples=4, chunk=4, seed=0)


@pytest.mark.parametrize(
    "bad", [{"pool": 0}, {"filter_samples": 1}, {"spoiled_share": 1.0}, {"margin": -1.0}]
)
def test_bad_settings_are_named(bad: dict[str, Any]):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        IteratedConfig(**bad)
