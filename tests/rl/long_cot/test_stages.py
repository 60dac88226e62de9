"""The steps as stages of a run: each alone, nothing twice, decisions applied; once for real."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pretrain.run.command import compose
from pretrain.run.directory import RunDir, read_json
from pretrain.run.errors import ConfigError, KeyeError
from pretrain.run.metrics import read_rows
from rewards.result import RewardResult, Score
from rl import recipes
from rl.config import RlConfig
from rl.groups import Group
from rl.long_cot.config import (
    AssessConfig,
    EnhanceConfig,
    LongCotConfig,
    PathsConfig,
    ReviewConfig,
    ScoreConfig,
    SelectConfig,
    TrainMixConfig,
)
from rl.long_cot.stages import DECISIONS, LONG_COT_STAGES, long_cot
from rl.review.decisions import DecisionLog, decide
from rl.stages import Run
from rollout.config import SamplingConfig


class Policy:
    """Thinks right in the first two of its responses, the second time with a wrong step; answers
    nothing at once or unseen. Engines are what the slow test below has."""

    def __init__(self, tokenizer: Any) -> None:
        self.encoder, self.sampling = SimpleNamespace(tokenizer=tokenizer), SamplingConfig()
        self.calls = 0

    def groups(self, samples: Any, *, n: int, seed: int) -> list[Group]:
        self.calls += 1
        return [self._group(sample, n) for sample in samples]

    def _group(self, sample: Any, n: int) -> Group:
        group = Group(sample, 0, None, [], [], [])  # type: ignore[arg-type]
        for k in range(n):
            right = k < 2 and sample.mode == "think" and not sample.id.endswith("/blind")
            thought = f"2+2=5;{sample.solution}" if k == 1 else sample.solution
            answer = sample.answer if right else "99"
            text = f"<think>{thought}</think><answer>\\boxed{{{answer}}}</answer>"
            ids = self.encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
            logprobs = np.full(len(ids) + 1, -0.1 - 0.1 * k, np.float32)
            trajectory: Any = SimpleNamespace(
                response_ids=np.array([*ids, 0], np.int32), logprobs=logprobs, finish_reason="stop"
            )
            group.trajectories.append(trajectory)
            group.responses.append(text)
            group.scores.append(
                Score(float(right), {"math": RewardResult(float(right))}, ("math",))
            )
        return group


@pytest.fixture(scope="module")
def recipe() -> RlConfig:
    """The recipe on six questions and three merged ones; copied for each test."""
    small = ["checkpoint=c", "long_cot.enhance.world=6", "long_cot.enhance.merge_share=0.5"]
    cfg = compose("rl", RlConfig, ["recipe=long_cot", *small])
    cfg.long_cot.enhance.tasks = {"digits/sum": 1.0}
    return cfg


@pytest.fixture
def run(tmp_path: Path, processor: Any, recipe: RlConfig) -> tuple[Run, Policy]:
    """A run of the stages, and its policy."""
    policy = Policy(processor.tokenizer)
    session: Any = SimpleNamespace(rollouts=lambda checkpoint, tools: policy)
    return Run(copy.deepcopy(recipe), RunDir(tmp_path / "r"), session, Path("c")), policy


def metrics(run: Run, name: str) -> dict[str, Any]:
    return run.folder.stage(f"long_cot/{name}").summary()["metrics"]


def test_the_five_steps_run_once_and_new_decisions_re_run_what_follows(run: Any):
    one, policy = run
    long_cot(one)
    assert metrics(one, "enhance") == {
        "given": 6, "rewritten": 0, "merged": 3, "duplicates": 0, "agentic": 0,
    }  # fmt: skip
    assert metrics(one, "paths")["correct_share"] == 0.25
    assert metrics(one, "paths")["auc_whole"] == 1.0
    graded = metrics(one, "assess")
    assert (graded["share_A"], graded["share_B"], graded["share_C"]) == (0.125, 0.125, 0.75)
    assert metrics(one, "review") == {"kept": 9, "items": 9, "flawed": 9, "redundant": 0}
    assert metrics(one, "refined")["unreviewed_dropped"] == 9
    scored = metrics(one, "score")
    assert scored["questions"] == scored["traces"] == 9 and scored["without_media"] == 0
    assert scored["score_4"] + scored["score_5"] == 1
    asked = policy.calls
    long_cot(one)
    assert policy.calls == asked  # nothing is done twice

    review = one.folder.stage("long_cot/review")
    items = read_rows(review.path / "items.jsonl")
    DecisionLog(review.path / DECISIONS).append(decide(items[0]["id"], 0, "accept", "ann"))
    before = {name: one.folder.stage(f"long_cot/{name}").summary() for name in ("paths", "review")}
    long_cot(one)
    assert metrics(one, "refined")["accepted"] == 1 and metrics(one, "score")["traces"] == 10
    assert (review.path / DECISIONS).exists()
    for name, summary in before.items():
        assert one.folder.stage(f"long_cot/{name}").summary() == summary


def test_each_step_can_be_run_alone_in_its_order(run: Any):
    one, _ = run
    with pytest.raises(KeyeError, match=r"stage long_cot/paths in .* is not complete"):
        LONG_COT_STAGES["long_cot_assess"](one)
    for name in ("enhance", "paths", "assess", "review", "score"):
        LONG_COT_STAGES[f"long_cot_{name}"](one)
    assert metrics(one, "score")["questions"] == 9
    rows = read_rows(one.folder.stage("long_cot/enhance").path / "questions.jsonl")
    assert [row["how"] for row in rows] == ["given"] * 6 + ["merged"] * 3
    with pytest.raises(KeyeError, match="run long_cot first"):
        other = Run(one.cfg, RunDir(one.folder.path / "other"), one.session, Path("c"))
        LONG_COT_STAGES["long_cot_sft"](other)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("assess.judge", True, r"long_cot\.judge needs url"),
        ("assess.reward_dimensions", ["clarity"], r"reward_model\.checkpoint"),
        ("review.refine", "endpoint", r"long_cot\.writer needs url"),
        ("review.decisions", "nowhere.jsonl", r"no decisions file nowhere\.jsonl"),
        ("enhance.world", 0, "names no source"),
    ],
)
def test_what_is_missing_is_named(run: Any, key: str, value: Any, match: str):
    one, _ = run
    step, _, name = key.partition(".")
    setattr(getattr(one.cfg.long_cot, step), name, value)
    with pytest.raises(KeyeError, match=match):
        long_cot(one)


@pytest.mark.parametrize(
    ("config", "bad"),
    [
        (EnhanceConfig, {"rewrite": "maybe"}),
        (EnhanceConfig, {"separator": " "}),
        (PathsConfig, {"samples": 0}),
        (AssessConfig, {"solution": "maybe"}),
        (SelectConfig, {"min_distance": 2.0}),
        (ReviewConfig, {"unreviewed_flawed": "maybe"}),
        (ScoreConfig, {"weights": [1.0, 2.0]}),
        (TrainMixConfig, {"direct_from": 2.0}),
        (LongCotConfig, {"chunk": 0}),
    ],
)
def test_bad_settings_are_named(config: Any, bad: dict[str, Any]):
    (key,) = bad
    with pytest.raises(ConfigError, match=rf"long_cot\.(\w+\.)?{key}"):
        config(**bad)


def test_the_command_line_names_the_key_and_the_stage():
    with pytest.raises(ConfigError, match=r"long_cot\.select\.keep"):
        compose("rl", RlConfig, ["recipe=long_cot", "long_cot.select.keep=0"])


RULE = """
from rewards.registry import rule

