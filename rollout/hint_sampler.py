"""Progressive hints: prompts that no response solves are asked again with the next hint.

The levels go from an observation (L1) to the whole solution (L5). A prompt's first level with a
correct response is the least information that the policy needs; that level's group takes the place
of the un-hinted one in the update.

Invariants: this module knows no rule — the caller says what "solved" means; a group is of one
level, so no statistic ever mixes levels; each level is asked at most once a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from pretrain.data.render import has_hint
from pretrain.data.sample import Sample
from rollout.config import HintConfig

GroupT = TypeVar("GroupT")
Generate = Callable[[Sequence[Sample], Sequence[int]], list[GroupT]]
"""(samples, one hint level each) → their groups, in order."""


class HintSampler:
    """Retries unsolved prompts level by level up to the configured cap."""

    def __init__(self, config: HintConfig) -> None:
        self.config = config

    def sample(
        self,
        samples: Sequence[Sample],
        generate: Generate[GroupT],
        is_solved: Callable[[GroupT], bool],
    ) -> tuple[list[GroupT], dict[str, float]]:
        """One group per sample: the un-hinted one, or the first hinted one that is solved.

        A prompt that stays unsolved up to the cap keeps its un-hinted group. A level for which a
        sample has no hint is skipped and counted.

        Returns:
            The groups in the order of `samples`, and `hints/*` metrics: the share of prompts all
            wrong without a hint and, for each level asked, how many prompts were asked and which
            share of them it solved.
        """
        groups = generate(samples, [0] * len(samples))
        unsolved = [i for i, group in enumerate(groups) if not is_solved(group)]
        metrics = {"hints/all_wrong_share": len(unsolved) / max(len(samples), 1)}
        if not self.config.max_level:
            return groups, metrics
        missing = rescued = 0
        for level in range(1, self.config.max_level + 1):
            asked = [i for i in unsolved if has_hint(samples[i], level)]
            missing += len(unsolved) - len(asked)
            if not asked:
                continue
            hinted = generate([samples[i] for i in asked], [level] * len(asked))
            solved = {i: group for i, group in zip(asked, hinted, strict=True) if is_solved(group)}
            for i, group in solved.items():
                groups[i] = group
            unsolved = [i for i in unsolved if i not in solved]
            rescued += len(solved)
            metrics[f"hints/L{level}/asked"] = float(len(asked))
            metrics[f"hints/L{level}/solve_rate"] = len(solved) / len(asked)
        metrics["hints/missing"] = float(missing)
        metrics["hints/rescued_share"] = rescued / max(len(samples), 1)
        return groups, metrics
