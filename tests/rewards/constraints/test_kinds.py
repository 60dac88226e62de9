"""Every kind of constraint on texts that follow it and texts that don't."""

import random

import pytest

from rewards.constraints.kinds import KINDS, satisfied
from rewards.constraints.rhyme import rhymes
from rewards.rules.constraints import constraints

TABLE = "| a | b |\n|---|---|\n| 1 | 2 |"
# kind: (arguments, texts that follow it, texts that don't)
CASES = {
    "keywords_include": (
        {"keywords": ["river", "wind"]},
        ["River and wind.", "rivers, window"],
        ["river", "", "r i v e r wind"],
    ),
    "keywords_exclude": ({"keywords": ["river"]}, ["rivers", "", "a lake"], ["A river.", "RIVER"]),
    "keyword_count": (
        {"keyword": "go", "minimum": 2, "maximum": 3},
        ["go, Go", "go go go"],
        ["go", "go " * 4],
    ),
    "letter_count": ({"letter": "a", "minimum": 3}, ["banana", "AaA"], ["ban", ""]),
    "capital_words": (
        {"minimum": 2, "maximum": 2},
        ["The BIG RED dog", "WELL-KNOWN IT is"],
        ["The BIG dog", "A BIG RED", ""],
    ),
    "ordered_mentions": (
        {"items": ["sun", "moon", "star"]},
        ["Sun, then moon, then star, sun"],
        ["moon sun star", "sun moon", ""],
    ),
    "alliteration": ({"letter": "s"}, ["Six silly swans swim"], ["Six dogs and cats", ""]),
    "word_count": ({"minimum": 2, "maximum": 3}, ["one two", "a, b, c"], ["one", "a b c d", ""]),
    "character_count": ({"maximum": 5}, ["abc", " abcde "], ["abcdef"]),
    "sentence_count": (
        {"minimum": 2, "maximum": 2},
        ["One. Two!", "Mr. Smith came. He left.", "J. K. Row wrote. I read.", "一。二。"],
        ["One.", "One. Two. Three.", "", "..."],
    ),
    "paragraph_count": ({"count": 2}, ["a\n\nb", "a\n \n\nb\n\n"], ["a\nb", "a\n\nb\n\nc", ""]),
    "paragraph_starts": (
        {"number": 2, "word": "then"},
        ["a\n\nThen, b", 'a\n\n"Then b'],
        ["a\n\nb then", "then", "a\n\nthence", ""],
    ),
    "starts_with": ({"phrase": "In short"}, ["in short: no", " In short"], ["So, in short", ""]),
    "ends_with": ({"phrase": "The end."}, ["… THE END.", 'so "the end."'], ["The end. Bye", ""]),
    "quotation": ({}, ['"a"', ' "a" and "b" '], ["a", '"', '"a', ""]),
    "postscript": ({"marker": "P.S."}, ["text\nP.S. more", "p. s. x"], ["text", "PS more"]),
    "title": ({}, ["<<Poem>>\ntext"], ["<Poem>", "<<>>", "<< >>", "<<a\nb>>"]),
    "repeat_prompt": ({"prompt": "Say hi."}, ["Say hi. Hi.", "say HI."], ["Hi. Say hi.", ""]),
    "options": ({"choices": ["yes", "no"]}, ["yes", "My answer: no"], ["maybe", ""]),
    "two_responses": (
        {},
        ["a\n******\nb", "******a******b"],
        ["a", "a******a", "a******b******c", "a****** ******b", ""],
    ),
    "uppercase": ({}, ["ALL CAPS, 3!"], ["All caps", "123", ""]),
    "lowercase": ({}, ["no caps, 3!"], ["No caps", "123", ""]),
    "marks_exclude": ({"marks": ",;"}, ["a. b", ""], ["a, b", "a; b"]),
    "sentences_end": ({"mark": "!"}, ["Go! Run!", "Go!"], ["Go! Run.", "Go", "Go! Run", ""]),
    "language": ({"code": "zh"}, ["你好，世界", "123"], ["hello", "你hello world"]),
    "json_format": (
        {"keys": ["a"]},
        ['{"a": 1}', '```json\n{"a": 1, "b": 2}\n```'],
        ['{"b": 1}', "[1]", 'so {"a": 1}', "", "[" * 5000],
    ),
    "html_format": ({}, ["<p>a</p>", "<ul><li>a</li></ul>"], ["a <p>b</p>", "<p>a", "", "a"]),
    "bullets": ({"count": 2}, ["* a\n* b", "- a\n  - b"], ["* a", "* a\n* b\n* c", "a * b", ""]),
    "numbered": ({"count": 2}, ["1. a\n2. b", "1) a\n2) b"], ["1. a", "1. a\n3. b", "2. a\n1. b"]),
    "highlights": ({"count": 2}, ["*a* and *b*", "**a** *b*"], ["*a*", "* *", "a * b", ""]),
    "sections": (
        {"word": "Part", "count": 2},
        ["Part 1\na\nPart 2\nb"],
        ["Part 1", "Part one, Part two", ""],
    ),
    "headings": ({"count": 2}, ["# a\n\n## b"], ["# a", "#a\n#b", "```\n# a\n# b\n```", ""]),
    "table": ({"columns": 2}, [TABLE], ["| a | b |", TABLE.replace("| 2 |", "|"), ""]),
    "code_block": (
        {"language": "python"},
        ["```python\nx = 1\n```"],
        ["```python\nx = 1", "```bash\nls\n```", "x = 1", ""],
    ),
    "placeholders": ({"count": 2}, ["[name] of [place]"], ["[name]", "name place", ""]),
    "acrostic": ({"word": "sun"}, ["Some\nUp\nNow", "(S\n\n*u\nn"], ["Sun", "U\nS\nN", ""]),
    "line_count": ({"count": 2}, ["a\nb", "a\n\nb\n"], ["a", "a\nb\nc", ""]),
    "rhyme_scheme": (
        {"scheme": "AABB"},
        ["I saw the light\nthat shone at night\nupon the tree\nfor you and me"],
        [
            "I saw the light\nupon the tree\nthat shone at night\nfor you and me",
            "the light\nthe light\nthe tree\nthe tree",  # a word does not rhyme with itself
            "one line",
            "",
        ],
    ),
}


