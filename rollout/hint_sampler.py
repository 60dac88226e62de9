"""Progressive hints: prompts that no response solves are asked again with the next hint.

The levels go from an observation (L1) to the whole solution (L5). A prompt's first level with a
correct response is the least information that the policy needs; that level's group takes the place
of the unsolved one in the update, and the prompt starts from there the next time it comes.

Invariants: this module knows no rule — the caller says what "solved" means; a group is of one
level, so no statistic ever mixes levels; each level is asked at most once a visit; a hint that says
more than its level allows is never shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pretrain.data.render import has_hint, hint
from pretrain.data.sample import HINT_LEVELS, Sample
from pretrain.run.directory import disk_guard
from pretrain.run.metrics import read_rows
from rollout.config import HintConfig
from rollout.hint_leaks import sample_leak
from rollout.hint_memory import HintMemory

GroupT = TypeVar("GroupT")
Generate = Callable[[Sequence[Sample], Sequence[int]], list[GroupT]]
"""(samples, one hint level each) → their groups, in order."""


def _per_level() -> list[int]:
    return [0] * (HINT_LEVELS + 1)


@dataclass(slots=True)
class HintCounts:
    """What happened in one or several calls; they add up."""

    asked: list[int] = field(default_factory=_per_level)
    """Groups generated at each level, 0…5."""
    solved: list[int] = field(default_factory=_per_level)
    """Those of them that hold a correct response: a prompt counts at its minimal level."""
    prompts: int = 0
    missing: int = 0
    """Levels that an unsolved prompt has no hint for."""
    leaking: int = 0
    """Levels whose hint was refused because it says too much."""
    tokens: float = 0.0
    """Response tokens of all groups, the unsolved ones included."""
    remembered: int = 0
    """Prompts that will start from a hint the next time."""
    max_level: int = 0

    def add(self, other: HintCounts) -> None:
        """Take another call's counts in."""
        for level in range(HINT_LEVELS + 1):
            self.asked[level] += other.asked[level]
            self.solved[level] += other.solved[level]
        self.prompts += other.prompts
        self.missing += other.missing
        self.leaking += other.leaking
        self.tokens += other.tokens
        self.remembered, self.max_level = other.remembered, other.max_level

    def metrics(self) -> dict[str, float]:
        """`hints/*`: with hints off only the share of prompts that no response solved.

        `hints/L<k>/share` is the histogram of minimal levels over all prompts, L0 being no hint;
        with `hints/unsolved_share` it sums to 1. `hints/unhinted_share` prompts were asked without
        a hint first: it falls when the memory fills and rises as hints are weaned off.
        """
        prompts = max(self.prompts, 1)
        metrics = {}
        if self.asked[0]:
            metrics["hints/all_wrong_share"] = 1 - self.solved[0] / self.asked[0]
        if not self.max_level:
            return metrics
        for level in range(self.max_level + 1):
            if self.asked[level]:
                metrics[f"hints/L{level}/asked"] = float(self.asked[level])
                metrics[f"hints/L{level}/solve_rate"] = self.solved[level] / self.asked[level]
            metrics[f"hints/L{level}/share"] = self.solved[level] / prompts
        solved = sum(self.solved)
        metrics["hints/unhinted_share"] = self.asked[0] / prompts
        metrics["hints/rescued_share"] = sum(self.solved[1:]) / prompts
        metrics["hints/unsolved_share"] = 1 - solved / prompts
        metrics["hints/tokens_per_solved_prompt"] = self.tokens / max(solved, 1)
        metrics["hints/missing"] = float(self.missing)
        metrics["hints/leaking"] = float(self.leaking)
        metrics["hints/remembered"] = float(self.remembered)
        return metrics


