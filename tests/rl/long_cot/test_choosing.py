"""Which paths go on: sound before flawed, confident, unlike each other."""

from __future__ import annotations

from typing import Any

import pytest

from rl.long_cot.choosing import Choice, reasoning_words
from rl.long_cot.config import SelectConfig


def path(confidence: float, words: str, grade: str | None = "A", **facts: Any) -> dict[str, Any]:
    known = {"correct": True, "finished": True, "reasons": True}
    text = f"<think>{words}</think><answer>\\boxed{{1}}</answer>"
    return known | {"response": text, "confidence": confidence, "grade": grade} | facts


def chosen(paths: list[dict[str, Any]], **settings: Any) -> list[int]:
    choice = Choice(paths, SelectConfig(**settings))
    assert choice.take_sound() + choice.take_flawed() == choice.kept
    return choice.kept


ONE = "a b c d e f g h i j"
"""Ten words."""


def test_the_kept_paths_are_confident_and_unlike_each_other():
    paths = [
        path(0.9, ONE),
        path(0.89, ONE.replace("j", "z")),  # nearly the first again
        path(0.7, ONE.upper()),  # another way
        path(0.95, "c", "C", correct=False),
        path(0.95, "d", "C", finished=False),
        path(0.95, "e", "C", reasons=False),
        path(0.3, "k l m n o p q r s t"),
    ]
    assert chosen(paths, keep=2, diversity=0.5) == [0, 2]  # 0.7 + 0.5 · 1 > 0.89 + 0.5 · 0.1
    assert chosen(paths, keep=2, diversity=0.0) == [0, 1]  # confidence alone
    assert chosen(paths, keep=9, min_distance=0.2) == [0, 2, 6]  # not the copy
    assert chosen(paths, keep=9, min_distance=0.2, min_confidence=0.5) == [0, 2]
    assert chosen([path(0.9, "x", None, correct=None)]) == []


def test_flawed_paths_fill_the_places_that_sound_ones_leave():
    paths = [
        path(0.9, "b b b b", "B"),
        path(0.8, "c c c c", "B"),
        path(0.2, "a a a a"),
        path(0.3, "d d d d", "B"),
    ]
    assert chosen(paths, keep=1) == [2]  # the least confident, and the only sound one
    assert chosen(paths, keep=3) == [2, 0, 1]
    assert chosen(paths, keep=3, min_confidence=0.25) == [0, 1, 3]


def test_of_near_duplicates_the_sound_one_goes_on():
    paths = [path(0.9, ONE, "B"), path(0.4, f"{ONE} k"), path(0.1, "z z", "B")]
    assert chosen(paths, keep=2, min_distance=0.1) == [1, 2]
    assert chosen(paths, keep=2, min_distance=0.05) == [1, 0]


def test_a_chosen_path_that_falls_makes_room_for_the_next_sound_one():
    paths = [
        path(0.9, ONE),
        path(0.8, f"{ONE} k"),  # nearly the first: its turn comes when that one has fallen
        path(0.5, "x x x x"),
        path(0.95, "y y y y", "B"),
    ]
    choice = Choice(paths, SelectConfig(keep=2, min_distance=0.1))
    assert choice.take_sound() == [0, 2]
    paths[0]["grade"] = "B"
    assert choice.take_sound() == [1] and choice.kept == [2, 1]
    paths[2]["grade"] = "B"
    assert choice.take_sound() == []  # no sound one is left
    assert choice.take_flawed() == [2] and choice.kept == [1, 2]  # before one that never was an A


@pytest.mark.parametrize(
    ("thought", "words"),
    [
        ("3+5 = 8, so", ["3", "+", "5", "=", "8", ",", "so"]),
        ("看图。red狗", ["看", "图", "。", "red", "狗"]),
        ("", []),
    ],
)
def test_distances_are_counted_in_words_of_the_reasoning(thought: str, words: list[str]):
    assert reasoning_words(f"<think>{thought}</think><answer>1</answer>") == words
