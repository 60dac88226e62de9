"""One benchmark from its rows to its table: ask, score, record; goes on where it was interrupted.

Invariant: a question is in `records.jsonl` exactly once and only with a verdict; a row that can't
be used is in `quarantine.jsonl` with its reason and in no score.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pretrain.data.media import MediaConfig, load_media
from pretrain.data.quarantine import Quarantine
from pretrain.data.sample import Sample, SampleError
from pretrain.run.console import Progress
from pretrain.run.directory import StageDir
from pretrain.run.errors import KeyeError
from rewards.judge.client import JudgeClient, JudgeError
from rl.answering import Answer, answer_all
from rl.benchmarks.answers import final_answer
from rl.benchmarks.benchmark import Benchmark, Record, Verdict
from rl.benchmarks.config import BenchmarkConfig
from rl.benchmarks.files import Row, find_files, one_table, read_rows
from rl.benchmarks.media import Media
from rl.benchmarks.registry import open_benchmark
from rl.judging import ask_all
from rl.rollouts import Rollouts
from rl.row_log import RowLog

RECORDS = "records.jsonl"
_SHOWN = 200
"""Characters of a cell in the quarantine: an image needn't be there."""


@dataclass(slots=True)
class Loaded:
    """A benchmark with its rows."""

    benchmark: Benchmark
    files: list[Path]
    rows: list[Row]
    media: Media
    skipped: dict[str, str]
    """Parts that are not asked, and why."""

    def identity(self) -> list[Any]:
        """What of the files decides the scores: their names, sizes and times of change."""
        return [[str(p), p.stat().st_size, p.stat().st_mtime_ns] for p in self.files]


def load_benchmark(name: str, root: Path, cfg: BenchmarkConfig) -> Loaded:
    """Find and read a benchmark; `KeyeError` naming file, column and form if it can't be."""
    benchmark = open_benchmark(name, cfg)
    given = cfg.files.get(benchmark.name, "")
    files = find_files(root, benchmark.stems, given, benchmark.form)
    if not benchmark.many_files:
        one_table(files, benchmark.name)
    # Images shared by index stay within one file's table, videos are anywhere below the root.
    read = read_rows(files, benchmark.required, benchmark.form)
    rows, skipped = benchmark.expand(read)
    if cfg.samples:
        groups = list(dict.fromkeys(benchmark.group(row) for row in rows))[: cfg.samples]
        rows = [row for row in rows if benchmark.group(row) in set(groups)]
    return Loaded(benchmark, files, rows, Media(read, root), skipped)


def run_benchmark(
    loaded: Loaded, rollouts: Rollouts, cfg: BenchmarkConfig, stage: StageDir
) -> dict[str, Any]:
    """Ask all questions that have no record yet; the benchmark's scores as plain data.

    Raises:
        KeyeError: too many bad rows; or a judge that did not answer, once everything else is done.
    """
    log = RowLog(stage.path / RECORDS)
    quarantine = Quarantine(stage.path / "quarantine.jsonl", cfg.max_bad_share)
    client = cfg.judge.client() if cfg.judge.on else None
    failures: list[JudgeError] = []
    with Progress(loaded.benchmark.name, total=len(loaded.rows)) as bar:
        for start in range(0, len(loaded.rows), cfg.chunk):
            rows = loaded.rows[start : start + cfg.chunk]
            asked = _samples(loaded, rows, quarantine, log.ids, cfg.mode)
            _ask(loaded.benchmark, asked, rollouts, quarantine, client, log, failures)
            bar.advance(len(rows))
    quarantine.check()
    if failures:
        raise KeyeError(
            f"{loaded.benchmark.name}: the judge did not answer {len(failures)} time(s) "
            f"({failures[0]}). All other answers are kept; run the same command again for these."
        )
    return report(loaded, log.rows(), len(quarantine.bad))


