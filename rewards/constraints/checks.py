"""One function a hard constraint: does the text follow it? Pure, and quick on hostile text.

Where Google's IFEval (arXiv 2311.07911) has the same constraint the verdict is the same (a test
compares them); keywords are taken literally, not as regular expressions.
"""

from __future__ import annotations

import json
import re
import string

from rewards.constraints.rhyme import last_word, rhymes
from rewards.rules.shaping import LANGUAGE_SCRIPTS, script_shares
from rewards.rules.structure import html_tags, markdown_blocks, unfenced

SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]]*(?:\s|$)|[。！？]+")
ABBREVIATION = re.compile(r"\b(?:mr|mrs|ms|dr|prof|st|vs|etc|e\.g|i\.e|no|fig)\.", re.IGNORECASE)
INITIAL = re.compile(r"\b([A-Z])\.(?=\s?[A-Z])")
MOSTLY = 0.9  # of the letters must be in the script of the language asked for


def within(count: int, minimum: int | None, maximum: int | None) -> bool:
    return (minimum is None or count >= minimum) and (maximum is None or count <= maximum)


# ------------------------------------------------------------------ words


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def keywords_include(text: str, keywords: list[str]) -> bool:
    """Every keyword occurs, in any case, also inside a word."""
    lower = text.lower()
    return all(keyword.lower() in lower for keyword in keywords)


def keywords_exclude(text: str, keywords: list[str]) -> bool:
    """No keyword occurs as a word of its own."""
    return not any(
        re.search(rf"\b{re.escape(keyword)}\b", text, re.IGNORECASE) for keyword in keywords
    )


def keyword_count(
    text: str, keyword: str, minimum: int | None = None, maximum: int | None = None
) -> bool:
    """How often a keyword occurs, in any case, also inside words."""
    return within(text.lower().count(keyword.lower()), minimum, maximum)


def letter_count(
    text: str, letter: str, minimum: int | None = None, maximum: int | None = None
) -> bool:
    return within(text.lower().count(letter.lower()), minimum, maximum)


def capital_words(text: str, minimum: int | None = None, maximum: int | None = None) -> bool:
    """How many words are in capitals altogether; a hyphenated word is one."""
    found = [w for w in re.findall(r"[^\W_]+(?:[-'][^\W_]+)*", text) if w.isupper()]
    return within(len(found), minimum, maximum)


def ordered_mentions(text: str, items: list[str]) -> bool:
    """The items occur, and their first occurrences stand in the order given."""
    lower = text.lower()
    places = [lower.find(item.lower()) for item in items]
    return all(place >= 0 for place in places) and places == sorted(places)


def alliteration(text: str, letter: str, share: float = 0.5) -> bool:
    """At least `share` of the words begin with the letter."""
    found = words(text)
    if not found:
        return False
    return sum(word[0].lower() == letter.lower() for word in found) >= share * len(found)


# ----------------------------------------------------------------- lengths


def word_count(text: str, minimum: int | None = None, maximum: int | None = None) -> bool:
    return within(len(words(text)), minimum, maximum)


def character_count(text: str, minimum: int | None = None, maximum: int | None = None) -> bool:
    return within(len(text.strip()), minimum, maximum)


def sentences(text: str) -> list[str]:
    """Split after `.`, `!`, `?` (and their Chinese forms), not after usual abbreviations."""
    masked = INITIAL.sub(r"\1", ABBREVIATION.sub(lambda m: m.group()[:-1], text))
    return [part.strip() for part in SENTENCE_END.split(masked) if re.search(r"\w", part)]


def sentence_count(text: str, minimum: int | None = None, maximum: int | None = None) -> bool:
    return within(len(sentences(text)), minimum, maximum)


def paragraphs(text: str, divider: str = "") -> list[str]:
    """Parts between blank lines, or between `divider` (IFEval uses `***`)."""
    if divider:
        return re.split(rf"\s?{re.escape(divider)}\s?", text)
    return [part for part in re.split(r"\n\s*\n", text) if part.strip()]


def paragraph_count(text: str, count: int, divider: str = "") -> bool:
    """Exactly `count` paragraphs; an empty one between two dividers is a fault."""
    parts = paragraphs(text, divider)
    inner = parts[1:-1] if divider else []
    if any(not part.strip() for part in inner):
        return False
    return sum(bool(part.strip()) for part in parts) == count


def paragraph_starts(text: str, number: int, word: str, count: int | None = None) -> bool:
    """Paragraph `number` (from 1) starts with `word`; there are `count` paragraphs if given."""
    parts = re.split(r"\n\n", text)
    filled = sum(bool(part.strip()) for part in parts)
    if number > filled or (count is not None and filled != count):
        return False
    first = parts[number - 1].split()
    if not first:
        return False
    bare = first[0].strip().lstrip("'\"")
    stop = re.search(r"[.,?!'\"]", bare)
    return (bare[: stop.start()] if stop else bare).lower() == word.lower()


# ------------------------------------------------------- start, end, wrapping


def starts_with(text: str, phrase: str) -> bool:
    return text.strip().lower().startswith(phrase.strip().lower())


