"""Taxonomies as files, and draws balanced over them."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pretrain.run.errors import ConfigError
from rl.permutation import mix, permuted, uniform
from rl.sft.taxonomy import BalancedRows, load_taxonomy


@pytest.mark.parametrize("size", [1, 2, 5, 64, 1000])
def test_a_permutation_hits_every_place_once(size: int):
    orders = [[permuted(k, size, key) for k in range(size)] for key in (1, 2)]
    assert all(sorted(order) == list(range(size)) for order in orders)
    if size >= 64:
        assert orders[0] != orders[1] != list(range(size))
        # No trend: the rank correlation with the identity is that of chance.
        assert abs(np.corrcoef(orders[0], range(size))[0, 1]) < 4 / np.sqrt(size)


def test_a_place_outside_is_refused():
    with pytest.raises(ValueError, match="place 5 is not in 0…4"):
        permuted(5, 5, 0)


def test_hashed_numbers_are_uniform():
    values = np.array([uniform(7, k) for k in range(4000)])
    assert values.min() >= 0 and values.max() < 1
    counts = np.histogram(values, 10, (0, 1))[0]
    assert ((counts - 400) ** 2 / 400).sum() < 27.9  # χ² with 9 degrees of freedom, p = 0.001
    assert mix(1, 2) != mix(2, 1) and mix(-1) == mix(2**64 - 1)


TREE = """
math:
  weight: 2
  algebra: {linear: 3, quadratic: }
  sums:
