"""MMMU's reading of answers (arXiv 2311.16502, its evaluation code): choices and open answers.

One difference: where the original draws a random option for an unreadable answer, that is wrong
here, so that a score can be repeated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
"""What comes before the answer in a sentence."""
_SENTENCE = re.compile(r"\.\s(?=[A-Z])|\n")
_WITH_COMMAS = re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b")
_SCIENTIFIC = re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+")
_SIMPLE = re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])")


def parse_choice(
    response: str, choices: Mapping[str, str], forms: Sequence[str] = ("({})", " {} ")
) -> str | None:
    """The option's letter, or None.

    The first of `forms` in which any letter appears decides, then options' texts in longer answers;
    of several candidates the one that appears last.
    """
    text = f" {response.strip().strip(',.!?;:' + chr(39))} "
    for form in forms:
        places = {letter: text.rfind(form.format(letter)) for letter in choices}
        found = {letter: place for letter, place in places.items() if place >= 0}
        if found:
            return max(found, key=lambda letter: found[letter])
    if len(text.split()) > 5:
        lower = text.lower()
        places = {k: lower.rfind(option.lower()) for k, option in choices.items() if option}
        found = {letter: place for letter, place in places.items() if place >= 0}
        if found:
            return max(found, key=lambda letter: found[letter])
    return None


def normalise(text: str) -> list[str | float]:
    """A number rounded to two decimals, or the text in lower case; one letter is kept apart."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lower = text.lower()
        return [f" {lower}", f"{lower} "] if len(lower) == 1 else [lower]


def parse_open(response: str) -> list[str | float]:
    """What an open answer may mean: the tails after key words, and all numbers in them."""
    parts: list[str] = []
    # The original lower-cases before it splits, so only line breaks ever split; kept as it is.
    sentences = _SENTENCE.split(response.strip().strip(".").lower())
    for number, sentence in enumerate(sentences):
        keys = (*KEYS, "=") if number == len(sentences) - 1 else KEYS
        tails = [sentence.split(key)[-1].strip() for key in keys if key in sentence]
        shortest = min(tails, key=len, default="")
        if shortest and shortest not in ":,.!?;'":
            parts.append(shortest)
    parts = parts or [response.strip().strip(".").lower()]
    texts = list(parts)
    for part in parts:
        for pattern in (_WITH_COMMAS, _SCIENTIFIC, _SIMPLE):
            texts += pattern.findall(part)
    return list(dict.fromkeys(value for text in texts for value in normalise(text)))


def open_is_correct(predicted: Sequence[str | float], answers: Sequence[str]) -> bool:
    """Whether a number equals a reference answer, or a text contains one."""
    wanted = [value for answer in answers for value in normalise(answer)]
    for value in predicted:
        if isinstance(value, str):
            if any(isinstance(one, str) and one in value for one in wanted):
                return True
        elif value in wanted:
            return True
    return False
