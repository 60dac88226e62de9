"""Non-reasoning fine-tuning: balanced over task types, without what is too easy, annealed on what
is hard or was reviewed by a person.

| stage | from | leaves |
|---|---|---|
| `sft/rows` | data | rows.jsonl |
| `sft/difficulty` | rows, by a policy | difficulty.jsonl |
| `sft/curated` | rows, difficulty, people's decisions | rows.jsonl, review.jsonl |
| `sft/train` | curated rows | checkpoint |
| `sft/anneal` | its hard and reviewed rows, at a lower learning rate | checkpoint |

Each is one of the run's own stages: complete ones are skipped, an interrupted one goes on. New
decisions or limits sample nothing again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from pretrain.run.console import table
from pretrain.run.directory import StageDir, checkpoint_identity
from pretrain.run.errors import KeyeError
from pretrain.run.metrics import read_rows
from pretrain.run.stages import run_stage
from rl.identity import data_identity, generation_identity, reward_identity
from rl.review_rows import item_row
from rl.row_log import digests
from rl.sft.difficulty import MEASURES, Selection, measure_rows, select
from rl.sft.rows import AskedIn, RowExamples, curate, first_rows, open_rows, read_verdicts
from rl.sft.taxonomy import BalancedRows, load_taxonomy
from rl.sft.training import SftConfig, run_sft
from rl.stages import Run
from rl.trace_rows import Row, sample_of, save_rows

ROWS = "rows.jsonl"
REVIEW = "review.jsonl"
"""Hard rows as items for `python -m rl review`, in the folder of `sft/curated`."""


def sft(run: Run) -> None:
    """All parts, from the newest policy on."""
    job = SftJobs(run)
    job.rows()
    if run.cfg.sft.difficulty.samples:
        job.difficulty()
    curated = job.curated()
    trained = job.train("sft/train", run.cfg.sft.train, final=False)
    report = {"curated": curated, "train": trained}
    if run.cfg.sft.anneal.steps:
        report["anneal"] = job.train("sft/anneal", run.cfg.sft.anneal, final=True)
    _show(report)


class SftJobs:
    """The parts of one `sft` stage."""

    def __init__(self, run: Run) -> None:
        self.run, self.cfg = run, run.cfg.sft

    @cached_property
    def source(self) -> AskedIn:
        """The samples behind the rows; files are looked through once a command."""
        return open_rows(self.cfg, self.run.folder.stage("sft/rows").path)

    def rows(self) -> None:
        """All rows of the data with the replies given."""
        cfg = self.cfg

        def body(stage: StageDir) -> dict[str, Any]:
            rows = first_rows(self.source, cfg.pool)
            save_rows(stage.path / ROWS, rows)
            return {"rows": len(rows), "task_types": len({row["task_type"] for row in rows})}

        world = [] if cfg.data.files else [cfg.tasks, cfg.pool, cfg.seed]
        self._stage("sft/rows", [*data_identity(cfg.data), cfg.mode, *world], [], body)

    def difficulty(self) -> None:
        """Correctness and length of several sampled answers to each row."""
        cfg, run = self.cfg.difficulty, self.run
        policy = Path(cfg.checkpoint) if cfg.checkpoint else run.policy()

        def body(stage: StageDir) -> dict[str, Any]:
            rollouts = run.session.rollouts(policy, tools=False)
            return measure_rows(self._read("sft/rows"), self.source, rollouts, stage.path, cfg)

        how = [cfg.samples, cfg.temperature, cfg.seed]
        how += [*generation_identity(run.cfg, tools=False), *reward_identity(run.cfg)]
        inputs = ["sft/rows", "" if cfg.checkpoint else run.made_by]
        given = checkpoint_identity(cfg.checkpoint) if cfg.checkpoint else run.given()
        self._stage("sft/difficulty", how, inputs, body, given)

    def curated(self) -> dict[str, Any]:
        """The rows that are trained on, and hard ones as items for review."""
        cfg, measured = self.cfg, self.cfg.difficulty.samples > 0
        selection = Selection({}, set(), set())
        if measured:
            measures = read_rows(self.run.folder.stage("sft/difficulty").path / MEASURES)
            selection = select(measures, cfg.difficulty)

        def body(stage: StageDir) -> dict[str, Any]:
            rows, counts = curate(self._read("sft/rows"), selection, read_verdicts(cfg.decisions))
            save_rows(stage.path / ROWS, rows)
            return counts

        limits = [getattr(cfg.difficulty, f"easy_{key}") for key in ("accuracy", "tokens", "kept")]
        how = [measured, *limits, cfg.difficulty.hard_share, digests(cfg.decisions)]
        inputs = ["sft/rows", "sft/difficulty" if measured else ""]
        counts = self._stage("sft/curated", how, inputs, body)
        self._export(selection)
        return counts

    def _export(self, selection: Selection) -> None:
        """The hard rows for review. No row depends on how many there are, so that more can be had
        without training again."""
        file = self.run.folder.stage("sft/curated").path / REVIEW
        hard = [row for row in self._read("sft/curated") if row["id"] in selection.hard]
        wanted = hard[: self.cfg.review]
        if len(wanted) != len(read_rows(file)):
            save_rows(file, [self._item(row) for row in wanted])

    def train(self, name: str, cfg: SftConfig, final: bool) -> dict[str, Any]:
        """One phase; afterwards the newest policy is what it has left.

        `final`: on the rows for the annealing phase only.
        """
        run, balance, source = self.run, self.cfg.balance, self.run.policy()
        taxonomy = balance.taxonomy

        def body(stage: StageDir) -> dict[str, Any]:
            rows = self._read("sft/curated")
            rows = [row for row in rows if row["final"]] if final else rows
            if not rows:
                raise KeyeError(
                    "the annealing phase has no row: none is hard and none was reviewed. Set "
                    "sft.anneal.steps=0, or give sft.difficulty.samples or sft.decisions."
                )
            draws = BalancedRows(
                [row["task_type"] for row in rows],
                load_taxonomy(taxonomy) if taxonomy else None,
                exponent=balance.exponent,
                unlisted=balance.unlisted,
                seed=balance.seed + final,
            )
            examples = RowExamples(self.source, rows, draws)
            trained = run_sft(source, examples, cfg, stage, wandb=run.cfg.wandb)
            epochs = cfg.steps * cfg.batch_size / len(rows)
            return trained | {"rows": len(rows), "epochs": epochs, "balance": draws.report()}

        how = [cfg, balance, digests([taxonomy] if taxonomy else []), final]
        metrics = self._stage(name, how, ["sft/curated", run.made_by], body, run.given())
        run.advance(name)
        return metrics

    def _stage(
        self,
        name: str,
        cfg: Any,
        inputs: list[str],
        body: Callable[[StageDir], dict[str, Any]],
        checkpoint: Any = "",
    ) -> dict[str, Any]:
        """One stage that builds on the named ones, and on the user's policy."""
        identity = {"cfg": cfg, "checkpoint": checkpoint}
        return run_stage(self.run.folder, name, identity, body, inputs=[i for i in inputs if i])

    def _read(self, stage: str) -> list[Row]:
        return read_rows(self.run.folder.stage(stage).path / ROWS)

    def _item(self, row: Row) -> dict[str, Any]:
        finding = f"{row['accuracy']:.0%} of sampled answers right, {row['tokens']:.0f} tokens"
        return item_row(sample_of(self.source, row), row["response"], [finding])


def _show(report: dict[str, Any]) -> None:
    curated, balance = report["curated"], report["train"]["balance"]
    rows = [[key, value] for key, value in curated.items() if key != "domains"]
    rows += [[f"balance: {key}", value] for key, value in balance.items()]
    for phase in ("train", "anneal"):
        if phase in report:
            facts = {key: report[phase].get(key) for key in ("rows", "epochs", "loss")}
            rows += [[f"{phase}: {key}", value] for key, value in facts.items()]
    shown = [[key, f"{value:.3f}" if isinstance(value, float) else value] for key, value in rows]
    table("Fine-tuning", ["", ""], [[key, str(value)] for key, value in shown])
