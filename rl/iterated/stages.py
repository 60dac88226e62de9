"""Iterated RL: GSPO → rejection sampling → new cold start → filtered prompts → GSPO → …

| stage | from | leaves |
|---|---|---|
| `pool` | cold-start data | rows.jsonl |
| `roundK/rejection` (K ≥ 1) | rows and policy of the round before | rows.jsonl, lineage.jsonl |
| `roundK/cold_start` | the *base* checkpoint, on the round's rows | checkpoint |
| `roundK/filter` (K ≥ 1) | the RL data, by the new cold-start model | accuracy.jsonl |
| `roundK/gspo` | the new cold-start model, on the kept prompts | checkpoint |
| `roundK/evaluate` | the held-out samples | evaluation.jsonl |

Round 0 is the plain recipe: cold start (unless `first_cold_start` says that there was one) and GSPO
on all data. Each stage is one of the run's own
stages: complete ones are skipped, an interrupted one goes on, more rounds can be added later.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pretrain.data.ingest import SampleFiles
from pretrain.data.stream import WorldStream
from pretrain.run.console import table
from pretrain.run.directory import StageDir
from pretrain.run.errors import ConfigError
from pretrain.run.metrics import read_rows
from pretrain.run.stages import run_stage
from rl.identity import data_identity, generation_identity, reward_identity
from rl.iterated.prompt_filter import ChosenPrompts, filter_prompts
from rl.iterated.rejection import ROWS, reject_and_replace
from rl.prompts import open_prompts
from rl.sft.training import run_sft
from rl.stages import Run, evaluation, gspo
from rl.tool_tasks import ToolTasks
from rl.trace_rows import SampleSource, TraceExamples, first_rows, open_source, save_rows

POOL = "pool"


def iterate(run: Run) -> None:
    """Round 0 and `rounds` more, from the newest checkpoint as the base of all cold starts."""
    base, base_stage, given = run.policy(), run.made_by, run.given()
    rows = POOL
    _pool(run)
    report = []
    for number in range(run.cfg.rounds + 1):
        if number:
            rows = _rejection(run, number, rows)
        if number or run.cfg.iterated.first_cold_start:
            _cold_start(run, number, rows, base, base_stage, given)
        if number:
            _filtered_gspo(run, number)
        else:
            gspo(run, "round0/gspo")
        evaluation(run, f"round{number}/evaluate")
        report.append(_round(run, number))
    _show(report)
    run.folder.write_summary({"rounds": report})


def _stage(
    run: Run,
    name: str,
    cfg: Any,
    inputs: list[str],
    body: Callable[[StageDir], dict[str, Any]],
    checkpoint: Any = "",
) -> dict[str, Any]:
    """One stage that builds on the named ones, and on the user's policy."""
    identity = {"cfg": cfg, "checkpoint": checkpoint}
    return run_stage(run.folder, name, identity, body, inputs=[i for i in inputs if i])


def _pool(run: Run) -> None:
    """The cold-start rows before any round."""
    cfg, cold = run.cfg.iterated, run.cfg.cold_start

    def body(stage: StageDir) -> dict[str, Any]:
        rows = first_rows(cfg, cold, stage.path)
        save_rows(stage.path / ROWS, rows)
        origins = [row["origin"] for row in rows]
        return {"rows": len(rows), "spoiled_share": origins.count("spoiled") / len(rows)}

    traces = [cold.tasks, cold.modes, cold.direct_share, cold.seed]
    pool = [*data_identity(cfg.data), cfg.pool, cfg.spoiled_share, cfg.seed]
    _stage(run, POOL, pool + traces, [], body)


def _rejection(run: Run, number: int, rows: str) -> str:
    """The policy's better responses in place of replies; returns the stage's name."""
    cfg, name, policy = run.cfg.iterated, f"round{number}/rejection", run.made_by

    def body(stage: StageDir) -> dict[str, Any]:
        return reject_and_replace(
            read_rows(run.folder.stage(rows).path / ROWS),
            _source(run),
            run.session.rollouts(run.policy(), tools=False),
            cfg,
            stage.path,
            number=number,
            policy=f"{policy} {run.folder.stage(policy).summary()['hash']}",
        )

    how = [cfg.samples, cfg.margin, cfg.seed]
    how += [*generation_identity(run.cfg, tools=False), *reward_identity(run.cfg)]
    _stage(run, name, how, [rows, policy], body)
    return name


