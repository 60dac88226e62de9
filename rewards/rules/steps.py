"""Reasoning in prescribed steps: were they carried out, in their order, with the right results?"""

from __future__ import annotations

import re
from typing import Any

from rewards.answer import sections
from rewards.registry import rule
from rewards.result import RewardResult

LONGEST = 20_000  # characters of reasoning looked at
CUT = re.compile(r"[;\n]")
SENTENCE_END = re.compile(r"(?<=\w)\.(?=\s|$)")
NUMBERED = re.compile(r"^(?:step\s{0,3})?\d{1,3}\s{0,3}[.):]\s+|^[-*]\s+", re.IGNORECASE)
LABEL = re.compile(r"[^\W\d_]+")


@rule(verifier=False)
def prescribed_steps(
    response: str, sample: dict[str, Any], every: bool = False, extra: bool = True
) -> RewardResult:
    """The share of the sample's `steps` that the think section carries out, in their order.

    A step is `{text, expect}`: `expect` is what it must write (`max 8`, `3+5=8`), several parts
    with `;` between them. The reasoning is cut at `;`, line ends and full stops; numbering and case
    don't count. A step counts if its parts stand next to each other, all after the step before it,
    and if what it announces is said in one way only: `max 3;max 8` hedges and is no step `max 8`.
    What comes after a step that is missing can still count, what stands in the wrong place can't.

    `every`: 1.0 if all steps count, else 0.0. `extra=False`: 0.0 as well if anything else is
    written between or after them. Says nothing about the answer (that is the outcome's rule).
    """
    steps = sample.get("steps") or []
    expected = [_parts(str(step.get("expect") or "")) for step in steps if isinstance(step, dict)]
    if not expected or len(expected) != len(steps) or not all(expected):
        return RewardResult.failure("the sample needs `steps`, each with an `expect`")
    think = sections(response).think
    written = _parts(think[:LONGEST]) if think else []
    if not written:
        return RewardResult(0.0, details={"reason": "no think section"})
    done, used = _carried_out(expected, written)
    details = {"done": done, "written": len(written)}
    if not extra and used != len(written):
        return RewardResult(0.0, details=details | {"reason": "more is written than the steps"})
    share = sum(done) / len(done)
    return RewardResult(float(share == 1.0) if every else share, details=details)


def _carried_out(expected: list[list[str]], written: list[str]) -> tuple[list[bool], int]:
    """Which steps count, and how many of the written parts they take up.

    The steps that count are the longest ones in order (so that one step written too early doesn't
    spoil all those after it): a longest common subsequence of steps and places.
    """
    places = [_places(step, expected, written) for step in expected]
    best: dict[int, tuple[int, ...]] = {0: ()}  # first free place → the steps that were done
    for number, starts in enumerate(places):
        reached = dict(best)
        for free, done in best.items():
            start = next((place for place in starts if place >= free), None)
            if start is not None:
                end = start + len(expected[number])
                longer = (*done, number)
                if len(longer) > len(reached.get(end, ())):
                    reached[end] = longer
        best = reached
    most = max(best.values(), key=len)
    used = sum(len(expected[number]) for number in most)
    return [number in most for number in range(len(expected))], used


def _places(step: list[str], expected: list[list[str]], written: list[str]) -> list[int]:
    """Where the step stands; nowhere if its parts are also said with other results."""
    allowed = {part for parts in expected for part in parts}
    for part in step:
        label = _label(part)
        if any(_label(other) == label and other not in allowed for other in written):
            return []
    size = len(step)
    return [k for k in range(len(written) - size + 1) if written[k : k + size] == step]


def _label(part: str) -> str:
    """What a part announces: its first word (`max 8` → `max`), or an equation's left side."""
    word = LABEL.match(part)
    return word.group() if word else part.partition("=")[0]


def _parts(text: str) -> list[str]:
    """The things said, one after the other, without numbering, case and spaces around signs."""
    pieces = [NUMBERED.sub("", piece.strip()) for piece in CUT.split(text)]
    found = []
    for sentence in (one for piece in pieces for one in SENTENCE_END.split(piece)):
        plain = " ".join(sentence.replace(":", " ").split()).casefold()
        plain = re.sub(r"\s*([=+*/×÷−-])\s*", r"\1", plain)
        if plain:
            found.append(plain)
    return found
