"""The stages of the LongCoT cold start, each in its own folder of the run, each to be run alone.

| stage | folder | reads | leaves |
|---|---|---|---|
| `long_cot_enhance` | long_cot/enhance | the sources | questions.jsonl |
| `long_cot_paths` | long_cot/paths | questions, the newest policy | paths.jsonl |
| `long_cot_assess` | long_cot/assess | paths | graded.jsonl |
| `long_cot_review` | long_cot/review | graded paths | items.jsonl, kept.jsonl |
| | long_cot/refined | items, decisions.jsonl | refined.jsonl |
| `long_cot_score` | long_cot/score | refined rows, the newest policy | scored.jsonl |
| `long_cot_sft` | long_cot_sft | scored rows, the newest policy | checkpoint |

`long_cot` is the first five in order. New decisions re-run `refined` and what follows, no more;
they stay where they lie when the items beside them are made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pretrain.run.console import say, table
from pretrain.run.directory import StageDir
from pretrain.run.errors import ConfigError, KeyeError
from pretrain.run.metrics import read_rows
from pretrain.run.stages import run_stage
from rewards.keye_rm.model import KeyeRewardModel
from rl.identity import (
    data_identity,
    generation_identity,
    reward_identity,
    reward_model_identity,
)
from rl.long_cot.agentic import AgenticTraces
from rl.long_cot.assess import GRADED, Assessor, assess_paths
from rl.long_cot.config import LongCotConfig
from rl.long_cot.enhance import QUESTIONS, collect, merge, rewrite
from rl.long_cot.judge import BODY
from rl.long_cot.mix import MixedExamples
from rl.long_cot.paths import PATHS, sample_paths
from rl.long_cot.questions import Questions, open_sources
from rl.long_cot.refine import REFINED, apply_decisions, read_decisions
from rl.long_cot.review import ITEMS, KEPT, Refiner, make_items
from rl.long_cot.score import SCORED, score_rows
from rl.long_cot.scoring import pool_scorer
from rl.long_cot.writers import TextWriter, endpoint_writer, policy_writer
from rl.row_log import RowLog
from rl.sft.training import run_sft
from rl.stages import Run
from rl.trace_rows import save_rows

ROOM = "long_cot"
DECISIONS = "decisions.jsonl"


def _stage(
    run: Run,
    name: str,
    identity: list[Any],
    inputs: list[str],
    body: Callable[[StageDir], dict[str, Any]],
    *,
    policy: bool = False,
) -> None:
    """Stage `long_cot/name` on the outputs of its `inputs`, and on the newest policy if it asks."""
    given: Any = ""
    if policy:
        run.policy()
        inputs = [*inputs, run.made_by] if run.made_by else inputs
        given = run.given()
    facts = {"cfg": identity, "checkpoint": given}
    metrics = run_stage(run.folder, f"{ROOM}/{name}", facts, body, inputs=inputs)
    rows = [[key, f"{v:.3f}" if isinstance(v, float) else str(v)] for key, v in metrics.items()]
    table(f"{ROOM}/{name}", ["", ""], rows)


def _folder(run: Run, name: str) -> Path:
    return run.folder.stage(f"{ROOM}/{name}").path


def _questions(run: Run) -> Questions:
    cfg = run.cfg.long_cot.enhance
    sources = open_sources(cfg, _folder(run, "enhance"))
    return Questions(sources, cfg.separator)


def _writer(run: Run, who: str) -> TextWriter:
    if who == "policy":
        rollouts = run.session.rollouts(run.policy(), tools=False)
        return policy_writer(rollouts, run.cfg.long_cot.writer)
    return endpoint_writer(run.cfg.long_cot.writer, "long_cot.writer")


def _writer_identity(run: Run, who: str) -> list[Any]:
    """What decides what `who` writes; the policy answers within its own limits."""
    own = [run.cfg.long_cot.writer] if who != "none" else []
    return own + (generation_identity(run.cfg, tools=False) if who == "policy" else [])


def enhance(run: Run) -> None:
    """(a) Questions from all sources, with new wordings and merged ones."""
    cfg, chunk = run.cfg.long_cot.enhance, run.cfg.long_cot.chunk

    def body(stage: StageDir) -> dict[str, Any]:
        sources = open_sources(cfg, stage.path)
        rows, left_out = collect(cfg, sources)
        merged = merge(cfg, rows, sources, run.cfg.engine.max_images)
        reworded = []
        if cfg.rewrite != "none":
            writer = _writer(run, cfg.rewrite)
            reworded = rewrite(cfg, rows, sources, writer, stage.path, chunk)
        save_rows(stage.path / QUESTIONS, [*rows, *reworded, *merged])
        counts = {"given": len(rows), "rewritten": len(reworded), "merged": len(merged)}
        return counts | left_out

    identity = [*data_identity(cfg.data), cfg, run.cfg.engine.max_images]
    identity += _writer_identity(run, cfg.rewrite)
    _stage(run, "enhance", identity, [], body, policy=cfg.rewrite == "policy")


def paths(run: Run) -> None:
    """(b) Reasoning paths of the newest policy, with confidences."""
    cfg = run.cfg.long_cot

    def body(stage: StageDir) -> dict[str, Any]:
        rows = read_rows(_folder(run, "enhance") / QUESTIONS)
        rollouts = run.session.rollouts(run.policy(), tools=False)
        return sample_paths(rows, _questions(run), rollouts, cfg.paths, stage.path, cfg.chunk)

    identity = [cfg.paths, *generation_identity(run.cfg, tools=False), *reward_identity(run.cfg)]
    _stage(run, "paths", identity, [f"{ROOM}/enhance"], body, policy=True)


def assess(run: Run) -> None:
    """(c) Grades A, B and C, and which paths go on."""
    cfg = run.cfg.long_cot

    def body(stage: StageDir) -> dict[str, Any]:
        rows = read_rows(_folder(run, "paths") / PATHS)
        with _assessor(run) as assessor:
            return assess_paths(rows, _questions(run), assessor, cfg.select, stage.path, cfg.chunk)

    _stage(run, "assess", [cfg.select, *_assess_identity(run)], [f"{ROOM}/paths"], body)


def _assess_identity(run: Run) -> list[Any]:
    cfg = run.cfg.long_cot
    identity: list[Any] = [cfg.assess] + ([cfg.judge] if cfg.assess.judge else [])
    asked = cfg.assess.reward_dimensions
    return identity + (reward_model_identity(run.cfg.reward_model) if asked else [])


@contextlib.contextmanager
def _assessor(run: Run) -> Iterator[Assessor]:
    """The configured checks; a reward model's engines live as long as the block."""
    cfg: LongCotConfig = run.cfg.long_cot
    judge = None
    if cfg.assess.judge:
        judge = endpoint_writer(cfg.judge, "long_cot.judge", temperature=0.0, body=BODY)
    if not cfg.assess.reward_dimensions:
        yield Assessor(cfg.assess, judge)
        return
    if not run.cfg.reward_model.checkpoint:
        raise ConfigError(
            "long_cot.assess.reward_dimensions needs reward_model.checkpoint=DIRECTORY"
        )
    model = KeyeRewardModel.open(run.cfg.reward_model)
    try:
        unknown = set(cfg.assess.reward_dimensions) - set(model.template.dimensions)
        if unknown:
            raise ConfigError(
                f"long_cot.assess.reward_dimensions: {sorted(unknown)[0]!r} is none of "
                f"{', '.join(model.template.dimensions)}"
            )
        yield Assessor(cfg.assess, judge, model)
    finally:
        model.close()


