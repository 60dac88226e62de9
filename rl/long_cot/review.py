"""(d) What people look at: flawed paths (B) and redundant ones, as self-contained items.

Invariant: an item's id holds a hash of its text, so a decision is never applied to another text
than the one that was decided on.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretrain.data.sample import Sample
from pretrain.run.console import Progress
from rewards.result import is_correct
from rewards.rules.text import normalise
from rl.hints.prompts import problem
from rl.hints.writers import WriterFailure
from rl.long_cot.assess import Assessor
from rl.long_cot.config import ReviewConfig
from rl.long_cot.judge import NOT_BETTER
from rl.long_cot.paths import usable
from rl.long_cot.process import Finding
from rl.long_cot.questions import Questions, Row
from rl.long_cot.scoring import Scorer
from rl.long_cot.steps import step_texts
from rl.long_cot.writers import TextWriter
from rl.row_log import RowLog
from rollout.seeds import stable_seed

ITEMS = "items.jsonl"
"""What people look at: see `item`."""
KEPT = "kept.jsonl"
"""A row a question: `traces` that nobody needs to look at."""
REFINE = (
    "The response below reaches the right answer, but its reasoning has faults. Write the whole "
    "response again with the faults mended: correct, complete, and no longer than needed. Keep its "
    "form <think>…</think><answer>\\boxed{{…}}</answer> and reply with the response alone.\n\n"
    "Question:\n{question}\n\nReference answer: {answer}\n\nResponse:\n{response}\n\nFaults:\n"
    "{faults}"
)


def redundancy(path: dict[str, Any], row: Row, factor: float) -> list[dict[str, Any]]:
    """Findings that say why a path is longer than it needs to be; none if it isn't."""
    findings = []
    shortest = min(other["tokens"] for other in row["paths"] if usable(other))
    if path["tokens"] > factor * shortest:
        text = f"{path['tokens']} tokens, the shortest correct path has {shortest}"
        findings.append({"step": 0, "text": text})
    seen: dict[str, int] = {}
    for number, step in enumerate(path["steps"], start=1):
        first = seen.setdefault(normalise(step["text"]), number)
        if first != number:
            findings.append({"step": number, "text": f"repeats step {first}"})
    return findings


def item_id(question: str, response: str) -> str:
    """Id of a trace: its question and a hash of its text."""
    return f"{question}#{hashlib.sha256(response.encode()).hexdigest()[:12]}"


def item(sample: Sample, row: Row, path: dict[str, Any], cause: str) -> dict[str, Any]:
    """A row for the reviewers: everything that a decision needs, media included."""
    others = [p for p in row["paths"] if usable(p) and p["response"] != path["response"]]
    texts = list(dict.fromkeys([path["response"], *(p["response"] for p in others)]))
    content = sample.to_row()
    return {
        "id": item_id(row["id"], path["response"]),
        "question_id": row["id"],
        **{key: content[key] for key in ("messages", "answer", "task_type", "mode")},
        "response": path["response"],
        "steps": [{key: s[key] for key in ("text", "confidence")} for s in path["steps"]],
        "confidence": path["confidence"],
        "grade": path["grade"],
        "cause": cause,
        "findings": finding_texts(path),
        **({"candidates": texts} if len(texts) > 1 else {}),
    }


def finding_texts(path: dict[str, Any]) -> list[str]:
    """A path's findings in words."""
    return [f"step {f['step']}: {f['text']}" if f["step"] else f["text"] for f in path["findings"]]


def trace(row: Row, path: dict[str, Any], origin: str) -> dict[str, Any]:
    """A response that training may use."""
    return {
        "id": item_id(row["id"], path["response"]),
        "response": path["response"],
        "origin": origin,
        "grade": path["grade"],
        "confidence": path["confidence"],
    }


def make_items(
    rows: Sequence[Row],
    questions: Questions,
    cfg: ReviewConfig,
    folder: Path,
    chunk: int,
    refiner: Refiner | None,
) -> dict[str, Any]:
    """Write `folder`/items.jsonl and kept.jsonl; goes on after an interruption.

    Returns:
        Counts: traces `kept`, items by cause, and, with a refiner, how many were `refined` and how
        many were not because the reward model didn't prefer the new text.
    """
    kept, items = RowLog(folder / KEPT), RowLog(folder / ITEMS)
    left = [row for row in rows if row["id"] not in kept.ids]
    with Progress("review", total=len(rows)) as bar:
        bar.advance(len(rows) - len(left))
        for start in range(0, len(left), chunk):
            part = left[start : start + chunk]
            samples = {row["id"]: questions(row) for row in part}
            mended = refiner.mend(part, samples) if refiner else {}
            shown, done = [], []
            for row in part:
                traces, doubtful = _sort(row, cfg, mended)
                shown += [item(samples[row["id"]], row, *pair) for pair in doubtful]
                done.append({key: row[key] for key in row if key != "paths"} | _facts(row, traces))
            # Items first: a question that counts as done must not lack its items.
            fresh = {one["id"]: one for one in shown if one["id"] not in items.ids}
            items.append(fresh.values())
            kept.append(done)
            bar.advance(len(part))
    origins = Counter(t["origin"] for row in kept.rows() for t in row["traces"])
    causes = Counter(one["cause"] for one in items.rows())
    counts = {
        "kept": sum(origins.values()),
        "items": sum(causes.values()),
        "flawed": causes["flawed"],
        "redundant": causes["redundant"],
    }
    if refiner:
        counts["refined"] = origins["refined"]
        counts["refined_not_better"] = sum(NOT_BETTER in one["findings"] for one in items.rows())
    return counts


