"""Composition of constraints and the detection of contradictions."""

import random

import pytest

from rewards.constraints.compose import compose, contradictions, describe
from rewards.constraints.kinds import KINDS, satisfied

UPPER, LOWER = {"kind": "uppercase"}, {"kind": "lowercase"}
JSON = {"kind": "json_format", "keys": ["a", "b"]}
CHINESE = {"kind": "language", "code": "zh"}

CONTRADICTORY = [
    [UPPER, LOWER],
    [{"kind": "word_count", "minimum": 100}, {"kind": "word_count", "maximum": 50}],
    [{"kind": "word_count", "minimum": 100}, {"kind": "character_count", "maximum": 120}],
    [
        {"kind": "keywords_include", "keywords": ["sun"]},
        {"kind": "keywords_exclude", "keywords": ["Sun"]},
    ],
    [
        {"kind": "ends_with", "phrase": "The end."},
        {"kind": "keywords_exclude", "keywords": ["end"]},
    ],
    [{"kind": "starts_with", "phrase": "In short"}, {"kind": "starts_with", "phrase": "My answer"}],
    [{"kind": "starts_with", "phrase": "In short"}, {"kind": "repeat_prompt"}],
    [{"kind": "ends_with", "phrase": "The end."}, {"kind": "sentences_end", "mark": "!"}],
    [{"kind": "sentences_end", "mark": "!"}, {"kind": "marks_exclude", "marks": "?!"}],
    [JSON, {"kind": "quotation"}],
    [JSON, {"kind": "paragraph_count", "count": 3}],
    [JSON, {"kind": "marks_exclude", "marks": ","}],
    [JSON, {"kind": "html_format"}],
    [{"kind": "json_format", "keys": ["name"]}, UPPER],
    [{"kind": "bullets", "count": 3}, {"kind": "bullets", "count": 4}],
    [{"kind": "bullets", "count": 8}, {"kind": "word_count", "maximum": 5}],
    [CHINESE, {"kind": "language", "code": "en"}],
    [CHINESE, UPPER],
    [CHINESE, {"kind": "keywords_include", "keywords": ["river"]}],
    [LOWER, {"kind": "capital_words", "minimum": 2}],
    [{"kind": "acrostic", "word": "SUN"}, {"kind": "line_count", "count": 5}],
    [{"kind": "rhyme_scheme", "scheme": "AABB"}, {"kind": "acrostic", "word": "RAINS"}],
    [{"kind": "rhyme_scheme", "scheme": "AA"}, {"kind": "paragraph_count", "count": 2}],
    [
        {"kind": "paragraph_starts", "number": 3, "word": "so"},
        {"kind": "paragraph_count", "count": 2},
    ],
    [
        {"kind": "paragraph_starts", "number": 1, "word": "so"},
        {"kind": "starts_with", "phrase": "In"},
    ],
    [
        {"kind": "letter_count", "letter": "s", "maximum": 0},
        {"kind": "keywords_include", "keywords": ["sun"]},
    ],
    [
        {"kind": "keyword_count", "keyword": "sun", "maximum": 1},
        {"kind": "keyword_count", "keyword": "sun", "minimum": 3},
    ],
    [{"kind": "code_block", "language": "python"}, UPPER],
    [{"kind": "options", "choices": ["My answer is yes."]}, {"kind": "word_count", "minimum": 50}],
]
COMPATIBLE = [
    ([UPPER, {"kind": "keywords_include", "keywords": ["sun"]}], "THE SUN"),
    ([LOWER, {"kind": "starts_with", "phrase": "In short"}], "in short no"),
    ([{"kind": "quotation"}, {"kind": "starts_with", "phrase": '"In'}], '"In short"'),
    ([{"kind": "word_count", "minimum": 2}, {"kind": "word_count", "maximum": 3}], "a b c"),
    ([JSON, LOWER], '{"a": "x", "b": "y"}'),
    ([JSON, {"kind": "keywords_include", "keywords": ["sun"]}], '{"a": "sun", "b": 1}'),
    ([CHINESE, {"kind": "paragraph_count", "count": 2}], "你好\n\n世界"),
    ([{"kind": "bullets", "count": 2}, {"kind": "title"}], "<<A>>\n* a\n* b"),
    ([{"kind": "acrostic", "word": "SUN"}, {"kind": "line_count", "count": 3}], "see\nup\nno"),
    ([{"kind": "sentences_end", "mark": "!"}, {"kind": "ends_with", "phrase": "Go!"}], "Now! Go!"),
    (
        [
            {"kind": "paragraph_starts", "number": 1, "word": "in"},
            {"kind": "starts_with", "phrase": "In short"},
        ],
        "In short no",
    ),
    (
        [
            {"kind": "keyword_count", "keyword": "sun", "minimum": 2},
            {"kind": "word_count", "maximum": 2},
        ],
        "sun sun",
    ),
]


@pytest.mark.parametrize("pair", CONTRADICTORY)
def test_contradictory(pair):
    assert contradictions(pair), pair
    assert contradictions(pair[::-1]), pair


@pytest.mark.parametrize(("constraints", "text"), COMPATIBLE)
def test_compatible_sets_have_a_text_that_follows_them(constraints, text):
    assert contradictions(constraints) == []
    assert all(satisfied(constraint, text) for constraint in constraints)


def test_composed_sets():
    rng = random.Random(0)
    seen = set()
    for _ in range(300):
        chosen = compose(rng)
        kinds = [constraint["kind"] for constraint in chosen]
        assert 2 <= len(chosen) <= 6 and len(set(kinds)) == len(kinds)
        assert contradictions(chosen) == []
        assert len(describe(chosen)) > 20
        seen |= set(kinds)
    assert seen == set(KINDS)  # every kind is drawn now and then


def test_composition_is_reproducible_and_bounded():
    assert compose(random.Random(7), 4) == compose(random.Random(7), 4)
    assert [len(compose(random.Random(7), n)) for n in range(2, 7)] == [2, 3, 4, 5, 6]
    for count in (1, 7):
        with pytest.raises(ValueError, match="2 to 6"):
            compose(random.Random(0), count)
    with pytest.raises(ValueError, match="fit together"):
        compose(random.Random(0), 2, ["uppercase", "lowercase"])
