"""Retrieval-augmented answers: questions that need a search, answered over several turns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pretrain.data.render import render
from pretrain.data.sample import Sample, SampleError
from rl.alignment.config import AlignmentConfig
from rl.alignment.prompts import answer_entries, format_entry, marked
from rl.alignment.prompts import query as asked
from rollout.tools.prompting import with_tools
from rollout.tools.tool import Tool, ToolContext


def with_retrieval(sample: Sample, rng: np.random.Generator, cfg: AlignmentConfig) -> Sample:
    """The sample may search; rewarded are answer, agentic structure and, by a judge, the search.

    A row's `documents` and `answer` are shown to the judge.
    """
    own = cfg.retrieval
    rewards = [
        *answer_entries(sample, own.answer_weight),
        *cfg.judge.entry("judge", name="process", task="retrieval", weight=own.judge_weight),
        *format_entry(own.format_weight, own.format_gate, mode="agentic"),
    ]
    if not rewards:
        raise SampleError(f"sample {sample.id!r}: has no rewards of its own, and no judge is set")
    extra = sample.extra | {"tools": [own.tool]}
    return marked(
        replace(sample, rewards=rewards, mode="think", extra=extra), "retrieval", "search"
    )


def written_retrieval(
    sample: Sample, tools: Mapping[str, Tool], style: str, final: bool
) -> list[dict[str, Any]]:
    """A conversation whose last turn is the search, or (`final`) the answer after it.

    The turns stand as the rollouts write them: tools in the system message, results in a user's
    turn. Raises `SampleError` when the search doesn't find the answer.
    """
    name = sample.extra["tools"][0]
    entity = sample.solution or asked(sample)
    call = json.dumps({"name": name, "arguments": {"query": entity}})
    messages = with_tools(render(sample), [tools[name]], style)
    search = _turn("assistant", f"<think>{entity}</think><tool_call>{call}</tool_call>")
    if not final:
        return [*messages, search]
    found = tools[name].call({"query": entity}, ToolContext(sample.id)).text
    if sample.answer not in found:
        raise SampleError(f"sample {sample.id!r}: {sample.answer!r} is not in {found!r}")
    response = _turn("user", f"<tool_response>\n{found}\n</tool_response>")
    summary = found.rpartition(": ")[2]
    answer = f"<think>{summary}</think><answer>\\boxed{{{sample.answer}}}</answer>"
    return [*messages, search, response, _turn("assistant", answer)]


def _turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}