class HintSampler:
    """Retries unsolved prompts level by level up to the configured cap.

    Args:
        config: cap, memory and checks.
        rejections: file that gets `{id, level, reason, hint}` for each refused hint, once.
    """

    def __init__(self, config: HintConfig, rejections: Path | None = None) -> None:
        self.config = config
        self.memory = HintMemory(config.decay, config.memory_size)
        self.rejections = rejections
        known = read_rows(rejections) if rejections else []
        self._refused = {(row["id"], row["level"]) for row in known}

    def sample(
        self,
        samples: Sequence[Sample],
        generate: Generate[GroupT],
        is_solved: Callable[[GroupT], bool],
        tokens: Callable[[GroupT], float] = lambda group: 0.0,
        needs_hint: Callable[[GroupT], bool] | None = None,
    ) -> tuple[list[GroupT], HintCounts]:
        """One group per sample: the first one that is solved, else the first one.

        A prompt starts without a hint, or at the level that it needed last time, and goes up to the
        cap. A level for which a sample has no hint, or one that says too much, is skipped and
        counted.

        Args:
            samples: the prompts.
            generate: makes groups for prompts at given levels.
            is_solved: whether a group holds a correct response.
            tokens: response tokens of a group.
            needs_hint: whether a group asks for a (further) hint; by default when it isn't solved.

        Returns:
            The groups in the order of `samples`, and what was counted.
        """
        needs_hint = needs_hint or (lambda group: not is_solved(group))
        counts = HintCounts(prompts=len(samples), max_level=self.config.max_level)
        starts = [self._start(sample, counts) for sample in samples]
        groups = self._ask(samples, starts, generate, is_solved, tokens, counts)
        needed = dict(zip(range(len(samples)), starts, strict=True))
        unsolved = [i for i, group in enumerate(groups) if needs_hint(group)]
        for level in range(1, self.config.max_level + 1):
            asked = [
                i for i in unsolved if level > starts[i] and self._usable(samples[i], level, counts)
            ]
            if not asked:
                continue
            chosen = [samples[i] for i in asked]
            levels = [level] * len(asked)
            hinted = self._ask(chosen, levels, generate, is_solved, tokens, counts)
            for i, group in zip(asked, hinted, strict=True):
                needed[i] = level
                if is_solved(group):
                    groups[i] = group
                if not needs_hint(group):
                    unsolved.remove(i)
        if self.config.max_level and self.config.remember and not self.config.reroll:
            for i, sample in enumerate(samples):
                self.memory.record(sample.id, starts[i], needed[i])
        counts.remembered = len(self.memory)
        return groups, counts

    def state(self) -> dict[str, Any]:
        """The memory, for the resume state."""
        return self.memory.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved memory."""
        self.memory.load_state(state)

    def _ask(
        self,
        samples: Sequence[Sample],
        levels: Sequence[int],
        generate: Generate[GroupT],
        is_solved: Callable[[GroupT], bool],
        tokens: Callable[[GroupT], float],
        counts: HintCounts,
    ) -> list[GroupT]:
        groups = generate(samples, levels)
        for level, group in zip(levels, groups, strict=True):
            counts.asked[level] += 1
            counts.solved[level] += is_solved(group)
            counts.tokens += tokens(group)
        return groups

    def _start(self, sample: Sample, counts: HintCounts) -> int:
        """The remembered level, or the next usable one above it; 0 when there is none."""
        remembered = min(self.memory.start(sample.id), self.config.max_level)
        if not remembered:
            return 0
        levels = range(remembered, self.config.max_level + 1)
        return next((level for level in levels if self._usable(sample, level, counts)), 0)

    def _usable(self, sample: Sample, level: int, counts: HintCounts) -> bool:
        if not has_hint(sample, level):
            counts.missing += 1
            return False
        if not self.config.check_leaks:
            return True
        text = hint(sample, level)
        reason = sample_leak(level, text, sample)
        if reason is None:
            return True
        counts.leaking += 1
        self._report({"id": sample.id, "level": level, "reason": reason, "hint": text})
        return False

    def _report(self, row: dict[str, Any]) -> None:
        place = (row["id"], row["level"])
        if self.rejections is None or place in self._refused:
            return
        self._refused.add(place)
        with disk_guard(self.rejections), open(self.rejections, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
