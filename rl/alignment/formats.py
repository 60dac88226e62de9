"""Format adherence: the structure of the mode, and the form of the answer itself."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pretrain.data.render import reply
from pretrain.data.sample import Sample
from rewards.rules.math import plain_number
from rl.alignment.config import AlignmentConfig
from rl.alignment.prompts import (
    BOX,
    Entry,
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
    """How a form is asked for, checked and written; `{box}` and `{json}` stand for the answer."""

    short: str
    full: str
    require: list[str]
    """Markdown blocks that it must have."""
    example: str


FORMS: dict[str, Form] = {
    "json": Form("json", 'Answer with JSON only: an object with the key "answer".', [], "{json}"),
    "json_code": Form(
        "json code",
        'Answer with one code block that holds JSON: an object with the key "answer".',
        ["code"],
        "```\n{json}\n```",
    ),
    "list": Form("list", "Answer with a Markdown list.", ["bullet"], "* {box}"),
    "heading": Form(
        "heading", "Answer in Markdown, below a heading.", ["heading"], "# answer\n{box}"
    ),
    "table": Form("table", "Answer with a Markdown table.", ["table"], "|answer|\n|-|\n|{box}|"),
}
"""Forms beside `plain`, which is the mode's structure alone."""
KEY = "answer"


def with_format(sample: Sample, rng: np.random.Generator, cfg: AlignmentConfig) -> Sample:
    """A form is drawn and asked for; format and content are the verifiers, and so is the answer.

    A row's own `schema` takes the place of ours in `json` and `json_code`.
    """
    own = cfg.formats
    kind = pick(rng, {name: weight for name, weight in own.kinds.items() if weight > 0})
    entries = answer_entries(sample, own.answer_weight)
    if kind == "plain":
        rewards = [*format_entry(own.format_weight, own.format_gate, verifier=True), *entries]
        return marked(replace(sample, rewards=rewards), "formats", kind)
    form = FORMS[kind]
    wording = form.short if own.short else form.full
    rewards = format_entry(own.format_weight, own.format_gate, verifier=True, boxed=False)
    if form.require:
        markdown = {"rule": "markdown", "name": "content", "require": form.require}
        rewards.append(markdown | {"weight": own.content_weight, "verifier": True})
    if kind in ("json", "json_code"):
        rewards += _json_entries(sample, own.content_weight, entries)
    else:
        rewards += entries
        if entries and sample.mode == "no_think":
            wording += f" {BOX}" if own.short else f" Put the result in {BOX}."
    return marked(with_query(replace(sample, rewards=rewards), wording), "formats", kind)


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
        total = sum(entry["weight"] for entry in answers)
        entries.append(rule | {"name": "answer", "weight": total, "schema": right})
    return entries


def _values(answer: str) -> list[Any]:
    """The JSON values that say the answer: its text, and its number if it is one."""
    number = plain_number(answer)
    if number is None:
        return [answer]
    return [int(number) if number == int(number) else float(number), answer]


def written_format(sample: Sample, reason: bool) -> str:
    """A reply to a prompt of `with_format` that has the form and the right answer."""
    kind = sample.extra["alignment"]["kind"]
    if kind == "plain":
        thinks = reason or sample.mode != "auto_think"
        return reply(sample, reason=thinks and sample.solution is not None)
    box = f"\\boxed{{{sample.answer}}}" if is_boxed(sample) else sample.answer
    value = json.dumps({KEY: _values(sample.answer)[0]}, ensure_ascii=False)
    text = FORMS[kind].example.replace("{box}", box).replace("{json}", value)
    return section(sample, text, reason or sample.mode == "think")
