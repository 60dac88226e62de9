"""The rule of merged questions: each half of the answer by the half's own rule.

It runs in reward workers, so it imports nothing but the rules.
"""

from __future__ import annotations

from typing import Any

from rewards.answer import single_answer
from rewards.registry import load, rule
from rewards.result import RewardResult, as_result


@rule()
def merged_answer(
    response: str, sample: dict[str, Any], parts: list[dict[str, Any]], separator: str = ", "
) -> RewardResult:
    """The share of the parts that are right, each compared by its own rule; 1.0: all are.

    `parts`: `{rule, answer, arguments}` in the order of the questions. The answer must have as many
    parts, divided by `separator` (spaces around it don't matter).
    """
    given = single_answer(response, sample.get("mode"))
    if given is None:
        return RewardResult(0.0, details={"reason": "no single answer"})
    pieces = [piece.strip() for piece in given.split(separator.strip())]
    if len(pieces) != len(parts):
        return RewardResult(0.0, details={"reason": f"{len(pieces)} parts, not {len(parts)}"})
    values = []
    for piece, part in zip(pieces, parts, strict=True):
        asked = {"answer": part["answer"], "mode": "no_think"}
        call = load(part["rule"]).call
        result = as_result(call(piece, asked, **part.get("arguments", {})))
        if result.value is None:
            return result
        values.append(result.value)
    return RewardResult(sum(values) / len(values), details={"values": values})
