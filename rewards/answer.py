r"""Where the answer stands in a response: sections and boxes, found in linear time.

The forms of a response (`mode` of the Sample):
- `think`: `<think>…</think><answer>…\boxed{A}…</answer>`;
- `no_think`: the answer alone, no such tags;
- `auto_think`: the `think` form, or `<answer>…</answer>` at once.

Everything here takes linear time and no back-tracking: the text is a policy's and may be 10 MB of
opening tags.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
END_MARKS = ("<|im_end|>", "<|endoftext|>")
BOX = "\\boxed{"
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped character, or a brace that counts


@dataclass(slots=True)
class Sections:
    """The parts of a response. `think` and `answer` are None where absent.

    `form` is `think`, `direct` (an answer section alone), `plain` (no tags at all) or `broken`.
    """

    think: str | None
    answer: str | None
    form: str


def strip_end(response: str) -> str:
    """Without surrounding white space and end-of-turn marks."""
    text = response.strip()
    while text.endswith(END_MARKS):
        for mark in END_MARKS:
            text = text.removesuffix(mark).rstrip()
    return text


def sections(response: str) -> Sections:
    """Splits a response strictly: each tag once, in order, nothing outside them but spaces."""
    text = strip_end(response)
    counts = [text.count(tag) for tag in TAGS]
    if not any(counts):
        return Sections(None, None, "plain")
    direct = counts == [0, 0, 1, 1]
    if not direct and counts != [1, 1, 1, 1]:
        return Sections(None, None, "broken")
    places = [text.find(tag) for tag in TAGS]
    answer = text[places[2] + len(TAGS[2]) : places[3]]
    tail = text[places[3] + len(TAGS[3]) :]
    if places[2] > places[3] or tail:
        return Sections(None, None, "broken")
    if direct:
        form = "direct" if places[2] == 0 else "broken"
        return Sections(None, answer if form == "direct" else None, form)
    between = text[places[1] + len(TAGS[1]) : places[2]]
    ordered = places[0] == 0 and places[0] < places[1] < places[2]
    if not ordered or between.strip():
        return Sections(None, None, "broken")
    return Sections(text[len(TAGS[0]) : places[1]], answer, "think")


def answer_text(response: str, mode: str | None) -> str | None:
    """The text in which the answer is looked for, or None if the response has none.

    think / auto_think: what stands in the last `<answer>…</answer>` (an unclosed one reaches the
    end). A response without tags counts whole, except in think mode, where the answer must not be
    picked out of reasoning. no_think and no mode: the answer section if there is one, else all.
    """
    text = strip_end(response)
    start = text.rfind("<answer>")
    if start >= 0:
        body = text[start + len("<answer>") :]
        end = body.find("</answer>")
        return body if end < 0 else body[:end]
    if mode == "think":
        return None
    if "<think>" in text or "</think>" in text:
        end = text.rfind("</think>")
        return text[end + len("</think>") :] if end >= 0 and mode != "auto_think" else None
    return text


def boxes(text: str, limit: int = 64) -> list[str]:
    r"""Contents of every `\boxed{…}`, braces balanced, in order; an unclosed box is left out.

    Boxes inside a box belong to the outer one. At most `limit` are returned.
    """
    found: list[str] = []
    place = text.find(BOX)
    while place >= 0 and len(found) < limit:
        start = place + len(BOX)
        end = _closing_brace(text, start)
        if end < 0:
            break
        found.append(text[start:end])
        place = text.find(BOX, end)
    return found


def _closing_brace(text: str, start: int) -> int:
    """Index of the brace that closes the one before `start`, or -1. `\\{` and `\\}` don't count."""
    depth = 1
    for match in _BRACE.finditer(text, start):
        mark = match.group()
        if mark == "{":
            depth += 1
        elif mark == "}":
            depth -= 1
            if depth == 0:
                return match.start()
    return -1


def unboxed(text: str) -> str:
    r"""The text as its reader sees it: every closed `\boxed{A}` is A."""
    pieces, place = [], 0
    while (start := text.find(BOX, place)) >= 0:
        end = _closing_brace(text, start + len(BOX))
        if end < 0:
            break
        pieces += [text[place:start], text[start + len(BOX) : end]]
        place = end + 1
    return "".join([*pieces, text[place:]])


def final_answers(response: str, mode: str | None) -> list[str]:
    """The distinct answers given: the boxes of the answer section, or the section itself.

    More than one means that the response hedges (or that several were asked for); rules decide.
    """
    text = answer_text(response, mode)
    if text is None:
        return []
    boxed = boxes(text)
    if not boxed:
        plain = text.strip()
        return [plain] if plain else []
    distinct: list[str] = []
    for content in (box.strip() for box in boxed):
        if content and content not in distinct:
            distinct.append(content)
    return distinct


def single_answer(response: str, mode: str | None) -> str | None:
    """The one answer of a response, or None if there is none or several different ones."""
    answers = final_answers(response, mode)
    return answers[0] if len(answers) == 1 else None