def review(run: Run) -> None:
    """(d) Items for people, then what they have decided so far."""
    cfg = run.cfg.long_cot
    refining = cfg.review.refine != "none"

    def items(stage: StageDir) -> dict[str, Any]:
        rows = read_rows(_folder(run, "assess") / GRADED)
        with contextlib.ExitStack() as stack:
            refiner = None
            if refining:
                assessor = stack.enter_context(_assessor(run))
                writer = _writer(run, cfg.review.refine)
                refiner = Refiner(writer, assessor, pool_scorer(run.cfg.rewards))
            review_cfg, chunk = cfg.review, cfg.chunk
            return make_items(rows, _questions(run), review_cfg, stage.path, chunk, refiner)

    identity: list[Any] = [cfg.review.redundant_factor, cfg.review.refine]
    identity += _writer_identity(run, cfg.review.refine)
    identity += _assess_identity(run) if refining else []
    by_policy = cfg.review.refine == "policy"
    _stage(run, "review", identity, [f"{ROOM}/assess"], items, policy=by_policy)
    _refined(run)


def decisions_file(run: Run) -> Path:
    """Where people's decisions are expected."""
    named = run.cfg.long_cot.review.decisions
    return Path(named) if named else _folder(run, "review") / DECISIONS


def _refined(run: Run) -> None:
    cfg, file = run.cfg.long_cot.review, decisions_file(run)
    decisions = read_decisions(file, required=bool(cfg.decisions))
    found = hashlib.sha256(file.read_bytes()).hexdigest() if decisions else ""

    def body(stage: StageDir) -> dict[str, Any]:
        folder = _folder(run, "review")
        return apply_decisions(
            RowLog(folder / KEPT).rows(),
            RowLog(folder / ITEMS).rows(),
            decisions,
            _questions(run),
            pool_scorer(run.cfg.rewards),
            cfg,
            stage.path,
        )

    identity = [cfg.unreviewed_flawed, cfg.unreviewed_redundant, found, *reward_identity(run.cfg)]
    _stage(run, "refined", identity, [f"{ROOM}/review"], body)
    if not decisions:
        say(f"no decisions yet: python -m rl review items={_folder(run, 'review') / ITEMS}")


