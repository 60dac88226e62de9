"""The stages of `recipe=reward_model`: SFT, annealing, GSPO, and a measurement after each.

Stage `reward_model` is all of them beside the policy: it goes on from where it was, and what
follows is scored by the reward model that they made.

Invariant: every checkpoint of the recipe holds the template it was trained on, so it can be served
and evaluated by its path alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretrain.policy.encoder import open_encoder
from pretrain.run.directory import StageDir
from rewards.keye_rm.evaluate import (
    heldout_pairs,
    judge_pairs,
    save_records,
    show,
)
from rewards.keye_rm.files import open_pairs
from rewards.keye_rm.measures import report
from rewards.keye_rm.model import Comparison, KeyeRewardModel
from rewards.keye_rm.templates import Template
from rl.identity import data_identity, generation_identity
from rl.reward_model.training import (
    JudgementExamples,
    JudgementPrompts,
    RewardSftConfig,
    RewardTrainingConfig,
)
from rl.row_log import digests
from rl.sft.training import run_sft
from rl.stages import Run, gspo

RECORDS = "pairs.jsonl"
"""A row a held-out pair and mode, in a measuring stage's folder."""


def reward_sft(run: Run) -> None:
    """Preference pairs in both modes."""
    _supervised(run, "reward_sft", run.cfg.reward_training.sft)


def reward_anneal(run: Run) -> None:
    """Pairs whose better response is the shorter one."""
    _supervised(run, "reward_anneal", run.cfg.reward_training.anneal)


def _supervised(run: Run, name: str, cfg: RewardSftConfig) -> None:
    template = run.cfg.reward_training.template
    source = run.policy()

    def body(stage: StageDir) -> dict[str, Any]:
        examples = JudgementExamples(cfg.pairs, template, stage.path)
        return run_sft(source, examples, cfg.sft, stage, wandb=run.cfg.wandb)

    before = run.folder.stage(name).summary()
    run.stage(name, [cfg, digests(cfg.pairs.files), template], body)
    run.advance(name)
    keep_template(run, name, template, before)


def reward_gspo(run: Run) -> None:
    """GSPO with the format and the outcome of judgements as rewards."""
    cfg = run.cfg.reward_training

    def prompts(folder: Path) -> JudgementPrompts:
        return JudgementPrompts(cfg, folder)

    before = run.folder.stage("reward_gspo").summary()
    asked = [*data_identity(cfg.pairs), cfg.template, cfg.format_weight]
    gspo(run, "reward_gspo", prompts, asked, hinted=False)
    keep_template(run, "reward_gspo", cfg.template, before)


def keep_template(run: Run, name: str, template: Template, before: dict[str, Any]) -> None:
    """The template beside the weights of stage `name`, whose summary was `before`.

    New weights have no measured bias yet (what lies there is a copy of their source's); those of a
    stage that was complete already keep theirs.
    """
    known = replace(Template.load(run.policy()), first_bias=template.first_bias) == template
    if not known or run.folder.stage(name).summary() != before:
        template.save(run.policy())


def measured(name: str) -> Callable[[Run], None]:
    """A stage that judges the held-out pairs with the newest policy.

    Before, each mode's liking for the first place is measured on pairs of the training split; it is
    written into the checkpoint's template and taken out of preferences from here on.
    """

    def stage(run: Run) -> None:
        cfg = run.cfg.reward_training

        def body(folder: StageDir) -> dict[str, Any]:
            rollouts = run.session.rollouts(run.policy())
            model = KeyeRewardModel(
                rollouts.engines,
                open_encoder(run.policy(), run.cfg.engine.max_length),  # verdicts may be short
                cfg.template,
                max_tokens=run.cfg.sampling.max_tokens,
                samples=cfg.heldout.samples,
            )
            known = {mode: calibration(cfg, mode, folder.path) for mode in cfg.heldout.modes}
            bias = {mode: model.measure_first_bias(own, mode) for mode, own in known.items()}
            model.template = replace(cfg.template, first_bias=bias)
            model.template.save(run.policy())
            pairs = heldout_pairs(cfg.heldout, folder.path)
            records = judge_pairs(model, pairs, cfg.heldout.modes)
            save_records(folder.path / RECORDS, records)
            return report(records) | {"first_bias": bias}

        how = [*data_identity(cfg.heldout), cfg.template, *generation_identity(run.cfg)]
        how += [cfg.calibration_pairs, *data_identity(cfg.sft.pairs), seen(cfg)]
        show(run.stage(name, how, body), name)

    return stage


def seen(cfg: RewardTrainingConfig) -> int:
    """Examples that SFT has been through."""
    return cfg.sft.sft.steps * cfg.sft.sft.batch_size


def calibration(cfg: RewardTrainingConfig, mode: str, folder: Path) -> list[Comparison]:
    """Pairs of SFT's source behind all that it has seen (of files: of a further epoch)."""
    source = open_pairs(cfg.sft.pairs, cfg.sft.pairs.world, folder)
    pairs = [source[seen(cfg) + k] for k in range(cfg.calibration_pairs[mode])]
    return [Comparison(pair.query, pair.good, pair.bad, pair.task) for pair in pairs]


REWARD_STAGES: dict[str, Callable[[Run], None]] = {
    "reward_sft": reward_sft,
    "reward_sft_measured": measured("reward_sft_measured"),
    "reward_anneal": reward_anneal,
    "reward_anneal_measured": measured("reward_anneal_measured"),
    "reward_gspo": reward_gspo,
    "reward_gspo_measured": measured("reward_gspo_measured"),
}


def reward_model(run: Run) -> None:
    """Train and measure a reward model from the newest policy, and let it score from here on."""
    policy = run.checkpoint, run.made_by
    for stage in REWARD_STAGES.values():
        stage(run)
    run.cfg.reward_model.checkpoint = str(run.policy())
    run.checkpoint, run.made_by = policy
