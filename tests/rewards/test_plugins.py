"""Rules from files, import paths and other packages; TRL's and verl's functions as they are."""

import sys
from pathlib import Path

import pytest

from rewards import registry
from rewards.config import RewardConfig
from rewards.pool import RewardPool
from rewards.registry import RuleError, load
from rewards.result import Score, is_correct
from rewards.rules import BUILTIN

PLUGINS = '''
import re, asyncio
import neighbour
from dataclasses import dataclass

def native(response, sample, bonus=0.0):
    """Words, and a bonus."""
    return len(response.split()) + bonus

async def native_async(response, sample):
    await asyncio.sleep(0.01)
    return neighbour.VALUE

def group(responses, samples):
    best = max(map(len, responses))
    return [len(r) / best for r in responses]

# --- as in TRL's documentation ---
def reward_len(completions, **kwargs):
    return [-abs(20 - len(completion)) for completion in completions]

def format_reward_func(completions, **kwargs):
    pattern = r"^<think>.*?</think><answer>.*?</answer>$"
    completion_contents = [completion[0]["content"] for completion in completions]
    return [1.0 if re.match(pattern, content) else 0.0 for content in completion_contents]

def accuracy(prompts, completions, answer, task_type, **kwargs):
    assert prompts == ["2+2?"] * len(completions), prompts
    return [1.0 if a in c else 0.0 for c, a in zip(completions, answer)]

def strict_signature(completions, answer):
    return [1.0 if a in c else 0.0 for c, a in zip(completions, answer)]

async def trl_async(completions, **kwargs):
    await asyncio.sleep(0.01)
    return [0.5 for _ in completions]

def wrong_count(completions, **kwargs):
    return [1.0]

def not_my_task(completions, **kwargs):
    return [None for _ in completions]

# --- as in verl's documentation ---
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    assert data_source == "text/arithmetic" and extra_info["id"] == "q"
    return {"score": float(solution_str.strip() == ground_truth), "length": len(solution_str)}

def compute_short(solution_str, ground_truth):
    return solution_str == ground_truth

@dataclass
class Stateful:
    target: int
    scale: float = 1.0
    verifier = False
    def __call__(self, response, sample):
        return self.scale * float(len(response) == self.target)

def odd(text, number): return 0
NUMBER = 3
'''


