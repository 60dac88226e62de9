"""Figures of responses, their means in a step, and paired changes between measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pretrain.data.sample import Sample
from rewards.result import RewardResult, Score
from rl.alignment.examples import written
from rl.alignment.marks import marks, observe
from rl.alignment.measure import RECORDS, change, columns, load, measure, report
from rollout.trajectory import ToolUse


class Writer:
    """A policy that writes what is asked for in a share of its responses, and nothing useful else.

    It stands for an engine, so that measuring is exact and quick; rewards are the real rules.
    """

    def __init__(self, judge: Any, good: float, stop_after: int = 10**6) -> None:
        self.judge, self.good, self.stop_after, self.calls = judge, good, stop_after, 0

    def groups(
        self, samples: Sequence[Sample], *, n: int, temperature: float, seed: int
    ) -> list[Any]:
        self.calls += 1
        if self.calls > self.stop_after:
            raise KeyboardInterrupt
        return [self.group(sample, k, n) for k, sample in enumerate(samples)]

    def group(self, sample: Sample, place: int, n: int) -> Any:
        can = place % 10 < 10 * self.good
        texts = [written(sample, reason=True) if can else "so"] * n
        use = SimpleNamespace(num_sampled=5, response_ids=[0] * 5, tool_use=None)
        return SimpleNamespace(
            sample=sample,
            responses=texts,
            scores=[self.judge(sample, text) for text in texts],
            trajectories=[use] * n,
            reasoned=np.array(["<think>" in text for text in texts]),
        )


@pytest.fixture(scope="module")
def cfg(recipe) -> Any:
    """The recipe's mix without retrieval, whose replies are no single text."""
    mix = recipe.alignment
    return replace(mix, retrieval=replace(mix.retrieval, weight=0.0), heldout=20, samples=2)


def test_a_policy_that_learned_half_is_measured_as_such(cfg, judge_reply, tmp_path: Path):
    before = measure(Writer(judge_reply, 0.2), cfg, tmp_path / "before")
    after = measure(Writer(judge_reply, 0.7), cfg, tmp_path / "after")
    for figure in ("instructions/strict", "formats/correct", "steps/steps", "general/correct"):
        assert before[figure]["greedy"]["value"] == pytest.approx(0.2)
        assert after[figure]["sampled"]["value"] == pytest.approx(0.7)
        assert after[figure]["greedy"]["n"] == 20
    assert after["instructions/loose"]["greedy"]["value"] > 0.7  # "so" follows the easiest ones
    old, new = load(tmp_path / "before"), load(tmp_path / "after")
    gained = change(old, new)
    strict = gained["instructions/strict"]["greedy"]
    assert strict["value"] == pytest.approx(0.5) and 0 < strict["low"] < 0.5 < strict["high"]
    assert change(new, new)["steps/steps"]["sampled"] == {
        "value": 0.0, "low": 0.0, "high": 0.0, "n": 20,
    }  # fmt: skip
    kinds = [key for key in after if key.startswith("kind/")]
    assert len(kinds) > 10 and {"format/think", "format/no_think", "form/json"} <= set(after)
    assert sum(after[key]["greedy"]["n"] for key in after if key.startswith("form/")) == 20
    assert all(key.split("/")[0] in ("digits", "shapes", "text", "video") for key in _tasks(after))


def _tasks(found: dict[str, Any]) -> list[str]:
    return [key.removeprefix("reasons/") for key in found if key.startswith("reasons/")]


