"""Retrieval: what a searched answer earns, what a guess does, and where examples come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain.data.sample import Sample, SampleError
from pretrain.run.errors import ConfigError
from rl.alignment.config import AlignmentConfig, JudgeConfig, RetrievalConfig
from rl.alignment.examples import AlignmentExamples
from rl.alignment.marks import marks
from rl.alignment.retrieval import with_retrieval
from rl.tool_tasks import with_documents
from rollout.tools.traces import ToolTrace


def question(**more: Any) -> Sample:
    fields: dict[str, Any] = {
        "id": "q",
        "messages": [{"role": "user", "content": "number of red cat dog?"}],
        "answer": "37",
        "task_type": "tools/lookup",
        "rewards": [{"rule": "exact", "weight": 1.0}, {"rule": "agentic_format", "weight": 0.1}],
        "mode": "think",
    }
    return Sample(**(fields | more)).validate()


def made(sample: Sample, **settings: Any) -> Sample:
    judge = settings.pop("judge", JudgeConfig())
    own = RetrievalConfig(weight=1.0, **settings)
    cfg = AlignmentConfig(retrieval=own, judge=judge)
    return with_retrieval(sample, np.random.default_rng(0), cfg)


SEARCHED = (
    '<think>read red cat dog</think><tool_call>{"name": "search", "arguments": {}}</tool_call>'
    "<tool_response>\n[1] red cat dog 37\n</tool_response>"
    "<think>red cat dog 37</think><answer>\\boxed{37}</answer>"
)


def test_a_searched_answer_earns_everything_and_a_guess_does_not(judge_reply):
    prompt = made(question())
    assert prompt.extra["tools"] == ["search"]

    def found(text: str) -> dict[str, float]:
        return marks(judge_reply(prompt, text))

    assert found(SEARCHED) == {"answer": 1.0, "format": 1.0, "formed": 1.0, "correct": 1.0}
    guess = found("<think>x</think><answer>\\boxed{37}</answer>")
    assert guess["answer"] == 1.0 and guess["format"] == 0.0
    assert found(SEARCHED.replace("search", "crop"))["format"] == 0.0
    assert found(SEARCHED.replace("<tool_response>", ""))["format"] == 0.0
    assert found(SEARCHED.replace("boxed{37}", "boxed{38}"))["correct"] == 0.0
    free = made(question(), min_calls=0)
    direct = "<think>x</think><answer>\\boxed{37}</answer>"
    assert marks(judge_reply(free, direct))["format"] == 1.0
    gated = made(question(), format_gate=True)
    assert judge_reply(gated, direct).total == 0.0
    assert judge_reply(gated, SEARCHED).total == pytest.approx(1.3)


def test_a_judge_sees_the_search_and_rows_need_some_reward():
    judge = JudgeConfig(url="http://127.0.0.1:9/v1", model="m")
    rewards = made(question(), judge=judge).rewards
    assert [(e["rule"], e.get("task")) for e in rewards] == [
        ("exact", None),
        ("judge", "retrieval"),
        ("agentic_format", None),
    ]
    assert made(question(extra={"tools": ["wiki"]})).extra["tools"] == ["wiki"]
    with pytest.raises(SampleError, match="no rewards of its own"):
        made(question(rewards=[]))
    assert made(question(rewards=[]), judge=judge).rewards[0]["rule"] == "judge"


def test_examples_are_whole_conversations_with_the_tools_own_results(recipe, tmp_path: Path):
    cfg = replace(recipe.alignment)
    for name in cfg.sources():
        setattr(cfg, name, replace(getattr(cfg, name), weight=float(name == "retrieval")))
    tools = with_documents(recipe.tools, tmp_path)
    examples = AlignmentExamples(cfg, tools, tmp_path)
    for index in range(5):
        trace = examples(index)
        assert isinstance(trace, ToolTrace) and len(trace.turns) == 2
        answer = trace.turns[1].rpartition("{")[2].partition("}")[0]
        assert answer in trace.results[0][0].text
        assert trace.messages[0] == {"role": "system", "content": "tools: search"}
    own = replace(cfg.retrieval, files=["rows.jsonl"])
    with pytest.raises(ConfigError, match=r"alignment\.retrieval\.files"):
        AlignmentExamples(replace(cfg, retrieval=own), tools, tmp_path)
