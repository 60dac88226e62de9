"""Training the reward model, and a GSPO run that nothing but it rewards."""

import json
import pickle
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pretrain.data.sample import Sample
from pretrain.data.stream import WorldStream
from pretrain.run.command import compose
from pretrain.run.directory import RunDir, StageDir
from pretrain.run.errors import ConfigError, KeyeError
from pretrain.run.metrics import MetricLogger, WandbConfig, read_rows
from pretrain.training.engine import TrainConfig
from rewards.config import RewardConfig
from rewards.keye_rm.config import RewardModelConfig
from rewards.keye_rm.model import KeyeRewardModel
from rewards.keye_rm.parsing import parse
from rewards.keye_rm.templates import DIMENSIONS, MODES, Template
from rewards.keye_rm.world_pairs import WorldPairs
from rewards.pool import RewardPool
from rl.config import GspoConfig, RlConfig
from rl.learner import LearnerConfig, LearnerGroup
from rl.reward_model.stages import REWARD_STAGES, calibration, keep_template
from rl.reward_model.training import (
    JudgementExamples,
    JudgementPrompts,
    PairDataConfig,
)
from rl.rollouts import Rollouts
from rl.session import Session, read_weights
from rl.stages import Run
from rl.train import Job, train
from rollout.config import HintConfig, SamplingConfig
from rollout.hint_sampler import HintSampler


@pytest.fixture(scope="module")
def recipe():
    return compose("rl", RlConfig, ["recipe=reward_model"])


def test_the_recipe_s_numbers(recipe):
    training = recipe.reward_training
    assert recipe.stages == list(REWARD_STAGES)
    assert list(training.template.dimensions) == list(DIMENSIONS)
    assert training.template.mark == "{name}{mark}" and training.template.between == ""
    worlds = [training.sft.pairs.world, training.anneal.pairs.world, training.pairs.world]
    assert [world.prefer for world in worlds] == ["any", "shorter", "any"]
    assert worlds[2].max_length_gap < 1.0  # extreme gaps are left out of GSPO
    seeds = {world.seed for world in worlds} | {training.heldout.world.seed}
    assert len(seeds) == 4
    longest = training.template.reasoning(*[dict.fromkeys(DIMENSIONS, 5)] * 2)
    assert len(longest) < recipe.sampling.max_tokens


def test_files_of_sft_are_those_of_the_later_stages_too():
    mine = "reward_training.sft.pairs.files=[mine.jsonl]"
    training = compose("rl", RlConfig, ["recipe=reward_model", mine]).reward_training
    assert training.anneal.pairs.files == training.pairs.files == ["mine.jsonl"]
    other = "reward_training.anneal.pairs.files=[short.jsonl]"
    training = compose("rl", RlConfig, ["recipe=reward_model", mine, other]).reward_training
    assert training.anneal.pairs.files == ["short.jsonl"]
    assert training.pairs.files == ["mine.jsonl"]


def test_unknown_modes_are_refused():
    with pytest.raises(ConfigError, match="auto_think"):
        PairDataConfig(modes={"auto_think": 1.0})
    with pytest.raises(ConfigError, match="weights"):
        PairDataConfig(modes={"think": 0.0})


def test_examples_follow_from_their_index_in_any_process(recipe, tmp_path):
    training = recipe.reward_training
    examples = JudgementExamples(training.sft.pairs, training.template, tmp_path)
    again = pickle.loads(pickle.dumps(examples))
    verdicts, modes = Counter(), Counter()
    for index in range(120):
        conversation = examples(index)
        text = conversation[-1]["content"][0]["text"]
        asked = conversation[0]["content"][-1]["text"]
        mode = "no_think" if asked.endswith(" /no_think") else "think"
        judgement = parse(text, mode, training.template)
        assert judgement.ok, (text, judgement.fault)
        verdicts[judgement.verdict] += 1
        modes[mode] += 1
        if index < 10:
            assert again(index)[-1] == conversation[-1]
    assert verdicts[0] == verdicts[1]  # every pair comes in both orders
    both = [examples.drawn(index) for index in range(8)]
    for (pair, mode, swapped), (same, again_mode, other) in zip(both[::2], both[1::2], strict=True):
        assert (pair.id, mode) == (same.id, again_mode) and swapped != other
    assert modes["no_think"] > modes["think"] > 0


