"""(c) Two levels of assessment: is the answer right, and is every step of the way to it?

| grade | answer | process | what becomes of it |
|---|---|---|---|
| A | right | no fault found | used, unless it is redundant |
| B | right | a fault, or it could not be judged | people look at it |
| C | wrong, cut off, or without reasoning | not looked at | dropped |

Invariants: a path without a known answer verdict (a rule failed) has no grade and is never used;
only a chosen path goes on, and a chosen A is one with which no configured check found fault.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.data.sample import Sample
from pretrain.run.console import Progress
from pretrain.run.errors import KeyeError
from rewards.keye_rm.model import KeyeRewardModel
from rl.hints.writers import WriterFailure
from rl.long_cot.choosing import Choice
from rl.long_cot.config import AssessConfig, SelectConfig
from rl.long_cot.judge import judge_steps, replacement_findings, reward_model_findings
from rl.long_cot.paths import usable
from rl.long_cot.process import Finding, check_process
from rl.long_cot.questions import Questions, Row
from rl.long_cot.writers import TextWriter
from rl.row_log import RowLog

GRADED = "graded.jsonl"
"""The rows of the paths, each path with `grade` and `findings`; those that go on are `selected`.

An A that isn't selected was graded by the rules alone: the models were not asked about it.
"""
GRADES = ("A", "B", "C")


@dataclass(frozen=True, slots=True)
class Asked:
    """Responses to one question that the models are asked about."""

    sample: Sample
    responses: list[str]
    beside: list[str]
    """Others that the reward model compares them with, without being asked about those."""


class Assessor:
    """Finds faults in responses with right answers: rules, and the models that are configured.

    Args:
        cfg: which checks.
        judge: asked about every step, if there is one.
        reward_model: marks dimensions of the reasoning, if there is one.
    """

    def __init__(
        self,
        cfg: AssessConfig,
        judge: TextWriter | None = None,
        reward_model: KeyeRewardModel | None = None,
    ) -> None:
        self.cfg, self.judge, self.reward_model = cfg, judge, reward_model

    def by_rules(self, sample: Sample, response: str) -> list[Finding]:
        """What the rules find wrong with a response's reasoning."""
        return check_process(response, sample, self.cfg)

    def by_models(self, asked: Sequence[Asked]) -> list[list[list[Finding]]]:
        """What the models find wrong with each response; nothing where there are none.

        Raises:
            KeyeError: the judge can't be reached.
        """
        judged = iter(self._judged([(one.sample, text) for one in asked for text in one.responses]))
        found = [[next(judged) for _ in one.responses] for one in asked]
        if self.reward_model:
            groups = [(one.sample, [*one.responses, *one.beside]) for one in asked]
            dimensions, least = self.cfg.reward_dimensions, self.cfg.reward_least
            marked = reward_model_findings(self.reward_model, groups, dimensions, least)
            for own, more in zip(found, marked, strict=True):
                for findings, extra in zip(own, more[: len(own)], strict=True):
                    findings += extra
        return found

    def of_replacements(self, items: Sequence[tuple[Sample, str, str]]) -> list[list[Finding]]:
        """What speaks against the new response of each (sample, new, old) in the old one's place.

        The rules, the judge and the reward model in turn, each asked about what those before it let
        pass.

        Raises:
            KeyeError: the judge can't be reached.
        """
        found = [self.by_rules(sample, new) for sample, new, _ in items]
        for check in (self._judged_replacements, self._compared_replacements):
            clean = [number for number, findings in enumerate(found) if not findings]
            for number, more in zip(clean, check([items[k] for k in clean]), strict=True):
                found[number] += more
        return found

    def _judged_replacements(self, items: Sequence[tuple[Sample, str, str]]) -> list[list[Finding]]:
        return self._judged([(sample, new) for sample, new, _ in items])

    def _compared_replacements(
        self, items: Sequence[tuple[Sample, str, str]]
    ) -> list[list[Finding]]:
        if not self.reward_model:
            return [[] for _ in items]
        dimensions, least = self.cfg.reward_dimensions, self.cfg.reward_least
        return replacement_findings(self.reward_model, items, dimensions, least)

    def _judged(self, items: Sequence[tuple[Sample, str]]) -> list[list[Finding]]:
        if not self.judge:
            return [[] for _ in items]
        return [
            [Finding(0, f"not judged: {verdict}")]
            if isinstance(verdict, WriterFailure)
            else verdict
            for verdict in judge_steps(self.judge, items)
        ]


