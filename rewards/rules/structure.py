"""Structured answers: JSON against a schema, Markdown and HTML."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

from rewards.answer import answer_text
from rewards.registry import rule
from rewards.result import RewardResult
from rewards.rules.edit_distance import similarity

VOID = frozenset(
    ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source")
) | {"track", "wbr"}
LONGEST = 200_000  # characters
FENCE = re.compile(r"(`{3,}|~{3,})\s*([\w+-]*)\s*$")
TABLE_RULE = re.compile(r"\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?$")
LANGUAGES = {"py": "python", "python3": "python"}
"""Other names of a code fence's language."""


@rule()
def json_schema(
    response: str, sample: dict[str, Any], schema: dict[str, Any] | None = None
) -> RewardResult:
    """1.0 if the answer is JSON (bare, or alone in one code fence) that fits the schema, else 0.0.

    `schema` is a JSON Schema, by default the sample's `schema`; without one any JSON will do. Text
    around the JSON and doubled keys make it 0.
    """
    wanted = schema if schema is not None else sample.get("schema")
    text = (answer_text(response, sample.get("mode")) or "").strip()
    if len(text) > LONGEST:
        return RewardResult(0.0, details={"reason": "too long"})
    try:
        value = json.loads(unfenced(text), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        return RewardResult(0.0, details={"reason": f"no JSON: {error}"[:200]})
    if not wanted:
        return RewardResult(1.0)
    import jsonschema

    try:
        validator = jsonschema.validators.validator_for(wanted)
        validator.check_schema(wanted)
        fault = jsonschema.exceptions.best_match(validator(wanted).iter_errors(value))
    except jsonschema.exceptions.SchemaError as error:
        return RewardResult.failure(f"the schema itself is wrong: {error.message}")
    if fault is None:
        return RewardResult(1.0)
    return RewardResult(0.0, details={"reason": fault.message[:200], "at": fault.json_path})


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def unfenced(text: str) -> str:
    """The inside of a text that is one code fence; any other text as it is."""
    lines = text.splitlines()
    if len(lines) >= 2 and lines[0].startswith("```") and lines[-1].strip() == "```":
        return "\n".join(lines[1:-1])
    return text


def markdown_blocks(text: str) -> tuple[list[str], list[str]]:
    """(block kinds in order, faults). Kinds: h1…h6, code, table, bullet, number, quote, text.

    Faults: a fence that is not closed, a table whose rows differ in their number of columns, a
    heading level that is skipped. Consecutive lines of a kind are one block.
    """
    kinds, faults = _named_blocks(text)
    return [kind.partition(":")[0] for kind in kinds], faults


def _named_blocks(text: str) -> tuple[list[str], list[str]]:
    """`markdown_blocks`, where code whose fence names a language is `code:LANGUAGE`."""
    kinds: list[str] = []
    faults: list[str] = []
    lines = text.splitlines()
    index, level, previous_blank = 0, 0, True
    while index < len(lines):
        line = lines[index].strip()
        kind = _line_kind(line, lines[index + 1].strip() if index + 1 < len(lines) else "")
        if kind[:4] == "code":
            end = _fence_end(lines, index)
            if end is None:
                return [*kinds, kind], [*faults, "a code fence is not closed"]
            index = end
        elif kind == "table":
            end = index
            while end < len(lines) and "|" in lines[end]:
                end += 1
            if len({_cells(row) for row in lines[index:end]}) > 1:
                faults.append("a table's rows differ in their number of columns")
            index = end - 1
        elif kind[:1] == "h":
            if int(kind[1]) > level + 1:
                faults.append(f"{kind} after {f'h{level}' if level else 'no heading'}")
            level = int(kind[1])
        single = kind[:1] == "h" or kind[:4] == "code" or kind == "table"
        if kind and (single or previous_blank or kinds[-1:] != [kind]):
            kinds.append(kind)
        previous_blank = not kind
        index += 1
    return kinds, faults


def _line_kind(line: str, following: str) -> str:
    if not line:
        return ""
    if match := FENCE.match(line):
        language = match.group(2).lower()
        return f"code:{LANGUAGES.get(language, language)}" if language else "code"
    if match := re.match(r"(#{1,6})\s+\S", line):
        return f"h{len(match.group(1))}"
    if "|" in line and "|" in following and TABLE_RULE.fullmatch(following):
        return "table"
    if re.match(r"[-*+]\s+\S", line):
        return "bullet"
    if re.match(r"\d{1,9}[.)]\s+\S", line):
        return "number"
    return "quote" if line.startswith(">") else "text"


def _fence_end(lines: list[str], start: int) -> int | None:
    opening = FENCE.match(lines[start].strip())
    assert opening is not None
    mark = opening.group(1)
    for index in range(start + 1, len(lines)):
        line = lines[index].strip()
        if line.startswith(mark) and not line.strip(mark[0]):
            return index
    return None


def _cells(row: str) -> int:
    return len(re.split(r"(?<!\\)\|", row.strip().strip("|")))


@rule()
def markdown(
    response: str,
    sample: dict[str, Any],
    require: list[str] | None = None,
    only: bool = False,
    compare: bool = False,
) -> RewardResult:
    """1.0 if the answer is well-formed Markdown with all `require`d block kinds, else 0.0.

    Kinds: h1…h6, heading, code, code:LANGUAGE, table, bullet, number, quote. Well-formed: fences
    are closed, tables have equal rows, no heading level is skipped. `only=True`: the required
    blocks are all there is, in that order. `compare=True`: the similarity (1 − normalised edit
    distance) of its block kinds to those of the sample's answer instead.
    """
    text = answer_text(response, sample.get("mode")) or ""
    if not text.strip() or len(text) > LONGEST:
        return RewardResult(0.0, details={"reason": "empty or too long"})
    kinds, faults = _named_blocks(text)
    required = require or []
    missing = sorted(name for name in set(required) if not any(_is(k, name) for k in kinds))
    if faults or missing:
        return RewardResult(0.0, details={"faults": faults[:5], "missing": missing})
    alike = len(kinds) == len(required) and all(map(_is, kinds, required))
    if only and not alike:
        return RewardResult(0.0, details={"reason": "other blocks", "blocks": kinds[:50]})
    if not compare:
        return RewardResult(1.0)
    kinds, _ = markdown_blocks(text)
    wanted, _ = markdown_blocks(str(sample.get("answer", "")))
    return RewardResult(similarity(kinds, wanted), details={"blocks": kinds[:50]})


def _is(kind: str, name: str) -> bool:
    """Whether a block is of the kind that is asked for by this name."""
    return name in (kind, kind.partition(":")[0], "heading" if kind[0] == "h" else kind)


class _Tags(HTMLParser):
    """Checks that elements are closed in order, and notes their names."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.names.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.names.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID or not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")


@rule()
def html(
    response: str, sample: dict[str, Any], require: list[str] | None = None, compare: bool = False
) -> RewardResult:
    """1.0 if the answer is HTML whose elements are closed in order, with all `require`d ones.

    `compare=True`: the similarity of its sequence of elements to that of the sample's answer.
    """
    text = unfenced((answer_text(response, sample.get("mode")) or "").strip())
    if len(text) > LONGEST:
        return RewardResult(0.0, details={"reason": "too long"})
    tags = html_tags(text)
    missing = sorted(set(require or []) - set(tags.names))
    faults = tags.faults + [f"<{tag}> is not closed" for tag in tags.open]
    if not tags.names or faults or missing:
        return RewardResult(0.0, details={"faults": faults[:5], "missing": missing})
    if not compare:
        return RewardResult(1.0)
    wanted = html_tags(str(sample.get("answer", "")))
    return RewardResult(similarity(tags.names, wanted.names))


def html_tags(text: str) -> _Tags:
    tags = _Tags()
    tags.feed(text)
    tags.close()
    return tags
