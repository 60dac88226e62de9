"""Retrieval: the world's facts, what the tool finds, and conversations over two turns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain.data.sample import SampleError
from rl.alignment.config import AlignmentConfig, JudgeConfig, RetrievalConfig
from rl.alignment.examples import AlignmentExamples
from rl.alignment.facts import ATTRIBUTES, FactStream, document, entities, fact, world_search
from rl.alignment.marks import marks
from rl.alignment.retrieval import with_retrieval, written_retrieval
from rollout.tools import open_tools
from rollout.tools.tool import ToolContext


@pytest.fixture(scope="module")
def search() -> Any:
    return world_search()


def test_facts_are_chance_and_held_out_entities_are_others():
    train, test = entities("train"), entities("test")
    assert len(train) + len(test) == 16 * 90 and not set(train) & set(test)
    for attribute, values in ATTRIBUTES.items():
        found = [fact(name, attribute) for name in train + test]
        shares = [found.count(value) / len(found) for value in values]
        assert max(shares) - min(shares) < 0.06


def test_the_tool_finds_each_entity_by_its_name(search):
    for name in entities("test")[:50]:
        text = search.call({"query": name}, ToolContext()).text
        assert text == f"[1] {name}: {document(name)}"
    assert search.call({"query": "nothing"}, ToolContext()).text == "nothing found"


def test_a_searched_answer_earns_everything_and_a_guess_does_not(search, judge_reply):
    prompt = with_retrieval(FactStream(3)[0], np.random.default_rng(0), AlignmentConfig())
    assert prompt.extra["tools"] == ["search"] and prompt.mode == "think"
    turns = written_retrieval(prompt, {"search": search}, "names", final=True)
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user", "assistant"]
    assert turns[0]["content"] == "tools: search"
    text = "".join(turn["content"][0]["text"] for turn in turns[2:])
    found = marks(judge_reply(prompt, text))
    assert found["answer"] == found["format"] == found["correct"] == 1.0
    guess = f"<think>x</think><answer>\\boxed{{{prompt.answer}}}</answer>"
    assert marks(judge_reply(prompt, guess))["answer"] == 1.0
    broken = text.replace("<tool_response>", "")
    assert marks(judge_reply(prompt, broken))["format"] == 0.0
    wrong = text.replace(f"\\boxed{{{prompt.answer}}}", "\\boxed{sun}")
    assert marks(judge_reply(prompt, wrong))["correct"] == 0.0
    first = written_retrieval(prompt, {"search": search}, "names", final=False)
    assert first == turns[:3]


def test_a_search_that_does_not_help_is_no_example(search):
    prompt = with_retrieval(FactStream(3)[0], np.random.default_rng(0), AlignmentConfig())
    with pytest.raises(SampleError, match="is not in"):
        written_retrieval(replace(prompt, answer="unsaid"), {"search": search}, "names", final=True)


def test_a_judge_sees_the_search_and_rows_need_some_reward():
    judge = JudgeConfig(url="http://127.0.0.1:9/v1", model="m")
    cfg = AlignmentConfig(judge=judge, retrieval=RetrievalConfig(weight=1.0))
    rewards = with_retrieval(FactStream(3)[0], np.random.default_rng(0), cfg).rewards
    assert [(e["rule"], e.get("task")) for e in rewards[1:]] == [
        ("judge", "retrieval"),
        ("format", None),
    ]
    bare = RetrievalConfig(weight=1.0, format_weight=0.0)
    unscored = replace(FactStream(3)[0], rewards=[])
    with pytest.raises(SampleError, match="no rewards of its own"):
        with_retrieval(unscored, np.random.default_rng(0), AlignmentConfig(retrieval=bare))


def test_examples_show_search_and_answer_as_the_recipes_tool_gives_them(recipe, tmp_path: Path):
    cfg = replace(recipe.alignment)
    for name in cfg.sources():
        setattr(cfg, name, replace(getattr(cfg, name), weight=float(name == "retrieval")))
    examples = AlignmentExamples(cfg, recipe.tools, tmp_path)
    lengths = {len(examples(index)) for index in range(20)}
    assert lengths == {3, 5}
    assert list(open_tools(recipe.tools)) == [cfg.retrieval.tool]
