"""Progressive hints: who is asked again, at which level, and what is counted."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from pretrain.data.sample import Sample
from pretrain.run.errors import ConfigError, KeyeError
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


HINTS = ["red", "blue", "green", "grey", "pink"]


def run(needs, hints, max_level, sampler=None, **settings):
    world = World(needs)
    samples = [sample(name, hints.get(name, HINTS)) for name in needs]
    sampler = sampler or HintSampler(HintConfig(max_level=max_level, **settings))
    groups, counts = sampler.sample(samples, world.generate, lambda g: g.solved, lambda g: 10)
    return world, groups, counts.metrics()


def test_only_what_is_known_to_be_wrong_is_asked_again():
    world = World({"wrong": None, "judged": None})
    samples = [sample(name, HINTS) for name in world.needs]
    groups, counts = HintSampler(HintConfig(max_level=2)).sample(
        samples, world.generate, lambda g: g.solved, needs_hint=lambda g: g.id == "wrong"
    )
    assert [group.level for group in groups] == [0, 0]
    assert [level for name, level in world.asked if name == "judged"] == [0]
    assert [level for name, level in world.asked if name == "wrong"] == [0, 1, 2]
    assert counts.metrics()["hints/L0/solve_rate"] == 0


def test_the_lowest_level_that_solves_takes_the_place_of_the_unsolved_group():
    needs = {"a": 0, "b": 2, "c": 4, "d": None}
    world, groups, metrics = run(needs, {}, max_level=5)
    assert [(g.id, g.level) for g in groups] == [("a", 0), ("b", 2), ("c", 4), ("d", 0)]
    assert [level for name, level in world.asked if name == "a"] == [0]
    assert [level for name, level in world.asked if name == "b"] == [0, 1, 2]
    assert [level for name, level in world.asked if name == "d"] == [0, 1, 2, 3, 4, 5]
    assert metrics["hints/all_wrong_share"] == 0.75
    assert metrics["hints/rescued_share"] == 0.5
    assert metrics["hints/L0/solve_rate"] == 0.25
    assert metrics["hints/L2/asked"] == 3
    assert metrics["hints/L2/solve_rate"] == pytest.approx(1 / 3)
    assert metrics["hints/L5/solve_rate"] == 0
    # The histogram of minimal levels, and what a solved prompt has cost: 15 groups for 3 prompts.
    shares = [metrics[f"hints/L{level}/share"] for level in range(6)]
    assert shares == [0.25, 0, 0.25, 0, 0.25, 0] and metrics["hints/unsolved_share"] == 0.25
    assert metrics["hints/tokens_per_solved_prompt"] == pytest.approx(15 * 10 / 3)


def test_the_cap_is_kept_and_zero_switches_hints_off():
    _, groups, metrics = run({"a": 3}, {}, max_level=2)
    assert (groups[0].level, groups[0].solved) == (0, False)
    assert "hints/L3/asked" not in metrics
    world, _, metrics = run({"a": 1}, {}, max_level=0)
    assert world.asked == [("a", 0)]
    assert metrics == {"hints/all_wrong_share": 1.0}


def test_missing_levels_are_skipped_and_counted():
    hints = {"a": ["", "blue", "", "grey", "pink"], "b": None}
    world, groups, metrics = run({"a": 4, "b": 1}, hints, max_level=5)
    assert [level for name, level in world.asked if name == "a"] == [0, 2, 4]
    assert [level for name, level in world.asked if name == "b"] == [0]
    assert groups[0].level == 4
    assert metrics["hints/missing"] == 2 + 5


def test_a_prompt_starts_from_the_level_it_needed_and_is_weaned_off():
    sampler = HintSampler(HintConfig(max_level=5))
    asked = []
    for need in (3, 3, 1, 1, 0, 0):
        world, _, metrics = run({"a": need}, {}, 5, sampler)
        asked.append([level for _, level in world.asked])
    # Needed L3; starts there; from L2, twice (solved: it falls) … and in the end with no hint.
    assert asked == [[0, 1, 2, 3], [3], [2], [1], [0], [0]]
    assert metrics["hints/remembered"] == 0 and metrics["hints/unhinted_share"] == 1


def test_a_level_that_fell_too_far_rises_again_and_an_unsolved_prompt_is_tried_with_less():
    sampler = HintSampler(HintConfig(max_level=4))
    asked = []
    for need in (3, 3, 3, None, None, None):
        world, groups, _ = run({"a": need}, {}, 4, sampler)
        asked.append([level for _, level in world.asked])
    assert asked == [[0, 1, 2, 3], [3], [2, 3], [3, 4], [4], [3, 4]]
    assert groups[0].level == 3  # unsolved: the first group that was asked


def test_a_reroll_needs_levels_and_remembers_nothing():
    with pytest.raises(ConfigError, match=r"hints\.max_level"):
        HintConfig(reroll=True)
    sampler = HintSampler(HintConfig(max_level=3, reroll=True))
    run({"a": 3}, {}, 3, sampler)
    assert len(sampler.memory) == 0


def test_half_a_level_of_decay_takes_two_visits_a_level():
    sampler = HintSampler(HintConfig(max_level=5, decay=0.5))
    asked = [run({"a": 0 if visit else 2}, {}, 5, sampler)[0].asked[0][1] for visit in range(6)]
    assert asked == [0, 2, 2, 1, 1, 0]


def test_the_memory_goes_on_in_a_resumed_job_and_forgets_the_oldest():
    config = HintConfig(max_level=5, memory_size=2)
    first = HintSampler(config)
    run({"a": 2, "b": 3, "c": 4}, {}, 5, first)
    state = json.loads(json.dumps(first.state()))
    assert state == {"levels": {"b": 3.0, "c": 4.0}}
    resumed = HintSampler(config)
    resumed.load_state(state)
    world, _, _ = run({"a": 5, "b": 3, "c": 4}, {}, 5, resumed)
    assert world.asked[:3] == [("a", 0), ("b", 3), ("c", 4)]
    with pytest.raises(KeyeError, match="level 7 for prompt 'x'"):
        resumed.load_state({"levels": {"x": 7}})


def test_without_memory_every_visit_starts_without_a_hint():
    sampler = HintSampler(HintConfig(max_level=5, remember=False))
    for _ in range(2):
        world, _, metrics = run({"a": 2}, {}, 5, sampler)
        assert [level for _, level in world.asked] == [0, 1, 2]
    assert metrics["hints/remembered"] == 0


def test_a_remembered_level_without_a_usable_hint_gives_the_next_one():
    sampler = HintSampler(HintConfig(max_level=5))
    run({"a": 2, "b": 5}, {}, 5, sampler)
    missing = {"a": ["red", "", "", "grey", "pink"], "b": ["red", "", "", "", ""]}
    world, _, _ = run({"a": 4, "b": 0}, missing, 5, sampler)
    assert world.asked == [("a", 4), ("b", 0)]


def test_a_leaking_hint_is_skipped_counted_and_reported_once(tmp_path):
    file = tmp_path / "rejections.jsonl"
    hints = {"a": ["the answer is 1", "blue", "4 - 3", "grey", "pink 1"]}
    config = HintConfig(max_level=5, remember=False)
    for _ in range(2):  # a resumed job reads what the first one has reported
        world, groups, metrics = run({"a": 4}, hints, 5, HintSampler(config, file))
        assert [level for _, level in world.asked] == [0, 2, 4]
        assert metrics["hints/leaking"] == 2 and groups[0].level == 4
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["id"], row["level"]) for row in rows] == [("a", 1), ("a", 3)]
    assert "contains the answer" in rows[0]["reason"] and rows[0]["hint"] == "the answer is 1"
    world, _, metrics = run({"a": 1}, hints, 5, check_leaks=False)
    assert [level for _, level in world.asked] == [0, 1] and metrics["hints/leaking"] == 0


@pytest.mark.parametrize("bad", [{"max_level": 6}, {"decay": -1}, {"memory_size": 0}])
def test_bad_settings_are_named(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        HintConfig(**bad)
