"""(b) Reasoning paths: several a question, each with the policy's confidence.

Invariant: confidences come from the log-probs of the tokens that were sampled. Which paths go on is
decided when their process has been looked at (`assess`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.run.console import Progress
from pretrain.run.errors import ConfigError, KeyeError
from rl.groups import Group, reasons
from rl.long_cot.config import PathsConfig
from rl.long_cot.questions import Questions, Row
from rl.long_cot.steps import confidence, steps_of, token_ends
from rl.rollouts import Rollouts
from rl.row_log import RowLog

PATHS = "paths.jsonl"
"""One row a question: the question's row, and `paths`."""


def path_rows(group: Group, tokenizer: Any) -> list[dict[str, Any]]:
    """What is kept of each response of a group.

    `{response, tokens, finished, reasons, correct, reward, confidence, steps}`; `correct` is None
    when a rule failed; `steps`: `{text, confidence, tokens}` with the step's share of the response.
    """
    rows = []
    for number, trajectory in enumerate(group.trajectories):
        score, text = group.scores[number], group.responses[number]
        ids = trajectory.response_ids.tolist()
        finished = trajectory.finish_reason == "stop"
        ends = token_ends(tokenizer, ids[:-1] if finished else ids, text)
        steps = steps_of(text, ends, trajectory.logprobs)
        rows.append(
            {
                "response": text,
                "tokens": len(ids),
                "finished": finished,
                "reasons": reasons(text),
                "correct": None if score.failed else bool(group.correct[number]),
                "reward": score.total,
                "confidence": confidence(trajectory.logprobs),
                "steps": [
                    {"text": s.text, "confidence": s.confidence, "tokens": [s.start, s.end]}
                    for s in steps
                ],
            }
        )
    return rows


def usable(path: dict[str, Any]) -> bool:
    """Whether a path may go on: correct, ended by itself, and with reasoning."""
    return bool(path["correct"] and path["finished"] and path["reasons"])


def sample_paths(
    rows: Sequence[Row],
    questions: Questions,
    rollouts: Rollouts,
    cfg: PathsConfig,
    folder: Path,
    chunk: int,
) -> dict[str, Any]:
    """Write `folder`/paths.jsonl; goes on after an interruption. Returns `path_statistics`."""
    if not rollouts.sampling.logprobs:
        raise ConfigError("sampling.logprobs=false: confidences are made of log-probs, set it true")
    log = RowLog(folder / PATHS)
    left = [row for row in rows if row["id"] not in log.ids]
    with Progress("paths", total=len(rows)) as bar:
        bar.advance(len(rows) - len(left))
        for start in range(0, len(left), chunk):
            part = left[start : start + chunk]
            samples = [questions(row) for row in part]
            groups = rollouts.groups(samples, n=cfg.samples, seed=cfg.seed)
            log.append(
                row | {"paths": path_rows(group, rollouts.encoder.tokenizer)}
                for row, group in zip(part, groups, strict=True)
            )
            bar.advance(len(part))
    return path_statistics(log.rows(), folder)


def path_statistics(rows: Sequence[Row], folder: Path) -> dict[str, Any]:
    """Shares of paths and questions, and whether confidence tells right from wrong.

    `auc_*`: probability that a correct path has the higher confidence than a wrong one: of the
    whole response, of its least confident step, and `within`: of the same question only.

    Raises:
        KeyeError: not one question has a usable path.
    """
    paths = [path for row in rows for path in row["paths"]]
    known = [path for path in paths if path["correct"] is not None]
    can_go_on = sum(usable(path) for path in paths)
    unsolved = [not any(path["correct"] for path in row["paths"]) for row in rows]
    if not can_go_on:
        raise KeyeError(
            f"none of {len(rows)} questions has a correct reasoning path that can be used "
            f"({len(paths)} paths, {sum(bool(p['correct']) for p in known)} correct, "
            f"{sum(p['finished'] for p in paths)} ended by themselves; see {folder / PATHS}). "
            "Start from a checkpoint that reasons, take easier questions, or raise "
            "long_cot.paths.samples or sampling.max_tokens."
        )
    right = np.array([path["correct"] for path in known], bool)
    whole = np.array([path["confidence"] for path in known])
    weakest = np.array([_weakest(path) for path in known])
    metrics: dict[str, Any] = {
        "questions": len(rows),
        "paths": len(paths),
        "correct_share": float(right.mean()),
        "failed_share": 1 - len(known) / len(paths),
        "unfinished_share": float(np.mean([not path["finished"] for path in paths])),
        "unsolved_share": float(np.mean(unsolved)),
        "usable": can_go_on,
        "steps_mean": float(np.mean([len(path["steps"]) for path in paths])),
    }
    if right.any() and not right.all():
        metrics["confidence_correct"] = float(whole[right].mean())
        metrics["confidence_wrong"] = float(whole[~right].mean())
        metrics["auc_whole"] = auc(whole, right)
        metrics["auc_weakest_step"] = auc(weakest, right)
    within = [found for row in rows if (found := _within(row["paths"])) is not None]
    if within:
        metrics["auc_within"] = float(np.mean(within))
    return metrics


def _weakest(path: dict[str, Any]) -> float:
    """Confidence of the least confident step; of the whole response if it has no step."""
    return min((step["confidence"] for step in path["steps"]), default=path["confidence"])


def _within(paths: Sequence[dict[str, Any]]) -> float | None:
    known = [path for path in paths if path["correct"] is not None]
    right = np.array([path["correct"] for path in known], bool)
    if not right.any() or right.all():
        return None
    return auc(np.array([path["confidence"] for path in known]), right)


def auc(scores: np.ndarray, right: np.ndarray) -> float:
    """Area under the ROC curve: P(score of a right one > of a wrong one), ties count half.

    The Mann–Whitney statistic over ranks; scores float `[N]`, right bool `[N]` with both values.
    """
    from scipy.stats import rankdata

    ranks, positives = rankdata(scores), int(right.sum())
    wins = ranks[right].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * (len(right) - positives)))
