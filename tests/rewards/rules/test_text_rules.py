"""Text verifiers, and the edit distance against a plain dynamic programme."""

import random

import pytest

from rewards.rules.edit_distance import distance, similarity
from rewards.rules.text import choice, exact, fuzzy, ocr, ordering


def plain_distance(a, b) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, previous = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (x != y)))
    return row[-1]


def test_distance_equals_the_dynamic_programme():
    rng = random.Random(0)
    for _ in range(400):
        a = "".join(rng.choices("abc字", k=rng.randrange(90)))
        b = "".join(rng.choices("abc字", k=rng.randrange(90)))
        assert distance(a, b) == distance(b, a) == plain_distance(a, b)
    assert similarity("", "") == 1.0 and similarity("", "ab") == 0.0
    assert distance(["a", "b"], ["b"]) == 1


def score(rule, answer, given, mode="no_think", extra=None, **args):
    result = rule(given, {"answer": answer, "mode": mode, **(extra or {})}, **args)
    return result if isinstance(result, float) else result.value


@pytest.mark.parametrize(
    ("answer", "given", "value"),
    [
        ("red", "red", 1.0),
        ("Red", " red.", 1.0),
        ("red square", "red\n square", 1.0),
        ("red", r"\boxed{red}", 1.0),
        ("ｒｅｄ", "red", 1.0),
        (["red", "crimson"], "Crimson", 1.0),
        ("red", "red blue", 0.0),
        ("red", "red red", 0.0),
        ("red", r"\boxed{red}\boxed{blue}", 0.0),
        ("red", "", 0.0),
        ("red", "r\x00ed", 0.0),
    ],
)
def test_exact(answer, given, value):
    assert score(exact, answer, given) == value


def test_exact_case():
    assert score(exact, "Red", "red", case_sensitive=True) == 0.0
    assert score(exact, "Red", "Red", case_sensitive=True) == 1.0


def test_fuzzy():
    assert score(fuzzy, "photosynthesis", "photosyntesis") == 1.0
    assert score(fuzzy, "photosynthesis", "photography") == 0.0
    assert score(fuzzy, "abcd", "abcx", threshold=None) == 0.75
    assert score(fuzzy, "cat", "cat " * 5_000) == 0.0  # stuffing
    assert score(fuzzy, ["cat", "kitten"], "kiten", threshold=None) == pytest.approx(5 / 6)


def test_ocr():
    assert score(ocr, "Hello world", "Hello world") == 1.0
    assert score(ocr, "Hello\nworld", "Hello  world") == 1.0
    assert score(ocr, "Hello", "hello") == pytest.approx(0.8)
    assert score(ocr, "Hello", "hello", case_sensitive=False) == 1.0
    assert score(ocr, "a b c d", "a b x d", unit="word") == 0.75
    assert score(ocr, "abc", "xyz") == 0.0
    assert score(ocr, "abc", "abc" * 10_000) == 0.0
    assert score(ocr, "abcd", "abce", threshold=0.7) == 1.0
    assert score(ocr, "abc", "<think>abc</think>", mode="think") == 0.0


@pytest.mark.parametrize(
    ("answer", "given", "value"),
    [
        ("B", "B", 1.0),
        ("B", "b", 1.0),
        ("B", "(B)", 1.0),
        ("(B)", "B.", 1.0),
        ("B", "B. Paris", 1.0),
        ("B", "B) Paris", 1.0),
        ("B", "The answer is (B).", 1.0),
        ("B", r"\boxed{B}", 1.0),
        ("B", "Paris", 1.0),
        ("B", "paris.", 1.0),
        ("A, C", "A and C", 1.0),
        ("AC", "C, A", 1.0),
        ("B", "A", 0.0),
        ("B", "A, B", 0.0),
        ("B", "A or B", 0.0),
        ("B", "ABCD", 0.0),
        ("B", r"\boxed{A}\boxed{B}", 0.0),
        ("B", "A. Rome B. Paris", 0.0),
        ("B", "The answer is A. Or the answer is B.", 0.0),
        ("A, C", "A", 0.0),
        ("B", "", 0.0),
        ("B", "Berlin", 0.0),
        ("A", "A dog is an animal", 0.0),
    ],
)
def test_choice(answer, given, value):
    options = {"choices": ["Rome", "Paris", "Oslo"]}
    assert score(choice, answer, given, extra=options) == value


@pytest.mark.parametrize(
    ("answer", "given", "value"),
    [
        ("3, 1, 2", "3,1,2", 1.0),
        ("3, 1, 2", "3 -> 1 -> 2", 1.0),
        ("3, 1, 2", "[3, 1, 2]", 1.0),
        (["b", "a"], '["B", "A"]', 1.0),
        ("3, 1, 2", "3 1 2", 1.0),
        ("3, 1, 2", "1, 2, 3", 0.0),
        ("3, 1, 2", "3, 1", 0.0),
        ("3, 1, 2", "3, 1, 2, 2", 0.0),
        ("3, 1, 2", "3, 1, 2, 4", 0.0),
        ("3, 1, 2", "", 0.0),
    ],
)
def test_ordering(answer, given, value):
    assert score(ordering, answer, given) == value


def test_ordering_partial():
    assert score(ordering, "1,2,3", "1,3,2", partial=True) == pytest.approx(2 / 3)
    assert score(ordering, "1,2,3", "3,2,1", partial=True) == 0.0
    assert score(ordering, "1,2,3", "1,2", partial=True) == 0.0
