"""The kinds of hard constraints: how each is checked, put into words, and drawn at random.

A constraint is a dict `{kind, …arguments}`, as it stands in a Sample's `constraints`. `demands`
tells the composer what a constraint asks of the text, in the terms that can contradict each other.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rewards.constraints import checks

TOPIC_WORDS = (
    *("river", "garden", "window", "engine", "market", "winter", "letter", "bridge", "island"),
    *("music", "forest", "teacher", "journey", "silver", "harbor", "kitchen", "mountain"),
)
ENDINGS = ("Any other questions?", "That is all.", "Thank you for reading.", "The end.")
STARTS = ("My answer:", "In short", "Here is what I see", "Let me begin")
LANGUAGES = {"en": "English", "zh": "Chinese", "ja": "Japanese", "ru": "Russian", "ko": "Korean"}
OPTIONS = ["My answer is yes.", "My answer is no.", "My answer is maybe."]
Args = dict[str, Any]


@dataclass(slots=True)
class Demands:
    """What a constraint asks of the text.

    `bounds`: quantity → (least, most); `needs`: text that must occur; `bans`: words that must not
    occur; `banned_marks`: characters that must not; `case`: upper or lower; `form`: what the whole
    text is (json, html, quotation, options); `script`: language code; `start`/`end`: how it begins
    and ends.
    """

    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)
    needs: list[str] = field(default_factory=list)
    bans: list[str] = field(default_factory=list)
    banned_marks: str = ""
    case: str = ""
    form: str = ""
    script: str = ""
    start: str = ""
    end: str = ""


@dataclass(slots=True, frozen=True)
class Kind:
    """One kind: its check, its wording, random arguments, and what it demands."""

    check: Callable[..., bool]
    wording: Callable[[Args], str]
    draw: Callable[[random.Random], Args]
    demands: Callable[[Args], Demands]
    needs_prompt: bool = False


def _range(args: Args, quantity: str) -> Demands:
    low = args["minimum"] if args.get("minimum") is not None else 0
    high = args["maximum"] if args.get("maximum") is not None else float("inf")
    return Demands(bounds={quantity: (low, high)})


def _exactly(quantity: str, count: int) -> Demands:
    return Demands(bounds={quantity: (count, count)})


def _at_least(quantity: str, count: int, needs: list[str] | None = None) -> Demands:
    return Demands(bounds={quantity: (count, float("inf"))}, needs=needs or [])


def _span(args: Args, noun: str) -> str:
    low, high = args.get("minimum"), args.get("maximum")
    if low is not None and high is not None:
        return f"between {low} and {high} {noun}"
    return f"at least {low} {noun}" if low is not None else f"at most {high} {noun}"


def _draw_span(rng: random.Random, low: int, high: int) -> Args:
    least = rng.randrange(low, high)
    kind = rng.randrange(3)
    if kind == 0:
        return {"minimum": least}
    return {"maximum": least} if kind == 1 else {"minimum": least, "maximum": least + low}


def _quoted(items: list[str]) -> str:
    return ", ".join(f'"{item}"' for item in items)


def _pick(rng: random.Random, count: int) -> list[str]:
    return rng.sample(TOPIC_WORDS, count)


KINDS: dict[str, Kind] = {
    "keywords_include": Kind(
        checks.keywords_include,
        lambda a: f"Use these words: {_quoted(a['keywords'])}.",
        lambda r: {"keywords": _pick(r, r.randrange(1, 4))},
        lambda a: Demands(needs=list(a["keywords"])),
    ),
    "keywords_exclude": Kind(
        checks.keywords_exclude,
        lambda a: f"Do not use these words: {_quoted(a['keywords'])}.",
        lambda r: {"keywords": _pick(r, r.randrange(1, 4))},
        lambda a: Demands(bans=list(a["keywords"])),
    ),
    "keyword_count": Kind(
        checks.keyword_count,
        lambda a: f'Use the word "{a["keyword"]}" {_span(a, "times")}.',
        lambda r: {"keyword": _pick(r, 1)[0], **_draw_span(r, 2, 5)},
        lambda a: Demands(
            bounds={f"word {a['keyword']}": _range(a, "x").bounds["x"]},
            needs=[a["keyword"]] * (a.get("minimum") or 0),
        ),
    ),
    "letter_count": Kind(
        checks.letter_count,
        lambda a: f'Use the letter "{a["letter"]}" {_span(a, "times")}.',
        lambda r: {"letter": r.choice("abcdefghilmnoprstuw"), **_draw_span(r, 5, 20)},
        lambda a: _range(a, f"letter {a['letter']}"),
    ),
    "capital_words": Kind(
        checks.capital_words,
        lambda a: f"Write {_span(a, 'words')} in capital letters.",
        lambda r: _draw_span(r, 1, 6),
        lambda a: _range(a, "capital words"),
    ),
    "ordered_mentions": Kind(
        checks.ordered_mentions,
        lambda a: f"Mention, in this order: {_quoted(a['items'])}.",
        lambda r: {"items": _pick(r, 3)},
        lambda a: Demands(needs=list(a["items"])),
    ),
    "alliteration": Kind(
        checks.alliteration,
        lambda a: f'At least half of the words must begin with "{a["letter"]}".',
        lambda r: {"letter": r.choice("bcdfmpst")},
        lambda a: Demands(bounds={"alliteration": (ord(a["letter"]), ord(a["letter"]))}),
    ),
    "word_count": Kind(
        checks.word_count,
        lambda a: f"Write {_span(a, 'words')}.",
        lambda r: _draw_span(r, 30, 200),
        lambda a: _range(a, "words"),
    ),
    "character_count": Kind(
        checks.character_count,
        lambda a: f"Write {_span(a, 'characters')}.",
        lambda r: _draw_span(r, 200, 1500),
        lambda a: _range(a, "characters"),
    ),
    "sentence_count": Kind(
        checks.sentence_count,
        lambda a: f"Write {_span(a, 'sentences')}.",
        lambda r: _draw_span(r, 2, 12),
        lambda a: _range(a, "sentences"),
    ),
    "paragraph_count": Kind(
        checks.paragraph_count,
        lambda a: f"Write exactly {a['count']} paragraphs, with an empty line between them.",
        lambda r: {"count": r.randrange(1, 6)},
        lambda a: _exactly("paragraphs", a["count"]),
    ),
    "paragraph_starts": Kind(
        checks.paragraph_starts,
        lambda a: f'Paragraph {a["number"]} must start with the word "{a["word"]}".',
        lambda r: {"number": r.randrange(1, 4), "word": _pick(r, 1)[0]},
        lambda a: Demands(
            bounds={"paragraphs": (a["number"], a.get("count") or float("inf"))},
            needs=[a["word"]],
            start=a["word"] if a["number"] == 1 else "",
        ),
    ),
    "starts_with": Kind(
        checks.starts_with,
        lambda a: f'Begin with "{a["phrase"]}".',
        lambda r: {"phrase": r.choice(STARTS)},
        lambda a: Demands(start=a["phrase"], needs=[a["phrase"]]),
    ),
    "ends_with": Kind(
        checks.ends_with,
        lambda a: f'End with exactly "{a["phrase"]}" and nothing after it.',
        lambda r: {"phrase": r.choice(ENDINGS)},
        lambda a: Demands(end=a["phrase"], needs=[a["phrase"]]),
    ),
    "quotation": Kind(
        checks.quotation,
        lambda a: "Wrap the whole response in double quotation marks.",
        lambda r: {},
        lambda a: Demands(form="quotation", start='"', end='"'),
    ),
    "postscript": Kind(
        checks.postscript,
        lambda a: f"Add a postscript that begins with {a.get('marker', 'P.S.')}",
        lambda r: {"marker": r.choice(["P.S.", "P.P.S"])},
        lambda a: Demands(needs=[a.get("marker", "P.S.")]),
    ),
    "title": Kind(
        checks.title,
        lambda a: "Give a title in double angular brackets, such as <<poem of joy>>.",
        lambda r: {},
        lambda a: Demands(needs=["<<", ">>"]),
    ),
    "repeat_prompt": Kind(
        checks.repeat_prompt,
        lambda a: "First repeat the request word for word, then answer it.",
        lambda r: {},
        lambda a: Demands(start="\0prompt", bounds={"words": (5, float("inf"))}),
        needs_prompt=True,
    ),
    "options": Kind(
        checks.options,
        lambda a: f"Answer with one of: {_quoted(a['choices'])}.",
        lambda r: {"choices": OPTIONS},
        lambda a: Demands(form="options", bounds={"words": (1, 20)}),
    ),
    "two_responses": Kind(
        checks.two_responses,
        lambda a: "Give two different responses, separated by six asterisks: ******.",
        lambda r: {},
        lambda a: Demands(form="two responses", needs=["******"]),
    ),
    "uppercase": Kind(
        checks.uppercase,
        lambda a: "Write in capital letters only.",
        lambda r: {},
        lambda a: Demands(case="upper"),
    ),
    "lowercase": Kind(
        checks.lowercase,
        lambda a: "Write in lower-case letters only.",
        lambda r: {},
        lambda a: Demands(case="lower", bounds={"capital words": (0, 0)}),
    ),
    "marks_exclude": Kind(
        checks.marks_exclude,
        lambda a: f"Do not use any of these characters: {' '.join(a.get('marks', ','))}",
        lambda r: {"marks": r.choice([",", "!", ";:", "?!"])},
        lambda a: Demands(banned_marks=a.get("marks", ",")),
    ),
    "sentences_end": Kind(
        checks.sentences_end,
        lambda a: f'End every sentence with "{a["mark"]}".',
        lambda r: {"mark": r.choice("!?")},
        lambda a: Demands(end=a["mark"], needs=[a["mark"]]),
    ),
    "language": Kind(
        checks.language,
        lambda a: f"Write in {LANGUAGES.get(a['code'], a['code'])} only.",
        lambda r: {"code": r.choice(list(LANGUAGES))},
        lambda a: Demands(script=a["code"]),
    ),
    "json_format": Kind(
        checks.json_format,
        lambda a: (
            "Answer with JSON only"
            + (f", an object with the keys {_quoted(a['keys'])}." if a.get("keys") else ".")
        ),
        lambda r: {"keys": _pick(r, 2)},
        lambda a: Demands(form="json", start="{", end="}", needs=[*(a.get("keys") or []), ","]),
    ),
    "html_format": Kind(
        checks.html_format,
        lambda a: "Answer with HTML only.",
        lambda r: {},
        lambda a: Demands(form="html", start="<", end=">"),
    ),
    "bullets": Kind(
        checks.bullets,
        lambda a: f"Give exactly {a['count']} bullet points, each a line that begins with `* `.",
        lambda r: {"count": r.randrange(2, 7)},
        lambda a: _exactly("bullets", a["count"]),
    ),
    "numbered": Kind(
        checks.numbered,
        lambda a: f"Give a numbered list with exactly {a['count']} entries.",
        lambda r: {"count": r.randrange(2, 7)},
        lambda a: _exactly("numbered lines", a["count"]),
    ),
    "highlights": Kind(
        checks.highlights,
        lambda a: f"Highlight at least {a['count']} parts *like this*.",
        lambda r: {"count": r.randrange(1, 5)},
        lambda a: _at_least("highlights", a["count"], ["*"]),
    ),
    "sections": Kind(
        checks.sections,
        lambda a: f"Give at least {a['count']} sections that begin with {a['word']} 1, 2, …",
        lambda r: {"word": r.choice(["Section", "Part"]), "count": r.randrange(2, 5)},
        lambda a: _at_least("sections", a["count"], [a["word"]]),
    ),
    "headings": Kind(
        checks.headings,
        lambda a: f"Use at least {a['count']} Markdown headings.",
        lambda r: {"count": r.randrange(1, 4)},
        lambda a: _at_least("headings", a["count"], ["#"]),
    ),
    "table": Kind(
        checks.table,
        lambda a: f"Give a Markdown table with {a['columns']} columns.",
        lambda r: {"columns": r.randrange(2, 5)},
        lambda a: Demands(bounds={"columns": (a["columns"], a["columns"])}, needs=["|", "-"]),
    ),
    "code_block": Kind(
        checks.code_block,
        lambda a: f"Put a {a.get('language', '')} code block between three back-ticks.",
        lambda r: {"language": r.choice(["python", "bash", "json"])},
        lambda a: Demands(needs=["```" + a.get("language", "")]),
    ),
    "placeholders": Kind(
        checks.placeholders,
        lambda a: f"Use at least {a['count']} placeholders in brackets, such as [address].",
        lambda r: {"count": r.randrange(1, 5)},
        lambda a: _at_least("placeholders", a["count"], ["[", "]"]),
    ),
    "acrostic": Kind(
        checks.acrostic,
        lambda a: f'The first letters of the lines must spell "{a["word"]}".',
        lambda r: {"word": r.choice(["SUN", "TREE", "RAIN", "STONE"])},
        lambda a: _exactly("lines", len(a["word"])),
    ),
    "line_count": Kind(
        checks.line_count,
        lambda a: f"Write exactly {a['count']} lines.",
        lambda r: {"count": r.randrange(2, 9)},
        lambda a: _exactly("lines", a["count"]),
    ),
    "rhyme_scheme": Kind(
        checks.rhyme_scheme,
        lambda a: f"Write {len(a['scheme'])} lines that rhyme as {a['scheme']}.",
        lambda r: {"scheme": r.choice(["AABB", "ABAB", "AA", "AABBCC"])},
        lambda a: _exactly("lines", len(a["scheme"])),
    ),
}


def satisfied(constraint: Args, text: str, prompt: str = "") -> bool:
    """Does the text follow the constraint? ValueError names an unknown kind or bad arguments."""
    args = {k: v for k, v in constraint.items() if k != "kind" and v is not None}
    kind = KINDS.get(str(constraint.get("kind")))
    if kind is None:
        raise ValueError(
            f"no constraint kind {constraint.get('kind')!r}; known: {', '.join(KINDS)}"
        )
    if kind.needs_prompt:
        args.setdefault("prompt", prompt)
    try:
        return bool(kind.check(text, **args))
    except TypeError as error:
        raise ValueError(f"constraint {constraint!r}: {error}") from None
