"""The other sources, the mix and its cursor, rows of files, and what a launch refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from pretrain.data.render import query
from pretrain.data.sample import Sample, SampleError
from pretrain.run.command import compose
from pretrain.run.errors import ConfigError, KeyeError
from rl.alignment.config import (
    SOURCES,
    AlignmentConfig,
    DualTrackConfig,
    FormatConfig,
    JudgeConfig,
    PreferenceConfig,
    SourceConfig,
    StepsConfig,
)
from rl.alignment.examples import AlignmentExamples, written
from rl.alignment.marks import marks
from rl.alignment.sources import AlignmentPrompts, Source
from rl.alignment.stages import announce_mix, check
from rl.alignment.steps import WORDING, with_steps
from rl.alignment.tracks import with_both_tracks, with_preference
from rl.config import RlConfig
from rl.launch import warnings
from rl.tool_tasks import with_documents
from rollout.tools.traces import ToolTrace
from tests.rl.alignment.samples import rng, sample

JUDGE = JudgeConfig(url="http://127.0.0.1:9/v1", model="m")


@pytest.mark.parametrize("name", ["general", "formats", "steps"])
def test_written_replies_earn_everything(name: str, prompts, judge_reply):
    for number, prompt in enumerate(prompts(name, 120)):
        text = written(prompt, reason=number % 2 == 0)
        score = judge_reply(prompt, text)
        assert score.total == pytest.approx(sum(entry["weight"] for entry in prompt.rewards)), text
        found = marks(score)
        assert set(found.values()) == {1.0} and found["correct"] == 1.0
        assert query(prompt).count("\n") == (prompt.extra["alignment"]["kind"] != "plain")


def test_steps_are_three_to_five_in_changing_orders(prompts):
    lengths, orders = set(), set()
    for prompt in prompts("steps", 120):
        steps = prompt.extra["steps"]
        assert query(prompt).endswith(", ".join(step["name"] for step in steps))
        assert steps[0]["name"] == "digits"
        lengths.add(len(steps))
        orders.add(tuple(step["name"] for step in steps))
    assert lengths == {3, 4, 5} and len(orders) > 30
    full = with_steps(sample(), rng(), AlignmentConfig(steps=StepsConfig(weight=1.0)))
    assert f"1. {WORDING['digits']}" in query(full)


def test_wrong_order_costs_steps_but_not_the_answer(judge_reply):
    prompt = with_steps(sample(), rng(3), AlignmentConfig())
    first, second, *rest = [step["expect"] for step in prompt.extra["steps"]]
    swapped = ";".join([second, first, *rest])
    found = marks(judge_reply(prompt, f"<think>{swapped}</think><answer>\\boxed{{10}}</answer>"))
    count = len(prompt.extra["steps"])
    assert found["steps"] == pytest.approx((count - 1) / count) and found["answer"] == 1.0


def test_a_rows_own_steps_are_checked_by_rule_or_judge():
    checkable = [{"text": t, "expect": t} for t in ("a", "b", "c")]
    by_rule = with_steps(sample(extra={"steps": checkable}), rng(), AlignmentConfig())
    assert query(by_rule) == "sum of the digits?"
    assert [e["rule"] for e in by_rule.rewards] == ["math", "prescribed_steps", "format"]
    judged = AlignmentConfig(judge=JUDGE)
    by_judge = with_steps(sample(extra={"steps": ["a", "b", "c"]}), rng(), judged)
    assert [e["rule"] for e in by_judge.rewards] == ["math", "judge", "format"]
    assert by_judge.rewards[1]["task"] == "steps" and by_judge.extra["steps"][0] == {"text": "a"}
    both = with_steps(sample(extra={"steps": checkable}), rng(), judged)
    assert [e["rule"] for e in both.rewards] == ["math", "prescribed_steps", "judge", "format"]
    with pytest.raises(SampleError, match=r"alignment\.judge\.url"):
        with_steps(sample(extra={"steps": ["a", "b", "c"]}), rng(), AlignmentConfig())
    for bad in (["a", "b"], list("abcdef"), [1, 2, 3], ["a", "", "c"]):
        with pytest.raises(SampleError, match="3 to 5"):
            with_steps(sample(extra={"steps": bad}), rng(), judged)
    with pytest.raises(SampleError, match="steps can be prescribed for"):
        with_steps(sample(task_type="shapes/count"), rng(), AlignmentConfig())


def test_preferences_look_at_no_answer():
    cfg = AlignmentConfig(preference=PreferenceConfig(weight=1.0, against="reference"))
    entries = with_preference(sample(), rng(), cfg).rewards
    assert [e["rule"] for e in entries] == ["keye_rm", "format"]
    assert entries[0]["against"] == "reference"


def test_both_tracks_must_be_right(judge_reply):
    own = DualTrackConfig(weight=1.0, consistency_weight=0.5, length_weight=0.2, longest=100)
    cfg = AlignmentConfig(dual_track=own)
    thinking = with_both_tracks(sample(), rng(), cfg)

    def total(prompt: Sample, think: str, answer: str) -> float:
        text = f"<think>{think}</think><answer>\\boxed{{{answer}}}</answer>"
        return judge_reply(prompt, text).total

    assert total(thinking, "3+7=10", "10") == pytest.approx(1.6)
    assert total(thinking, "3+7=11", "10") == pytest.approx(1.1)  # right by luck
    assert total(thinking, "3+8=11", "11") == pytest.approx(0.6)  # wrong, and says why
    assert total(thinking, "3+8=11", "12") == pytest.approx(0.1)
    gated = AlignmentConfig(dual_track=replace(own, consistency_gate=True))
    assert total(with_both_tracks(sample(), rng(), gated), "3+7=11", "10") == pytest.approx(0.0)
    # Only where the policy may choose, length costs something.
    auto = with_both_tracks(sample(mode="auto_think"), rng(), cfg)
    text = "<answer>\\boxed{10}</answer>"
    assert judge_reply(auto, text).total == pytest.approx(1.6 - 0.2 * len(text) / 100)
    assert "length" not in [e["rule"] for e in thinking.rewards]


def test_the_mix_goes_on_where_it_stopped(recipe, tmp_path: Path):
    cfg = recipe.alignment
    whole = AlignmentPrompts(cfg, tmp_path)
    ids = [s.id for s in whole.take(60)]
    assert len(set(ids)) == 60
    first = AlignmentPrompts(cfg, tmp_path)
    first.take(23)
    second = AlignmentPrompts(cfg, tmp_path)
    second.load_state(json.loads(json.dumps(first.state())))
    assert [s.id for s in second.take(37)] == ids[23:]
    assert second.metrics() == whole.metrics() and sum(whole.metrics().values()) == 60
    other = AlignmentPrompts(replace(cfg, seed=5), tmp_path)
    with pytest.raises(KeyeError, match="mix of alignment sources"):
        other.load_state(first.state())


def test_the_mix_follows_its_weights(recipe, tmp_path: Path):
    mix = AlignmentPrompts(recipe.alignment, tmp_path)
    names = [mix.name(place) for place in range(2000)]
    weights = {name: own.weight for name, own in recipe.alignment.sources().items()}
    for name, weight in weights.items():
        expected = weight / sum(weights.values())
        assert names.count(name) / 2000 == pytest.approx(expected, abs=0.03)


def test_held_out_prompts_are_others(recipe, tmp_path: Path):
    for name in recipe.alignment.sources():
        train = Source(name, recipe.alignment, tmp_path)
        test = Source(name, recipe.alignment, tmp_path, heldout=True).first(30)
        assert not {train[k].id for k in range(30)} & {s.id for s in test}
        again = Source(name, recipe.alignment, tmp_path, heldout=True).first(30)
        assert [query(s) for s in test] == [query(s) for s in again]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def row(name: str, **more: Any) -> dict[str, Any]:
    turn = {"role": "user", "content": f"question {name}"}
    base = {"id": name, "messages": [turn], "answer": "a", "task_type": "x/y", "mode": "no_think"}
    return base | {"rewards": [{"rule": "exact"}]} | more


def test_a_setting_that_a_source_does_not_read_is_refused():
    for key in ("general.format_weight=0", "general.format_gate=true", "retrieval.modes.think=1"):
        with pytest.raises(ConfigError, match="unknown configuration key"):
            compose("rl", RlConfig, [f"alignment.{key}"])
    cfg = compose("rl", RlConfig, ["alignment.retrieval.format_gate=true"])
    assert cfg.alignment.retrieval.format_gate


def test_rows_of_files_are_sources_too(tmp_path: Path):
    steps = [{"text": t, "expect": t} for t in "abc"]
    rows = [row(str(k), steps=steps, mode="think") for k in range(5)] + [row("bad", steps=["a"])]
    files = [write_rows(tmp_path / "rows.jsonl", rows)]
    held = [write_rows(tmp_path / "held.jsonl", [row("h", steps=steps, mode="think")])]
    own = StepsConfig(weight=1.0, files=files, heldout=held, max_bad_share=0.9)
    none = SourceConfig(weight=0.0)
    cfg = AlignmentConfig(general=none, steps=own)
    cfg.instructions.weight = cfg.formats.weight = 0.0
    taken = [s.id for s in AlignmentPrompts(cfg, tmp_path).take(10)]
    assert sorted(taken[:5]) == sorted(taken[5:]) == [f"steps/{k}" for k in range(5)]
    rejected = (tmp_path / "quarantine_steps.jsonl").read_text()
    assert "3 to 5 texts" in rejected
    assert [s.id for s in Source("steps", cfg, tmp_path, heldout=True).first(9)] == ["steps/h"]
    cfg.steps = replace(own, heldout=[])
    with pytest.raises(ConfigError, match=r"alignment\.steps\.heldout names no file"):
        Source("steps", cfg, tmp_path, heldout=True)
    cfg.steps = replace(own, max_bad_share=0.01)
    with pytest.raises(KeyeError, match="bad"):
        AlignmentPrompts(cfg, tmp_path).take(10)


def test_an_image_lost_before_a_resumption_is_no_silent_shift(tmp_path: Path):
    Image.new("RGB", (28, 28)).save(tmp_path / "a.png")
    seen = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "?"}]
    rows = [row("seen", messages=[{"role": "user", "content": seen}]), row("1"), row("2")]
    files = [write_rows(tmp_path / "rows.jsonl", rows)]
    cfg = AlignmentConfig(general=SourceConfig(weight=1.0, files=files, max_bad_share=0.9))
    cfg.instructions.weight = cfg.formats.weight = cfg.steps.weight = 0.0
    before = AlignmentPrompts(cfg, tmp_path)
    before.take(2)
    AlignmentPrompts(cfg, tmp_path).load_state(before.state())
    (tmp_path / "a.png").unlink()
    with pytest.raises(KeyeError, match="mix of alignment sources"):
        AlignmentPrompts(cfg, tmp_path).load_state(before.state())


def run_with(**sections: Any) -> Any:
    cfg = SimpleNamespace(
        alignment=sections.get("alignment", AlignmentConfig()),
        reward_model=SimpleNamespace(checkpoint=sections.get("reward_model", "")),
        tools=SimpleNamespace(names=sections.get("tools", [])),
    )
    return SimpleNamespace(cfg=cfg)


def test_launch_refuses_what_is_missing_and_says_what_is_left_out(capsys):
    with_rm = AlignmentConfig(preference=PreferenceConfig(weight=1.0))
    with pytest.raises(ConfigError, match=r"reward_model\.checkpoint=DIRECTORY"):
        check(run_with(alignment=with_rm))
    assert check(run_with(alignment=with_rm, reward_model="rm")) is with_rm
    searching = AlignmentConfig()
    searching.retrieval.weight = 1.0
    with pytest.raises(ConfigError, match=r"tools\.names=\[search\]"):
        check(run_with(alignment=searching))
    check(run_with(alignment=searching, tools=["search"]))
    capsys.readouterr()
    announce_mix(check(run_with()))
    said = capsys.readouterr().out
    assert "general 25%" in said and "no soft constraints are drawn" in said
    announce_mix(AlignmentConfig(judge=JUDGE))
    assert "no judge" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FormatConfig(kinds={"xml": 1.0}), "kinds="),
        (lambda: FormatConfig(kinds={"json": 0.0}), "kinds="),
        (lambda: JudgeConfig(url="u"), "both url=URL and model=NAME"),
        (lambda: AlignmentConfig(heldout=0), "heldout=0"),
        (lambda: AlignmentConfig(samples=0), "samples=0"),
    ],
)
def test_bad_settings_are_named(build: Any, message: str):
    with pytest.raises(ConfigError, match=message):
        build()


def test_a_mix_of_nothing_is_refused():
    cfg = AlignmentConfig()
    for name in SOURCES:
        getattr(cfg, name).weight = 0.0
    with pytest.raises(ConfigError, match="no source has a weight"):
        cfg.__post_init__()


def test_examples_are_pure_and_refuse_what_cannot_be_written(recipe, tmp_path: Path):
    tools = with_documents(recipe.tools, tmp_path)
    examples = AlignmentExamples(recipe.alignment, tools, tmp_path)
    for index in range(40):
        turns = examples(index)
        assert str(examples(index)) == str(turns)
        assert isinstance(turns, ToolTrace) or turns[-1]["role"] == "assistant"
    cfg = AlignmentConfig()
    with pytest.raises(ConfigError, match="scale=tiny"):
        AlignmentExamples(cfg, tools, tmp_path)
    cfg.instructions.weight = 0.0
    AlignmentExamples(cfg, tools, tmp_path)


def test_mixed_mode_is_one_source_with_both_tracks_and_grpos_clip(tmp_path: Path):
    cfg = compose("rl", RlConfig, ["recipe=mixed_mode"])
    assert list(cfg.alignment.sources()) == ["dual_track"] and cfg.learner.algorithm == "grpo"
    assert not any("clip" in text for text in warnings(cfg, 1_300_000))
    taken = AlignmentPrompts(cfg.alignment, tmp_path).take(200)
    modes = [s.mode for s in taken]
    assert modes.count("auto_think") == pytest.approx(100, abs=25) and "no_think" in modes
    for prompt in taken:
        rules = [entry["rule"] for entry in prompt.rewards]
        assert {"consistency", "format"} < set(rules)
        assert ("length" in rules) == (prompt.mode == "auto_think")
