r"""Does a hint say more than its level allows?

| level | says | may not hold |
|---|---|---|
| L1 | a concept or an observation | a method, a formula, a calculation, the answer |
| L2 | a strategy | a formula, a calculation, the answer |
| L3 | the tool or the formula | a calculation, the answer |
| L4 | the first concrete step | the answer |
| L5 | the whole solution | nothing is forbidden |

Invariant: the checks err on the strict side. A sound hint that is refused costs one level of one
prompt; a leaking one would teach the policy to copy, and its level's statistics would mean nothing.
They read texts only, in linear time.
"""

from __future__ import annotations

import re

from pretrain.data.render import query
from pretrain.data.sample import Sample

CHECKED_LEVELS = 4
"""L1…L4 are checked; L5 is the solution itself."""

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}  # ＝ and １ as = and 1
_NUMBER = re.compile(r"(?<![\d.])\d+(?:,\d{3})*(?:\.\d+)?(?![\d])")
_WORDS = re.findall(
    r"\w+",
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty",
)
_NUMBER_WORDS = {word: float(value) for value, word in enumerate(_WORDS)}
_CALCULATION = re.compile(r"[\d½¼¾²³)]\s*[-+−*/×÷·^]\s*\(?[-−]?[\d½¼¾(]|=\s*[-−]?\$?\d")
_SYMBOLS = re.compile(r"[=≈≤≥√∑∫]|\\(?:frac|sqrt|sum|int|times|cdot)\b")
_PRODUCT = re.compile(
    r"(?<![A-Za-z])(?:[A-Za-z]|[\d½¼¾]+)\s*[+*×÷·^/]\s*(?:[A-Za-z](?![A-Za-z])|[\d½¼¾])"
)
_METHOD = re.compile(
    r"\b(?:us(?:e|ing)|apply(?:ing)?|comput(?:e|ing)|calculat\w+|solv(?:e|ing)|add(?:ing)?|"
    r"subtract\w*|multiply\w*|divid(?:e|ing)|substitut\w+|factor(?:ise|ize|ing)?|integrat\w+|"
    r"differentiat\w+|theorem|formula|method|strategy|step)\b|计算|代入|公式|定理|方法|步骤|求解",
    re.IGNORECASE,
)
_SHORT_CHOICES = {"yes", "no", "true", "false"}


def sample_leak(level: int, hint: str, sample: Sample) -> str | None:
    """`leak` for every text that would give this sample away: its answer, the alternatives in a
    column `answers`, and the words of the option that a choice letter stands for."""
    return next((r for answer in answers(sample) if (r := leak(level, hint, answer))), None)


def answers(sample: Sample) -> list[str]:
    """The texts that answer a sample, the reference first."""
    given = sample.extra.get("answers") or []
    found = [sample.answer, *map(str, given if isinstance(given, list) else [given])]
    letter = _bare(sample.answer)
    if len(letter) == 1 and letter.isalpha():
        option = re.compile(rf"^\s*\(?{letter}[.):：、]\s*(\S.*?)\s*$", re.MULTILINE)
        found += option.findall(query(sample))
    return list(dict.fromkeys(found))


def leak(level: int, hint: str, answer: str) -> str | None:
    """Why hint L`level` may not be shown to a policy that is to find `answer`; None if it may.

    Args:
        level: 1…5.
        hint: the hint's text.
        answer: the reference answer, as the sample has it.
    """
    if level > CHECKED_LEVELS:
        return None
    text = hint.translate(_FULL_WIDTH)
    if found := contains_answer(text, answer):
        return f"L{level} contains the answer ({found!r})"
    if level <= 3 and (match := _CALCULATION.search(text)):
        return f"L{level} contains a calculation ({match.group().strip()!r})"
    if level <= 2 and (match := _SYMBOLS.search(text) or _PRODUCT.search(text)):
        return f"L{level} contains a formula ({match.group().strip()!r})"
    if level == 1 and (match := _METHOD.search(text)):
        return f"L1 names a method ({match.group()!r})"
    return None


def contains_answer(text: str, answer: str) -> str | None:
    r"""The part of `text` that gives the answer away, or None.

    Numbers are compared by value (`42`, `42.0`, `forty-two` up to twenty in words); a choice letter
    or a yes/no answer counts only where it is named as the answer (`option B`, `(B)`, `the answer
    is no`), because the same characters are ordinary words; any other answer as a run of words,
    upper and lower case alike.
    """
    wanted = _bare(answer)
    if not wanted:
        return None
    number = _value(wanted)
    if number is not None:
        return _find_number(text, number)
    if len(wanted) == 1 or wanted.casefold() in _SHORT_CHOICES:
        letter = re.escape(wanted)
        marks = r"(?:\b(?:option|choice|answer)(?:\s+is)?[\s:]*|选项?|答案[是为:]?\s*)"
        named = re.search(rf"{marks}\(?{letter}\b|\({letter}\)", text, re.IGNORECASE)
        return named.group() if named else None
    bounds = (r"(?<!\w)", r"(?!\w)") if wanted.isascii() else ("", "")
    words = r"\s+".join(re.escape(word) for word in wanted.split())
    found = re.search(bounds[0] + words + bounds[1], text, re.IGNORECASE)
    return found.group() if found else None


def _bare(answer: str) -> str:
    """Without a box, dollar signs, surrounding brackets or a final stop."""
    text = answer.strip().strip("$").strip()
    if text.startswith("\\boxed{") and text.endswith("}"):
        text = text[len("\\boxed{") : -1]
    return text.strip().rstrip(".").strip()


def _value(text: str) -> float | None:
    try:
        return float(text.replace(",", "").replace("−", "-"))
    except ValueError:
        return _NUMBER_WORDS.get(text.casefold())


def _find_number(text: str, value: float) -> str | None:
    for match in _NUMBER.finditer(text):
        if float(match.group().replace(",", "")) == abs(value):
            return match.group()
    for match in re.finditer(r"[A-Za-z]+", text):
        if _NUMBER_WORDS.get(match.group().casefold()) == value:
            return match.group()
    return None
