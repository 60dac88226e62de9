"""Progressive hints: who is asked again, at which level, and what is counted."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pretrain.data.sample import Sample
from rollout.config import HintConfig
from rollout.hint_sampler import HintSampler


@dataclass
class FakeGroup:
    """What a caller's group looks like to the sampler: anything at all."""

    id: str
    level: int
    solved: bool


def sample(name: str, hints: list[str] | None) -> Sample:
    return Sample(
        id=name,
        messages=[{"role": "user", "content": [{"type": "text", "text": "sum?"}]}],
        answer="1",
        task_type="digits/sum",
        hints=hints,
    )


class World:
    """Sample `name` is solved from level `needs[name]` on (None: never)."""

    def __init__(self, needs: dict[str, int | None]) -> None:
        self.needs = needs
        self.asked: list[tuple[str, int]] = []

    def generate(self, samples, levels):
        groups = []
        for item, level in zip(samples, levels, strict=True):
            self.asked.append((item.id, level))
            need = self.needs[item.id]
            groups.append(FakeGroup(item.id, level, need is not None and level >= need))
        return groups


HINTS = ["one", "two", "three", "four", "five"]


def run(needs, hints, max_level):
    world = World(needs)
    samples = [sample(name, hints.get(name, HINTS)) for name in needs]
    groups, metrics = HintSampler(HintConfig(max_level=max_level)).sample(
        samples, world.generate, lambda group: group.solved
    )
    return world, groups, metrics


def test_the_lowest_level_that_solves_takes_the_place_of_the_unsolved_group():
    needs = {"a": 0, "b": 2, "c": 4, "d": None}
    world, groups, metrics = run(needs, {}, max_level=5)
    assert [(g.id, g.level) for g in groups] == [("a", 0), ("b", 2), ("c", 4), ("d", 0)]
    assert [level for name, level in world.asked if name == "a"] == [0]
    assert [level for name, level in world.asked if name == "b"] == [0, 1, 2]
    assert [level for name, level in world.asked if name == "d"] == [0, 1, 2, 3, 4, 5]
    assert metrics["hints/all_wrong_share"] == 0.75
    assert metrics["hints/rescued_share"] == 0.5
    assert metrics["hints/L2/asked"] == 3
    assert metrics["hints/L2/solve_rate"] == pytest.approx(1 / 3)
    assert metrics["hints/L5/solve_rate"] == 0


def test_the_cap_is_kept_and_zero_switches_hints_off():
    _, groups, metrics = run({"a": 3}, {}, max_level=2)
    assert (groups[0].level, groups[0].solved) == (0, False)
    assert "hints/L3/asked" not in metrics
    world, _, metrics = run({"a": 1}, {}, max_level=0)
    assert world.asked == [("a", 0)]
    assert metrics == {"hints/all_wrong_share": 1.0}


def test_missing_levels_are_skipped_and_counted():
    hints = {"a": ["", "two", "", "four", "five"], "b": None}
    world, groups, metrics = run({"a": 4, "b": 1}, hints, max_level=5)
    assert [level for name, level in world.asked if name == "a"] == [0, 2, 4]
    assert [level for name, level in world.asked if name == "b"] == [0]
    assert groups[0].level == 4
    assert metrics["hints/missing"] == 2 + 5
