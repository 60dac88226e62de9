"""The tasks that need a tool, and the rule that checks the form."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pretrain.run.command import compose
from pretrain.run.directory import RunDir
from pretrain.run.errors import ConfigError
from rewards.config import RewardConfig
from rewards.rules.agentic import agentic_format
from rl import session
from rl.cold_start import ColdStartTraces
from rl.config import ColdStartConfig, RlConfig
from rl.iterated.stages import indexed_prompts, iterate
from rl.mpo.stages import mpo
from rl.stages import Run, gspo
from rl.tool_tasks import (
    LOOKUP,
    SMALL_DIGITS,
    WORLD_DOCUMENTS,
    ToolTasks,
    ToolTraces,
    cold_start_examples,
    facts,
    field_box,
    needs_tools,
    small_digits,
    with_documents,
)
from rollout.config import EngineConfig, SamplingConfig
from rollout.tools import ToolConfig, open_tools
from rollout.tools.calls import find_calls
from rollout.tools.traces import ToolTrace

MIX = {LOOKUP: 1.0, SMALL_DIGITS: 1.0}
CFG = ToolConfig(names=["search", "crop"], documents=WORLD_DOCUMENTS, results=1, prompt="names")


@pytest.fixture(scope="module")
def configured(tmp_path_factory):
    """The settings with the documents written."""
    return with_documents(CFG, tmp_path_factory.mktemp("documents"))


@pytest.fixture(scope="module")
def tools(configured):
    return open_tools(configured)


def test_a_search_finds_every_fact(tools):
    known = facts()
    assert len(known) == 600
    for name, number in known.items():
        assert tools["search"].call({"query": name}, None).text == f"[1] {name} {number}"
    assert len(set(known.values())) > 80


def test_the_test_facts_are_not_asked_for_in_training():
    asked = {
        split: {
            ToolTasks({LOOKUP: 1.0}, 1, split)[k].messages[0]["content"][0]["text"]
            for k in range(1500)
        }
        for split in ("train", "test")
    }
    assert not asked["train"] & asked["test"]
    assert len(asked["train"]) > 400 and len(asked["test"]) > 100


def test_the_crop_shows_the_digits_at_full_size(tools):
    for field in range(9):
        left, top, right, bottom = field_box(field)
        assert right - left == bottom - top == pytest.approx(110, abs=1)
    rng = np.random.default_rng(4)
    task = small_digits(rng, "test")
    trace = ToolTraces(ToolTasks({SMALL_DIGITS: 1.0}, 3), tools, CFG)(0)
    image = trace.results[0][0].image
    assert image.size == (84, 84)
    sample = ToolTasks({SMALL_DIGITS: 1.0}, 3)[0]
    picture = sample.messages[0]["content"][0]["image"]
    assert picture.shape == (756, 756, 3)
    place = sample.messages[0]["content"][1]["text"][10:12]
    row, column = "tmb".index(place[0]), "lmr".index(place[1])
    y, x = row * 252 + 84, column * 252 + 84
    np.testing.assert_array_equal(np.asarray(image), picture[y : y + 84, x : x + 84])
    assert 1 <= len(task.sample.answer) <= 3


def test_the_processor_makes_the_picture_too_small_to_read(encoder):
    sample = ToolTasks({SMALL_DIGITS: 1.0}, 3)[0]
    prompt = encoder.encode(sample.messages, "s")
    np.testing.assert_array_equal(prompt.grid_thw, [[1, 16, 16]])  # 224 of 756 pixels


def test_traces_are_pure_have_the_form_and_say_the_answer(tools, encoder):
    traces = ToolTraces(ToolTasks(MIX, 5), tools, CFG)
    kinds = set()
    for index in range(12):
        sample = traces.tasks[index]
        kinds.add(sample.task_type)
        trace = traces(index)
        [call] = find_calls(trace.turns[0])
        assert call.name == sample.extra["tools"][0] and not call.fault
        result = trace.results[0][0]
        text = (
            f"{trace.turns[0]}<tool_response>{result.text or 'i'}</tool_response>{trace.turns[1]}"
        )
        row = sample.to_row(media=False)
        assert agentic_format(text, row, min_calls=1, allow_errors=False).value == 1.0
        assert f"\\boxed{{{sample.answer}}}" in trace.turns[1]
        if sample.task_type == LOOKUP:
            assert result.text.endswith(f" {sample.answer}")
        encoded, again = trace.encode(encoder), traces(index).encode(encoder)
        np.testing.assert_array_equal(encoded.ids, again.ids)
        assert len(encoded.prompt.ids) + len(encoded.ids) < 400
    assert kinds == set(MIX)


def test_the_stream_resumes_and_refuses_other_data():
    stream = ToolTasks(MIX, 5)
    stream.take(3)
    other = ToolTasks(MIX, 5)
    other.load_state(json.loads(json.dumps(stream.state())))
    assert [s.id for s in other.take(4)] == [s.id for s in stream.take(4)]
    assert stream.metrics() == {"data/samples": 7.0}
    with pytest.raises(Exception, match="is not the data of the interrupted run"):
        ToolTasks(MIX, 6).load_state(stream.state())
    with pytest.raises(ConfigError, match="tools/lookup, tools/small_digits"):
        ToolTasks({"tools/none": 1.0}, 1)
    with pytest.raises(ConfigError, match="split='dev'"):
        ToolTasks(MIX, 1, "dev")


def test_a_mix_is_of_one_kind():
    assert needs_tools(MIX) and not needs_tools({"digits/sum": 1.0})
    with pytest.raises(ConfigError, match="tools/lookup and digits/sum can't stand in one mix"):
        needs_tools({LOOKUP: 1.0, "digits/sum": 1.0})
    other = ToolConfig(names=["crop"], documents="mine.jsonl")
    assert with_documents(other, None) is other


def test_what_learns_responses_whole_samples_them_without_tools(
    configured, encoder, tmp_path, monkeypatch
):
    fake = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr(session, "open_encoder", lambda *_: encoder)
    monkeypatch.setattr(session, "RewardPool", lambda _: fake)
    monkeypatch.setattr(session.Session, "_engines_with", lambda *_: fake)
    limits = EngineConfig(), RewardConfig(), SamplingConfig()
    with session.Session(*limits, tools=configured) as opened:
        assert list(opened.rollouts(tmp_path).tools.tools) == ["search", "crop"]
        assert opened.rollouts(tmp_path, tools=False).tools is None


@pytest.mark.parametrize(("stage", "tools"), [(mpo, False), (gspo, True), (iterate, True)])
def test_which_stages_let_a_policy_call_tools(stage, tools, tmp_path):
    class Opened(Exception):
        """The stage has asked for rollouts."""

    def rollouts(_, tools=True):
        raise Opened(tools)

    tools_on = ["tools.names=[search]", f"tools.documents={WORLD_DOCUMENTS}"]
    small = ["iterated.first_cold_start=false", "iterated.pool=2"]
    cfg = compose("rl", RlConfig, ["recipe=quickstart", *tools_on, *small])
    folder = RunDir(tmp_path / "run")
    run = Run(cfg, folder, SimpleNamespace(rollouts=rollouts), tmp_path / "policy")
    with pytest.raises(Opened, match=str(tools)):
        stage(run)


def test_tool_tasks_can_be_filtered_but_not_learned_whole(tmp_path):
    cfg = compose("rl", RlConfig, ["recipe=tools"])
    run = Run(cfg, RunDir(tmp_path / "run"), SimpleNamespace(), tmp_path / "policy")
    prompts, count = indexed_prompts(run, tmp_path, 7, "iterated.prompts")
    assert count == 7 and isinstance(prompts, ToolTasks)
    with pytest.raises(ConfigError, match="can't be solved without tools, and MPO learns"):
        mpo(run)


def test_a_cold_start_mixes_both_kinds_and_travels_to_its_ranks(configured):
    cfg = ColdStartConfig(tasks=MIX | {"digits/sum": 2.0})
    examples = pickle.loads(pickle.dumps(cold_start_examples(cfg, configured)))
    made = [examples(k) for k in range(60)]
    tool_share = sum(isinstance(example, ToolTrace) for example in made) / 60
    assert 0.3 < tool_share < 0.7
    plain = cold_start_examples(ColdStartConfig(tasks={"digits/sum": 1.0}), ToolConfig())
    assert isinstance(plain, ColdStartTraces)
    with pytest.raises(ConfigError, match="tools/small_digits needs the tool crop"):
        cold_start_examples(cfg, replace(configured, names=["search"]))


def test_the_recipe_is_one_of_tool_tasks():
    cfg = compose("rl", RlConfig, ["recipe=tools", "tools.call_seconds=3"])
    assert needs_tools(cfg.data.tasks) and needs_tools(cfg.evaluation.tasks)
    assert cfg.tools.names == ["search", "crop"] and cfg.tools.call_seconds == 3
    with pytest.raises(ConfigError, match="max_turns=1 leaves no turn after a call"):
        compose("rl", RlConfig, ["recipe=tools", "tools.max_turns=1"])


CALL = '<think>a</think><tool_call>{"name": "search", "arguments": {}}</tool_call>'
RESULT = "<tool_response>\nx\n</tool_response>"
ANSWER = "<think>b</think><answer>\\boxed{1}</answer>"


@pytest.mark.parametrize(
    ("response", "arguments", "reason"),
    [
        (CALL + RESULT + ANSWER, {}, ""),
        (ANSWER, {}, ""),
        (ANSWER, {"min_calls": 1}, "0 calls, at least 1"),
        (CALL + RESULT + CALL + RESULT + ANSWER, {"max_calls": 1}, "2 calls, at most 1"),
        (CALL + RESULT + CALL, {}, "ends with tool_call"),
        (CALL.replace("search", "crop") + RESULT + ANSWER, {}, "a call of 'crop'"),
        (CALL + RESULT.replace("x", "error: y") + ANSWER, {"allow_errors": False}, "1 failed call"),
        (CALL + RESULT.replace("x", "error: y") + ANSWER, {}, ""),
        ("<tool_call>{}</tool_call>", {}, "after the start"),
    ],
)
def test_agentic_format(response, arguments, reason):
    result = agentic_format(response, {"tools": ["search"]}, **arguments)
    assert result.value == (0.0 if reason else 1.0)
    assert reason in result.details.get("reason", "")