@pytest.fixture(scope="module")
def plugins(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("outside")
    (folder / "neighbour.py").write_text("VALUE = 0.25\n")
    (folder / "my rules.py").write_text(PLUGINS)
    return folder / "my rules.py"


@pytest.fixture(scope="module")
def pool():
    with RewardPool(RewardConfig(max_failed_share=1.0)) as pool:
        yield pool


def row(**reward) -> dict:
    messages = [{"role": "user", "content": [{"type": "text", "text": "2+2?"}]}]
    return {
        "id": "q",
        "messages": messages,
        "answer": "4",
        "task_type": "text/arithmetic",
        "rewards": [reward],
    }


def values(scores: list[Score]) -> list[float | None]:
    return [score.total for score in scores]


@pytest.mark.parametrize(
    ("name", "responses", "expected"),
    [
        ("native", ["a b", ""], [2.0, 0.0]),
        ("native_async", ["a"], [0.25]),
        ("group", ["aaaa", "aa", "a"], [1.0, 0.5, 0.25]),
        ("reward_len", ["x" * 20, "x"], [0.0, -19.0]),
        ("format_reward_func", ["<think>a</think><answer>4</answer>", "4"], [1.0, 0.0]),
        ("accuracy", ["it is 4", "5"], [1.0, 0.0]),
        ("strict_signature", ["it is 4", "5"], [1.0, 0.0]),
        ("trl_async", ["a", "b"], [0.5, 0.5]),
        ("compute_score", [" 4 ", "5"], [1.0, 0.0]),
        ("compute_short", ["4", "5"], [1.0, 0.0]),
    ],
)
def test_every_form_is_accepted_unchanged(pool, plugins, name, responses, expected):
    sample = row(rule=f"{plugins}:{name}")
    assert values(pool.score([(text, sample) for text in responses])) == expected


def test_arguments_weight_and_name(pool, plugins):
    score = pool.score([("a b", row(rule=f"{plugins}:native", bonus=1.0, weight=2, name="words"))])
    assert score[0].total == 6.0 and list(score[0].parts) == ["words"]


def test_target_class_is_created_with_the_arguments(pool, plugins, monkeypatch):
    sample = row(rule=f"{plugins}:Stateful", target=3, scale=2.0)
    scores = pool.score([("abc", sample), ("ab", sample)])
    assert values(scores) == [2.0, 0.0]
    assert scores[0].verifiers == ()  # the class says that it verifies nothing


def test_hydra_target(pool):
    scores = pool.score([("4", row(_target_="rewards.rules.text.exact"))])
    assert scores[0].total == 1.0 and list(scores[0].parts) == ["exact"]


def test_verl_details_are_kept(pool, plugins):
    part = pool.score([("4", row(rule=f"{plugins}:compute_score"))])[0].parts["compute_score"]
    assert part.details == {"length": 1}


def test_plugins_decide_correctness_unless_told_otherwise(pool, plugins):
    name = f"{plugins}:compute_short"
    assert is_correct(pool.score([("4", row(rule=name))])[0])
    sample = row(rule=name)
    sample["rewards"] = [{"rule": name, "verifier": False}, {"rule": "exact"}]
    assert pool.score([("4", sample)])[0].verifiers == ("exact",)


def test_batch_of_wrong_size_and_none_are_errors(pool, plugins):
    scores = pool.score([("a", row(rule=f"{plugins}:wrong_count"))] * 2)
    assert "1 values for 2 responses" in scores[0].parts["wrong_count"].details["message"]
    (score,) = pool.score([("a", row(rule=f"{plugins}:not_my_task"))])
    assert score.total is None


def test_wrong_argument_is_an_error_that_names_it(pool, plugins):
    (score,) = pool.score([("a", row(rule=f"{plugins}:native", bonsu=1))])
    assert "bonsu" in score.parts["native"].details["message"]


def test_entry_point_of_another_package(tmp_path, monkeypatch):
    (tmp_path / "other_rewards.py").write_text("def shout(response, sample): return 2.0\n")
    info = tmp_path / "other_rewards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-rewards\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[keye_rl.rewards]\nshout = other_rewards:shout\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    registry.installed.cache_clear()
    try:
        with RewardPool(RewardConfig()) as pool:
            assert pool.score([("x", row(rule="shout"))])[0].total == 2.0
        assert "shout" in registry.installed()
    finally:
        registry.installed.cache_clear()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}:nativ", "has no 'nativ'; did you mean 'native'"),
        ("{}:NUMBER", "is a int, not a function"),
        ("{}:odd", "rule(response, sample, **args)"),
        ("/nowhere/rules.py:f", "there is no file /nowhere/rules.py"),
        ("no_such_package.rules:f", "importing no_such_package.rules failed"),
        ("rewards.rules.text:exat", "did you mean 'exact'"),
    ],
)
def test_what_cannot_be_loaded_says_why(plugins, name, message):
    with pytest.raises(RuleError) as caught:
        load(name.format(plugins))
    assert message in str(caught.value)


def test_file_that_fails_to_import(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("import missing_thing\ndef f(response, sample): return 0\n")
    with pytest.raises(RuleError, match="missing_thing"):
        load(f"{file}:f")


def test_rule_whose_import_hangs_or_exits_fails_alone(tmp_path):
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(1000)\n")
    (tmp_path / "gone.py").write_text("import os\nos._exit(3)\n")
    with RewardPool(RewardConfig(load_s=0.5, max_failed_share=1.0)) as pool:
        samples = [row(rule=f"{tmp_path}/slow.py:f"), row(rule=f"{tmp_path}/gone.py:f")]
        scores = pool.score([("4", samples[0]), ("4", samples[1]), ("4", row(rule="exact"))])
    messages = [next(iter(s.parts.values())).details.get("message", "") for s in scores]
    assert "more than 0.5 s" in messages[0]
    assert "ended the worker (exit code 3)" in messages[1]
    assert scores[2].total == 1.0


def test_builtin_rules_all_load_and_are_documented():
    for name in registry.installed():
        rule = load(name)
        assert len(rule.doc) > 30, name
        assert rule.style == "native"


def test_entry_points_are_the_builtin_rules():
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    announced = project["entry-points"]["keye_rl.rewards"]
    assert announced == BUILTIN
