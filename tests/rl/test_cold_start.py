"""The cold start's traces: how many show a hint, reason, or answer at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from pretrain.data.render import hint, query
from pretrain.data.sample import HINT_LEVELS
from rl.cold_start import ColdStartTraces
from rl.config import ColdStartConfig

COUNT = 600
LEVELS = range(1, HINT_LEVELS + 1)


def traces(mode: str, task: str = "digits/sum_hard", **settings: Any) -> ColdStartTraces:
    return ColdStartTraces(ColdStartConfig(tasks={task: 1.0}, modes={mode: 1.0}, **settings))


def shown(own: ColdStartTraces, index: int) -> int:
    """The level of the hint that stands in trace `index`'s query; 0: none does."""
    sample, text = own.stream[index], query(replace(own.stream[index], messages=own(index)[:-1]))
    if "Hint: " not in text:
        return 0
    (level,) = (k for k in LEVELS if f"\nHint: {hint(sample, k)} /think" in text)
    return level


def test_the_share_of_hinted_traces_is_spread_over_the_levels():
    own = traces("think", hinted_share=0.5)
    levels = Counter(shown(own, index) for index in range(COUNT))
    # ±4 standard errors of a share of 0.5, and of one of 0.1 for each level
    assert levels[0] / COUNT == pytest.approx(0.5, abs=0.085)
    assert set(levels) == set(range(HINT_LEVELS + 1))
    assert all(levels[k] / COUNT == pytest.approx(0.1, abs=0.05) for k in LEVELS)


def test_a_task_can_always_show_a_hint():
    own = traces("think", hinted_tasks=["digits/sum_hard"])
    levels = Counter(shown(own, index) for index in range(COUNT))
    assert set(levels) == set(LEVELS)
    assert not any(shown(traces("think", hinted_tasks=["digits/sum"]), k) for k in range(40))
    assert not any(
        shown(traces("no_think", hinted_tasks=["digits/sum_hard"]), k) for k in range(40)
    )


def test_no_hint_without_a_share_in_no_think_mode_or_where_the_sample_has_none():
    for own in (
        traces("think"),
        traces("no_think", hinted_share=1.0),
        traces("think", task="video/order", hinted_share=1.0),
    ):
        assert not any(shown(own, index) for index in range(40))


def test_auto_think_answers_at_once_in_the_configured_share():
    own = traces("auto_think", direct_share=0.25)
    replies = [own(index)[-1]["content"][0]["text"] for index in range(COUNT)]
    direct = sum("<think>" not in text for text in replies) / COUNT
    assert direct == pytest.approx(0.25, abs=0.075)
    assert all("<answer>" in text for text in replies)


def test_a_trace_is_a_pure_function_of_its_place():
    first, second = traces("think", hinted_share=0.5), traces("think", hinted_share=0.5)
    last = [str(second(index)[-2:]) for index in reversed(range(20))]
    assert [str(first(index)[-2:]) for index in range(20)] == last[::-1]
