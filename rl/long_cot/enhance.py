"""(a) Questions: collected from several sources, worded anew, merged in pairs.

Invariant: every row says which samples it came from; a question that comes twice is taken once.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.sample import PLACEHOLDERS, Sample
from pretrain.run.console import Progress
from pretrain.run.errors import KeyeError
from rl.hints.prompts import problem
from rl.hints.writers import WriterFailure
from rl.long_cot.config import EnhanceConfig
from rl.long_cot.merging import merged_sample, obstacle
from rl.long_cot.questions import Row, question_row, source_size, unloaded
from rl.long_cot.writers import TextWriter, plain_text
from rl.row_log import RowLog
from rl.tables import question
from rl.trace_rows import SampleSource, calls_tools
from rollout.seeds import stable_seed

QUESTIONS = "questions.jsonl"
REFUSED = "rewrites_refused.jsonl"
TRIES = 20
"""Partners tried for a question to be merged."""
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_WORD = re.compile(r"[^\W_]+")
REWRITE = (
    "Word the question below anew: other words, the same meaning, the same answer. Keep every "
    "number, name and condition, add none, and do not answer it. Reply with the new question alone."
)


def collect(
    cfg: EnhanceConfig, sources: Mapping[str, SampleSource]
) -> tuple[list[Row], dict[str, int]]:
    """Rows of all sources in order, and what was left out.

    Returns:
        The rows, and counts: `duplicates` (a question asked before about the same media) and
        `agentic` (rows whose `response` calls tools: no sampled text can hold what a tool returns,
        so they go straight to fine-tuning).
    """
    rows: list[Row] = []
    seen: set[str] = set()
    ids: set[str] = set()
    left_out = {"duplicates": 0, "agentic": 0}
    for name, source in sources.items():
        for index in range(source_size(source, cfg)):
            sample = unloaded(source, index)
            if calls_tools(sample):
                left_out["agentic"] += 1
                continue
            digest = _digest(sample)
            if digest in seen:
                left_out["duplicates"] += 1
                continue
            seen.add(digest)
            origin = sample.id
            if origin in ids:  # two files may number their rows alike
                sample = replace(sample, id=f"{name}:{origin}")
            ids.add(sample.id)
            rows.append(question_row("given", sample, [origin], [[name, index]]))
    if not rows:
        raise KeyeError(f"no question to reason about in the sources {', '.join(sources)}")
    return rows, left_out


def _digest(sample: Sample) -> str:
    """Equal for samples that ask the same about the same media."""
    facts = hashlib.sha256(problem(sample).encode())
    for part in sample.media():
        value = part[part["type"]]
        facts.update(value.tobytes() if hasattr(value, "tobytes") else repr(value).encode())
    return facts.hexdigest()


def merge(
    cfg: EnhanceConfig, rows: Sequence[Row], sources: Mapping[str, SampleSource], max_images: int
) -> list[Row]:
    """Rows of merged questions: random pairs of compatible ones, each pair once."""
    wanted = round(cfg.merge_share * len(rows))
    rng = np.random.default_rng([cfg.seed, 1])
    merged: list[Row] = []
    made: set[str] = set()
    samples: dict[int, Sample] = {}

    def sample_of(number: int) -> Sample:
        if number not in samples:
            name, index = rows[number]["refs"][0]
            samples[number] = replace(unloaded(sources[name], index), id=rows[number]["id"])
        return samples[number]

    if not wanted or len(rows) < 2:
        return merged
    for _ in range(wanted * TRIES):
        first, second = (int(k) for k in rng.choice(len(rows), 2, replace=False))
        pair = sample_of(first), sample_of(second)
        if obstacle(*pair, cfg.separator, max_images):
            continue
        both = merged_sample(*pair, cfg.separator)
        if both.id not in made:
            made.add(both.id)
            refs = [*rows[first]["refs"], *rows[second]["refs"]]
            merged.append(question_row("merged", both, [pair[0].id, pair[1].id], refs))
        if len(merged) == wanted:
            break
    return merged


def rewrite_fault(old: str, new: str, answer: str) -> str | None:
    """Why a new wording can't be used; None if it can."""
    if not new.strip():
        return "empty"
    if new.strip() == old.strip():
        return "the same words"
    if any(token in new for token in PLACEHOLDERS):
        return "a placeholder of a medium"
    numbers = [Counter(_NUMBER.findall(text)) for text in (old, new)]
    if set(numbers[0]) != set(numbers[1]):
        return f"other numbers: {', '.join(sorted(set(numbers[0]) ^ set(numbers[1])))}"
    before, after, given = (_words(text) for text in (old, new, answer))
    if given.strip() and given in after and given not in before:
        return "it says the answer"
    return None


def _words(text: str) -> str:
    """The words of a text between single spaces, so that a part of it is whole words."""
    return f" {' '.join(_WORD.findall(text.casefold()))} "


def rewrite(
    cfg: EnhanceConfig,
    rows: Sequence[Row],
    sources: Mapping[str, SampleSource],
    writer: TextWriter,
    folder: Path,
    chunk: int,
) -> list[Row]:
    """Rows of reworded questions; resumable through `folder`.

    Raises:
        KeyeError: no request of a chunk was answered.
    """
    share = np.random.default_rng([cfg.seed, 2]).random(len(rows))
    chosen = [row for row, draw in zip(rows, share, strict=True) if draw < cfg.rewrite_share]
    log, refused = RowLog(folder / "rewritten.jsonl"), RowLog(folder / REFUSED)
    done = {row["from"][0] for row in log.rows()} | refused.ids
    left = [row for row in chosen if row["id"] not in done]
    with Progress("rewrite", total=len(chosen)) as bar:
        bar.advance(len(chosen) - len(left))
        for start in range(0, len(left), chunk):
            part = left[start : start + chunk]
            samples = [sources[row["refs"][0][0]][row["refs"][0][1]] for row in part]
            seeds = [stable_seed(cfg.seed, row["id"]) for row in part]
            replies = writer.write([_request(sample) for sample in samples], seeds, "rewritten")
            good, bad = [], []
            for row, reply in zip(part, replies, strict=True):
                text = reply if isinstance(reply, WriterFailure) else plain_text(reply)
                fault = str(text) if isinstance(text, WriterFailure) else None
                fault = fault or rewrite_fault(row["question"], str(text), row["answer"])
                if fault:
                    bad.append({"id": row["id"], "reason": fault, "text": str(text)})
                    continue
                changed = {"id": f"{row['id']}/rewritten", "how": "rewritten", "from": [row["id"]]}
                good.append(row | changed | {"question": text})
            refused.append(bad)
            log.append(good)
            bar.advance(len(part))
    return log.rows()


def _request(sample: Sample) -> list[dict[str, Any]]:
    text = f"{REWRITE}\n\n{question(sample.messages)}"
    return [{"role": "user", "content": [*sample.media(), {"type": "text", "text": text}]}]
