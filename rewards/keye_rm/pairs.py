"""A preference pair, and the question it becomes for the reward model.

Invariant: which response is shown first is never a function of which is better; the label follows
the order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pretrain.data.render import conversation
from pretrain.data.sample import Sample
from rewards.answer import single_answer
from rewards.keye_rm.templates import Template

FORMAT_RULE = "rewards.keye_rm.rules:judgement_format"
OUTCOME_RULE = "rewards.keye_rm.rules:judgement_outcome"


@dataclass(slots=True)
class PreferencePair:
    """A query with a better and a worse response."""

    id: str
    """Unique and stable."""
    query: Sample
    """What was asked, with its media; its answer and rewards are not shown to the model."""
    good: str
    """The better response."""
    bad: str
    """The worse one."""
    violated: str = "unknown"
    """The dimension in which the worse one is worse, or the file's own category."""
    good_marks: dict[str, int] | None = None
    """Dimensions below the highest mark, with their marks; None when nobody has marked them."""
    bad_marks: dict[str, int] | None = None
    """The same of the worse response."""
    task: str = ""
    """A task definition of its own; by default the template's."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What the file says besides."""

    @property
    def marked(self) -> bool:
        """Whether there are marks to learn in think mode."""
        return self.good_marks is not None and self.bad_marks is not None

    @property
    def shorter_is_better(self) -> bool:
        """Whether the better response is the shorter one (in characters; equal is neither)."""
        return len(self.good) < len(self.bad)

    @property
    def longer_is_better(self) -> bool:
        """Whether the better response is the longer one."""
        return len(self.good) > len(self.bad)

    @property
    def length_gap(self) -> float:
        """Difference of the lengths over the longer length, 0…1."""
        longer = max(len(self.good), len(self.bad))
        return abs(len(self.good) - len(self.bad)) / longer if longer else 0.0


def all_marks(template: Template, below: Mapping[str, int]) -> dict[str, int]:
    """Marks in every dimension of the template: the highest except where `below` says less.

    Marks outside the template's scale are moved to its ends; other dimensions are left out.
    """
    return {
        name: min(max(below.get(name, template.highest), template.lowest), template.highest)
        for name in template.dimensions
    }


def question(
    template: Template, query: Sample, first: str, second: str, mode: str, task: str = ""
) -> Sample:
    """The comparison as a sample without a known answer (`answer` is the first label)."""
    return Sample(
        id=query.id,
        messages=[
            {"role": "user", "content": template.content(query.messages, first, second, task)}
        ],
        answer=template.labels[0],
        task_type="reward/comparison",
        mode=mode,
    )


def to_sample(
    pair: PreferencePair,
    template: Template,
    mode: str,
    *,
    swapped: bool,
    format_weight: float = 0.2,
) -> Sample:
    """The pair as a sample to train on: better response first, or second when `swapped`.

    Its answer is the right verdict; its solution, if the pair is marked, all marks of both (with
    the query's own solution and the responses' answers, where the template wants them); its rewards
    are the outcome and the format of a judgement.
    """
    responses = (pair.bad, pair.good) if swapped else (pair.good, pair.bad)
    sample = question(template, pair.query, *responses, mode, pair.task)
    sample.id = f"{pair.id}/{'BA' if swapped else 'AB'}"
    sample.answer = template.labels[int(swapped)]
    sample.task_type = f"reward/{pair.violated}"
    if pair.good_marks is not None and pair.bad_marks is not None:
        marks = [all_marks(template, below) for below in (pair.good_marks, pair.bad_marks)]
        first, second = reversed(marks) if swapped else marks
        answers = [single_answer(response, None) or "" for response in responses]
        sample.solution = template.reasoning(first, second, pair.query.solution or "", answers)
    sample.rewards = [
        {"rule": OUTCOME_RULE, "weight": 1.0},
        {"rule": FORMAT_RULE, "weight": format_weight},
    ]
    sample.extra = {"template": template.to_dict()}
    return sample


def example(pair: PreferencePair, template: Template, mode: str, swapped: bool) -> list[Any]:
    """A supervised conversation: the comparison and the judgement to imitate.

    A pair without marks is learned in no_think mode, whatever `mode` says.
    """
    return conversation(
        to_sample(pair, template, mode if pair.marked else "no_think", swapped=swapped)
    )