def _cold_start(run: Run, number: int, rows: str, base: Path, base_stage: str, given: Any) -> None:
    """Fine-tuning of the base on the round's rows."""
    cfg, name = run.cfg.cold_start.sft, f"round{number}/cold_start"
    cold = run.cfg.cold_start
    hinted: dict[str, Any] = {"hinted_share": cold.hinted_share, "hinted_tasks": cold.hinted_tasks}

    def body(stage: StageDir) -> dict[str, Any]:
        file = run.folder.stage(rows).path / ROWS
        examples = TraceExamples(_source(run), file, run.cfg.iterated.seed, **hinted)
        return run_sft(base, examples, cfg, stage, wandb=run.cfg.wandb)

    shown = {key: value for key, value in hinted.items() if value}
    how = [cfg, shown] if shown else cfg
    _stage(run, name, how, [base_stage, rows], body, given)
    run.advance(name)


def _filtered_gspo(run: Run, number: int) -> None:
    """GSPO on the prompts that the new cold-start model solves sometimes."""
    cfg, name = run.cfg.iterated, f"round{number}/filter"
    folder = run.folder.stage(name).path

    def body(stage: StageDir) -> dict[str, Any]:
        source, count = _prompts(run, stage.path)
        return filter_prompts(
            source,
            count,
            run.session.rollouts(run.policy()),
            stage.path,
            samples=cfg.filter_samples,
            chunk=cfg.chunk,
            seed=cfg.seed,
        )

    how = [cfg.prompts, cfg.filter_samples, cfg.seed, *data_identity(run.cfg.data)]
    how += [*generation_identity(run.cfg), *reward_identity(run.cfg)]
    _stage(run, name, how, [run.made_by], body)

    def prompts(stage: Path) -> ChosenPrompts:
        return ChosenPrompts.kept(_prompts(run, stage)[0], folder, run.cfg.data.seed)

    gspo(run, f"round{number}/gspo", prompts, run.folder.stage(name).summary()["hash"])


def _source(run: Run) -> SampleSource:
    """The samples behind the cold-start rows."""
    folder = run.folder.stage(POOL).path
    return open_source(run.cfg.iterated, run.cfg.cold_start, folder)


def _prompts(run: Run, folder: Path) -> tuple[SampleSource, int]:
    return indexed_prompts(run, folder, run.cfg.iterated.prompts, "iterated.prompts")


def indexed_prompts(run: Run, folder: Path, wanted: int, key: str) -> tuple[SampleSource, int]:
    """The RL data by index, and how many of its prompts are looked at.

    Args:
        run: its `data` say where prompts come from.
        folder: bad rows of files are copied to quarantine.jsonl there.
        wanted: prompts to look at; 0 means all rows of the files.
        key: the setting that `wanted` comes from, for the error.
    """
    stream = open_prompts(run.cfg.data, folder)
    if isinstance(stream, WorldStream | ToolTasks):
        if not wanted:
            raise ConfigError(
                f"{key}=0 takes all rows of data.files, but the tiny world has no end; set it to "
                "a number of prompts"
            )
        return stream, wanted
    data: SampleFiles = stream.data  # type: ignore[attr-defined]
    return data, min(wanted, len(data)) if wanted else len(data)


def _round(run: Run, number: int) -> dict[str, Any]:
    """What a round's stages have reported, for the run's summary."""
    found: dict[str, Any] = {"round": number}
    for stage in ("rejection", "filter", "evaluate"):
        summary = run.folder.stage(f"round{number}/{stage}").summary()
        if summary:
            found[stage] = summary["metrics"]
    found["evaluate"] = found["evaluate"]["table"]
    return found


def _show(report: list[dict[str, Any]]) -> None:
    rows = []
    for entry in report:
        rejection, filtered = entry.get("rejection", {}), entry.get("filter", {})
        accuracies = " ".join(
            f"{mode} {kinds['greedy']['value']:.3f}" for mode, kinds in entry["evaluate"].items()
        )
        shares = [rejection.get(k) for k in ("replaced_share", "correct_before", "correct_after")]
        cells = ["" if share is None else f"{share:.1%}" for share in shares]
        rows.append([entry["round"], *cells, filtered.get("kept", "all"), accuracies])
    columns = ["round", "replaced", "correct before", "after", "RL prompts", "held out, greedy"]
    table("Iterated RL", columns, rows)
