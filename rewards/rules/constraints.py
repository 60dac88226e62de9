"""Hard constraints of a sample (instruction following), checked by rules."""

from __future__ import annotations

from typing import Any

from rewards.answer import answer_text, strip_end, unboxed
from rewards.call import prompt_text
from rewards.constraints.kinds import satisfied
from rewards.judge.templates import SOFT
from rewards.registry import rule
from rewards.result import RewardResult

LONGEST = 50_000  # characters; some checks take square time on hostile text


@rule()
def constraints(
    response: str, sample: dict[str, Any], every: bool = True, where: str = "answer"
) -> RewardResult:
    """1.0 if all of the sample's `constraints` are followed; `every=False`: the share of them.

    A constraint is `{kind, …arguments}`; the kinds are those of `rewards/constraints/kinds.py`.
    Soft kinds in the list are left to the rule `soft_constraints`.
    `where`: `answer` (the answer section of a response that has one, else all of it, as it is read:
    boxes count as what is in them) or `response`. The details say which were followed.
    """
    wanted = [c for c in sample.get("constraints") or [] if c.get("kind") not in SOFT]
    if not wanted:
        return RewardResult.failure("the sample has no hard constraints")
    text = strip_end(response)
    if where == "answer":
        text = unboxed((answer_text(response, sample.get("mode")) or "")[: LONGEST + 1]).strip()
    prompt = prompt_text(sample.get("messages") or [])
    names = [str(constraint["kind"]) for constraint in wanted]
    if not text or len(text) > LONGEST:
        none = dict.fromkeys(names, False)
        return RewardResult(0.0, details={"reason": "no text, or too long", "followed": none})
    followed = [satisfied(constraint, text, prompt) for constraint in wanted]
    share = sum(followed) / len(followed)
    details = {"followed": dict(zip(names, followed, strict=True))}
    return RewardResult(share if not every else float(share == 1.0), details=details)
