"""A whole run: its stages in order, then the summary, the table and the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pretrain.data.sample import Sample
from pretrain.run.console import say, table
from pretrain.run.directory import RunDir
from pretrain.run.ray_cluster import ray_session
from rl.alignment.stages import ALIGNMENT_STAGES
from rl.config import RlConfig
from rl.evaluate import KINDS, change
from rl.experts.stages import experts, merge
from rl.figures import draw_overview, draw_samples
from rl.iterated.stages import iterate
from rl.long_cot.stages import LONG_COT_STAGES
from rl.mpo.stages import mpo
from rl.reward_model.stages import REWARD_STAGES, reward_model
from rl.session import Session
from rl.sft.stage import sft
from rl.stages import STAGES, Run, evaluation, heldout_samples, load_evaluation
from rl.tool_tasks import with_documents

RUNS = Path("runs")
"""Parent of all run directories, relative to where the command is given."""
SHEET = 8
"""Held-out images shown with the answers before and after."""
ALL_STAGES = STAGES | REWARD_STAGES | {"iterate": iterate, "mpo": mpo} | ALIGNMENT_STAGES
ALL_STAGES |= {"sft": sft, "experts": experts, "merge": merge}
ALL_STAGES |= LONG_COT_STAGES | {"reward_model": reward_model}
"""Every stage that `stages` may name, beside `evaluate_NAME`."""


def run_recipe(cfg: RlConfig) -> None:
    """Run the configured stages; finished ones are skipped, an interrupted one goes on."""
    folder = RunDir(RUNS / cfg.run)
    checkpoint = Path(cfg.checkpoint) if cfg.checkpoint else None
    tools = with_documents(cfg.tools, folder.path)
    with (
        folder.exclusive(),
        ray_session(),
        Session(cfg.engine, cfg.rewards, cfg.sampling, cfg.reward_model, tools) as session,
    ):
        run = Run(cfg, folder, session, checkpoint)
        for name in cfg.stages:
            if name in ALL_STAGES:
                ALL_STAGES[name](run)
            else:  # `evaluate_NAME`, as the configuration has checked
                evaluation(run, name)
    _report(folder, cfg)
    say(f"policy: {run.checkpoint}")
    say(f"summary: {folder.path / 'summary.json'}")


def _report(folder: RunDir, cfg: RlConfig) -> None:
    """The run's summary; table and pictures where this command has measured before and after."""
    measured = _evaluation_summary(folder, cfg)
    summary = folder.write_summary(measured)
    if measured:  # an earlier command's measurement stays in the summary, but is not shown again
        _show(summary)
        _draw(folder, cfg, summary)


def _evaluation_summary(folder: RunDir, cfg: RlConfig) -> dict[str, Any]:
    if not {"evaluate_before", "evaluate_after"} <= set(cfg.stages):
        return {}
    before = load_evaluation(folder, "evaluate_before")
    after = load_evaluation(folder, "evaluate_after")
    return {
        "evaluation": {
            "before": before.table(),
            "after": after.table(),
            "change": change(before, after),
            "by_task": {"before": before.by_task(), "after": after.by_task()},
            "behaviour": {"before": before.behaviour(), "after": after.behaviour()},
        }
    }


def _show(summary: dict[str, Any]) -> None:
    table(
        "Stages",
        ["stage", "seconds", "direct tasks, held-out"],
        [[stage["name"], round(stage["seconds"], 1), _score(stage)] for stage in summary["stages"]],
    )
    evaluation = summary["evaluation"]
    rows = []
    for mode in evaluation["before"]:
        for kind in KINDS:
            cells = [evaluation[when][mode][kind] for when in ("before", "after", "change")]
            rows.append([mode, kind, *(_leaf(cell) for cell in cells), cells[0]["n"]])
    table(
        "Held-out accuracy (95 % intervals; change: paired)",
        ["mode", "measure", "before RL", "after RL", "change", "n"],
        rows,
    )


def _score(stage: dict[str, Any]) -> str:
    direct = stage["metrics"].get("direct_mean")
    return "" if direct is None else f"{direct:.3f}"


def _leaf(leaf: dict[str, Any]) -> str:
    return f"{leaf['value']:.3f} [{leaf['low']:.3f}, {leaf['high']:.3f}]"


def _draw(folder: RunDir, cfg: RlConfig, summary: dict[str, Any]) -> None:
    if "gspo" in cfg.stages:
        metrics = folder.stage("gspo").metrics_file
        picture = draw_overview(summary, metrics, folder.path / "overview.png")
        say(f"picture: {picture}")
    shown = [s for s in heldout_samples(cfg.evaluation, folder.path) if _first_image(s) is not None]
    before, after = (load_evaluation(folder, f"evaluate_{when}") for when in ("before", "after"))
    mode = "auto_think" if "auto_think" in cfg.evaluation.modes else cfg.evaluation.modes[0]
    answers = {
        (name, record["id"]): record["response"]
        for name, result in (("before", before), ("after", after))
        for record in result.records
        if record["mode"] == mode
    }
    images, captions = [], []
    for sample in shown[:SHEET]:
        question = sample.messages[-1]["content"][-1]["text"]
        images.append(_first_image(sample))
        captions.append(
            f"{question} (truth: {sample.answer}; {mode})\n"
            f"before: {answers['before', sample.id]}\nafter: {answers['after', sample.id]}"
        )
    if images:
        picture = draw_samples(images, captions, folder.path / "samples.png")
        say(f"picture: {picture}")


def _first_image(sample: Sample) -> Any:
    """The sample's first medium if it is an image."""
    media = sample.media()
    return media[0]["image"] if media and media[0]["type"] == "image" else None
