"""`python -m rl hints`: hints L1…L5 for a data file, written by a model and checked for leaks.

Invariants: a level is written only where the row has none or one that leaks; what leaks after all
attempts becomes an empty string (a missing level) with its reason beside it; rows are written as
soon as they are done, so the same command goes on after an interruption and asks for nothing twice
but for levels that nobody could write ("failed").
"""

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain.data.ingest import FileDataConfig, SampleFiles
from pretrain.data.render import has_hint
from pretrain.data.sample import HINT_LEVELS, Sample
from pretrain.run.console import Progress, say, table
from pretrain.run.errors import ConfigError, KeyeError
from pretrain.run.ray_cluster import ray_session
from rl.endpoint_config import EndpointConfig
from rl.hints.prompts import hint_text, request
from rl.hints.writers import (
    EndpointWriter,
    EngineWriter,
    Writer,
    WriterFailure,
    nobody_answers,
)
from rl.row_log import RowLog
from rollout.config import EngineConfig, SamplingConfig
from rollout.hint_leaks import sample_leak
from rollout.seeds import stable_seed

REPORT = "hint_report"
"""Column that says where each level comes from: `kept`, `written`, `leak: …` or `failed: …`."""


def _sampling() -> SamplingConfig:
    return SamplingConfig(temperature=0.7, max_tokens=256, logprobs=False)


@dataclass
class HintsConfig(EndpointConfig):
    """Everything `python -m rl hints` can be told. Without a `url` the checkpoint writes in own
    engines."""

    data: FileDataConfig = field(default_factory=FileDataConfig)
    """The rows; `data.files` must be given."""
    out: str = ""
    """JSONL file to write, in the folder of the data file (its media paths are kept as they are);
    by default NAME.hinted.jsonl there. Remove it to start anew."""
    levels: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5])
    """Levels to write; the others stay as they are."""
    overwrite: bool = False
    """Write hints that a row has already, too."""
    attempts: int = 3
    """How often a level is asked for until it passes the checks."""
    checkpoint: str = ""
    """Hugging Face directory of the model that writes when there is no url."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """vLLM engines for `checkpoint`."""
    sampling: SamplingConfig = field(default_factory=_sampling)
    """How hints are drawn; an endpoint is told temperature, top_p and max_tokens only."""
    chunk: int = 64
    """Rows that are worked on together; an interruption loses at most these."""
    seed: int = 0
    """Seed of sampling."""

    def __post_init__(self) -> None:
        if not self.levels or not set(self.levels) <= set(range(1, HINT_LEVELS + 1)):
            raise ConfigError(f"levels={self.levels} must be some of 1…{HINT_LEVELS}")
        for key in ("attempts", "chunk", "concurrency"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)} must be at least 1")


@dataclass(slots=True)
class Draft:
    """One row on its way: its hints so far, and the levels still open."""

    sample: Sample
    """With its media loaded."""
    hints: list[str]
    report: dict[str, str]
    refused: dict[int, tuple[str, str]]
    """Open levels → (last text, reason it was refused); ("", "") before the first attempt."""


def open_draft(sample: Sample, levels: Sequence[int], overwrite: bool) -> Draft:
    """Which levels of a row must be written: those it lacks, and those that leak."""
    hints = list(sample.hints or [""] * HINT_LEVELS)
    draft = Draft(sample, hints, {}, {})
    for level in range(1, HINT_LEVELS + 1):
        text = hints[level - 1]
        reason = sample_leak(level, text, sample) if text else None
        wanted = level in levels and (overwrite or not has_hint(sample, level) or reason)
        if wanted:
            draft.hints[level - 1] = ""
            draft.refused[level] = ("", "")
        elif text:
            draft.report[f"L{level}"] = f"leak: {reason}" if reason else "kept"
    return draft


def open_again(sample: Sample, row: dict[str, Any], levels: Sequence[int]) -> Draft:
    """A written row with those of its levels open that failed; the others stay as they are."""
    failed = _failed(row, levels)
    hints = list(row["hints"] or [""] * HINT_LEVELS)
    return Draft(sample, hints, dict(row[REPORT]), dict.fromkeys(failed, ("", "")))


def write_levels(
    drafts: Sequence[Draft], writer: Writer, attempts: int, seed: int, answered: bool = False
) -> None:
    """Fill the open levels of some rows, all levels of all rows together, attempt by attempt.

    `answered`: whether the writer has given texts before (`nobody_answers`).

    Raises:
        KeyeError: nobody answers (`nobody_answers`).
    """
    for attempt in range(attempts):
        open_levels = [(draft, level) for draft in drafts for level in draft.refused]
        if not open_levels:
            return
        requests = [
            request(draft.sample, level, draft.refused[level] if attempt else None)
            for draft, level in open_levels
        ]
        seeds = [stable_seed(seed, d.sample.id, level, attempt) for d, level in open_levels]
        replies = writer.write(requests, seeds)
        if nobody_answers(replies, answered or attempt > 0):
            raise KeyeError(
                f"no hint could be written ({replies[0]}). What was complete is kept: mend that "
                "and run the same command again."
            )
        for (draft, level), reply in zip(open_levels, replies, strict=True):
            _take(draft, level, reply)


def _take(draft: Draft, level: int, reply: str | WriterFailure) -> None:
    """Accept a reply, or note why it can't be."""
    key = f"L{level}"
    if isinstance(reply, WriterFailure):
        draft.report[key] = f"failed: {reply}"
        return
    text = hint_text(reply)
    if not text:
        draft.report[key] = "failed: the reply holds no text"
        return
    reason = sample_leak(level, text, draft.sample)
    if reason:
        draft.report[key] = f"leak: {reason}"
        draft.refused[level] = (text, reason)
        return
    draft.report[key] = "written"
    draft.hints[level - 1] = text
    del draft.refused[level]


