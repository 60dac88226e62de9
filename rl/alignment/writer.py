"""Answers that follow a set of constraints by construction: fine-tuning data, and a proof.

Invariant: what the writer returns has been checked by the rules themselves; a set that it can't
follow gives None, never a bad answer.
"""

from __future__ import annotations

import math
import re
from typing import Any

from pretrain.data.sample import Sample
from pretrain.data.world.text import WORDS
from rewards.answer import unboxed
from rewards.constraints.checks import words
from rewards.constraints.kinds import satisfied
from rl.alignment.prompts import is_boxed, section

Constraint = dict[str, Any]
ANSWER = "\0"
"""Stands for the answer until the rest is written."""


def written_answer(constraints: list[Constraint], answer: str, boxed: bool = True) -> str | None:
    """A short text that gives the answer and follows all constraints, or None."""
    asked = {constraint["kind"]: constraint for constraint in constraints}
    filler = _filler(constraints)
    units = _units(asked, filler, answer)
    text = _laid_out(units, asked, filler, answer)
    if "quotation" in asked:
        text = f'"{text}"'
    if "uppercase" in asked:
        text, answer = text.upper(), answer.upper()
    elif "lowercase" in asked:
        text, answer = text.lower(), answer.lower()
    reply = text.replace(ANSWER, f"\\boxed{{{answer}}}" if boxed else answer)
    shown = unboxed(reply)
    return reply if all(satisfied(constraint, shown) for constraint in constraints) else None


def _filler(constraints: list[Constraint]) -> str:
    """A word that no constraint is about."""
    named = str(constraints)
    return next((word for word in WORDS if word not in named), WORDS[0])


def _units(asked: dict[str, Constraint], filler: str, answer: str) -> list[str]:
    """What the text needs, in order: beginning, words, answer, end."""
    head: list[str] = []
    if "repeat_prompt" in asked:
        head.append(asked["repeat_prompt"]["prompt"])
    if "starts_with" in asked:
        head.append(asked["starts_with"]["phrase"])
    tail = [asked["ends_with"]["phrase"]] if "ends_with" in asked else []
    body: list[str] = []

    def missing(word: str) -> bool:
        return word.lower() not in " ".join([*head, *body, *tail]).lower()

    if "title" in asked:
        body.append(f"<<{filler}>>")
    items = asked.get("ordered_mentions", {}).get("items", [])
    body += [item for item in items if item not in " ".join(head)]
    body += [
        word for word in asked.get("keywords_include", {}).get("keywords", []) if missing(word)
    ]
    if "keyword_count" in asked:
        word, least = asked["keyword_count"]["keyword"], asked["keyword_count"]["minimum"]
        have = " ".join([*head, *body, *tail]).lower().count(word.lower())
        body += [word] * (least - have)
    if "highlights" in asked:
        body += [f"*{filler}*"] * asked["highlights"]["count"]
    if "capital_words" in asked:
        body += [filler.upper()] * asked["capital_words"]["minimum"]
    least = asked.get("word_count", {}).get("minimum", 0)
    have = len(words(" ".join([*head, *body, answer, *tail])))
    body += [filler] * (least - have)
    return [*head, *body, ANSWER, *tail]


def _laid_out(units: list[str], asked: dict[str, Constraint], filler: str, answer: str) -> str:
    """The units in one line, or in as many lines or bullet points as are asked for."""
    if "bullets" in asked:
        count = asked["bullets"]["count"]
        fixed = [unit for unit in units[:1] if unit != ANSWER and _begins(asked)]
        parts = _split(units[len(fixed) :], count, filler)
        return "\n".join([*fixed, *(f"* {part}" for part in parts)])
    if "line_count" in asked:
        return "\n".join(_split(units, asked["line_count"]["count"], filler))
    return " ".join(units)


def _begins(asked: dict[str, Constraint]) -> bool:
    return "starts_with" in asked or "repeat_prompt" in asked


def _split(units: list[str], count: int, filler: str) -> list[str]:
    """`count` parts of neighbouring units; fillers stand before the answer if there are too few."""
    if len(units) < count:
        units = [filler] * (count - len(units)) + units
    size = math.ceil(len(units) / count)
    parts = [" ".join(units[k * size : (k + 1) * size]) for k in range(count - 1)]
    last = units[(count - 1) * size :]
    if not last:  # 4 units in 3 parts of 2: the last would be empty
        return [*units[: count - 1], " ".join(units[count - 1 :])]
    return [*parts, " ".join(last)]


def written_instructions(sample: Sample, reason: bool) -> str | None:
    """A reply to a prompt with constraints, or None if the writer can't follow them."""
    text = written_answer(sample.constraints or [], sample.answer, is_boxed(sample))
    if text is None or re.search(r"</?(?:think|answer)>", text):
        return None
    return section(sample, text, reason or sample.mode == "think")
