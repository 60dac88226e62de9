"""What a judgement earns while the reward model itself is trained with GSPO: format and outcome.

A malformed judgement earns 0 in both: here it is the policy's mistake, not a failed measurement.
The sample carries the template (`template`), its answer is the right verdict.
"""

from __future__ import annotations

from typing import Any

from rewards.keye_rm.parsing import Judgement, parse
from rewards.keye_rm.templates import MODES, Template
from rewards.registry import rule
from rewards.result import RewardResult


@rule(verifier=True)
def judgement_outcome(response: str, sample: dict[str, Any]) -> RewardResult:
    """1.0 if the judgement's verdict is the sample's answer, else 0.0; malformed is 0.0."""
    judgement, template = _read(response, sample)
    if judgement.verdict is None:
        return RewardResult(0.0, details={"fault": judgement.fault})
    return RewardResult(float(template.labels[judgement.verdict] == sample["answer"]))


@rule(verifier=False)
def judgement_format(response: str, sample: dict[str, Any]) -> RewardResult:
    """1.0 if the judgement can be read, strictly, in the sample's mode, else 0.0 with the fault."""
    judgement, _ = _read(response, sample)
    details = {"fault": judgement.fault} if judgement.fault else {}
    return RewardResult(float(judgement.ok), details=details)


@rule(verifier=False)
def keye_rm(
    response: str,
    sample: dict[str, Any],
    against: str = "group",
    opponents: int = 4,
    mode: str = "no_think",
    task: str = "",
) -> RewardResult:
    """The Keye reward model's preference, 0 to 1; served by a GSPO job's own engines.

    `against=group`: how often the response is preferred over `opponents` others of its group, in
    both orders; `against=reference`: the probability that it is better than the sample's
    `reference` (or its solution and answer, written as a reply). `mode=think` also logs the mark
    in each dimension by name. `task` replaces the task definition. Needs
    `reward_model.checkpoint`: rule workers hold no model, so by itself this rule is an error.
    """
    return RewardResult.failure(
        "keye_rm is scored by a job's reward-model engines, and this one has none; set "
        "reward_model.checkpoint=DIRECTORY"
    )


def _read(response: str, sample: dict[str, Any]) -> tuple[Judgement, Template]:
    template = Template(**sample["template"])
    mode = str(sample.get("mode"))
    return parse(response, mode if mode in MODES else "think", template), template
