"""Held-out accuracy, greedy and at temperature 1, per mode and per task type.

Invariant: the same samples in the same order before and after, so that changes are paired; the
seeds of an evaluation depend on the sample's place only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.ingest import FileDataConfig
from pretrain.data.sample import Sample
from pretrain.run.directory import atomic_write
from rl.alignment.prompts import STRUCTURES
from rl.groups import Group
from rl.rollouts import Rollouts
from rl.statistics import Estimate, mean_interval, paired_difference, wilson

KINDS = ("greedy", "sampled", "pass_at_8")
"""Accuracy of the most likely response; mean accuracy at temperature 1; share of prompts with at
least one correct response in eight."""
SAMPLES = 8
"""Responses a prompt at temperature 1: pass@8 is then a plain share, without an estimator."""


@dataclass
class EvaluationConfig(FileDataConfig):
    """What is held out, and how it is asked: rows of `files`, or the tiny world's test split."""

    tasks: dict[str, float] = field(
        default_factory=lambda: {"digits/sum": 2.0, "digits/difference": 2.0, "digits/max": 1.0}
    )
    """Mix of the tiny world's task types; not read when `files` are given."""
    samples: int = 384
    """Held-out prompts in each mode."""
    seed: int = 20_000
    """Seed of the held-out set; no other stream may use it."""
    modes: list[str] = field(default_factory=lambda: ["think", "no_think", "auto_think"])
    """Modes in which every sample is asked."""


@dataclass(slots=True)
class Evaluation:
    """Per-prompt outcomes of one policy; tables and intervals are views of it."""

    records: list[dict[str, Any]]
    """`{id, mode, task_type, greedy, sampled, pass_at_8, reasoned, format, tokens}` a prompt;
    `format` is None where no rule looks at the structure."""

    def values(self, mode: str, kind: str, task_type: str | None = None) -> list[float]:
        """The per-prompt values of one column, in the order of the samples; None is left out."""
        return [
            float(record[kind])
            for record in self.records
            if record["mode"] == mode and task_type in (None, record["task_type"])
            if record[kind] is not None
        ]

    def modes(self) -> list[str]:
        """Modes evaluated, in order."""
        return list(dict.fromkeys(record["mode"] for record in self.records))

    def table(self) -> dict[str, dict[str, dict[str, Any]]]:
        """`{mode: {greedy, sampled, pass_at_8}}` with `{value, low, high, n}` leaves."""
        return {
            mode: {kind: _estimate(kind, self.values(mode, kind)).to_dict() for kind in KINDS}
            for mode in self.modes()
        }

    def by_task(self) -> dict[str, dict[str, dict[str, Any]]]:
        """`{mode: {task_type: {greedy, sampled, pass_at_8}}}`, the same leaves."""
        tasks = sorted({record["task_type"] for record in self.records})
        return {
            mode: {
                task: {
                    kind: _estimate(kind, self.values(mode, kind, task)).to_dict() for kind in KINDS
                }
                for task in tasks
                if self.values(mode, "greedy", task)
            }
            for mode in self.modes()
        }

    def behaviour(self) -> dict[str, dict[str, float]]:
        """`{mode: {reasoned, format, tokens}}`: how the policy answers, at temperature 1.

        A mode has no `format` if no rule looks at the structure of its answers.
        """
        return {
            mode: {
                key: float(np.mean(values))
                for key in ("reasoned", "format", "tokens")
                if (values := self.values(mode, key))
            }
            for mode in self.modes()
        }

    def save(self, path: Path) -> None:
        """Write the records as JSONL, atomically."""
        atomic_write(path, "".join(json.dumps(record) + "\n" for record in self.records))

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Read what `save` wrote."""
        return cls([json.loads(line) for line in path.read_text().splitlines()])


def mean_values(
    evaluations: Sequence[Evaluation], mode: str, kind: str, task_type: str | None = None
) -> list[float]:
    """Per-prompt values `[n]` of the same prompts, averaged over evaluations (of several seeds)."""
    return np.mean([e.values(mode, kind, task_type) for e in evaluations], axis=0).tolist()


def _estimate(kind: str, values: Sequence[float]) -> Estimate:
    if kind == "sampled":
        return mean_interval(values)
    return wilson([value > 0.5 for value in values])


def change(before: Evaluation, after: Evaluation) -> dict[str, dict[str, dict[str, Any]]]:
    """`{mode: {kind: {value, low, high, n}}}`: after − before with paired 95 % intervals."""
    return {
        mode: {
            kind: paired_difference(before.values(mode, kind), after.values(mode, kind)).to_dict()
            for kind in KINDS
        }
        for mode in before.modes()
    }


BANDS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Upper edges of the bands of difficulty; the first holds what no response solved."""


def reasoning_by_difficulty(evaluation: Evaluation) -> dict[str, list[dict[str, Any]]]:
    """How often auto_think reasons on prompts of each difficulty: `{task type or "all": bands}`.

    A prompt's difficulty is its accuracy at temperature 1 in no_think mode. A band is `{above, to,
    n, reasoned, accuracy}`: shares in auto_think at temperature 1, as `{value, low, high, n}`;
    empty bands are left out. `{}` unless both modes were evaluated.
    """
    easy = {r["id"]: r["sampled"] for r in evaluation.records if r["mode"] == "no_think"}
    auto = [r for r in evaluation.records if r["mode"] == "auto_think" and r["id"] in easy]
    found = {}
    for task in ["all", *sorted({record["task_type"] for record in auto})] if auto else []:
        bands = []
        for low, high in zip((-1.0, *BANDS), BANDS, strict=False):
            own = [
                record
                for record in auto
                if task in ("all", record["task_type"]) and low < easy[record["id"]] <= high
            ]
            if own:
                shares = {
                    name: mean_interval([record[key] for record in own]).to_dict()
                    for name, key in (("reasoned", "reasoned"), ("accuracy", "sampled"))
                }
                bands.append({"above": max(low, 0.0), "to": high, "n": len(own), **shares})
        found[task] = bands
    return found


def evaluate(
    rollouts: Rollouts, samples: Sequence[Sample], modes: Sequence[str], *, seed: int = 0
) -> Evaluation:
    """Ask every sample in every mode, once greedily and eight times at temperature 1.

    A response whose reward failed counts as wrong and is named in the log by the reward pool.
    """
    records: list[dict[str, Any]] = []
    for mode in modes:
        asked = [replace(sample, mode=mode) for sample in samples]
        greedy = rollouts.groups(asked, n=1, temperature=0.0, seed=seed)
        sampled = rollouts.groups(asked, n=SAMPLES, temperature=1.0, seed=seed)
        records += [_record(one, many) for one, many in zip(greedy, sampled, strict=True)]
    return Evaluation(records)


def _record(greedy: Group, sampled: Group) -> dict[str, Any]:
    formats = [
        score.parts[name].value
        for score in sampled.scores
        for name in STRUCTURES
        if name in score.parts
    ]
    return {
        "id": sampled.sample.id,
        "mode": sampled.sample.mode,
        "task_type": sampled.sample.task_type,
        "greedy": bool(greedy.correct[0]),
        "sampled": float(sampled.correct.mean()),
        "pass_at_8": bool(sampled.correct.any()),
        "reasoned": float(sampled.reasoned.mean()),
        "format": float(np.mean([value == 1.0 for value in formats])) if formats else None,
        "tokens": float(np.mean([t.num_sampled for t in sampled.trajectories])),
        "response": greedy.responses[0],
    }
