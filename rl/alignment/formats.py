"""Format adherence: the structure of the mode, and the form of the answer itself."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pretrain.data.render import reply
from pretrain.data.sample import Sample, SampleError
from rewards.composition import OWN_KEYS
from rewards.rules.math import plain_number
from rl.alignment.config import AlignmentConfig, FormatConfig
from rl.alignment.prompts import (
    ANSWER,
    BOX,
    Entry,
    agentic_entry,
    answer_entries,
    format_entry,
    is_boxed,
    marked,
    pick,
    section,
    with_query,
)


@dataclass(frozen=True, slots=True)
class Form:
    """How a form is asked for, checked and written; `{box}`, `{json}` and `{literal}` stand for the
    answer."""

    short: str
    full: str
    require: list[str]
    """Markdown blocks that it must have."""
    example: str
    only: bool = False
    """It has no other blocks."""


FORMS: dict[str, Form] = {
    "json": Form("json", 'Answer with JSON only: an object with the key "answer".', [], "{json}"),
    "json_code": Form(
        "json code",
        'Answer with one code block that holds JSON: an object with the key "answer".',
        ["code"],
        "```\n{json}\n```",
    ),
    "python": Form(
        "python",
        "Answer with one Python code block whose program prints the result.",
        ["code:python"],
        "```python\nprint({literal})\n```",
        only=True,
    ),
    "list": Form("list", "Answer with a Markdown list.", ["bullet"], "* {box}"),
    "heading": Form(
        "heading", "Answer in Markdown, below a heading.", ["heading"], "# answer\n{box}"
    ),
    "table": Form("table", "Answer with a Markdown table.", ["table"], "|answer|\n|-|\n|{box}|"),
}
"""Forms beside `plain`, which is the mode's structure alone."""
KEY = "answer"
TEXT_RULES, NUMBER_RULES = ("exact", "choice"), ("math", "number", "counting")
"""Rules that, without arguments, look for one text or number: what a program can print."""


def with_format(sample: Sample, rng: np.random.Generator, cfg: AlignmentConfig) -> Sample:
    """A form is drawn and asked for; format and content are the verifiers, and so is the answer.

    A row's own `schema` takes the place of ours in `json` and `json_code`. Rows that name `tools`
    are held to the structure of agentic thinking, whatever the form of their answer.
    """
    own = cfg.formats
    kind = pick(rng, _kinds(sample, own))
    entries = answer_entries(sample, own.answer_weight)
    rewards = _structure(sample, own, boxed=kind == "plain")
    if kind == "plain":
        return marked(replace(sample, rewards=[*rewards, *entries]), "formats", kind)
    form = FORMS[kind]
    wording = form.short if own.short else form.full
    if form.require:
        markdown: Entry = {"rule": "markdown", "name": "content", "require": form.require}
        markdown |= {"weight": own.content_weight, "verifier": True, "only": form.only}
        rewards.append(markdown)
    if kind in ("json", "json_code"):
        rewards += _json_entries(sample, own.content_weight, entries)
    elif kind == "python":
        rewards += _program_entries(sample, entries)
    else:
        rewards += entries
        if entries and sample.mode == "no_think":
            wording += f" {BOX}" if own.short else f" Put the result in {BOX}."
    return marked(with_query(replace(sample, rewards=rewards), wording), "formats", kind)


def _kinds(sample: Sample, own: FormatConfig) -> dict[str, float]:
    """The forms that the sample's answer can have, with their weights."""
    kinds = {name: weight for name, weight in own.kinds.items() if weight > 0}
    if "python" in kinds and not _is_printable(sample):
        del kinds["python"]
    if not kinds:
        raise SampleError(
            f"sample {sample.id!r}: alignment.formats.kinds has python alone, and a program can "
            f"print only what the rules {', '.join(TEXT_RULES)} (a text) or "
            f"{', '.join(NUMBER_RULES)} (a number), without arguments, check; weigh another form"
        )
    return kinds


def _is_printable(sample: Sample) -> bool:
    """Whether one text or number is right; not a box in a picture, an essay, one of several."""
    own = answer_entries(sample, 1.0)
    if not own or sample.extra.get("answers"):
        return False
    known = TEXT_RULES if plain_number(sample.answer) is None else TEXT_RULES + NUMBER_RULES
    return all(entry["rule"] in known and OWN_KEYS.issuperset(entry) for entry in own)


def _structure(sample: Sample, own: FormatConfig, boxed: bool) -> list[Entry]:
    """The reward for the mode's structure: with calls in it where the row names tools."""
    args = {"verifier": True, "boxed": boxed}
    if not sample.extra.get("tools"):
        return format_entry(own.format_weight, own.format_gate, **args)
    if sample.mode != "think":
        raise SampleError(
            f"sample {sample.id!r}: names `tools` in mode {sample.mode}, whose structure has no "
            "calls. Give it the mode think, or leave out its `tools`"
        )
    return agentic_entry(own.format_weight, own.format_gate, own.min_calls, **args)


def _json_entries(sample: Sample, weight: float, answers: list[Entry]) -> list[Entry]:
    """The schema's reward, and one for the right value under the key `answer`."""
    rule = {"rule": "json_schema", "verifier": True}
    given = sample.extra.get("schema")
    if given is not None:
        return [rule | {"name": "json", "weight": weight, "schema": given}]
    schema: dict[str, Any] = {"type": "object", "required": [KEY], "additionalProperties": False}
    schema["properties"] = {KEY: {}}
    entries = [rule | {"name": "json", "weight": weight, "schema": schema}]
    if answers:
        right = {"required": [KEY], "properties": {KEY: {"enum": _values(sample.answer)}}}
        entries.append(rule | {"name": ANSWER, "weight": _weight(answers), "schema": right})
    return entries


def _program_entries(sample: Sample, answers: list[Entry]) -> list[Entry]:
    """A reward for a program that prints the answer."""
    if not answers:
        return []
    tests = [{"input": "", "output": sample.answer}]
    entry = {"rule": "code", "name": ANSWER, "weight": _weight(answers), "verifier": True}
    return [entry | {"tests": tests, "by_value": True}]


def _weight(answers: list[Entry]) -> float:
    return sum(entry["weight"] for entry in answers)


def _values(answer: str) -> list[Any]:
    """The JSON values that say the answer: its text, and its number if it is one."""
    number = plain_number(answer)
    if number is None:
        return [answer]
    return [int(number) if number == int(number) else float(number), answer]


def _literal(answer: str) -> str:
    """The number or text, as Python writes it, that a program prints as the answer."""
    value = _values(answer)[0]
    if plain_number(str(value)) != plain_number(answer):  # too long for a float, or 1e-08
        value = answer
    return json.dumps(value, ensure_ascii=False)


def written_format(sample: Sample, reason: bool) -> str:
    """A reply to a prompt of `with_format` that has the form and the right answer."""
    kind = sample.extra["alignment"]["kind"]
    if kind == "plain":
        thinks = reason or sample.mode != "auto_think"
        return reply(sample, reason=thinks and sample.solution is not None)
    box = f"\\boxed{{{sample.answer}}}" if is_boxed(sample) else sample.answer
    value = json.dumps({KEY: _values(sample.answer)[0]}, ensure_ascii=False)
    filled = {"{box}": box, "{json}": value, "{literal}": _literal(sample.answer)}
    text = FORMS[kind].example
    for name, written in filled.items():
        text = text.replace(name, written)
    return section(sample, text, reason or sample.mode == "think")