@rule(verifier=True)
def lucky(response, sample):
    '''1 if the response holds a 3 or a 7: a policy that knows the form manages it sometimes.'''
    return float('3' in response or '7' in response)
"""


@pytest.mark.slow
def test_the_whole_recipe_on_a_policy_that_has_learned_the_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path, ray_cluster: None
):
    monkeypatch.setattr(recipes, "RUNS", tmp_path / "runs")
    (tmp_path / "rules.py").write_text(RULE)
    rows = [
        {
            "id": f"row{k}",
            "messages": [{"role": "user", "content": f"{k}+1=?"}],
            "answer": str(k + 1),
            "task_type": "text/arithmetic",
            "rewards": [{"rule": f"{tmp_path / 'rules.py'}:lucky"}],
        }
        for k in range(8)
    ]
    rows[7]["response"] = (
        '<think>1</think><tool_call>{"name": "search", "arguments": {}}</tool_call>'
        "<tool_response>\nnothing\n</tool_response><think>8</think><answer>\\boxed{8}</answer>"
    )
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = {
        "stages": "[cold_start,long_cot,long_cot_sft]", "checkpoint": tiny_checkpoint, "run": "r",
        "cold_start.sft.steps": 80, "cold_start.sft.batch_size": 16, "cold_start.sft.lr": 3e-3,
        "cold_start.sft.world_size": 1, "cold_start.modes.no_think": 0,
        "cold_start.direct_share": 0.0, "engine.count": 1, "engine.max_length": 256,
        "engine.kv_cache_mb": 64, "engine.cpus": 0.1, "engine.hang_seconds": 900,
        "engine.start_seconds": 1200, "sampling.max_tokens": 48, "wandb.mode": "disabled",
        "long_cot.enhance.world": 0, "long_cot.enhance.data.files": f"[{data}]",
        "long_cot.select.min_confidence": 0.0, "long_cot.review.unreviewed_flawed": "keep",
        "long_cot.train.sft.steps": 2, "long_cot.train.modes.agentic": 8,
        "long_cot.train.sft.batch_size": 4, "long_cot.train.sft.world_size": 1,
    }  # fmt: skip
    overrides = [f"{key}={value}" for key, value in small.items()]
    cfg = compose("rl", RlConfig, ["recipe=long_cot", *overrides])
    cfg.cold_start.tasks = {"text/arithmetic": 1.0}
    recipes.run_recipe(cfg)
    folder = RunDir(tmp_path / "runs" / "r")
    paths = read_rows(folder.stage("long_cot/paths").path / "paths.jsonl")
    assert len(paths) == 7  # the agent's row goes straight to fine-tuning
    for row in paths:
        for path in row["paths"]:
            steps = [step["confidence"] for step in path["steps"]]
            assert 0 < path["confidence"] <= 1 and all(0 < c <= 1 for c in steps)
    trained = folder.stage("long_cot_sft").summary()["metrics"]
    assert trained["steps"] == 2 and trained["modes"]["agentic"] > 0
    assert read_json(folder.path / "summary.json")["stages"][-1]["name"] == "long_cot_sft"
