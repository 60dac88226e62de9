"""Ablation tables and reasoning by difficulty: computed by hand from small evaluations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pretrain.run.errors import ConfigError, KeyeError
from rl.comparison.ablation import AblationConfig, ablation, load_columns, markdown, run_ablation
from rl.evaluate import Evaluation, reasoning_by_difficulty


def record(name: str, greedy: bool, mode: str = "think", task: str = "a/b", **more: Any) -> dict:
    own = {"id": name, "mode": mode, "task_type": task, "greedy": greedy, "sampled": float(greedy)}
    return {**own, "pass_at_8": greedy, "reasoned": 1.0, **more}


SFT = Evaluation([record("1", False), record("2", True), record("3", False, task="a/c")])
RL = Evaluation([record("2", True), record("1", True), record("3", True, task="a/c")])
OTHER = Evaluation([record("1", True), record("9", False)])


def test_values_changes_and_steps():
    found = ablation({"sft": SFT, "rl": RL, "other": OTHER}, ["greedy"], "sft")
    rows = found["modes"]["think"]["greedy"]
    assert list(rows) == ["all tasks", "a/b", "a/c"]
    first, second, third = (rows["all tasks"][name] for name in ("sft", "rl", "other"))
    assert first["value"] == pytest.approx(1 / 3) and "change" not in first
    assert second["value"] == 1.0 and second["change"]["value"] == pytest.approx(2 / 3)
    # Paired by prompt, whatever the order in the files.
    assert rows["a/b"]["rl"]["change"]["value"] == 0.5 and rows["a/b"]["rl"]["change"]["n"] == 2
    # Only prompt 1 is in both; prompt 9 counts in the value alone.
    assert third["n"] == 2 and third["change"]["n"] == 1 and third["change"]["value"] == 1.0
    assert third["step"]["value"] == 0.0
    assert "other" not in rows["a/c"]


def test_markdown_shows_changes_from_the_baseline():
    text = markdown(ablation({"sft": SFT, "rl": RL}, ["greedy"], "rl"))
    assert "### think, greedy" in text and "| task | sft | rl |" in text
    line = next(line for line in text.splitlines() if line.startswith("| all tasks"))
    assert line.startswith("| all tasks | 0.333 (-0.667 [") and line.endswith("| 1.000 |")


def save(folder: Path, evaluation: Evaluation, finished: float) -> None:
    folder.mkdir(parents=True)
    evaluation.save(folder / "evaluation.jsonl")
    (folder / "summary.json").write_text(json.dumps({"finished": finished}))


def test_columns_from_runs_folders_and_files(tmp_path):
    run = tmp_path / "runs" / "x"
    save(run / "evaluate_after", RL, 2.0)
    save(run / "evaluate_before", SFT, 1.0)
    save(run / "evaluate_before.previous", OTHER, 0.0)
    assert list(load_columns([str(run)])) == ["x/evaluate_before", "x/evaluate_after"]
    after = run / "evaluate_after" / "evaluation.jsonl"
    named = load_columns([f"sft={run}/evaluate_before", f"rl={after}"])
    assert list(named) == ["sft", "rl"] and named["rl"].records == RL.records
    out = tmp_path / "tables"
    run_ablation(AblationConfig(runs=[str(run)], kinds=["greedy"], out=str(out)))
    assert json.loads((tmp_path / "tables.json").read_text())["baseline"] == "x/evaluate_before"
    assert (tmp_path / "tables.md").read_text().count("a/c") == 1


def test_what_cannot_be_compared_is_an_error(tmp_path):
    save(tmp_path / "x", SFT, 1.0)
    with pytest.raises(KeyeError, match=r"holds none.*rl evaluate"):
        load_columns([str(tmp_path / "x"), str(tmp_path / "absent")])
    with pytest.raises(ConfigError, match="at least two"):
        load_columns([str(tmp_path / "x")])
    with pytest.raises(ConfigError, match="two columns would be called 'x'"):
        load_columns([str(tmp_path / "x"), str(tmp_path / "x")])
    with pytest.raises(ConfigError, match="baseline='y'"):
        ablation({"x": SFT, "z": RL}, ["greedy"], "y")
    with pytest.raises(ConfigError, match="kinds="):
        AblationConfig(kinds=["best"])


def test_reasoning_by_difficulty():
    def both(name: str, easy: float, reasoned: float, right: float, task: str) -> list[dict]:
        return [
            record(name, True, "no_think", task, sampled=easy),
            record(name, True, "auto_think", task, reasoned=reasoned, sampled=right),
        ]

    records = [
        *both("1", 0.0, 1.0, 0.5, "a/b"),
        *both("2", 0.125, 1.0, 0.75, "a/b"),
        *both("3", 0.25, 0.5, 0.75, "a/c"),
        *both("4", 1.0, 0.0, 1.0, "a/c"),
        record("5", True, "auto_think", "a/b"),  # of unknown difficulty
    ]
    found = reasoning_by_difficulty(Evaluation(records))
    assert [(band["above"], band["to"], band["n"]) for band in found["all"]] == [
        (0.0, 0.0, 1),
        (0.0, 0.25, 2),
        (0.75, 1.0, 1),
    ]
    assert [band["reasoned"]["value"] for band in found["all"]] == [1.0, 0.75, 0.0]
    assert found["all"][1]["accuracy"]["value"] == 0.75
    assert [band["n"] for band in found["a/c"]] == [1, 1]
    assert reasoning_by_difficulty(SFT) == {}