def test_the_bias_is_measured_on_pairs_that_sft_has_not_seen(recipe, tmp_path):
    counts = {"think": 2, "no_think": 3}
    training = replace(recipe.reward_training, calibration_pairs=counts)
    seen = training.sft.sft.steps * training.sft.sft.batch_size
    expected = [WorldPairs(training.sft.pairs.world)[seen + k].good for k in range(3)]
    assert [asked.first for asked in calibration(training, "no_think", tmp_path)] == expected
    assert [asked.first for asked in calibration(training, "think", tmp_path)] == expected[:2]
    with pytest.raises(ConfigError, match="must give think and no_think at least 1"):
        replace(training, calibration_pairs=counts | {"think": 0})


def test_a_measured_bias_outlives_the_next_call_but_not_a_new_training(recipe, tmp_path):
    template = recipe.reward_training.template

    def train(steps):
        run = Run(recipe, RunDir(tmp_path), SimpleNamespace(), tmp_path / "base")
        before = run.folder.stage("reward_sft").summary()

        def body(stage):  # new weights come with a copy of their source's files
            stage.checkpoint.mkdir(parents=True, exist_ok=True)
            replace(template, first_bias={"no_think": 0.7}).save(stage.checkpoint)
            return {}

        run.stage("reward_sft", [steps], body)
        run.advance("reward_sft")
        keep_template(run, "reward_sft", template, before)
        return run.policy()

    policy = train(1)
    assert Template.load(policy) == template
    replace(template, first_bias={"think": 0.3}).save(policy)
    assert Template.load(train(1)).first_bias == {"think": 0.3}
    assert Template.load(train(2)) == template


def test_prompts_go_on_where_they_were_left(recipe, tmp_path):
    training = recipe.reward_training
    prompts = JudgementPrompts(training, tmp_path)
    first = prompts.take(3)
    state = json.loads(json.dumps(prompts.state()))
    following = [sample.id for sample in prompts.take(3)]
    resumed = JudgementPrompts(training, tmp_path)
    resumed.load_state(state)
    assert [sample.id for sample in resumed.take(3)] == following
    assert resumed.metrics() == {"data/samples": 6.0}
    assert all(isinstance(sample.validate(), Sample) for sample in first)
    rules = [entry["rule"] for entry in first[0].rewards]
    assert [rule.rpartition(":")[2] for rule in rules] == ["judgement_outcome", "judgement_format"]
    other = replace(training, pairs=replace(training.pairs))
    other.pairs.world = replace(training.pairs.world, seed=77)
    with pytest.raises(KeyeError, match="cannot resume"):
        JudgementPrompts(other, tmp_path).load_state(state)


def test_judgements_are_rewarded_by_the_rules_workers(recipe, tmp_path):
    """Through the pool, as in a job: outcome 1 and format 0.2; a malformed one gets neither."""
    prompts = JudgementPrompts(recipe.reward_training, tmp_path)
    sample = next(s for s in prompts.take(8) if s.mode == "no_think")
    other = "AB".replace(sample.answer, "")
    row = sample.to_row(media=False)
    with RewardPool(RewardConfig()) as pool:
        scores = pool.score([(text, row) for text in (sample.answer, other, "AB")])
    assert [score.total for score in scores] == pytest.approx([1.2, 0.2, 0.0])
    assert set(scores[0].parts) == {"judgement_outcome", "judgement_format"}
    assert scores[0].verifiers == ("judgement_outcome",)