def score(run: Run) -> None:
    """(e) Quality 1…5 and sampling weights."""
    cfg = run.cfg.long_cot

    def body(stage: StageDir) -> dict[str, Any]:
        rows = read_rows(_folder(run, "refined") / REFINED)
        rollouts = run.session.rollouts(run.policy(), tools=False)
        return score_rows(rows, _questions(run), rollouts, cfg.score, stage.path, cfg.chunk)

    identity = [cfg.score, *generation_identity(run.cfg, tools=False), *reward_identity(run.cfg)]
    _stage(run, "score", identity, [f"{ROOM}/refined"], body, policy=True)


def long_cot(run: Run) -> None:
    """The five steps in order."""
    for step in (enhance, paths, assess, review, score):
        step(run)


def long_cot_sft(run: Run) -> None:
    """Fine-tuning of the newest policy on the scored traces, in all modes."""
    cfg = run.cfg.long_cot
    source, scored = run.policy(), run.folder.stage(f"{ROOM}/score").summary()
    if not scored:
        raise KeyeError(f"{ROOM}/score in {run.folder.path} is not complete; run long_cot first")

    def body(stage: StageDir) -> dict[str, Any]:
        questions = _questions(run)
        examples = MixedExamples(
            cfg.train,
            questions,
            read_rows(_folder(run, "enhance") / QUESTIONS),
            read_rows(_folder(run, "score") / SCORED),
            AgenticTraces(questions.sources, cfg.enhance, run.cfg.tools.max_result_tokens),
        )
        mix = examples.describe(cfg.train.sft.steps * cfg.train.sft.batch_size)
        say(f"long_cot_sft: {mix}")
        return run_sft(source, examples, cfg.train.sft, stage, wandb=run.cfg.wandb) | mix

    results = run.cfg.tools.max_result_tokens
    run.stage("long_cot_sft", [cfg.train, {"scored": scored["hash"]}, results], body)
    run.advance("long_cot_sft")


LONG_COT_STAGES: dict[str, Callable[[Run], None]] = {
    "long_cot": long_cot,
    "long_cot_enhance": enhance,
    "long_cot_paths": paths,
    "long_cot_assess": assess,
    "long_cot_review": review,
    "long_cot_score": score,
    "long_cot_sft": long_cot_sft,
}