def _sort(
    row: Row, cfg: ReviewConfig, mended: dict[str, dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[tuple[dict[str, Any], str]]]:
    """A question's traces to use, and the paths to be looked at with the cause."""
    traces, doubtful = [], []
    for path in row["paths"]:
        if "selected" not in path or path["grade"] not in ("A", "B"):
            continue
        origin = "sampled"
        if new := mended.get(item_id(row["id"], path["response"])):
            path, origin = path | new, "refined"
        longer = redundancy(path, row, cfg.redundant_factor)
        if path["grade"] == "B":
            doubtful.append((path, "flawed"))
        elif longer:
            doubtful.append((path | {"findings": longer}, "redundant"))
        else:
            traces.append(trace(row, path, origin))
    return traces, doubtful


def _facts(row: Row, traces: list[dict[str, Any]]) -> Row:
    """What scoring needs to know of a question's paths, and the traces."""
    known = [path for path in row["paths"] if path["correct"] is not None]
    right = [path for path in row["paths"] if usable(path)]
    return {
        "accuracy": sum(path["correct"] for path in known) / max(len(known), 1),
        "shortest_steps": min((len(path["steps"]) for path in right), default=0),
        "shortest_tokens": min((path["tokens"] for path in right), default=0),
        "traces": traces,
    }


class Refiner:
    """Has flawed paths written again by a model and assesses what comes back.

    Args:
        writer: who writes.
        assessor: what must find no fault with it, and, with a reward model, prefer it.
        scorer: the rules of the answer.
        seed: of the writer's sampling.
    """

    def __init__(
        self, writer: TextWriter, assessor: Assessor, scorer: Scorer, seed: int = 0
    ) -> None:
        self.writer, self.assessor, self.scorer, self.seed = writer, assessor, scorer, seed

    def mend(self, rows: Sequence[Row], samples: dict[str, Sample]) -> dict[str, dict[str, Any]]:
        """Item id of a flawed path → its changes, for those whose new text is right and faultless.

        Where the reward model doesn't prefer the new text, the change is a finding that says so.

        Raises:
            KeyeError: the writer answers nothing, or the judge can't be reached.
        """
        flawed = [
            (samples[row["id"]], row, path)
            for row in rows
            for path in row["paths"]
            if "selected" in path and path["grade"] == "B"
        ]
        requests = [_refine_request(sample, path) for sample, _, path in flawed]
        seeds = [stable_seed(self.seed, row["id"], path["response"]) for _, row, path in flawed]
        replies = self.writer.write(requests, seeds, "mended")
        texts = ["" if isinstance(r, WriterFailure) else _response_in(r) for r in replies]
        tried = [
            (sample, row, path, text)
            for (sample, row, path), text in zip(flawed, texts, strict=True)
            if text and text != path["response"]
        ]
        scores = self.scorer([(sample, text) for sample, _, _, text in tried])
        right = [entry for entry, score in zip(tried, scores, strict=True) if is_correct(score)]
        found = self.assessor.of_replacements(
            [(sample, text, path["response"]) for sample, _, path, text in right]
        )
        changes: dict[str, dict[str, Any]] = {}
        for (_, row, path, text), faults in zip(right, found, strict=True):
            one = item_id(row["id"], path["response"])
            if not faults:
                changes[one] = _mended(path, text)
            elif (note := Finding(0, NOT_BETTER)) in faults:
                changes[one] = {"findings": [*path["findings"], note.to_row()]}
        return changes


def _mended(path: dict[str, Any], text: str) -> dict[str, Any]:
    """What changes in a path whose text is replaced."""
    return {
        "response": text,
        "grade": "A",
        "findings": [],
        # Nobody sampled it: it has no tokens of its own and no confidence.
        "steps": [{"text": step, "confidence": None} for step in step_texts(text)],
        "tokens": round(path["tokens"] * len(text) / len(path["response"])),
        "confidence": None,
    }


def _refine_request(sample: Sample, path: dict[str, Any]) -> list[dict[str, Any]]:
    faults = "\n".join(f"- {text}" for text in finding_texts(path))
    text = REFINE.format(
        question=problem(sample), answer=sample.answer, response=path["response"], faults=faults
    )
    return [{"role": "user", "content": [*sample.media(), {"type": "text", "text": text}]}]


def _response_in(reply: str) -> str:
    """The response in a writer's reply; empty if it has not the form."""
    start, end = reply.find("<think>"), reply.rfind("</answer>")
    return reply[start : end + len("</answer>")] if 0 <= start < end else ""
