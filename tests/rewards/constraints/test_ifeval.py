"""The constraints that Google's IFEval also has, against a published implementation of it.

Left out: number of sentences and of capital words (that implementation needs downloaded data for
them) and the language (a statistical detector; ours tells scripts apart).
"""

import random

import pytest

registry = pytest.importorskip("if_verifiable.ifeval.instructions_registry")

from rewards.constraints.kinds import satisfied  # noqa: E402

PROMPT = "Write about the sun."
RELATIONS = {"less than": lambda n: {"maximum": n - 1}, "at least": lambda n: {"minimum": n}}
WORDS = ["sun", "river", "Sunday", "wind", "MOON", "a", "then", "So"]


def text_of(rng: random.Random) -> str:
    """English sentences with the marks that the constraints are about, thrown in at random."""
    parts = []
    for _ in range(rng.randrange(1, 12)):
        parts.append(
            rng.choice(
                [
                    " ".join(rng.choices(WORDS, k=rng.randrange(1, 9))) + rng.choice(".!,"),
                    "* point", "- dash", "*marked*", "**strong**", "** **", "***", "******",
                    "\n\n", "\n\n", "\n", "Section 1", "Section 2", "SECTION 3", "[name]", "[a b]",
                    "<<Title>>", "<< >>", "P.S. more", "p. s. more", "P.P.S again", "The end.",
                    '"', "My answer is yes.", "My answer is no.", "* * *", "Then, we", "[", "]",
                ]
            )
        )  # fmt: skip
    text = rng.choice([" ", "\n", "\n\n"]).join(parts)
    wrap = rng.randrange(12)
    if wrap == 0:
        return f'"{text}"'
    if wrap == 1:
        return PROMPT + " " + text
    if wrap == 2:
        return rng.choice(['{"a": 1}', '```json\n{"a": [1, 2]}\n```', "{'a': 1}", "```\n[1]\n```"])
    if wrap == 3:
        return text + rng.choice(["The end.", 'the end."', "THE END. "])
    if wrap == 4:
        return "\n\n".join(f"{rng.choice(WORDS)}, so" for _ in range(rng.randrange(1, 3)))
    return text


def cases(rng: random.Random):
    """(IFEval's id, its arguments, our constraint), arguments drawn anew each time."""
    relation = rng.choice(list(RELATIONS))
    count = rng.randrange(1, 6)
    few = rng.randrange(1, 3)
    words = rng.sample(WORDS, 2)
    yield "keywords:existence", {"keywords": words}, {"kind": "keywords_include", "keywords": words}
    yield (
        "keywords:frequency",
        {"keyword": words[0], "frequency": count, "relation": relation},
        {"kind": "keyword_count", "keyword": words[0], **RELATIONS[relation](count)},
    )
    yield (
        "keywords:forbidden_words",
        {"forbidden_words": words},
        {"kind": "keywords_exclude", "keywords": words},
    )
    yield (
        "keywords:letter_frequency",
        {"letter": "s", "let_frequency": 2 * count, "let_relation": relation},
        {"kind": "letter_count", "letter": "s", **RELATIONS[relation](2 * count)},
    )
    yield (
        "length_constraints:number_words",
        {"num_words": 5 * count, "relation": relation},
        {"kind": "word_count", **RELATIONS[relation](5 * count)},
    )
    yield (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": count},
        {"kind": "paragraph_count", "count": count, "divider": "***"},
    )
    yield (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": few, "nth_paragraph": few, "first_word": words[0]},
        {"kind": "paragraph_starts", "number": few, "word": words[0], "count": few},
    )
    yield (
        "detectable_content:number_placeholders",
        {"num_placeholders": count},
        {"kind": "placeholders", "count": count},
    )
    for marker in ("P.S.", "P.P.S"):
        yield (
            "detectable_content:postscript",
            {"postscript_marker": marker},
            {"kind": "postscript", "marker": marker},
        )
    yield (
        "detectable_format:number_bullet_lists",
        {"num_bullets": count},
        {"kind": "bullets", "count": count},
    )
    yield (
        "detectable_format:constrained_response",
        {},
        {"kind": "options", "choices": [f"My answer is {a}." for a in ("yes", "no", "maybe")]},
    )
    yield (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": count},
        {"kind": "highlights", "count": count},
    )
    yield (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": count},
        {"kind": "sections", "word": "Section", "count": count},
    )
    yield "detectable_format:json_format", {}, {"kind": "json_format"}
    yield "detectable_format:title", {}, {"kind": "title"}
    yield "combination:two_responses", {}, {"kind": "two_responses"}
    yield (
        "combination:repeat_prompt",
        {"prompt_to_repeat": PROMPT},
        {"kind": "repeat_prompt", "prompt": PROMPT},
    )
    yield (
        "startend:end_checker",
        {"end_phrase": "The end."},
        {"kind": "ends_with", "phrase": "The end."},
    )
    yield "startend:quotation", {}, {"kind": "quotation"}
    yield "punctuation:no_comma", {}, {"kind": "marks_exclude", "marks": ","}


def test_verdicts_agree():
    rng = random.Random(0)
    verdicts: dict[str, list[bool]] = {}
    for _ in range(400):
        text = text_of(rng)
        for name, arguments, constraint in cases(rng):
            theirs = registry.INSTRUCTION_DICT[name](name)
            theirs.build_description(**arguments)
            expected = bool(theirs.check_following(text))
            assert satisfied(constraint, text, PROMPT) == expected, (name, arguments, text)
            verdicts.setdefault(name, []).append(expected)
    assert len(verdicts) == 20
    one_sided = [name for name, found in verdicts.items() if len(set(found)) == 1]
    assert one_sided == []  # the set has texts on both sides of every constraint


ENGLISH = "The quick brown fox jumps over the lazy dog and runs home to sleep in the warm house"


@pytest.mark.parametrize("text", [ENGLISH, ENGLISH.upper(), ENGLISH.lower()])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("change_case:english_capital", "uppercase"), ("change_case:english_lowercase", "lowercase")],
)
def test_case_agrees_on_english(text, name, kind):
    import langdetect

    langdetect.DetectorFactory.seed = 0
    theirs = registry.INSTRUCTION_DICT[name](name)
    theirs.build_description()
    assert satisfied({"kind": kind}, text) == theirs.check_following(text)