@pytest.mark.slow
def test_the_recipe_runs_and_runs_no_finished_stage_again(tiny_checkpoint, ray_cluster, tmp_path):
    """All stages with a few steps; the second time everything is complete already."""
    quick = ["reward_training.sft.sft.steps=3", "reward_training.anneal.sft.steps=2"]
    quick += ["reward_training.sft.sft.world_size=1", "reward_training.anneal.sft.world_size=1"]
    quick += ["reward_training.sft.sft.batch_size=4", "reward_training.anneal.sft.batch_size=4"]
    quick += ["gspo.steps=1", "gspo.prompts_per_step=4", "gspo.group_size=4"]
    quick += ["learner.world_size=1", "engine.count=1", "engine.cpus=0.1", "engine.hang_seconds=60"]
    quick += ["reward_training.heldout.pairs=4", "reward_training.heldout.length_pairs=0"]
    quick += [
        "reward_training.heldout.samples=2",
        "reward_training.calibration_pairs={think: 3, no_think: 3}",
    ]
    quick += ["learner.mini_batches=1", "wandb.mode=disabled"]
    stages = [name for name in REWARD_STAGES if name != "reward_gspo"]  # a random policy can't win
    cfg = compose("rl", RlConfig, ["recipe=reward_model", *quick])
    seconds = []
    for _ in range(2):
        with Session(cfg.engine, cfg.rewards, cfg.sampling) as session:
            run = Run(cfg, RunDir(tmp_path / "run"), session, tiny_checkpoint)
            for name in stages:
                REWARD_STAGES[name](run)
        seconds.append([run.folder.stage(name).summary()["finished"] for name in stages])
    assert seconds[0] == seconds[1]
    no_bias = dict.fromkeys(MODES, 0.0)
    for name in ("reward_sft", "reward_anneal"):
        kept = Template.load(run.folder.stage(name).checkpoint)
        assert kept == replace(cfg.reward_training.template, first_bias=no_bias)
    found = run.folder.stage("reward_sft_measured").summary()["metrics"]
    assert found["modes"]["think"]["malformed"]["value"] == 1.0  # nobody has taught it the form
    assert found["baselines"]["length"]["n"] == 4
    assert found["first_bias"] == no_bias
    records = read_rows(run.folder.stage("reward_sft_measured").path / "pairs.jsonl")
    assert len(records) == 8


@pytest.mark.slow
def test_gspo_rewarded_by_nothing_but_the_reward_model(
    taught, tiny_checkpoint, engine_pool, engine_config, encoder, tmp_path
):
    """Two steps with group win rates in think mode: updates, and each dimension by its name."""
    engine_pool.update_weights(read_weights(tiny_checkpoint), version=0)
    learner = LearnerGroup(
        LearnerConfig(train=TrainConfig(lr=1e-3, warmup_steps=1, schedule="constant")),
        tiny_checkpoint,
        total_updates=2,
    )
    stage = StageDir(tmp_path / "gspo")
    stage.path.mkdir()
    model = KeyeRewardModel.open(RewardModelConfig(str(taught), engine_config, max_tokens=40))
    try:
        with RewardPool(RewardConfig()) as pool:
            job = Job(
                cfg=GspoConfig(steps=2, prompts_per_step=4, group_size=4, save_every=2),
                stage=stage,
                source=ModelRewarded({"digits/sum": 1.0}, seed=5, modes={"think": 1.0}),
                rollouts=Rollouts(engine_pool, encoder, pool, SamplingConfig(max_tokens=12), model),
                hints=HintSampler(HintConfig(0)),
                learner=learner,
                log=MetricLogger(stage, WandbConfig(mode="disabled"), {}),
            )
            train(job)
    finally:
        model.close()
        learner.close()
        engine_pool.update_weights(read_weights(tiny_checkpoint), version=0)
    rows = read_rows(stage.metrics_file)
    assert len(rows) == 2
    for row in rows:
        assert row["reward/keye_rm/mean"] == pytest.approx(0.5, abs=0.05)  # win rates of a group
        assert row["reward/std"] > 0 and row["gspo/grad_norm"] > 0
        for dimension in ("safety", "clarity"):
            assert 0 <= row[f"reward/keye_rm/{dimension}/mean"] <= 1
    assert (stage.checkpoint / "model.safetensors").is_file()


class ModelRewarded(WorldStream):
    """The world's prompts, rewarded by the reward model alone."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        sample.rewards = [{"rule": "keye_rm", "mode": "think", "opponents": 2}]
        return sample
