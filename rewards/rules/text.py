"""Answers compared as text: exactly, fuzzily, character by character, as a choice, as an order."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

from rewards.answer import answer_text, boxes, final_answers, single_answer
from rewards.registry import rule
from rewards.result import RewardResult
from rewards.rules.edit_distance import similarity

LONGEST_COMPARED = 20_000  # characters; the time of an edit distance grows with the square
QUOTES = " \"'`.“”‘’"
LETTER = re.compile(r"(?<![A-Za-z0-9])\(?([A-Z])\)?(?![A-Za-z0-9'’])")
STATED = re.compile(r"(?:answer|choice|option)s?\s{0,4}(?:is|are|:)?\s{0,4}\(?([A-Z])(?![A-Za-z])")


def normalise(text: object) -> str:
    """Unicode-compatible form, lower case, single spaces, no quotes or full stop around it."""
    plain = unicodedata.normalize("NFKC", str(text)).casefold()
    return " ".join(plain.split()).strip(QUOTES)


def references(sample: dict[str, Any]) -> list[str]:
    """The accepted answers: `answers` (alternatives) if the sample has it, else `answer`."""
    answer = sample.get("answers") or sample.get("answer")
    if answer is None:
        raise ValueError("the sample has no answer")
    return [str(item) for item in answer] if isinstance(answer, (list, tuple)) else [str(answer)]


@rule()
def exact(response: str, sample: dict[str, Any], case_sensitive: bool = False) -> float:
    """1.0 if the answer equals the sample's answer (or one of a list of accepted answers).

    Spaces are collapsed, Unicode is normalised, surrounding quotes and a final full stop ignored.
    """
    given = single_answer(response, sample.get("mode"))
    if given is None:
        return 0.0

    def form(text: str) -> str:
        return " ".join(text.split()) if case_sensitive else normalise(text)

    return float(form(given) in {form(reference) for reference in references(sample)})


@rule()
def fuzzy(response: str, sample: dict[str, Any], threshold: float | None = 0.9) -> RewardResult:
    """1.0 if the answer's similarity (1 − normalised edit distance) is ≥ `threshold`, else 0.0.

    Case, spaces and surrounding punctuation don't count. With `threshold=None` the value is the
    similarity itself. Several accepted answers: the most similar one counts.
    """
    given = single_answer(response, sample.get("mode"))
    if given is None:
        return RewardResult(0.0, details={"reason": "no single answer"})
    best = max(_close(normalise(given), normalise(one)) for one in references(sample))
    value = best if threshold is None else float(best >= threshold)
    return RewardResult(value, details={"similarity": round(best, 4)})


@rule()
def ocr(
    response: str,
    sample: dict[str, Any],
    threshold: float | None = None,
    case_sensitive: bool = True,
    unit: str = "character",
) -> RewardResult:
    """1 − normalised edit distance between the text read and the sample's answer.

    `unit="word"` compares words. White space is collapsed, line breaks count as spaces. With a
    `threshold` the value is 1.0 or 0.0.
    """
    text = answer_text(response, sample.get("mode"))
    if text is None:
        return RewardResult(0.0, details={"reason": "no answer"})
    inside = boxes(text)
    given = " ".join((inside[-1] if inside else text).split())
    best = 0.0
    for one in references(sample):
        wanted = " ".join(one.split())
        pair = (given, wanted) if case_sensitive else (given.casefold(), wanted.casefold())
        best = max(best, _close(*pair, words=unit == "word"))
    value = best if threshold is None else float(best >= threshold)
    return RewardResult(value, details={"similarity": round(best, 4)})


def _close(given: str, wanted: str, words: bool = False) -> float:
    """Similarity; a text more than four times as long as it should be is not similar at all."""
    if len(given) > min(4 * len(wanted) + 200, LONGEST_COMPARED):
        return 0.0
    return similarity(given.split(), wanted.split()) if words else similarity(given, wanted)


@rule()
def choice(response: str, sample: dict[str, Any]) -> RewardResult:
    """1.0 if the chosen letters are those of the sample's answer (`B`, or `A, C` for several).

    Accepted: `B`, `(B)`, `B.`, `B) the option's text`, "the answer is B", and, if the sample has
    `choices` (a list of option texts), an option's text alone. Naming other letters too is wrong.
    """
    wanted = set(LETTER.findall(str(sample.get("answer", "")).upper())) or set(
        str(sample.get("answer", "")).strip().upper()
    )
    if not wanted or any(not letter.isalpha() for letter in wanted):
        return RewardResult.failure(f"the sample's answer is no letter: {sample.get('answer')!r}")
    chosen: set[str] = set()
    for answer in final_answers(response, sample.get("mode")):
        chosen |= _letters(answer[:2000], sample.get("choices") or [])
    return RewardResult(float(chosen == wanted), details={"chosen": sorted(chosen)})


def _letters(text: str, options: list[str]) -> set[str]:
    plain = normalise(text)
    for index, option in enumerate(options):
        if plain == normalise(option):
            return {chr(ord("A") + index)}
    bare = text.strip().strip("$*.").strip()
    if match := re.fullmatch(r"\(?([A-Za-z])\)?", bare):
        return {match.group(1).upper()}
    without_and = re.sub(r"\b(?:and|und|et)\b", " ", bare)
    if re.fullmatch(r"[A-Z()\[\],;/&\s]{1,64}", without_and):
        return {letter for letter in without_and if letter.isalpha()}
    if match := re.match(r"\(?([A-Z])[).:]\s", bare):  # the option's letter, then its text
        others = set(re.findall(r"(?:^|\s)\(?([A-Z])[).:]\s", bare))
        return others | {match.group(1)}
    return set(STATED.findall(bare)) | set(re.findall(r"\(([A-Z])\)", bare))


@rule()
def ordering(response: str, sample: dict[str, Any], partial: bool = False) -> RewardResult:
    """1.0 if the items stand in the sample's order; `partial=True`: the share of pairs in order.

    Items are separated by commas, semicolons, `->`, `>`, line breaks, or (failing those) spaces;
    JSON lists are read too. A missing, doubled or foreign item makes the value 0.
    """
    wanted = _items(sample.get("answer"))
    if len(wanted) < 2:
        return RewardResult.failure(f"the sample's answer is no order: {sample.get('answer')!r}")
    answer = single_answer(response, sample.get("mode"))
    given = _items(answer[:LONGEST_COMPARED]) if answer else []
    if sorted(given) != sorted(wanted) or len(set(wanted)) != len(wanted):
        value = float(given == wanted)
        return RewardResult(value, details={"items": given[:50]})
    if not partial:
        return RewardResult(float(given == wanted))
    place = {item: index for index, item in enumerate(given)}
    pairs = [(a, b) for i, a in enumerate(wanted) for b in wanted[i + 1 :]]
    return RewardResult(sum(place[a] < place[b] for a, b in pairs) / len(pairs))


def _items(answer: object) -> list[str]:
    if isinstance(answer, (list, tuple)):
        return [normalise(item) for item in answer]
    text = str(answer).strip()
    if text.startswith("["):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, list):
            return [normalise(item) for item in found]
        text = text.strip("[]")
    parts = re.split(r"\s*(?:,|;|->|→|>|\n)\s*", text)
    if len(parts) == 1:
        parts = text.split()
    return [normalise(part) for part in parts if normalise(part)]
