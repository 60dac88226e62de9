"""(d) What people have decided, applied: the rows that are scored and trained on.

Invariants: an edited response is used only if the sample's own rules accept its answer; what was
not decided on follows the configured policy and is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain.run.console import say
from pretrain.run.errors import KeyeError
from rewards.result import is_correct
from rl.long_cot.config import ReviewConfig
from rl.long_cot.questions import Questions, Row
from rl.long_cot.scoring import Scorer
from rl.review.decisions import VERDICTS, Decision, load_decisions
from rl.trace_rows import save_rows

REFINED = "refined.jsonl"
"""One row a question with at least one trace."""
SHOWN = 5
"""Ids listed in a message."""


def read_decisions(path: Path, required: bool) -> dict[str, Decision]:
    """The latest verdict on each item, or, where there is none, its latest ranking.

    None when there is no file and none is `required`.

    Raises:
        KeyeError: the file is missing though it was named, or a line of it is wrong.
    """
    if not path.exists() and not required:
        return {}
    return load_decisions(path) | load_decisions(path, VERDICTS)


def apply_decisions(
    kept: Sequence[Row],
    items: Sequence[dict[str, Any]],
    decisions: Mapping[str, Decision],
    questions: Questions,
    scorer: Scorer,
    cfg: ReviewConfig,
    folder: Path,
) -> dict[str, Any]:
    """Write `folder`/refined.jsonl.

    Returns:
        Counts: `traces` and `questions` that go on; items `accepted`, `edited`, `ranked`,
        `dropped`, `unreviewed_kept`, `unreviewed_dropped`; `refused_edits` whose answer the rules
        don't accept; `unknown_decisions` on texts that are no items any more.

    Raises:
        KeyeError: nothing is left.
    """
    rows = {row["id"]: row | {"traces": list(row["traces"])} for row in kept}
    counts: Counter[str] = Counter()
    changed: list[tuple[dict[str, Any], str, str]] = []
    for one in items:
        response, outcome = _outcome(one, decisions.get(one["id"]), cfg)
        if outcome in ("edited", "ranked") and response is not None:
            changed.append((one, response, outcome))
            continue
        counts[outcome] += 1
        if response is not None:
            rows[one["question_id"]]["traces"].append(_trace(one, response, outcome))
    scores = scorer([(questions(rows[one["question_id"]]), text) for one, text, _ in changed])
    refused = []
    for (one, text, outcome), score in zip(changed, scores, strict=True):
        if is_correct(score):
            counts[outcome] += 1
            rows[one["question_id"]]["traces"].append(_trace(one, text, outcome))
        else:
            refused.append(one["id"])
    unknown = sorted(set(decisions) - {one["id"] for one in items})
    _say_ids("edits refused, because the rules don't accept their answer", refused)
    _say_ids("decisions on texts that are no items of this stage", unknown)
    left = [_distinct(row) for row in rows.values() if row["traces"]]
    if not left:
        raise KeyeError(
            f"no trace is left of {len(rows)} questions and {len(items)} items: review the items "
            "(python -m rl review items=…/items.jsonl), or set "
            "long_cot.review.unreviewed_flawed=keep"
        )
    save_rows(folder / REFINED, left)
    return {
        "questions": len(left),
        "traces": sum(len(row["traces"]) for row in left),
        **{name: counts[name] for name in OUTCOMES},
        "refused_edits": len(refused),
        "unknown_decisions": len(unknown),
    }


OUTCOMES = ("accepted", "edited", "ranked", "dropped", "unreviewed_kept", "unreviewed_dropped")


def _outcome(
    one: dict[str, Any], decision: Decision | None, cfg: ReviewConfig
) -> tuple[str | None, str]:
    """The response that an item leaves (None: none) and what that is called."""
    if decision is None:
        flawed = one["cause"] == "flawed"
        policy = cfg.unreviewed_flawed if flawed else cfg.unreviewed_redundant
        if policy == "keep":
            return one["response"], "unreviewed_kept"
        return None, "unreviewed_dropped"
    if decision.action == "drop":
        return None, "dropped"
    if decision.action == "rank":
        candidates, ranking = one.get("candidates", []), decision.ranking or ()
        if len(ranking) != len(candidates):
            raise KeyeError(
                f"the decision on {one['id']!r} ranks {len(ranking)} candidates, the item has "
                f"{len(candidates)}; remove that line from the decisions file"
            )
        return candidates[ranking.index(1)], "ranked"
    if decision.response is not None and decision.response != one["response"]:
        return decision.response, "edited"
    return one["response"], "accepted"


def _trace(one: dict[str, Any], response: str, origin: str) -> dict[str, Any]:
    same = response == one["response"]
    return {
        "id": one["id"],
        "response": response,
        "origin": origin,
        # A person has accepted it: that is what A means.
        "grade": one["grade"] if origin.startswith("unreviewed") else "A",
        "confidence": one["confidence"] if same else None,
    }


def _distinct(row: Row) -> Row:
    """The row with each text once: a ranking may choose one that is kept already."""
    texts = {trace["response"]: trace for trace in reversed(row["traces"])}
    return row | {"traces": list(reversed(texts.values()))}


def _say_ids(what: str, ids: Sequence[str]) -> None:
    if ids:
        more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
        say(f"{what}: {', '.join(ids[:SHOWN])}{more}")
