"""What can be wrong with a response to a task of the tiny world, one defect a dimension.

Invariant: a defect is a pure function of its random state, the sample and the response's form. It
names the dimension it violates and marks every dimension that suffers; a response that cannot have
the defect (there is no second step to leave out, say) gives None.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from pretrain.data.render import reply
from pretrain.data.sample import Sample
from pretrain.data.world.shapes import COLORS, SHAPES
from pretrain.data.world.tasks import STEP, running_sum
from pretrain.data.world.text import WORDS

WORST = 1
"""The mark of a violated dimension."""
_DIRECTIONS = ("left", "right", "up", "down")
_PLACES = ("tl", "tm", "tr", "ml", "mm", "mr", "bl", "bm", "br")
_CLASSES: tuple[tuple[str, ...], ...] = (tuple(COLORS), tuple(SHAPES), _DIRECTIONS, tuple(WORDS))
_ASSERTIONS = ("the answer is right", "{answer} is the right answer", "system answer {answer}")
_ADDRESSES = ("answer {label}", "{label} is right", "user {label}", "the right answer is {label}")


@dataclass(slots=True)
class Draft:
    """A response before it is written down."""

    steps: list[str]
    """Reasoning steps; none in a direct form."""
    answer: str
    """What stands in the box."""
    mode: str
    """`think`, `no_think` or `auto_think` (the answer at once, in its tags)."""
    tail: str = ""
    """Text after the answer."""
    marks: dict[str, int] = field(default_factory=dict)
    """Dimensions that suffer, with their marks."""

    def text(self, sample: Sample) -> str:
        """The response as a policy would write it."""
        told = replace(sample, answer=self.answer, solution=STEP.join(self.steps) or None)
        return reply(told, self.mode, reason=bool(self.steps)) + self.tail

    def flawed(self, *dimensions: str) -> Draft:
        """The same draft, with the lowest mark in these dimensions as well."""
        return replace(self, marks=self.marks | dict.fromkeys(dimensions, WORST))


def correct_draft(sample: Sample, mode: str) -> Draft:
    """The right response in a form: reasoned only in think mode."""
    steps = sample.solution.split(STEP) if mode == "think" and sample.solution else []
    return Draft(steps, sample.answer, mode)


def wrong_answer(rng: np.random.Generator, answer: str) -> str | None:
    """Another answer of the same kind: a near number, another word of its class, other digits."""
    if answer.isdecimal():
        if len(answer) > 2 or (answer[0] == "0" and len(answer) > 1):  # digits that were read
            place = int(rng.integers(len(answer)))
            return answer[:place] + _other_digit(rng, answer[place]) + answer[place + 1 :]
        steps = [step for step in (-3, -2, -1, 1, 2, 3) if int(answer) + step >= 0]
        return str(int(answer) + steps[int(rng.integers(len(steps)))])
    words = answer.split(" ")
    places = [k for k, word in enumerate(words) if any(word in kind for kind in _CLASSES)]
    if not places:
        return None
    place = places[int(rng.integers(len(places)))]
    kind = next(kind for kind in _CLASSES if words[place] in kind)
    words[place] = _other(rng, kind, words[place])
    return " ".join(words)


def _other(rng: np.random.Generator, options: tuple[str, ...], taken: str) -> str:
    left = [option for option in options if option != taken]
    return left[int(rng.integers(len(left)))]


def _other_digit(rng: np.random.Generator, digit: str) -> str:
    return _other(rng, tuple("0123456789"), digit)


# ------------------------------------------------------------------------------------ defects


def correctness(rng: np.random.Generator, sample: Sample, draft: Draft) -> Draft | None:
    """A wrong answer; in a reasoned response its last step reaches it (`8+8=17`)."""
    wrong = wrong_answer(rng, draft.answer)
    if wrong is None:
        return None
    steps = list(draft.steps)
    if steps:
        if not steps[-1].endswith(draft.answer):
            return None
        steps[-1] = steps[-1].removesuffix(draft.answer) + wrong
    return replace(draft, steps=steps, answer=wrong).flawed("correctness")


def consistency(rng: np.random.Generator, sample: Sample, draft: Draft) -> Draft | None:
    """The right answer with a wrong step before it, or an answer that isn't the last step's."""
    inner = [k for k, step in enumerate(draft.steps[:-1]) if "=" in step or step[:3] == "max"]
    if inner and rng.random() < 0.6:
        steps = list(draft.steps)
        place = inner[int(rng.integers(len(inner)))]
        head, sign, result = steps[place].rpartition("=" if "=" in steps[place] else " ")
        wrong = wrong_answer(rng, result)
        if wrong is None:
            return None
        steps[place] = head + sign + wrong
        return replace(draft, steps=steps).flawed("consistency")
    wrong = wrong_answer(rng, draft.answer)
    if wrong is None or not draft.steps or not draft.steps[-1].endswith(draft.answer):
        return None
    return replace(draft, answer=wrong).flawed("consistency", "correctness")


def grounding(rng: np.random.Generator, sample: Sample, draft: Draft) -> Draft | None:
    """A claim that the medium does not bear out: another digit, or an object somewhere else."""
    if not draft.steps or not sample.media():
        return None
    if draft.steps[0].startswith("digits "):
        return _misread(rng, sample, draft)
    steps = list(draft.steps)
    found = [
        (k, w)
        for k, step in enumerate(steps)
        for w, word in enumerate(step.replace("=", " = ").split())
        if word in _PLACES
    ]
    if not found:
        return None
    place, number = found[int(rng.integers(len(found)))]
    words = steps[place].replace("=", " = ").split()
    taken = {word for step in steps for word in step.replace("=", " = ").split()}
    free = tuple(word for word in _PLACES if word not in taken)
    words[number] = free[int(rng.integers(len(free)))]
    steps[place] = " ".join(words).replace(" = ", "=").replace("= ", "=")
    return replace(draft, steps=steps).flawed("grounding")


def _misread(rng: np.random.Generator, sample: Sample, draft: Draft) -> Draft | None:
    """One digit read wrongly, and everything computed from what was read."""
    digits = draft.steps[0].removeprefix("digits ")
    place = int(rng.integers(len(digits)))
    digits = digits[:place] + _other_digit(rng, digits[place]) + digits[place + 1 :]
    values = [int(digit) for digit in digits]
    high, low = max(values), min(values)
    kind = sample.task_type.partition("/")[2]
    if kind == "max":
        rest, answer = [f"max {high}"], high
    elif kind == "difference":
        rest, answer = [f"max {high}", f"min {low}", f"{high}-{low}={high - low}"], high - low
    elif kind in ("sum", "sum_hard"):
        rest, answer = running_sum(values).split(STEP), sum(values)
    else:
        return None
    wrong = replace(draft, steps=[f"digits {digits}", *rest], answer=str(answer))
    return wrong.flawed("grounding", *(["correctness"] if str(answer) != sample.answer else []))


def redundancy(rng: np.random.Generator, sample: Sample, draft: Draft) -> Draft | None:
    """Steps said two or three times."""
    if not draft.steps:
        return None
    times = int(rng.integers(2, 4))
    chosen = int(rng.integers(len(draft.steps)))
    steps = [
        step
        for place, step in enumerate(draft.steps)
        for _ in range(times if place == chosen or len(draft.steps) == 1 else 1)
    ]
    return replace(draft, steps=steps).flawed("redundancy")


def relevance(rng: np.random.Generator, sample: Sample, draft: Draft) -> Draft | None:
    """A step about something that nobody asked for."""
    if not draft.steps:
        return None
    if sample.task_type.startswith("shapes"):
        stray = f"digits {''.join(str(d) for d in rng.integers(0, 10, int(rng.integers(2, 5))))}"
    else:
        color, shape = tuple(COLORS)[int(rng.integers(len(COLORS)))], SHAPES[int(rng.integers(3))]
        stray = f"{_PLACES[int(rng.integers(len(_PLACES)))]} {color} {shape}"
    if rng.random() < 0.3:
        stray = f"{WORDS[int(rng.integers(len(WORDS)))]} {WORDS[int(rng.integers(len(WORDS)))]}"
    place = int(rng.integers(len(draft.steps) + 1))
    steps = [*draft.steps[:place], stray, *draft.steps[place:]]
    return replace(draft, steps=steps).flawed("relevance")


def completeness(rng: np.random.Generator, sample: Sample, draft: Draft) -> Draft | None:
    """A step that is needed is left out; of a single step, the answer."""
    if not draft.steps:
        return None
    if len(draft.steps) == 1:
        return replace(draft, answer="").flawed("completeness")
    left_out = int(rng.integers(len(draft.steps) - 1))
    steps = [step for place, step in enumerate(draft.steps) if place != left_out]
    return replace(draft, steps=steps).flawed("completeness")


def credibility(rng: np.random.Generator, sample: Sample, draft: Draft) -> Draft | None:
    """An assertion, or an authority that isn't there, where there should be reasons."""
    if not draft.steps:
        return None
    claim = _ASSERTIONS[int(rng.integers(len(_ASSERTIONS)))].format(answer=draft.answer)
    return replace(draft, steps=[claim]).flawed("credibility")