def assess_paths(
    rows: Sequence[Row],
    questions: Questions,
    assessor: Assessor,
    cfg: SelectConfig,
    folder: Path,
    chunk: int,
) -> dict[str, Any]:
    """Write `folder`/graded.jsonl; goes on after an interruption. Returns `grade_statistics`.

    Every path is graded by the rules, then paths are chosen; the models see the chosen ones.

    Raises:
        KeyeError: the judge can't be reached, or no path of any question goes on.
    """
    log = RowLog(folder / GRADED)
    left = [row for row in rows if row["id"] not in log.ids]
    with Progress("assess", total=len(rows)) as bar:
        bar.advance(len(rows) - len(left))
        for start in range(0, len(left), chunk):
            part = left[start : start + chunk]
            samples = [questions(row) for row in part]
            for row, sample in zip(part, samples, strict=True):
                for path in row["paths"]:
                    _grade_by_rules(path, sample, assessor)
            _choose(part, samples, assessor, cfg)
            log.append(part)
            bar.advance(len(part))
    graded = log.rows()
    _check_chosen(graded, cfg)
    return grade_statistics(graded)


def _grade_by_rules(path: dict[str, Any], sample: Sample, assessor: Assessor) -> None:
    if usable(path):
        _grade(path, assessor.by_rules(sample, path["response"]))
    elif path["correct"] is None:
        path |= {"grade": None, "findings": [Finding(0, "a reward rule failed").to_row()]}
    else:
        reason = "the answer is wrong"
        if path["correct"]:
            reason = "there is no reasoning" if path["finished"] else "cut off at the token limit"
        path |= {"grade": "C", "findings": [Finding(0, reason).to_row()]}


def _grade(path: dict[str, Any], findings: Sequence[Finding]) -> None:
    path["grade"] = "B" if findings else "A"
    path["findings"] = [finding.to_row() for finding in findings]


def _choose(
    rows: Sequence[Row], samples: Sequence[Sample], assessor: Assessor, cfg: SelectConfig
) -> None:
    """Mark the paths that go on as `selected`, once the models let the A's among them pass.

    In rounds: where a model has made a chosen path a B, the next A is chosen and asked about.
    """
    choices = [Choice(row["paths"], cfg) for row in rows]
    while True:
        chosen = [choice.take_sound() for choice in choices]
        asked = [k for k, numbers in enumerate(chosen) if numbers]
        if not asked:
            break
        found = assessor.by_models([_asked(samples[k], rows[k]["paths"], chosen[k]) for k in asked])
        for k, own in zip(asked, found, strict=True):
            for number, findings in zip(chosen[k], own, strict=True):
                _grade(rows[k]["paths"][number], findings)
    for choice in choices:
        choice.take_flawed()
        for number in choice.kept:
            choice.paths[number]["selected"] = True


def _asked(sample: Sample, paths: Sequence[dict[str, Any]], numbers: Sequence[int]) -> Asked:
    """The chosen paths; one alone is set beside another, since marks come from comparisons."""
    responses = [paths[number]["response"] for number in numbers]
    others = [path for path in paths if usable(path) and path["response"] not in responses]
    if len(set(responses)) > 1 or not others:
        return Asked(sample, responses, [])
    likeliest = max(others, key=lambda path: path["confidence"])
    return Asked(sample, responses, [likeliest["response"]])


def _check_chosen(rows: Sequence[Row], cfg: SelectConfig) -> None:
    able = [path["confidence"] for row in rows for path in row["paths"] if usable(path)]
    if not any("selected" in path for row in rows for path in row["paths"]):
        raise KeyeError(
            f"no path of {len(rows)} questions goes on: none of {len(able)} correct ones is as "
            f"confident as long_cot.select.min_confidence={cfg.min_confidence} (the most "
            f"confident: {max(able, default=0.0):.3f}). Set it lower."
        )


def grade_statistics(rows: Sequence[Row]) -> dict[str, Any]:
    """Shares of A, B and C among all paths and of A and B among the selected; kinds of findings."""
    paths = [path for row in rows for path in row["paths"]]
    grades = Counter(path["grade"] for path in paths)
    chosen = Counter(path["grade"] for path in paths if "selected" in path)
    flawed = [path for path in paths if path["grade"] == "B"]
    share = max(sum(grades[name] for name in GRADES), 1)
    return {
        "paths": len(paths),
        **{f"share_{name}": grades[name] / share for name in GRADES},
        "ungraded": grades[None],
        "selected_A": chosen["A"],
        "selected_B": chosen["B"],
        "not_judged": sum(
            any(finding["text"].startswith("not judged") for finding in path["findings"])
            for path in flawed
        ),
    }