def _samples(
    loaded: Loaded, rows: Sequence[Row], quarantine: Quarantine, done: set[str], mode: str
) -> list[tuple[Row, Sample]]:
    """Samples with their media that have no record yet; bad rows go to the quarantine."""
    roots = MediaConfig(roots=[str(loaded.media.root)])
    samples = []
    for row in rows:
        try:
            sample = replace(loaded.benchmark.sample(row, loaded.media), mode=mode)
            if sample.id not in done:
                samples.append((row, load_media(sample, row.file.parent, roots)))
        except SampleError as error:
            quarantine.add(row.file, row.line, str(error), _short(row))
            continue
        quarantine.good()
    return samples


def _ask(
    benchmark: Benchmark,
    asked: list[tuple[Row, Sample]],
    rollouts: Rollouts,
    quarantine: Quarantine,
    client: JudgeClient | None,
    log: RowLog,
    failures: list[JudgeError],
) -> None:
    """Respond, score and record one chunk."""
    rows, samples = [row for row, _ in asked], [sample for _, sample in asked]

    def refuse(index: int, reason: str) -> None:
        row = rows[index]
        quarantine.reject(row.file, row.line, reason, _short(row))

    answers = answer_all(rollouts, samples, refuse=refuse)
    given = [(s, a) for s, a in zip(samples, answers, strict=True) if a is not None]
    records = []
    for (sample, answer), outcome in zip(given, score(benchmark, given, client), strict=True):
        if isinstance(outcome, JudgeError):
            failures.append(outcome)
            continue
        verdict, decided_by = outcome
        records.append(_record(benchmark, sample, answer, verdict, decided_by))
    log.append(records)


def score(
    benchmark: Benchmark, given: Sequence[tuple[Sample, Answer]], client: JudgeClient | None
) -> list[tuple[Verdict, str] | JudgeError]:
    """A verdict and who decided (`rule`, `judge`, `nothing`: unreadable) for each response."""
    finals = [final_answer(answer.text, sample.mode) for sample, answer in given]
    outcomes: list[tuple[Verdict, str] | JudgeError] = []
    bodies: dict[int, dict[str, Any]] = {}
    for index, ((sample, _), final) in enumerate(zip(given, finals, strict=True)):
        verdict = benchmark.verdict(sample, final)
        outcomes.append((verdict, "rule" if verdict.sure else "nothing"))
        body = None if verdict.sure or client is None else benchmark.judge_request(sample, final)
        if body is not None:
            bodies[index] = body
    if client is None or not bodies:
        return outcomes
    for index, reply in zip(bodies, ask_all(client, list(bodies.values())), strict=True):
        if isinstance(reply, JudgeError):
            outcomes[index] = reply
            continue
        try:
            found = json.loads(reply, strict=False)
            outcomes[index] = benchmark.judge_verdict(given[index][0], found), "judge"
        except (ValueError, KeyError, TypeError):
            continue  # unreadable like the answer itself: the rule's best reading stays
    return outcomes


def _record(
    benchmark: Benchmark, sample: Sample, answer: Answer, verdict: Verdict, decided_by: str
) -> Record:
    return {
        "id": sample.id,
        "group": sample.extra["group"],
        "facets": sample.extra["facets"],
        "mode": sample.mode,
        "question": sample.extra["question"],
        "answer": sample.answer,
        "response": answer.text,
        "extracted": verdict.extracted,
        "correct": verdict.correct,
        "decided_by": decided_by,
        "tokens": answer.tokens,
        "finished": answer.finished,
    } | benchmark.record_extra(sample)


def report(loaded: Loaded, records: Sequence[Record], bad_rows: int) -> dict[str, Any]:
    """Scores with intervals, and what they leave out."""
    scores = loaded.benchmark.scores(records)
    decided = [record["decided_by"] for record in records]
    return {
        "benchmark": loaded.benchmark.name,
        "files": [str(path) for path in loaded.files],
        "headline": loaded.benchmark.headline,
        "prompts": len(records),
        "scores": {name: leaf.to_dict() for name, leaf in scores.items()},
        "decided_by": {who: decided.count(who) for who in ("rule", "judge", "nothing")},
        "cut_off": sum(not record["finished"] for record in records),
        "bad_rows": bad_rows,
        "skipped": loaded.skipped,
    }


def _short(row: Row) -> dict[str, Any]:
    return {
        name: value if len(str(value)) <= _SHOWN else f"{str(value)[:_SHOWN]}…"
        for name, value in row.values.items()
    }
