"""`python -m rewards score`: run a rule over a file of responses and show how it behaves.

Every row of `data` is a Sample (or as much of one as the rule needs) with a `response` or a list
`responses` added. The output has a line a row, in order: `id` and `result`, or `results`.
"""

import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pretrain.data.quarantine import Quarantine
from pretrain.data.row_files import RowFile, open_rows
from pretrain.run.console import Progress, say, warn
from pretrain.run.directory import disk_guard
from pretrain.run.errors import ConfigError
from rewards.config import RewardConfig
from rewards.pool import RewardError, RewardPool
from rewards.report import Scored, print_report
from rewards.result import RewardResult, Score

IN_FLIGHT = 512  # responses a piece; two pieces are in flight, so that workers never wait for us


@dataclass
class ScoreConfig:
    """What to score, with what."""

    data: str = ""
    """JSONL or Parquet file of samples with `response` or `responses`."""

    rule: str | None = None
    """The rule: a name of `python -m rewards list`, `package.module:function` or
    `path/to/file.py:function`. Without it each row's own `rewards` are scored."""

    args: dict[str, Any] = field(default_factory=dict)
    """Arguments of the rule, e.g. `args.threshold=0.7`."""

    out: str = ""
    """JSONL file for the results; `DATA.scores.jsonl` if empty."""

    limit: int | None = None
    """Rows to score; all if null."""

    max_bad_share: float = 0.1
    """The largest tolerated share of rows without a response or that cannot be read."""

    pool: RewardConfig = field(default_factory=RewardConfig)
    """Workers, deadlines, composition."""


@dataclass
class _Row:
    """A row waiting for its scores."""

    id: str
    responses: list[str]
    is_list: bool
    sample: dict[str, Any]


def run(config: ScoreConfig) -> int:
    """Scores the file, writes the results, prints the report."""
    if not config.data:
        raise ConfigError("score needs data=FILE (JSONL or Parquet with a `response` a row).")
    data = Path(config.data)
    out = Path(config.out or f"{data.with_suffix('')}.scores.jsonl")
    if out.resolve() == data.resolve():
        raise ConfigError(f"out={out} is the data file itself; choose another name.")
    rows = open_rows(data)
    count = min(len(rows), config.limit) if config.limit is not None else len(rows)
    quarantine = Quarantine(out.with_suffix(".quarantine.jsonl"), config.max_bad_share)
    scored: list[Scored] = []
    with RewardPool(config.pool) as pool:
        if config.rule:
            pool.check([config.rule])
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            disk_guard(out),
            out.open("w", encoding="utf-8") as file,
            Progress("score", count) as bar,
        ):
            read = _rows(rows, data, count, config, quarantine)
            for piece, scores in _score_pieces(pool, read):
                scored += _write(file, piece, scores, by_parts=config.rule is None)
                bar.advance(len(piece), f"{len(scored)} responses")
    quarantine.check()
    if quarantine.bad:
        warn(f"{len(quarantine.bad)} of {quarantine.seen} rows are bad: {quarantine.path}")
    print_report(config.rule or "rewards of the rows", scored)
    say(f"results: {out}")
    if scored and all(one.result.status != "ok" for one in scored):
        message = scored[0].result.details.get("message", scored[0].result.status)
        raise RewardError(f"not one of {len(scored)} responses could be scored: {message}")
    return 0


def _rows(
    rows: RowFile, path: Path, count: int, config: ScoreConfig, quarantine: Quarantine
) -> Iterator[_Row]:
    """Rows with responses; the others go to quarantine with the reason."""
    for index in range(count):
        try:
            sample = dict(rows.row(index))
            is_list = sample.get("responses") is not None
            found = sample.pop("responses", None) if is_list else [sample.pop("response", None)]
            if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
                raise ValueError("needs `response` (text) or `responses` (a list of texts)")
        except Exception as error:  # whatever a reader or a row holds, the others go on
            quarantine.add(path, rows.line(index), str(error), rows.raw(index))
            continue
        quarantine.good()
        sample.setdefault("id", f"{path.name}:{rows.line(index)}")
        if config.rule:
            sample["rewards"] = [{"rule": config.rule, **config.args}]
        yield _Row(str(sample["id"]), found, is_list, sample)


def _score_pieces(
    pool: RewardPool, rows: Iterator[_Row]
) -> Iterator[tuple[list[_Row], list[Score]]]:
    """Rows in pieces with the scores of all their responses, in order."""
    flying: deque[tuple[list[_Row], Future[list[Score]]]] = deque()
    piece: list[_Row] = []
    waiting = 0

    def submit() -> None:
        items = [(text, row.sample) for row in piece for text in row.responses]
        flying.append((piece, pool.submit(items)))

    for row in rows:
        piece.append(row)
        waiting += len(row.responses)
        if waiting >= IN_FLIGHT:
            submit()
            piece, waiting = [], 0
        if len(flying) == 2:
            done, future = flying.popleft()
            yield done, future.result()
    submit()
    for done, future in flying:
        yield done, future.result()


def _write(file: IO[str], rows: list[_Row], scores: list[Score], by_parts: bool) -> list[Scored]:
    """One line a row; returns what the report needs."""
    written: list[Scored] = []
    left = iter(scores)
    for row in rows:
        results = [_whole(next(left), by_parts) for _ in row.responses]
        plain = [result.as_dict() for result in results]
        line = {"results": plain} if row.is_list else {"result": plain[0]}
        file.write(json.dumps({"id": row.id, **line}, ensure_ascii=False) + "\n")
        written += [
            Scored(row.id, text[:200], result)
            for text, result in zip(row.responses, results, strict=True)
        ]
    file.flush()
    return written


def _whole(score: Score, by_parts: bool) -> RewardResult:
    """A score as one result: the rule's own, or the total with its parts in the details."""
    if not by_parts:
        (result,) = score.parts.values()
        return result
    statuses = [part.status for part in score.parts.values()]
    status = next((s for s in ("timeout", "error") if s in statuses), "ok")
    return RewardResult(
        score.total,
        status,  # type: ignore[arg-type]
        sum(part.seconds for part in score.parts.values()),
        {"parts": {name: part.as_dict() for name, part in score.parts.items()}},
    )