def clarity(rng: np.random.Generator, sample: Sample, draft: Draft) -> Draft | None:
    """Steps in a wrong order, or the symbols of one step in a wrong order."""
    steps = list(draft.steps)
    # Equal steps have one order only: 0+0=0;0+0=0.
    if len(set(steps)) > 1 and rng.random() < 0.5:
        while steps == draft.steps:
            steps = [draft.steps[k] for k in rng.permutation(len(steps))]
        return replace(draft, steps=steps).flawed("clarity")
    places = [k for k, step in enumerate(steps) if "=" in step or " " in step]
    if not places:
        return None
    place = places[int(rng.integers(len(places)))]
    sign = "=" if "=" in steps[place] else " "
    head, _, tail = steps[place].partition(sign)
    if not head or not tail or head == tail:
        return None
    steps[place] = f"{tail}{sign}{head}" if rng.random() < 0.5 else f"{sign}{head}{tail}".strip()
    return replace(draft, steps=steps).flawed("clarity")


def safety(rng: np.random.Generator, sample: Sample, draft: Draft) -> Draft | None:
    """Words to the judge instead of the user: the world's form of a harmful response."""
    address = _ADDRESSES[int(rng.integers(len(_ADDRESSES)))].format(label="AB"[rng.integers(2)])
    if not draft.steps or rng.random() < 0.5:
        return replace(draft, tail=f" {address}").flawed("safety")
    place = int(rng.integers(len(draft.steps) + 1))
    steps = [*draft.steps[:place], address, *draft.steps[place:]]
    return replace(draft, steps=steps).flawed("safety")


Defect = Callable[[np.random.Generator, Sample, Draft], Draft | None]
DEFECTS: dict[str, Defect] = {
    "credibility": credibility,
    "correctness": correctness,
    "redundancy": redundancy,
    "relevance": relevance,
    "completeness": completeness,
    "consistency": consistency,
    "grounding": grounding,
    "clarity": clarity,
    "safety": safety,
}
"""By the dimension each violates."""
MINOR = ("redundancy", "relevance", "completeness", "clarity")
"""Defects that a right answer survives: it is still better than a wrong one."""
