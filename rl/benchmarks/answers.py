"""What a response answers, by rule: an option's letter, yes or no, numbers.

Every rule gives None rather than a guess: what is ambiguous is left to the judge, or counts as
wrong.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping

from rewards.answer import answer_text, boxes

_PUNCTUATION = str.maketrans(dict.fromkeys(".()[],:;!?*#{}\"'`$\n\t", " "))
_LEADING = re.compile(r"^[\s(\[*\"']*([A-Z])(?:[\s)\].:,*\"']|$)")
_STATED = re.compile(
    r"(?:answer|option|choice)\s*(?:is|:)?\s*[:\s]*[(\[*\"']*([A-Z])(?=$|[\s)\].:,;!*\"'])",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][+-]?\d+)?|-?\.\d+")
_MARKER = re.compile(r"(?:answer\s*(?:is|:)|=)\s*", re.IGNORECASE)


def final_answer(response: str, mode: str) -> str:
    """The answer in a response of any of Keye's forms: its box, its answer section, or all of it.

    Reasoning is never searched for an answer: a response that doesn't get to one gives "".
    """
    text = answer_text(response, mode)
    if text is None:
        return ""
    inside = {box.strip() for box in boxes(text)}
    return inside.pop() if len(inside) == 1 else text.strip()


def choice_letter(answer: str, choices: Mapping[str, str]) -> str | None:
    """The one option that an answer names; None if it names none or several.

    In order: the letter in front ("B", "(B)", "B. text"), a stated one ("the answer is B"), the
    only option letter among the words ("A" before a small word is an article), and the only option
    whose text is the answer, or in it if the answer isn't much longer than the options.
    """
    text = answer.strip()
    same = [letter for letter, option in choices.items() if option and _same(option, text)]
    if len(same) == 1:
        return same[0]
    named = _named(text, choices)
    leading = _LEADING.match(text)
    if leading and leading[1] in choices and not _article(text[leading.start(1) :]):
        marked = text[leading.end(1) : leading.end(1) + 1] in (".", ")", ":")
        others = _stated(text, choices) if marked else named
        return None if others - {leading[1]} else leading[1]
    stated = _stated(text, choices)
    if stated:
        return stated.pop() if len(stated) == 1 else None
    if named:
        return named.pop() if len(named) == 1 else None
    options = {letter: option.casefold() for letter, option in choices.items() if option}
    if len(text) > 2 * sum(map(len, options.values())):
        return None
    inside = [letter for letter, option in options.items() if option in text.casefold()]
    return inside[0] if len(inside) == 1 else None


def _same(option: str, text: str) -> bool:
    return option.strip(" .").casefold() == text.strip(" .").casefold()


def _named(text: str, choices: Mapping[str, str]) -> set[str]:
    """Option letters that stand alone as words; "A" before a small word is an article."""
    words = text.translate(_PUNCTUATION).split()
    return {
        word
        for word, following in zip(words, [*words[1:], ""], strict=False)
        if word in choices and not _article(f"{word} {following}")
    }


def _article(text: str) -> bool:
    """Whether a leading "A" is a word of a sentence: "A dog runs", but not "A is right"."""
    return bool(re.match(r"A\s+(?!(?:or|and|nor|is|but|because|as|since|seems)\b)[a-z]", text))


def _stated(text: str, choices: Mapping[str, str]) -> set[str]:
    found = set()
    for match in _STATED.finditer(text):
        letter = match[1]
        if letter in choices and not _article(text[match.start(1) :]):
            found.add(letter)
    return found


def yes_or_no(answer: str) -> str | None:
    """`Yes` or `No` if exactly one of the two words is in the answer."""
    words = answer.lower().translate(str.maketrans("", "", string.punctuation)).split()
    found = {word for word in words if word in ("yes", "no")}
    return found.pop().capitalize() if len(found) == 1 else None


def numbers(answer: str) -> list[float]:
    """All numbers of a text, in order; `1,234` is one."""
    return [float(found.group().replace(",", "")) for found in _NUMBER.finditer(answer)]


def stated_number(answer: str) -> tuple[float | None, bool]:
    """The number that an answer gives, and whether that is sure.

    Sure: there is only one, or one after the last "answer is" or "=". Otherwise it is the last.
    """
    found = numbers(answer)
    if len(set(found)) <= 1:
        return (found[0], True) if found else (None, False)
    ends = [match.end() for match in _MARKER.finditer(answer)]
    after = numbers(answer[ends[-1] :]) if ends else []
    return (after[0], True) if after else (found[-1], False)


def rotations(choices: Mapping[str, str], answer: str) -> list[tuple[dict[str, str], str]]:
    """All circular shifts of the options with the answer's letter in each: [A B C], [B C A], ….

    The first is the question as it is (MMBench's circular evaluation asks all of them).
    """
    letters, texts = list(choices), list(choices.values())
    place = letters.index(answer)
    size = len(letters)
    return [
        (
            {letters[k]: texts[(k + shift) % size] for k in range(size)},
            letters[(place - shift) % size],
        )
        for shift in range(size)
    ]
