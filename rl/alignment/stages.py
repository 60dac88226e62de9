"""The stages of `recipe=alignment`: measure, teach, measure, GSPO on the mix, measure.

Each is one of the run's own stages; the measurements ask the same held-out prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pretrain.run.console import say
from pretrain.run.directory import StageDir
from pretrain.run.errors import ConfigError
from rewards.sandbox.client import SandboxError, check_isolation
from rl.alignment.config import AlignmentConfig
from rl.alignment.examples import AlignmentExamples
from rl.alignment.instructions import check_kinds
from rl.alignment.marks import observe
from rl.alignment.measure import change, load, measure, report, show
from rl.alignment.row_tools import check_tools
from rl.alignment.sources import AlignmentPrompts, mix_identity
from rl.identity import generation_identity, reward_identity, tool_identity
from rl.row_log import digests
from rl.sft.training import run_sft
from rl.stages import Run, gspo
from rl.tool_tasks import with_documents

MEASURED = ("alignment_before", "alignment_sft_measured", "alignment_after")
"""The measuring stages, in the order in which they can stand."""


def check(run: Run) -> AlignmentConfig:
    """The run's mix; `ConfigError` for what it lacks."""
    cfg = run.cfg.alignment
    check_kinds(cfg.instructions)
    sources = cfg.sources()
    if "preference" in sources and not run.cfg.reward_model.checkpoint:
        raise ConfigError(
            f"alignment.preference.weight={cfg.preference.weight} needs a reward model: give "
            "reward_model.checkpoint=DIRECTORY, or set alignment.preference.weight=0"
        )
    if "retrieval" in sources and not run.cfg.tools.names:
        raise ConfigError(
            f"alignment.retrieval.weight={cfg.retrieval.weight} needs a search tool: give "
            "tools.names=[search] tools.documents=PATH (tiny_world for the tiny world's facts), or "
            "set alignment.retrieval.weight=0"
        )
    if "formats" in sources:
        _check_formats(run)
    return cfg


def _check_formats(run: Run) -> None:
    """`ConfigError` where programs cannot be run, or a row's tools are missing."""
    own = run.cfg.alignment.formats
    if own.kinds.get("python", 0.0) > 0 and own.answer_weight:
        try:
            check_isolation()
        except SandboxError as error:
            raise ConfigError(
                "alignment.formats asks for programs (form python) and runs them in a sandbox: "
                f"{error} Or leave the form out: alignment.formats.kinds.python=0"
            ) from error
    if own.files:
        check_tools(own, run.cfg.tools, run.folder.path)


def announce_mix(cfg: AlignmentConfig) -> None:
    """Say what the mix is, and what is left out and why."""
    sources = cfg.sources()
    total = sum(own.weight for own in sources.values())
    shares = ", ".join(f"{name} {own.weight / total:.0%}" for name, own in sources.items())
    say(f"alignment: {shares}")
    if not cfg.judge.url and {"instructions", "steps", "retrieval"} & sources.keys():
        say(
            "alignment: no judge (alignment.judge.url, .model), so no soft constraints are drawn "
            "and processes (prescribed steps, searches) are checked by rules alone"
        )


def measured(name: str) -> Callable[[Run], None]:
    """A stage that asks the held-out prompts of every source with the newest policy."""

    def stage(run: Run) -> None:
        cfg = check(run)

        def body(folder: StageDir) -> dict[str, Any]:
            return measure(run.session.rollouts(run.policy()), cfg, folder.path)

        how = [cfg.heldout, cfg.heldout_seed, cfg.samples, mix_identity(cfg)]
        how += [digests(own.heldout) for own in cfg.sources().values() if own.files]
        how += [*generation_identity(run.cfg), *reward_identity(run.cfg)]
        run.stage(name, how, body)
        summarise(run)

    return stage


def summarise(run: Run) -> None:
    """What has been measured so far, with paired changes, in the run's summary and as a table."""
    done = [
        name
        for name in MEASURED
        if name in run.cfg.stages and run.folder.stage(name).summary_file.exists()
    ]
    records = {name: load(run.folder.stage(name).path) for name in done}
    reports = {name: report(rows) for name, rows in records.items()}
    changes = {
        f"{old} → {new}": change(records[old], records[new])
        for k, new in enumerate(done)
        for old in done[:k]
    }
    run.folder.write_summary({"alignment": {"measured": reports, "change": changes}})
    latest = changes.get(f"{done[-2]} → {done[-1]}", {}) if len(done) > 1 else {}
    show("Alignment, held out (temperature 1, 95 % intervals)", reports, latest)


def alignment_sft(run: Run) -> None:
    """Fine-tuning on answers that are written to follow what each prompt asks for."""
    cfg = check(run)
    announce_mix(cfg)
    source = run.policy()

    def body(stage: StageDir) -> dict[str, Any]:
        examples = AlignmentExamples(
            cfg, with_documents(run.cfg.tools, run.folder.path), stage.path
        )
        return run_sft(source, examples, cfg.sft, stage, wandb=run.cfg.wandb)

    run.stage("alignment_sft", [cfg.sft, mix_identity(cfg), *tool_identity(run.cfg.tools)], body)
    run.advance("alignment_sft")


def alignment_gspo(run: Run) -> None:
    """GSPO on the mix, every figure logged. A hint helps to an answer, not to following a request:
    there are none here, also where `iterate` before it has some."""
    cfg = check(run)
    announce_mix(cfg)

    def prompts(folder: Path) -> AlignmentPrompts:
        return AlignmentPrompts(cfg, folder)

    gspo(run, "alignment_gspo", prompts, mix_identity(cfg), observe=observe, hinted=False)


ALIGNMENT_STAGES: dict[str, Callable[[Run], None]] = {
    **{name: measured(name) for name in MEASURED},
    "alignment_sft": alignment_sft,
    "alignment_gspo": alignment_gspo,
}
