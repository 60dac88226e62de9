"""Weights, gates, ranges, routing, normalisation and clipping."""

import pytest

from rewards.composition import SpecError, parts_of, route, total
from rewards.config import RewardConfig
from rewards.result import RewardResult


def combine(entries, values, **config):
    settings = RewardConfig(**config)
    parts = parts_of({"id": "s", "rewards": entries}, settings)
    results = {p.name: RewardResult(v) for p, v in zip(parts, values, strict=True)}
    return total(parts, results, settings)


def test_weighted_sum():
    entries = [{"rule": "math", "weight": 1.0}, {"rule": "format", "weight": 0.1}]
    assert combine(entries, [1.0, 1.0]) == pytest.approx(1.1)
    assert combine(entries, [0.0, 1.0]) == pytest.approx(0.1)


def test_failed_part_makes_the_total_unknown():
    assert combine([{"rule": "math"}, {"rule": "format"}], [None, 1.0]) is None
    assert combine([{"rule": "math", "weight": 0.0}, {"rule": "format"}], [None, 1.0]) is None


def test_gate_format_before_content():
    entries = [{"rule": "format", "gate": True, "weight": 0.5}, {"rule": "math"}]
    assert combine(entries, [1.0, 1.0]) == 1.5
    assert combine(entries, [0.0, 1.0]) == 0.0
    soft = [{"rule": "format", "gate": 0.4, "weight": 0.5}, {"rule": "math"}]
    assert combine(soft, [0.5, 1.0]) == 1.25
    assert combine(soft, [0.25, 1.0]) == 0.125


def test_range_maps_marks_to_the_unit_interval():
    entry = [{"rule": "judge", "range": [1, 5]}]
    assert [combine(entry, [v]) for v in (1, 3, 5, 9, -3)] == [0.0, 0.5, 1.0, 1.0, 0.0]


def test_normalise_and_clip():
    entries = [{"rule": "a", "weight": 3.0}, {"rule": "b", "weight": -1.0}]
    assert combine(entries, [1.0, 1.0], normalise="weights") == 0.5
    assert combine(entries, [2.0, 0.0], clip=[-1.0, 1.0]) == 1.0
    assert combine(entries, [0.0, 9.0], clip=[-1.0, 1.0]) == -1.0


def test_routes_by_task_type():
    routes = {"*": [{"rule": "exact"}], "digits/*": [{"rule": "math"}], "digits/box": []}
    assert route("text/ocr", routes) == [{"rule": "exact"}]
    assert route("digits/sum", routes) == [{"rule": "math"}]
    config = RewardConfig(routes=routes)
    own = {"id": 1, "task_type": "digits/sum", "rewards": [{"rule": "format"}]}
    assert [p.rule for p in parts_of(own, config)] == ["format"]
    assert [p.rule for p in parts_of({"id": 1, "task_type": "digits/max"}, config)] == ["math"]
    with pytest.raises(SpecError, match="no rewards"):
        parts_of({"id": 1, "task_type": "digits/box"}, config)


def test_names_are_unique_and_arguments_pass_through():
    entries = [
        {"rule": "dir/f.py:good"},
        {"rule": "pkg.mod.good", "k": 2, "verifier": False, "deadline_s": 9},
        {"rule": "math", "name": "good"},
    ]
    parts = parts_of({"id": "s", "rewards": entries}, RewardConfig())
    assert [p.name for p in parts] == ["good", "good#2", "good#3"]
    assert parts[1].args == {"k": 2} and parts[1].deadline_s == 9.0


@pytest.mark.parametrize(
    "entry",
    ["math", {"weight": 1}, {"rule": "math", "weight": "much"}, {"rule": "m", "range": [2, 1]}],
)
def test_bad_entries_are_named(entry):
    with pytest.raises(SpecError, match="'s7'"):
        parts_of({"id": "s7", "rewards": [entry]}, RewardConfig())