def test_there_is_a_case_for_every_kind():
    assert CASES.keys() == KINDS.keys()
    assert len(KINDS) >= 25


@pytest.mark.parametrize("kind", list(CASES))
def test_kind(kind):
    args, good, bad = CASES[kind]
    for text in good:
        assert satisfied({"kind": kind, **args}, text), text
    for text in bad:
        assert not satisfied({"kind": kind, **args}, text), text


@pytest.mark.parametrize("kind", list(KINDS))
def test_kind_draws_arguments_it_can_word_and_check(kind):
    rng = random.Random(0)
    for _ in range(20):
        args = KINDS[kind].draw(rng)
        assert len(KINDS[kind].wording(args)) > 10
        assert satisfied({"kind": kind, **args}, "some text", "prompt") in (True, False)
        KINDS[kind].demands(args)


def test_hostile_text_is_quick():
    import time

    rng = random.Random(1)
    texts = ["*" * 20_000, "[" * 20_000, "<<" * 10_000, ". " * 10_000, "|-" * 10_000, "1.\n" * 7000]
    started = time.process_time()
    for kind in KINDS:
        for text in texts:
            satisfied({"kind": kind, **KINDS[kind].draw(rng)}, text, "prompt")
    assert time.process_time() - started < 60


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ("night", "light", True),
        ("kite", "night", True),
        ("tree", "sea", True),
        ("sky", "high", True),
        ("boat", "note", False),
        ("rain", "plane", True),
        ("moon", "tune", True),
        ("ball", "crawl", True),
        ("light", "light", False),
        ("dog", "cat", False),
        ("day", "weigh", True),
        ("day", "dog", False),
        ("", "dog", False),
    ],
)
def test_rhymes(first, second, verdict):
    assert rhymes(first, second) == rhymes(second, first) == verdict


def test_rule_reads_the_answer_section_and_counts():
    sample = {
        "mode": "think",
        "constraints": [{"kind": "lowercase"}, {"kind": "word_count", "maximum": 2}],
    }
    good = r"<think>LONG THOUGHT, of many words</think><answer>two words</answer>"
    assert constraints(good, sample).value == 1.0
    half = good.replace("two words", "three small words")
    assert constraints(half, sample).value == 0.0
    result = constraints(half, sample, every=False)
    assert result.value == 0.5
    assert result.details["followed"] == {"lowercase": True, "word_count": False}
    assert constraints(good, sample, where="response").value == 0.0
    assert constraints(good, {}).status == "error"
    assert constraints("<think>a</think>", sample).value == 0.0


def test_unknown_kinds_and_arguments_are_named():
    with pytest.raises(ValueError, match="no constraint kind 'rime'"):
        satisfied({"kind": "rime"}, "x")
    with pytest.raises(ValueError, match="most"):
        satisfied({"kind": "word_count", "most": 3}, "x")