def run_hints(cfg: HintsConfig) -> None:
    """Write the file, then say how many levels were kept, written, refused and failed."""
    out = _out(cfg)
    data = SampleFiles(cfg.data)
    with contextlib.nullcontext() if cfg.url else ray_session(), _writer(cfg) as writer:
        log = RowLog(out)
        places = {data.unloaded(index).id: index for index in range(len(data))}
        failed = [row for row in log.rows() if row["id"] in places and _failed(row, cfg.levels)]
        left = [index for id, index in places.items() if id not in log.ids]
        say(f"hints: {len(data) - len(left)} of {len(data)} rows are done already ({out})")
        with Progress("hints", total=len(data)) as bar:
            bar.advance(len(data) - len(left))
            for start in range(0, len(left), cfg.chunk):
                chunk = left[start : start + cfg.chunk]
                drafts = [open_draft(data[i], cfg.levels, cfg.overwrite) for i in chunk]
                write_levels(drafts, writer, cfg.attempts, cfg.seed)
                log.append([_row(data.unloaded(i), d) for i, d in zip(chunk, drafts, strict=True)])
                bar.advance(len(chunk))
        if failed:
            say(f"hints: levels of {len(failed)} rows had failed and are asked for again")
        for start in range(0, len(failed), cfg.chunk):
            rows = failed[start : start + cfg.chunk]
            drafts = [open_again(data[places[row["id"]]], row, cfg.levels) for row in rows]
            write_levels(drafts, writer, cfg.attempts, cfg.seed, answered=True)
            log.replace([row | _columns(d) for row, d in zip(rows, drafts, strict=True)])
    _show(log)


def _show(log: RowLog) -> None:
    counts: Counter[tuple[str, str]] = Counter()
    for row in log.rows():
        for level, outcome in row[REPORT].items():
            counts[level, outcome.partition(":")[0]] += 1
    outcomes = ("kept", "written", "leak", "failed")
    levels = [f"L{level}" for level in range(1, HINT_LEVELS + 1)]
    rows = [[level, *(counts[level, outcome] for outcome in outcomes)] for level in levels]
    table(f"hints in {log.path}", ["level", *outcomes], rows)


def _failed(row: dict[str, Any], levels: Sequence[int]) -> list[int]:
    """The wanted levels of a written row that nobody could write."""
    return [level for level in levels if row[REPORT].get(f"L{level}", "").startswith("failed")]


def _columns(draft: Draft) -> dict[str, Any]:
    return {"hints": draft.hints if any(draft.hints) else None, REPORT: draft.report}


def _row(sample: Sample, draft: Draft) -> dict[str, Any]:
    return sample.to_row() | _columns(draft)


def _out(cfg: HintsConfig) -> Path:
    if not cfg.data.files:
        raise ConfigError("no data file is named; set data.files=[PATH.jsonl]")
    first = Path(cfg.data.files[0])
    out = Path(cfg.out) if cfg.out else first.with_name(f"{first.stem}.hinted.jsonl")
    folders = {Path(name).resolve().parent for name in cfg.data.files}
    if folders != {out.resolve().parent}:
        raise ConfigError(
            f"out={out} is not in the folder of all data files ({', '.join(map(str, folders))}): "
            "paths of images and videos are relative to it. Put them in one folder."
        )
    return out


def _writer(cfg: HintsConfig) -> Writer:
    if cfg.url:
        if not cfg.model:
            raise ConfigError(f"url={cfg.url} needs model=NAME, as the endpoint calls it")
        return EndpointWriter(cfg.endpoint(), cfg.sampling)
    if not cfg.checkpoint:
        raise ConfigError(
            "nobody to write hints: give url=URL model=NAME (an OpenAI-compatible endpoint) or "
            "checkpoint=DIRECTORY"
        )
    return EngineWriter.start(Path(cfg.checkpoint), cfg.engine, cfg.sampling)
