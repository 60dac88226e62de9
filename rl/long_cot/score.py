"""(e) Quality 1…5: what a question needs, measured by taking it away.

A question *needs its media* if the policy rarely answers it without them, and *needs reasoning* if
it rarely answers it at once (no_think mode). With `solved` the share that counts as rarely:

| score | needs media | needs reasoning |
|---|---|---|
| 1 | no | no |
| 2 | yes | no: perception |
| 3 | no | yes: reasoning on text |
| 4 | yes | yes |
| 5 | yes | yes, over at least `long_steps` steps: real multimodal reasoning |

Invariant: a score follows from the numbers beside it in its row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.sample import Sample
from pretrain.run.console import Progress
from rl.groups import Group
from rl.long_cot.config import SCORES, ScoreConfig
from rl.long_cot.questions import Questions, Row, blind
from rl.rollouts import Rollouts
from rl.row_log import RowLog
from rollout.seeds import stable_seed

SCORED = "scored.jsonl"
"""The refined rows with `without_media`, `without_reasoning`, `score` and `weight`."""


def quality(
    without_media: float | None, without_reasoning: float, steps: int, cfg: ScoreConfig
) -> int:
    """The score of a question.

    Args:
        without_media: accuracy without its media, 0…1; None for a question that has none.
        without_reasoning: accuracy when it is answered at once, 0…1.
        steps: of its shortest correct path.
        cfg: thresholds.
    """
    needs_media = without_media is not None and without_media <= cfg.solved
    needs_reasoning = without_reasoning <= cfg.solved
    score = 1 + needs_media + 2 * needs_reasoning
    return score + int(needs_media and needs_reasoning and steps >= cfg.long_steps)


def score_rows(
    rows: Sequence[Row],
    questions: Questions,
    rollouts: Rollouts,
    cfg: ScoreConfig,
    folder: Path,
    chunk: int,
) -> dict[str, Any]:
    """Write `folder`/scored.jsonl; goes on after an interruption. Returns `score_statistics`."""
    log = RowLog(folder / SCORED)
    left = [row for row in rows if row["id"] not in log.ids]
    with Progress("score", total=len(rows)) as bar:
        bar.advance(len(rows) - len(left))
        for start in range(0, len(left), chunk):
            part = left[start : start + chunk]
            samples = [questions(row) for row in part]
            direct = _accuracies([replace(s, mode="no_think") for s in samples], rollouts, cfg)
            seeing = [sample for sample in samples if sample.media()]
            unseen = dict(
                zip(
                    [sample.id for sample in seeing],
                    _accuracies([blind(sample) for sample in seeing], rollouts, cfg),
                    strict=True,
                )
            )
            scored = []
            for row, without_reasoning in zip(part, direct, strict=True):
                without_media = unseen.get(row["id"])
                steps = row["shortest_steps"]
                measured: Row = {
                    "without_media": without_media,
                    "without_reasoning": without_reasoning,
                    "score": None,
                    "weight": 0.0,
                }
                failed = without_media is None and row["id"] in unseen
                if without_reasoning is not None and not failed:
                    score = quality(without_media, without_reasoning, steps, cfg)
                    measured |= {"score": score, "weight": cfg.weights[score - 1]}
                scored.append(row | measured)
            log.append(scored)
            bar.advance(len(part))
    return score_statistics(log.rows())


def _accuracies(
    samples: Sequence[Sample], rollouts: Rollouts, cfg: ScoreConfig
) -> list[float | None]:
    """None where all rewards failed: a failure is no wrong answer."""
    if not samples:
        return []
    seed = stable_seed(cfg.seed, "score")
    groups: list[Group] = rollouts.groups(samples, n=cfg.samples, seed=seed)
    return [group.accuracy for group in groups]


def score_statistics(rows: Sequence[Row]) -> dict[str, Any]:
    """Share of each score, and mean accuracies with and without reasoning and media. `unscored`
    questions, all of whose rewards failed, have weight 0; None if nothing was answered at once."""
    scores = Counter(row["score"] for row in rows)
    direct, seen = (
        [row[key] for row in rows if row[key] is not None]
        for key in ("without_reasoning", "without_media")
    )
    return {
        "questions": len(rows),
        "traces": sum(len(row["traces"]) for row in rows),
        **{f"score_{score}": scores[score] / len(rows) for score in SCORES},
        "accuracy": float(np.mean([row["accuracy"] for row in rows])),
        "unscored": scores[None] / len(rows),
        "without_reasoning": float(np.mean(direct)) if direct else None,
    } | ({"without_media": float(np.mean(seen))} if seen else {})
