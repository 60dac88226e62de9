"""Shaping rules: length, repetition, language, agreement of reasoning and answer."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

from rewards.answer import final_answers, sections
from rewards.call import prompt_text
from rewards.registry import rule
from rewards.result import RewardResult
from rewards.rules.math import plain_number
from rewards.rules.text import normalise

LONGEST = 200_000  # characters looked at


@rule(verifier=False)
def length(
    response: str,
    sample: dict[str, Any],
    maximum: int,
    soft: int = 0,
    minimum: int = 0,
    unit: str = "character",
) -> float:
    """0 for a length in [`minimum`, `maximum` − `soft`], falling linearly to −1 at `maximum`.

    Above `maximum` and below `minimum` −1. `unit`: `character` or `word`. This is DAPO's soft
    overlong punishment (arXiv 2503.14476 eq. 13) on text lengths.
    """
    size = len(response.split()) if unit == "word" else len(response)
    if size < minimum or size > maximum:
        return -1.0
    start = maximum - soft
    return 0.0 if size <= start else -(size - start) / soft


@rule(verifier=False)
def repetition(
    response: str, sample: dict[str, Any], size: int = 4, weight: float = 1.0
) -> RewardResult:
    """−`weight` × the share of word n-grams of `size` that repeat an earlier one (0 … −weight).

    Text without spaces (Chinese, or one endless word) is taken by characters.
    """
    text = response[:LONGEST]
    words: list[str] = text.split()
    if len(words) * 20 < len(text):
        words = list(text.replace(" ", ""))
    grams = Counter(tuple(words[i : i + size]) for i in range(len(words) - size + 1))
    total = sum(grams.values())
    share = 1.0 - len(grams) / total if total else 0.0
    return RewardResult(-weight * share, details={"repeated": round(share, 4)})


SCRIPTS: dict[str, str | tuple[str, ...]] = {
    "latin": "LATIN",
    "han": "CJK",
    "kana": ("HIRAGANA", "KATAKANA"),
    "hangul": "HANGUL",
    "cyrillic": "CYRILLIC",
    "arabic": "ARABIC",
    "devanagari": "DEVANAGARI",
    "greek": "GREEK",
    "hebrew": "HEBREW",
    "thai": "THAI",
}
LANGUAGE_SCRIPTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(["en", "fr", "de", "es", "it", "pt", "nl", "vi", "tr", "id"], ("latin",)),
    "zh": ("han",),
    "ja": ("han", "kana"),
    "ko": ("hangul",),
    "ru": ("cyrillic",),
    "uk": ("cyrillic",),
    "ar": ("arabic",),
    "hi": ("devanagari",),
    "el": ("greek",),
    "he": ("hebrew",),
    "th": ("thai",),
}
NOT_PROSE = re.compile(
    r"```[^`]{0,20000}```|`[^`\n]{0,500}`|\$[^$\n]{0,2000}\$|\\[A-Za-z]+|<[^<>]{1,60}>"
)


@lru_cache(maxsize=65536)
def _script(character: str) -> str | None:
    if not character.isalpha():
        return None
    name = unicodedata.name(character, "")
    return next((key for key, prefix in SCRIPTS.items() if name.startswith(prefix)), "other")


def script_shares(text: str) -> dict[str, float]:
    """Share of letters by script, without code, formulas and tags; empty if there is no letter."""
    counts = Counter(_script(c) for c in NOT_PROSE.sub(" ", text[:LONGEST]))
    counts.pop(None, None)
    total = sum(counts.values())
    return {str(key): count / total for key, count in counts.items()} if total else {}


@rule(verifier=False)
def language(response: str, sample: dict[str, Any], expected: str | None = None) -> RewardResult:
    """Share of the response's letters that are in the script of the expected language, 0…1.

    `expected` is a language code (en, zh, ja, ko, ru, ar, …); without it the query's main script.
    Code, formulas and tags don't count; a response without letters is 1.0. Languages that share a
    script are not told apart.
    """
    if expected is not None and expected not in LANGUAGE_SCRIPTS:
        known = ", ".join(sorted(LANGUAGE_SCRIPTS))
        return RewardResult.failure(f"language {expected!r} is none of {known}")
    wanted: tuple[str, ...]
    if expected is not None:
        wanted = LANGUAGE_SCRIPTS[expected]
    else:
        asked = script_shares(prompt_text(sample.get("messages") or []))
        if not asked:
            return RewardResult(1.0, details={"reason": "the query has no letters"})
        main = max(asked, key=lambda key: asked[key])
        wanted = ("han", "kana") if "kana" in asked else (main,)
    shares = script_shares(response)
    if not shares:
        return RewardResult(1.0, details={"reason": "no letters"})
    inside = sum(shares.get(script, 0.0) for script in wanted)
    return RewardResult(inside, details={"scripts": {k: round(v, 3) for k, v in shares.items()}})


_DECIMAL = r"[+-]?\d{1,15}(?:\.\d{1,15})?"
EQUATION = re.compile(
    rf"(?<![\d.+\-*/×^])({_DECIMAL}(?:\s{{0,3}}[-+*/×÷]\s{{0,3}}{_DECIMAL}){{1,20}})\s{{0,3}}=\s{{0,3}}({_DECIMAL})"
    r"(?!\s{0,3}[-+*/×÷^]|\d|\.\d)"
)
LAST_NUMBER = re.compile(rf"(?<![\w.]){_DECIMAL}(?!\w)")


def evaluate(expression: str) -> Decimal | None:
    """Value of a sum of products of decimals (no brackets), or None (division by zero)."""
    tokens = re.findall(rf"(?:(?<=[-+*/×÷])|^)\s*{_DECIMAL}|[-+*/×÷]|{_DECIMAL}", expression)
    tokens = [token.strip() for token in tokens]
    terms: list[Decimal] = []
    operator = "+"
    try:
        for index, token in enumerate(tokens):
            if index % 2:
                operator = token
                continue
            value = Decimal(token)
            if operator in "*×":
                terms[-1] *= value
            elif operator in "/÷":
                terms[-1] /= value
            else:
                terms.append(-value if operator == "-" else value)
    except (InvalidOperation, IndexError, ZeroDivisionError):
        return None
    return sum(terms, Decimal(0))


def wrong_equations(text: str, limit: int = 200) -> list[str]:
    """The plain equations `3 + 5 = 9` of a text that do not hold (to the digits given)."""
    wrong = []
    for count, match in enumerate(EQUATION.finditer(text[:LONGEST])):
        if count == limit:
            break
        value, stated = evaluate(match.group(1)), Decimal(match.group(2))
        places = -int(stated.as_tuple().exponent)
        if value is None or abs(value - stated) > Decimal(10) ** -places / 2:
            wrong.append(match.group())
    return wrong


@rule(verifier=False)
def consistency(response: str, sample: dict[str, Any], check_steps: bool = True) -> RewardResult:
    """1.0 if the reasoning leads to the answer that is given, else 0.0 (the dual track).

    For a numeric answer the last number of the think section must be the answer, for any other
    answer its text must stand in the think section; with `check_steps` every plain equation in it
    (`3+5=8`) must hold. Says nothing about the answer being right. A direct answer, which has no
    reasoning to disagree with, is 1.0; a broken structure or an empty think section is 0.0.
    """
    parts = sections(response)
    if parts.form in ("plain", "direct"):
        return RewardResult(1.0, details={"reason": "no reasoning"})
    if parts.think is None or not parts.think.strip():
        return RewardResult(0.0, details={"reason": f"{parts.form} structure or empty think"})
    wrong = wrong_equations(parts.think) if check_steps else []
    if wrong:
        return RewardResult(0.0, details={"wrong_steps": wrong[:5]})
    answers = final_answers(response, "think")
    if len(answers) != 1:
        return RewardResult(0.0, details={"reason": f"{len(answers)} answers"})
    value = plain_number(answers[0].strip().strip("$"))
    if value is None:
        return RewardResult(float(normalise(answers[0]) in normalise(parts.think)))
    numbers = LAST_NUMBER.findall(parts.think[-LONGEST:])
    agrees = bool(numbers) and Decimal(numbers[-1]) == value
    return RewardResult(float(agrees), details={"concludes": numbers[-1] if numbers else None})