def test_an_interrupted_measurement_goes_on(cfg, judge_reply, tmp_path: Path):
    whole = measure(Writer(judge_reply, 0.5), cfg, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        measure(Writer(judge_reply, 0.5, stop_after=5), cfg, tmp_path / "b")
    again = Writer(judge_reply, 0.5)
    assert measure(again, cfg, tmp_path / "b") == whole
    assert again.calls == 2 * len(cfg.sources()) - 4  # two sources were complete
    assert load(tmp_path / "a") == load(tmp_path / "b")


def test_what_a_full_disk_has_left_of_a_source_is_completed(cfg, judge_reply, tmp_path: Path):
    whole = measure(Writer(judge_reply, 1.0), cfg, tmp_path / "a")
    lines = (tmp_path / "a" / RECORDS).read_text().splitlines(keepends=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / RECORDS).write_text("".join(lines[:27]))  # a source, and a part of the next
    again = Writer(judge_reply, 1.0)
    assert measure(again, cfg, tmp_path / "b") == whole
    assert again.calls == 2 * len(cfg.sources()) - 2
    assert load(tmp_path / "a") == load(tmp_path / "b")


def score(**values: float | None) -> Score:
    parts = {
        name.replace("__", "#"): RewardResult(value) if value is not None else failed()
        for name, value in values.items()
    }
    if "constraints" in parts and parts["constraints"].status == "ok":
        parts["constraints"].details = {"followed": {"title": True, "bullets": False}}
    total = None if any(part.value is None for part in parts.values()) else 1.0
    return Score(total, parts, ("answer",) if "answer" in parts else ())


def failed() -> RewardResult:
    return RewardResult.failure("broken")


def test_what_is_not_known_is_absent():
    assert marks(score(format=1.0)) == {"format": 1.0, "formed": 1.0, "correct": 1.0}
    assert marks(score(format=None, answer=1.0)) == {"answer": 1.0}
    assert "answer" not in marks(score(answer=1.0, answer__2=None))
    assert marks(score(answer=1.0, answer__2=0.0))["answer"] == 0.0
    found = marks(score(constraints=0.0, format=1.0))
    assert found["loose"] == 0.5 and found["kind/title"] == 1.0 and found["kind/bullets"] == 0.0
    assert marks(score(content=1.0, json=0.0))["content"] == 0.0


def test_a_reward_model_calls_nothing_right_and_a_group_s_win_rates_say_nothing_of_the_policy():
    preferred = score(keye_rm=0.7, format=1.0)
    preferred.by_model = True
    preferred.parts["keye_rm"].details = {"against": "reference"}
    assert marks(preferred) == {"preferred": 0.7, "format": 1.0, "formed": 1.0}
    preferred.parts["keye_rm"].details = {"against": "group"}
    assert marks(preferred) == {"format": 1.0, "formed": 1.0}


@pytest.mark.parametrize(("calls", "errors", "share"), [(0, 0, 0.0), (2, 0, 1.0), (2, 1, 0.0)])
def test_a_search_counts_when_it_could_be_answered(calls: int, errors: int, share: float):
    use: Any = SimpleNamespace(tool_use=ToolUse(2, calls, errors, []))
    assert marks(score(answer=1.0), use)["searched"] == share


def test_a_step_is_observed_by_source_kind_and_form():
    def group(source: str, kind: str, *scores: Score) -> Any:
        extra = {"alignment": {"source": source, "kind": kind}}
        use = SimpleNamespace(tool_use=None)
        return SimpleNamespace(
            sample=SimpleNamespace(extra=extra), scores=scores, trajectories=[use] * len(scores)
        )

    found = observe(
        [
            group("instructions", "2", score(constraints=0.0), score(constraints=0.0)),
            group("formats", "json", score(format=1.0, json=1.0), score(format=1.0, json=0.0)),
            group("formats", "plain", score(format=1.0), score(format=None)),
        ]
    )
    assert found["alignment/title/satisfied"] == 1.0 and found["alignment/bullets/satisfied"] == 0.0
    assert found["alignment/instructions/loose"] == 0.5
    assert found["alignment/formats/json"] == 0.5 and found["alignment/formats/plain"] == 1.0
    assert found["alignment/formats/format"] == 1.0
    assert not any(key.endswith("formed") for key in found)


def test_columns_are_paired_by_prompt():
    rows = [
        {"id": str(k), "source": "formats", "kind": "json", "mode": "think", "task_type": "a/b",
         "greedy": {"format": float(k % 2), "correct": 1.0}, "sampled": {}}
        for k in range(4)
    ]  # fmt: skip
    found = columns(rows, "greedy")
    assert found["format/think"] == found["formats/format"] == {"0": 0, "1": 1, "2": 0, "3": 1}
    assert set(found) == {
        "format/think",
        "formats/format",
        "formats/correct",
        "formats/think/correct",
    }
    lost = [row | {"greedy": {"correct": 1.0}} for row in rows[:2]] + rows[2:]
    pair = change(rows, lost)["formats/format"]["greedy"]
    assert pair["n"] == 2 and pair["value"] == 0.0
    assert report(rows)["formats/format"]["greedy"]["value"] == 0.5