def ends_with(text: str, phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(phrase.strip().lower())


def quotation(text: str) -> bool:
    """All of it stands in double quotation marks."""
    bare = text.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'


def postscript(text: str, marker: str = "P.S.") -> bool:
    """A part that begins with the marker, P.S. or P.P.S, in any case."""
    patterns = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(re.search(patterns.get(marker, re.escape(marker.lower())), text.lower()))


def title(text: str) -> bool:
    """A title in double angular brackets: <<poem of joy>>."""
    return any(m.strip("<>").strip() for m in re.findall(r"<<[^\n]+>>", text))


def repeat_prompt(text: str, prompt: str) -> bool:
    """The request is repeated word for word before the answer."""
    return text.strip().lower().startswith(prompt.strip().lower())


def options(text: str, choices: list[str]) -> bool:
    """One of the allowed answers occurs in it."""
    return any(choice in text.strip() for choice in choices)


def two_responses(text: str, divider: str = "******") -> bool:
    """Two different answers with the divider between them."""
    parts = text.split(divider)
    if any(not part.strip() for part in parts[1:-1]):
        return False
    filled = [part.strip() for part in parts if part.strip()]
    return len(filled) == 2 and filled[0] != filled[1]


# ---------------------------------------------------- case, marks, language


def uppercase(text: str) -> bool:
    return text.isupper()


def lowercase(text: str) -> bool:
    return text.islower()


def marks_exclude(text: str, marks: str = ",") -> bool:
    return not any(mark in text for mark in marks)


def sentences_end(text: str, mark: str) -> bool:
    """Every sentence ends with the mark."""
    ends = [found.group().strip() for found in SENTENCE_END.finditer(ABBREVIATION.sub("", text))]
    return bool(ends) and all(end.startswith(mark) for end in ends) and ends_sentence(text)


def ends_sentence(text: str) -> bool:
    return text.rstrip().rstrip("\"'”’)]")[-1:] in (".", "!", "?", "。", "！", "？")


def language(text: str, code: str) -> bool:
    """At least 90 % of the letters are in the script of the language."""
    shares = script_shares(text)
    return not shares or sum(shares.get(s, 0.0) for s in LANGUAGE_SCRIPTS[code]) >= MOSTLY


# ---------------------------------------------------------------- structure


def json_format(text: str, keys: list[str] | None = None) -> bool:
    """All of it is JSON, bare or in one code fence; an object has at least the `keys`."""
    bare = re.sub(r"^```(?:json|Json|JSON)?|```$", "", text.strip()).strip()
    try:
        value = json.loads(bare)
    except (ValueError, RecursionError):
        return False
    return not keys or (isinstance(value, dict) and set(keys) <= set(value))


def bullets(text: str, count: int) -> bool:
    """Exactly `count` lines that begin with `*` or `-`."""
    stars = re.findall(r"^\s*\*[^\*].*$", text, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(stars) + len(dashes) == count


def numbered(text: str, count: int) -> bool:
    """Lines numbered from 1 to `count`, in order, and no other numbered line."""
    found = [int(n) for n in re.findall(r"^[ \t]*(\d{1,6})[.)]\s+\S", text, re.MULTILINE)]
    return found == list(range(1, count + 1))


def highlights(text: str, count: int) -> bool:
    """At least `count` parts marked *like this* (or **like this**, which counts twice)."""
    single = [m for m in re.findall(r"\*[^\n\*]*\*", text) if m.strip("*").strip()]
    double = re.findall(r"\*\*[^\n\*]*\*\*", text)
    kept = [m for m in double if m.removeprefix("**").removesuffix("**").strip()]
    return len(single) + len(kept) >= count


def sections(text: str, word: str, count: int) -> bool:
    """At least `count` sections that begin with the word and a number: `Section 1`."""
    return len(re.findall(rf"{re.escape(word)}\s?\d+", text)) >= count


def headings(text: str, count: int) -> bool:
    """At least `count` Markdown headings."""
    return sum(kind[0] == "h" for kind in markdown_blocks(text)[0]) >= count


def table(text: str, columns: int) -> bool:
    """A well-formed Markdown table with so many columns."""
    kinds, faults = markdown_blocks(text)
    rule = re.search(r"^[ \t]*\|?[ \t]*:?-+:?[ \t]*(\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$", text, re.M)
    if "table" not in kinds or faults or rule is None:
        return False
    return len(rule.group().strip().strip("|").split("|")) == columns


def code_block(text: str, language: str = "") -> bool:
    """A closed code fence (that names the language, if one is asked for)."""
    kinds, faults = markdown_blocks(text)
    fence = re.search(rf"^[ \t]*(?:```|~~~)[ \t]*{re.escape(language)}", text, re.MULTILINE)
    return "code" in kinds and not faults and fence is not None


def html_format(text: str) -> bool:
    """Elements that are closed in order, and no text outside them."""
    bare = unfenced(text.strip()).strip()
    tags = html_tags(bare)
    closed = bool(tags.names) and not tags.faults and not tags.open
    return closed and bare.startswith("<") and bare.endswith(">")


def placeholders(text: str, count: int) -> bool:
    """At least `count` placeholders in square brackets: [address]."""
    found = 0
    for line in text.split("\n"):  # by hand: the pattern \[.*?\] takes square time on "[[[["
        start = line.find("[")
        while start >= 0 and (end := line.find("]", start)) >= 0:
            found += 1
            start = line.find("[", end)
    return found >= count


# -------------------------------------------------------------------- verse


def acrostic(text: str, word: str) -> bool:
    """The first letters of the lines spell the word."""
    lines = [line.strip(string.punctuation + string.whitespace) for line in text.splitlines()]
    return "".join(line[0] for line in lines if line).lower() == word.lower()


def line_count(text: str, count: int) -> bool:
    return sum(bool(line.strip()) for line in text.splitlines()) == count


def rhyme_scheme(text: str, scheme: str) -> bool:
    """Lines with the same letter rhyme, lines with different letters don't (`AABB`)."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) != len(scheme):
        return False
    ends = [last_word(line) for line in lines]
    return all(
        rhymes(ends[i], ends[j]) == (scheme[i] == scheme[j])
        for i in range(len(ends))
        for j in range(i)
    )
