"""Retrieval-augmented answers: questions that need a search, answered over several turns.

In the tiny world they are the tool tasks' (`rl.tool_tasks`), whose facts only the documents hold.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pretrain.data.sample import Sample, SampleError
from rl.alignment.config import AlignmentConfig
from rl.alignment.prompts import agentic_entry, answer_entries, marked


def with_retrieval(sample: Sample, rng: np.random.Generator, cfg: AlignmentConfig) -> Sample:
    """The sample may search; rewarded are answer, agentic structure and, by a judge, the search.

    A row's `documents` and `answer` are shown to the judge; a row may name its own `tools`.
    """
    own = cfg.retrieval
    rewards = [
        *answer_entries(sample, own.answer_weight),
        *cfg.judge.entry("judge", name="process", task="retrieval", weight=own.judge_weight),
    ]
    if not rewards:
        raise SampleError(f"sample {sample.id!r}: has no rewards of its own, and no judge is set")
    rewards += agentic_entry(own.format_weight, own.format_gate, own.min_calls)
    tools = sample.extra.get("tools") or [own.tool]
    made = replace(sample, rewards=rewards, mode="think", extra=sample.extra | {"tools": tools})
    return marked(made, "retrieval", sample.task_type)
