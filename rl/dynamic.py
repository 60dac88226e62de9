"""Dynamic sampling with a bounded budget (DAPO, arXiv 2503.14476 §3.2).

A group whose responses are all right or all wrong has no gradient. Instead of a smaller update, a
step may draw further prompts until it has as many informative groups as it wanted, or until its
budget of prompts is spent.

Invariants: with a budget of 1 nothing is drawn beyond the first batch and nothing is left out; what
is drawn follows from the prompts' order and the outcomes alone, so that a resumed job draws the
same.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pretrain.data.sample import Sample
from pretrain.run.errors import ConfigError
from rl.groups import Group


@dataclass
class DynamicConfig:
    """How far a step goes for groups that it can learn from."""

    budget: float = 1.0
    """Prompts that a step may draw at most, as a multiple of gspo.prompts_per_step. 1 draws one
    batch; 3 is usual for hard data."""

    def __post_init__(self) -> None:
        if not 1 <= self.budget <= 100:
            raise ConfigError(
                f"dynamic.budget={self.budget} is not in 1…100: it is a multiple of "
                "gspo.prompts_per_step, and 1 switches dynamic sampling off"
            )

    @property
    def on(self) -> bool:
        """Whether more than one batch may be drawn."""
        return self.budget > 1


@dataclass(slots=True)
class Drawn:
    """One step's groups."""

    groups: list[Group] = field(default_factory=list)
    """For the update: with dynamic sampling the informative ones, at most as many as wanted."""
    seen: list[Group] = field(default_factory=list)
    """One group a prompt, everything that was drawn: statistics of the policy are taken over it,
    because the chosen ones are neither the easy nor the hard ones."""
    informative: int = 0
    """Groups of `seen` that an update can learn from."""
    batches: int = 0
    wanted: int = 0

    def metrics(self) -> dict[str, float]:
        """`dynamic/*`: how much was drawn, which share was informative, how full the update is."""
        return {
            "dynamic/prompts": float(len(self.seen)),
            "dynamic/batches": float(self.batches),
            "dynamic/informative_share": self.informative / max(len(self.seen), 1),
            "dynamic/filled_share": len(self.groups) / max(self.wanted, 1),
            "dynamic/surplus": float(self.informative - len(self.groups)),
        }


def draw(
    cfg: DynamicConfig,
    first: Sequence[Sample],
    take: Callable[[int], list[Sample]],
    ask: Callable[[Sequence[Sample], int], list[Group]],
    informative: Callable[[Group], bool],
) -> Drawn:
    """Groups for one update.

    Args:
        cfg: the budget.
        first: the step's own prompts; as many informative groups are wanted.
        take: the next prompts of the source.
        ask: makes the groups of some prompts; its second argument counts the batches from 0.
        informative: whether the update can learn from a group.
    """
    drawn = Drawn(wanted=len(first))
    limit = math.floor(cfg.budget * len(first))
    samples: Sequence[Sample] = first
    while True:
        groups = ask(samples, drawn.batches)
        drawn.batches += 1
        drawn.seen += groups
        if not cfg.on:
            drawn.groups = groups
            return drawn
        useful = [group for group in groups if informative(group)]
        drawn.informative += len(useful)
        drawn.groups += useful
        missing, left = drawn.wanted - len(drawn.groups), limit - len(drawn.seen)
        if missing <= 0 or left <= 0:
            drawn.groups = drawn.groups[: drawn.wanted]
            return drawn
        share = (len(drawn.groups) + 1) / (len(drawn.seen) + 1)
        samples = take(min(left, math.ceil(missing / share)))
