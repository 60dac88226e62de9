"""Rejection sampling of the cold-start data by the RL policy (Keye-VL-1.5, iterative general RL).

Invariants: a reply is replaced only by a response with a higher reward, both scored side by side by
the same rules or reward model; where a rule verifies, only a response that it accepts can enter;
every replacement leaves a line with the old and the new reply in `lineage.jsonl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.render import render
from pretrain.data.sample import Sample
from pretrain.run.console import Progress
from rewards.result import Score, is_correct
from rl.iterated.config import IteratedConfig
from rl.rollouts import Rollouts
from rl.row_log import RowLog
from rl.trace_rows import Row, SampleSource, sample_of, save_rows
from rollout.seeds import stable_seed

LINEAGE = "lineage.jsonl"
ROWS = "rows.jsonl"


@dataclass(slots=True)
class Candidates:
    """A row's reply and the policy's responses, scored together."""

    texts: list[str]
    """The reply first."""
    scores: list[Score]
    finished: list[bool]
    """Whether a text ended by itself; one cut off at the token limit is no candidate."""

    def best(self, margin: float) -> int:
        """Which text the row shall have: 0 keeps the reply.

        A reply whose reward failed is kept: nothing is known about it.
        """
        current = self.scores[0].total
        if current is None:
            return 0
        chosen, highest = 0, current + margin
        for k in range(1, len(self.texts)):
            score = self.scores[k]
            usable = self.finished[k] and score.total is not None
            # A reward model calls nothing right: its preference alone decides.
            if usable and score.verifiers and not score.by_model and not is_correct(score):
                usable = False
            if usable and score.total > highest:  # type: ignore[operator]
                chosen, highest = k, score.total  # type: ignore[assignment]
        return chosen


def sample_candidates(
    rollouts: Rollouts, samples: Sequence[Sample], replies: Sequence[str], n: int, seed: int
) -> list[Candidates]:
    """`n` responses to each sample beside its reply, all scored in one group."""
    prompts = [rollouts.encoder.encode(render(sample), sample.id) for sample in samples]
    groups = rollouts.engines.generate(
        prompts,
        rollouts.sampling,
        seeds=[stable_seed(seed, sample.id, sample.mode) for sample in samples],
        n=n,
        sample_ids=[sample.id for sample in samples],
    )
    texts = [
        [reply, *map(rollouts.decode, group)] for reply, group in zip(replies, groups, strict=True)
    ]
    scores = rollouts.score(samples, texts)
    finished = [[True, *(t.finish_reason == "stop" for t in group)] for group in groups]
    return [Candidates(*parts) for parts in zip(texts, scores, finished, strict=True)]


def reject_and_replace(
    rows: Sequence[Row],
    source: SampleSource,
    rollouts: Rollouts,
    cfg: IteratedConfig,
    folder: Path,
    *,
    number: int,
    policy: str,
) -> dict[str, Any]:
    """Write `folder`/rows.jsonl and `folder`/lineage.jsonl; goes on after an interruption.

    Args:
        rows: the rows of the round before.
        source: their samples.
        rollouts: the RL policy in its engines.
        cfg: how many responses, and by how much they must be better.
        folder: where the files go.
        number: the round, noted as the origin of what it replaces.
        policy: which policy samples, for the lineage.

    Returns:
        Counts and means of the stage: see `_summary`.
    """
    done = RowLog(folder / ROWS)
    # A kill between the two files leaves lines of rows that are sampled again, with another end.
    lineage = _lineage_of(done.ids, folder / LINEAGE)
    left = [row for row in rows if row["id"] not in done.ids]
    with Progress(f"round{number}/rejection", total=len(rows)) as bar:
        bar.advance(len(rows) - len(left))
        for start in range(0, len(left), cfg.chunk):
            chunk = left[start : start + cfg.chunk]
            samples = [sample_of(source, row) for row in chunk]
            replies = [row["response"] for row in chunk]
            seed = stable_seed(cfg.seed, number)
            found = sample_candidates(rollouts, samples, replies, cfg.samples, seed)
            replaced = [
                _replaced(row, candidates, cfg.margin, number, policy)
                for row, candidates in zip(chunk, found, strict=True)
            ]
            # The lineage first: a replaced row without its line could not be traced.
            lineage.append([entry for _, entry in replaced if entry is not None])
            done.append([row for row, _ in replaced])
            bar.advance(len(chunk))
    return _summary(done.rows(), lineage.rows())


def _lineage_of(done: set[str], file: Path) -> RowLog:
    """The lineage without lines of rows that aren't written."""
    log = RowLog(file)
    if log.ids - done:
        save_rows(file, [entry for entry in log.rows() if entry["id"] in done])
        log = RowLog(file)
    return log


def _replaced(
    row: Row, candidates: Candidates, margin: float, number: int, policy: str
) -> tuple[Row, Row | None]:
    """The row with its best reply, and its line of lineage if that is a new one."""
    scores = candidates.scores
    sampled = [is_correct(score) for score in scores[1:]]
    notes = {
        "reward_before": scores[0].total,
        "correct_before": is_correct(scores[0]),
        "accuracy": float(np.mean(sampled)),
    }
    best = candidates.best(margin)
    notes |= {"reward": scores[best].total, "correct": is_correct(scores[best])}
    if not best:
        return row | notes, None
    entry = {
        "id": row["id"],
        "round": number,
        "policy": policy,
        "old": {"response": row["response"], "origin": row["origin"]} | _scored(scores[0]),
        "new": {"response": candidates.texts[best], "sample": best - 1} | _scored(scores[best]),
    }
    changed = {"response": candidates.texts[best], "origin": f"round{number}"}
    return row | notes | changed, entry


def _scored(score: Score) -> dict[str, Any]:
    parts = {name: part.value for name, part in score.parts.items()}
    return {"reward": score.total, "parts": parts}


def _summary(rows: Sequence[Row], lineage: Sequence[Row]) -> dict[str, Any]:
    """Shares of all rows: replaced in this round, correct before and after, reward failed; mean
    rewards before and after, None if all failed; the policy's accuracy; how many rows have which
    origin."""
    known = [row for row in rows if row["reward_before"] is not None]
    origins = [row["origin"] for row in rows]
    return {
        "rows": len(rows),
        "replaced_share": len(lineage) / len(rows),
        "correct_before": float(np.mean([row["correct_before"] for row in rows])),
        "correct_after": float(np.mean([row["correct"] for row in rows])),
        "reward_before": float(np.mean([row["reward_before"] for row in known])) if known else None,
        "reward_after": float(np.mean([row["reward"] for row in known])) if known else None,
        "failed_share": 1 - len(known) / len(rows),
        "policy_accuracy": float(np.mean([row["accuracy"] for row in rows])),
        "origins": {name: origins.count(name) for name in sorted(set(origins))},
    }
