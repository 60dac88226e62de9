"""Puts 2–6 constraints together that one text can follow, and says why others cannot be.

The check is by demands (see `kinds.Demands`): bounds of the same quantity must overlap, what is
needed must not be banned, the whole text has one form, one case, one script, one start and end.
It knows no meaning: a set that it lets through can still be hard, but not contradictory in these
terms.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

from rewards.constraints.kinds import KINDS, Demands

Constraint = dict[str, Any]

# Forms that are the whole text leave no room for what stands beside text.
LAYOUT = frozenset(
    ("paragraph_count", "paragraph_starts", "bullets", "numbered", "headings", "table")
) | {"code_block", "acrostic", "line_count", "rhyme_scheme", "sections", "title", "postscript"}
WHOLE_FORMS = {
    "json": LAYOUT | {"ends_with", "starts_with", "repeat_prompt", "highlights", "sentences_end"},
    "html": LAYOUT | {"ends_with", "starts_with", "repeat_prompt", "sentences_end"},
    "options": LAYOUT | {"repeat_prompt", "sentence_count", "alliteration"},
    "two responses": LAYOUT | {"bullets", "highlights", "sentence_count", "word_count"},
    "quotation": frozenset({"table", "code_block", "sentences_end"}),
}
LATIN = ("en",)
CASED = ("uppercase", "lowercase", "capital_words", "letter_count", "alliteration", "rhyme_scheme")
FEWEST_CHARACTERS_A_WORD = 2.0  # "a b": a letter and a space
VERSE = frozenset(("acrostic", "line_count", "rhyme_scheme"))
NO_VERSE = frozenset(("paragraph_count", "paragraph_starts", "bullets", "numbered", "headings"))
NO_VERSE |= {"table", "code_block", "sections", "postscript", "two_responses", "title"}


def demands_of(constraint: Constraint) -> Demands:
    args = {k: v for k, v in constraint.items() if k != "kind"}
    return KINDS[constraint["kind"]].demands(args)


def contradictions(constraints: list[Constraint]) -> list[str]:
    """Why the set cannot be followed, one sentence a reason; empty if nothing speaks against it."""
    found: list[str] = []
    for first, second in combinations(constraints, 2):
        found += _pair(first, second)
    found += _sums(constraints)
    return list(dict.fromkeys(found))


def _pair(first: Constraint, second: Constraint) -> list[str]:
    a, b = demands_of(first), demands_of(second)
    kinds = {first["kind"], second["kind"]}
    names = f"{first['kind']} and {second['kind']}"
    found = []
    for quantity in a.bounds.keys() & b.bounds.keys():
        low = max(a.bounds[quantity][0], b.bounds[quantity][0])
        high = min(a.bounds[quantity][1], b.bounds[quantity][1])
        if low > high:
            found.append(f"{names}: no number of {quantity} fits both")
    if a.case and b.case and a.case != b.case:
        found.append(f"{names}: two cases")
    if a.script and b.script and a.script != b.script:
        found.append(f"{names}: two languages")
    if a.form and b.form and a.form != b.form:
        found.append(f"{names}: two forms of the whole text")
    if len(kinds & VERSE) == 1 and kinds & NO_VERSE:
        found.append(f"{names}: counted lines leave no room for other parts")
    for one, other, demand in ((first, second, a), (second, first, b)):
        if other["kind"] in WHOLE_FORMS.get(demand.form, frozenset()):
            found.append(f"{names}: a text that is all {demand.form} has no room for it")
        if demand.script and demand.script not in LATIN and other["kind"] in CASED:
            found.append(f"{names}: {other['kind']} is about Latin letters")
        found += _banned(one, other)
    for end in ("start", "end"):
        if not _compatible_edges(getattr(a, end), getattr(b, end), end):
            found.append(f"{names}: two different {end}s")
    return found


def _banned(one: Constraint, other: Constraint) -> list[str]:
    """What `other` forbids and `one` needs."""
    need, ban = demands_of(one), demands_of(other)
    names = f"{one['kind']} and {other['kind']}"
    texts = [*need.needs, need.start, need.end]
    found = []
    for word in ban.bans:
        if any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for text in texts):
            found.append(f'{names}: "{word}" is needed and forbidden')
    marks = [mark for mark in ban.banned_marks if any(mark in text for text in texts)]
    if marks:
        found.append(f"{names}: {' '.join(marks)} is needed and forbidden")
    letters = [text for text in texts if any(c.isalpha() for c in text) and "\0" not in text]
    exact = one["kind"] in ("sections", "options", "json_format", "code_block")
    if ban.case == "upper" and exact and any(not text.isupper() for text in letters):
        found.append(f"{names}: its fixed text is not in capitals")
    if ban.case == "lower" and exact and any(not text.islower() for text in letters):
        found.append(f"{names}: its fixed text is not in lower case")
    if ban.script and ban.script not in LATIN and letters:
        latin = sum(len(text) for text in letters)
        if latin > 0 and one["kind"] not in ("title", "placeholders"):
            found.append(f"{names}: its fixed text is in another script")
    for quantity, (_, most) in ban.bounds.items():
        if quantity.startswith("letter "):
            needed = sum(text.lower().count(quantity[-1]) for text in need.needs)
            if needed > most:
                found.append(f"{names}: needs more of {quantity} than allowed")
        if quantity.startswith("word ") and one is not other:
            needed = sum(text.lower().count(quantity[5:].lower()) for text in need.needs)
            if needed > most:
                found.append(f"{names}: needs {quantity!r} more often than allowed")
    return found


def _compatible_edges(a: str, b: str, end: str) -> bool:
    """Two starts (ends) are compatible if one continues the other, or one is only a mark."""
    if not a or not b:
        return True
    if '"' in (a, b):  # quotation marks go around whatever else begins or ends the text
        return True
    a, b = a.lower(), b.lower()
    if end == "start":
        return a.startswith(b) or b.startswith(a)
    return a.endswith(b) or b.endswith(a)


def _sums(constraints: list[Constraint]) -> list[str]:
    """Quantities that bound each other over the whole set: words, sentences, characters, parts."""
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    needed_words = 0
    for constraint in constraints:
        demand = demands_of(constraint)
        needed_words += sum(len(re.findall(r"\w+", text)) for text in set(demand.needs))
        for quantity, (least, most) in demand.bounds.items():
            low[quantity] = max(low.get(quantity, 0), least)
            high[quantity] = min(high.get(quantity, float("inf")), most)
    parts = ("sentences", "paragraphs", "bullets", "numbered lines", "lines", "sections")
    least_words = max([needed_words, *(low.get(part, 0) for part in (*parts, "words"))])
    found = []
    if least_words > high.get("words", float("inf")):
        found.append(f"at least {least_words:g} words are needed, {high['words']:g} are allowed")
    if least_words * FEWEST_CHARACTERS_A_WORD - 1 > high.get("characters", float("inf")):
        found.append(f"{least_words:g} words do not fit in {high['characters']:g} characters")
    letters = sum(count for quantity, count in low.items() if quantity.startswith("letter "))
    if letters > high.get("characters", float("inf")):
        found.append("more letters are needed than characters are allowed")
    return found


def describe(constraints: list[Constraint]) -> str:
    """The instructions, one sentence each, as they are added to a query."""
    return " ".join(KINDS[c["kind"]].wording(c) for c in constraints)


def compose(
    rng: random.Random,
    count: int | None = None,
    kinds: list[str] | None = None,
    draws: Mapping[str, Callable[[random.Random], dict[str, Any]]] | None = None,
) -> list[Constraint]:
    """2–6 constraints of different kinds without contradictions, drawn at random.

    `kinds` restricts the choice; `draws` gives kinds other random arguments than their own, and
    then restricts the choice to these if `kinds` doesn't. A draw that contradicts what is there is
    drawn again; if the chosen start leaves no room for `count` constraints it begins anew.
    ValueError if `count` is not 2…6 or cannot be reached with so few kinds.
    """
    wanted = rng.randrange(2, 7) if count is None else count
    own = {name: kind.draw for name, kind in KINDS.items()}
    names = list((draws or own) if kinds is None else kinds)
    if not 2 <= wanted <= 6 or len(names) < wanted:
        raise ValueError(f"{wanted} constraints of {len(names)} kinds; 2 to 6 can be composed")
    for _ in range(200):
        chosen: list[Constraint] = []
        for name in rng.sample(names, len(names)):
            candidate = {"kind": name, **(own | dict(draws or {}))[name](rng)}
            if not contradictions([*chosen, candidate]):
                chosen.append(candidate)
            if len(chosen) == wanted:
                return chosen
    raise ValueError(f"no {wanted} of these kinds fit together: {', '.join(names)}")
