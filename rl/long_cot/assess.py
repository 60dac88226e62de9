"""(c) Two levels of assessment: is the answer right, and is every step of the way to it?

| grade | answer | process | what becomes of it |
|---|---|---|---|
| A | right | no fault found | used, unless it is redundant |
| B | right | a fault, or it could not be judged | people look at it |
| C | wrong, cut off, or without reasoning | not looked at | dropped |

Invariant: a path without a known answer verdict (a rule failed) has no grade and is never used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretrain.data.sample import Sample
from pretrain.run.console import Progress
from rewards.keye_rm.model import KeyeRewardModel
from rl.hints.writers import WriterFailure
from rl.long_cot.config import AssessConfig
from rl.long_cot.judge import judge_steps, reward_model_findings
from rl.long_cot.paths import usable
from rl.long_cot.process import Finding, check_process
from rl.long_cot.questions import Questions, Row
from rl.long_cot.writers import TextWriter
from rl.row_log import RowLog

GRADED = "graded.jsonl"
"""The rows of the paths, each path with `grade` and `findings`."""
GRADES = ("A", "B", "C")


class Assessor:
    """Grades responses with right answers: by rules, then by the models that are configured.

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

    def findings(self, groups: Sequence[tuple[Sample, list[str]]]) -> list[list[list[Finding]]]:
        """What is wrong with the reasoning of each response of each group.

        Models are only asked about responses that the rules find no fault with.

        Raises:
            KeyeError: the judge can't be reached.
        """
        found = [
            [check_process(response, sample, self.cfg) for response in responses]
            for sample, responses in groups
        ]
        if self.judge:
            self._ask_judge(self.judge, groups, found)
        if self.reward_model and self.cfg.reward_dimensions:
            dimensions, least = self.cfg.reward_dimensions, self.cfg.reward_least
            marked = reward_model_findings(self.reward_model, groups, dimensions, least)
            for own, more in zip(found, marked, strict=True):
                for findings, extra in zip(own, more, strict=True):
                    findings += extra
        return found

    @staticmethod
    def _ask_judge(
        judge: TextWriter,
        groups: Sequence[tuple[Sample, list[str]]],
        found: Sequence[list[list[Finding]]],
    ) -> None:
        clean = [
            (g, r)
            for g, (_, responses) in enumerate(groups)
            for r in range(len(responses))
            if not found[g][r]
        ]
        verdicts = judge_steps(judge, [(groups[g][0], groups[g][1][r]) for g, r in clean])
        for (g, r), verdict in zip(clean, verdicts, strict=True):
            if isinstance(verdict, WriterFailure):
                verdict = [Finding(0, f"not judged: {verdict}")]
            found[g][r] += verdict


def assess_paths(
    rows: Sequence[Row],
    questions: Questions,
    assessor: Assessor,
    folder: Path,
    chunk: int,
) -> dict[str, Any]:
    """Write `folder`/graded.jsonl; goes on after an interruption. Returns `grade_statistics`.

    Every path is graded by the rules; the models see those that were selected.
    """
    log = RowLog(folder / GRADED)
    left = [row for row in rows if row["id"] not in log.ids]
    by_rules = Assessor(assessor.cfg)
    with Progress("assess", total=len(rows)) as bar:
        bar.advance(len(rows) - len(left))
        for start in range(0, len(left), chunk):
            part = left[start : start + chunk]
            samples = [questions(row) for row in part]
            for selected, judge in ((True, assessor), (False, by_rules)):
                chosen = [_gradable(row, selected) for row in part]
                groups = [
                    (sample, [row["paths"][k]["response"] for k in numbers])
                    for sample, row, numbers in zip(samples, part, chosen, strict=True)
                ]
                found = judge.findings(groups)
                for row, numbers, findings in zip(part, chosen, found, strict=True):
                    for k, own in zip(numbers, findings, strict=True):
                        faults = [finding.to_row() for finding in own]
                        row["paths"][k] |= {"grade": "B" if own else "A", "findings": faults}
            for row in part:
                _grade_the_rest(row)
            log.append(part)
            bar.advance(len(part))
    return grade_statistics(log.rows())


def _gradable(row: Row, selected: bool) -> list[int]:
    """The row's paths with right answers that were selected, or those that weren't."""
    return [
        number
        for number, path in enumerate(row["paths"])
        if usable(path) and ("selected" in path) == selected
    ]


def _grade_the_rest(row: Row) -> None:
    for path in row["paths"]:
        if "grade" in path:
            continue
        if path["correct"] is None:
            path |= {"grade": None, "findings": [{"step": 0, "text": "a reward rule failed"}]}
            continue
        reason = "the answer is wrong"
        if path["correct"]:
            reason = "there is no reasoning" if path["finished"] else "cut off at the token limit"
        path |= {"grade": "C", "findings": [{"step": 0, "text": reason}]}


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
