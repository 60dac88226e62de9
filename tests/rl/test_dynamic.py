"""Dynamic sampling: how much is drawn, what is kept, and where it stops."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pretrain.run.errors import ConfigError
from rl.dynamic import DynamicConfig, draw


@dataclass
class FakeGroup:
    """Prompt `number`; every third one has responses of both kinds."""

    number: int


def informative(group):
    return group.number % 3 == 0


class Source:
    """Prompts 0, 1, 2 …; the first four are a step's own."""

    def __init__(self):
        self.position = 4
        self.batches = []

    def take(self, count):
        self.position += count
        return list(range(self.position - count, self.position))

    def ask(self, samples, batch):
        self.batches.append((batch, list(samples)))
        return [FakeGroup(number) for number in samples]


def run(budget):
    source = Source()
    return draw(DynamicConfig(budget), range(4), source.take, source.ask, informative), source


def test_with_a_budget_of_one_nothing_is_drawn_and_nothing_left_out():
    drawn, source = run(1)
    assert [g.number for g in drawn.groups] == [g.number for g in drawn.seen] == [0, 1, 2, 3]
    assert source.position == 4 and not DynamicConfig(1).on


def test_prompts_are_drawn_until_the_update_is_full():
    drawn, source = run(10)
    assert [g.number for g in drawn.groups] == [0, 3, 6, 9]
    # Two of four were informative, (2 + 1) / (4 + 1) expected of the next: two missing need four.
    assert source.batches[1] == (1, [4, 5, 6, 7])
    metrics = drawn.metrics()
    assert metrics["dynamic/prompts"] == source.position == len(drawn.seen)
    assert metrics["dynamic/filled_share"] == 1
    assert metrics["dynamic/batches"] == 3
    assert metrics["dynamic/informative_share"] == pytest.approx(4 / len(drawn.seen))


def test_the_budget_is_a_bound():
    drawn, source = run(1.5)
    assert source.position == len(drawn.seen) == 6
    assert [g.number for g in drawn.groups] == [0, 3]
    assert drawn.metrics()["dynamic/filled_share"] == 0.5


def test_surplus_groups_are_counted():
    def ask(samples, batch):  # the first batch is of no use, all of the second is
        return [FakeGroup(batch - 1) for _ in samples]

    drawn = draw(DynamicConfig(3), [1, 2, 4], Source().take, ask, informative)
    assert len(drawn.groups) == 3 and drawn.metrics()["dynamic/surplus"] == 3


@pytest.mark.parametrize("budget", [0.5, 0, 1000])
def test_a_bad_budget_is_named(budget):
    with pytest.raises(ConfigError, match="budget"):
        DynamicConfig(budget)