ocr/read: 0.5
logic: [puzzles, {name: grids, weight: 4, children: [small, {name: large, weight: 2}]}]
"""
EXPECTED = {
    "math/algebra.linear": 6.0,
    "math/algebra.quadratic": 2.0,
    "math/sums": 2.0,
    "ocr/read": 0.5,
    "logic/puzzles": 1.0,
    "logic/grids.small": 4.0,
    "logic/grids.large": 8.0,
}


def test_a_tree_a_list_and_a_table_read_alike(tmp_path: Path):
    (tmp_path / "tree.yaml").write_text(TREE)
    assert load_taxonomy(tmp_path / "tree.yaml") == EXPECTED
    entries = [{"name": name, "weight": weight} for name, weight in EXPECTED.items()]
    (tmp_path / "list.json").write_text(json.dumps([*entries, "a/b"]))
    assert load_taxonomy(tmp_path / "list.json") == EXPECTED | {"a/b": 1.0}
    rows = "".join(f"{name}\t{weight}\n" for name, weight in EXPECTED.items())
    (tmp_path / "table.tsv").write_text(f"# type, weight\n\n{rows}a/b\n")
    assert load_taxonomy(tmp_path / "table.tsv") == EXPECTED | {"a/b": 1.0}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.tsv", "a/b\t1\na/b\t2\n", r"t\.tsv:2: task type 'a/b' is listed twice"),
        ("t.tsv", "a/b\tmany\n", r"t\.tsv:1: the weight must be a number ≥ 0, got 'many'"),
        ("t.tsv", "algebra\n", r"t\.tsv:1: 'algebra' must read `domain/kind`"),
        ("t.tsv", "a/b\t0\n", "no task type with a weight above 0"),
        ("t.yaml", "a: {b: 1}\na: {c: 1}\n", r"t\.yaml:1: key 'a' stands twice"),
        ("t.yaml", "a: {yes: 1}\n", "True is no name of a task type; write it in quotes"),
        ("t.yaml", "a: {b: -1}\n", "a/b: the weight must be a number ≥ 0, got -1"),
        ("t.yaml", "a: [", "is no YAML"),
        ("t.yaml", "3", "neither a list nor a tree"),
        ("t.json", '{"a": {"b": 1, "b": 2}}', "key 'b' stands twice in one object"),
        ("t.json", '[{"name": "a/b", "wieght": 1}]', "a/b has an unknown key 'wieght'"),
        ("t.json", "{", "is no JSON"),
        ("t.csv", "a/b", r"must end in \.tsv"),
    ],
)
def test_a_wrong_file_is_named_with_the_reason(tmp_path: Path, name: str, text: str, message: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_taxonomy(tmp_path / name)


def test_an_absent_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_taxonomy(tmp_path / "none.tsv")


TYPES = ["big/a"] * 900 + ["mid/b"] * 90 + ["small/c"] * 10


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_shares_follow_the_exponent_within_one_draw_an_epoch(exponent: float):
    rows = BalancedRows(TYPES, exponent=exponent, seed=3)
    mass = np.array([900.0, 90.0, 10.0]) ** exponent
    expected = 1000 * mass / mass.sum()
    for epoch in range(3):
        drawn = Counter(TYPES[rows(epoch * 1000 + k)] for k in range(1000))
        found = np.array([drawn[name] for name in ("big/a", "mid/b", "small/c")])
        assert np.abs(found - expected).max() <= 1


def test_over_whole_epochs_the_rows_of_a_type_are_drawn_equally_often():
    rows = BalancedRows(TYPES, exponent=0.0, seed=1)
    drawn = Counter(rows(k) for k in range(6000))  # each type 2,000 times
    for first, count in ((0, 900), (900, 90), (990, 10)):
        times = [drawn[row] for row in range(first, first + count)]
        assert max(times) - min(times) <= 3
    # With the data's own proportions an epoch shows every row once, but for a few at its ends.
    plain = BalancedRows(TYPES, exponent=1.0, seed=1)
    for epoch in range(3):
        assert len({plain(1000 * epoch + k) for k in range(1000)}) >= 995


def test_a_draw_depends_on_seed_and_index_alone():
    first, second = BalancedRows(TYPES, seed=5), BalancedRows(TYPES, seed=5)
    order = [first(k) for k in range(50)]
    assert [second(k) for k in reversed(range(50))] == order[::-1]
    assert [BalancedRows(TYPES, seed=6)(k) for k in range(50)] != order


def test_what_data_and_taxonomy_lack_is_counted():
    weights = {"big/a": 1.0, "mid/b": 1.0, "no/rows": 5.0, "none/either": 1.0}
    report = BalancedRows(TYPES, weights, exponent=0.0, unlisted=0.0).report()
    assert report["types"] == 3 and report["effective_types"] == pytest.approx(2.0)
    assert (report["unlisted_types"], report["unlisted_rows"]) == (1, 10)
    assert report["unlisted_examples"] == ["small/c"]
    assert report["empty_types"] == 2 and report["empty_examples"] == ["no/rows", "none/either"]
    left_out = BalancedRows(TYPES, weights, exponent=0.0, unlisted=0.0)
    assert {TYPES[left_out(k)] for k in range(1000)} == {"big/a", "mid/b"}
    kept = BalancedRows(TYPES, weights, exponent=0.0, unlisted=2.0)
    assert kept.shares.tolist() == [0.25, 0.25, 0.5]
    with pytest.raises(ConfigError, match="leaves no row of 1000"):
        BalancedRows(TYPES, {"no/rows": 1.0}, unlisted=0.0)


def test_seventy_thousand_types_are_read_and_drawn_fast(tmp_path: Path):
    names = [f"domain{k % 300}/kind{k}" for k in range(70_000)]
    (tmp_path / "types.tsv").write_text("".join(f"{name}\t{1 + len(name) % 3}\n" for name in names))
    started = time.process_time()
    weights = load_taxonomy(tmp_path / "types.tsv")
    rng = np.random.default_rng(0)
    types = [names[k] for k in (70_000 * rng.random(200_000) ** 3).astype(int)]
    rows = BalancedRows(types, weights, exponent=0.3)
    ready = time.process_time()
    drawn = [rows(7_000_000 * k) for k in range(10_000)]
    assert ready - started < 5  # half a second on a quiet core
    assert time.process_time() - ready < 2  # 20 µs a draw
    assert len({types[row] for row in drawn}) > 5000
    assert rows.report()["types"] + rows.report()["empty_types"] == 70_000
