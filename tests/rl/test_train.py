"""The GSPO loop on a random tiny policy with a rule from a file: real engine, ranks and workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from pretrain.data.ingest import FileStream, SampleFiles
from pretrain.data.render import hint
from pretrain.data.stream import WorldStream
from pretrain.run.directory import StageDir
from pretrain.run.errors import KeyeError
from pretrain.run.metrics import MetricLogger, WandbConfig, read_rows
from pretrain.training.engine import TrainConfig
from rewards.config import RewardConfig
from rewards.pool import RewardPool
from rl.config import DataConfig, GspoConfig
from rl.dynamic import DynamicConfig
from rl.learner import LearnerConfig, LearnerGroup
from rl.overlong import OverlongConfig
from rl.rollouts import Rollouts
from rl.session import read_weights
from rl.train import Job, progress, resume, sample_groups, train
from rollout.config import HintConfig, SamplingConfig
from rollout.hint_sampler import HintSampler

RULE = """
def even(response, sample):
    '1 for half of all responses, whatever the policy.'
    return float(len(response) % 2 == 0)

def lucky(response, sample):
    '''1 if the response holds a 3 or a 7: a random policy manages it sometimes.'''
    return float('3' in response or '7' in response)

def one_in_eight(response, sample):
    '1 for an eighth of all responses, whatever the policy.'
    import zlib
    return float(zlib.crc32(response.encode()) % 8 == 0)

def never(response, sample):
    return 0.0
"""
STEPS = 4
CFG = GspoConfig(steps=STEPS, prompts_per_step=6, group_size=4, save_every=2, table_every=2, seed=3)
LEARNER = LearnerConfig(
    train=TrainConfig(lr=1e-3, warmup_steps=1, schedule="constant"), timeout_s=120
)


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rules") / "rules.py"
    path.write_text(RULE)
    return path


@pytest.fixture(scope="module")
def reward_pool() -> Iterator[RewardPool]:
    with RewardPool(RewardConfig()) as pool:
        yield pool


@pytest.fixture
def make_job(
    tmp_path: Path,
    tiny_checkpoint: Path,
    engine_pool: Any,
    encoder: Any,
    reward_pool: RewardPool,
    rules: Path,
) -> Iterator[Callable[..., Job]]:
    """`make_job(name, rule, max_level)`: a job on the untrained checkpoint, in a folder `name`."""
    learners = []

    def make(name: str, rule: str = "even", max_level: int = 0, reroll: bool = False) -> Job:
        engine_pool.update_weights(read_weights(tiny_checkpoint), version=0)
        learner = LearnerGroup(LEARNER, tiny_checkpoint, total_updates=STEPS)
        learners.append(learner)
        stage = StageDir(tmp_path / name / "gspo")
        stage.path.mkdir(parents=True, exist_ok=True)
        source = RuledWorld({"digits/sum": 1.0}, seed=5, modes={"think": 1.0})
        source.rule = f"{rules}:{rule}"
        return Job(
            cfg=CFG,
            stage=stage,
            source=source,
            rollouts=Rollouts(engine_pool, encoder, reward_pool, SamplingConfig(max_tokens=12)),
            hints=HintSampler(HintConfig(max_level, reroll=reroll)),
            learner=learner,
            log=MetricLogger(stage, WandbConfig(mode="disabled"), {}),
        )

    yield make
    for learner in learners:
        learner.close()
    engine_pool.update_weights(read_weights(tiny_checkpoint), version=0)


class RuledWorld(WorldStream):
    """The world's prompts, scored by a rule from a file instead of their own."""

    rule: str

    def __getitem__(self, index: int) -> Any:
        sample = super().__getitem__(index)
        sample.rewards = [{"rule": self.rule, "weight": 1.0}]
        return sample


class Killed(Exception):
    """Stands for the end of the process."""


def test_an_interrupted_job_ends_as_the_uninterrupted_one(make_job: Callable[..., Job]):
    whole = make_job("whole")
    train(whole)
    expected = load_file(whole.stage.checkpoint / "model.safetensors")

    broken = make_job("broken")
    log = broken.log.log

    def log_until_killed(values: dict[str, float], step: int) -> None:
        if step == 3:  # step 2 is saved, step 3 has been learnt from and not saved
            raise Killed
        log(values, step)

    broken.log.log = log_until_killed  # type: ignore[method-assign]
    with pytest.raises(Killed):
        train(broken)
    broken.learner.close()
    again = make_job("broken")
    train(again)

    resumed = load_file(again.stage.checkpoint / "model.safetensors")
    assert expected.keys() == resumed.keys()
    assert all(bool((expected[name] == resumed[name]).all()) for name in expected)
    assert [row["step"] for row in read_rows(again.stage.metrics_file)] == [1, 2, 3, 4]
    first, second = read_rows(whole.stage.metrics_file), read_rows(again.stage.metrics_file)
    for key in ("reward/mean", "gspo/loss", "rollout/tokens", "data/samples"):
        assert [row[key] for row in first] == [row[key] for row in second], key


CONSTANT = {
    "rollout/responses": "every step samples the same number",
    "reward/failed_responses": "the rule never fails here",
    "gspo/clip_fraction/mini_batch_0": "the first mini-batch is on-policy: nothing is clipped",
    "gspo/lr": "warm-up is over after one step",
    "rollout/length_max": "an untrained policy runs to the token limit",
    "rollout/reasoned_share/think": "an untrained policy closes no think block",
    "mismatch/logprob_max": "engine and learner differ by one unit of fp32 rounding",
}
"""Metrics that may be constant in ten steps of this job, and why."""


def test_the_loop_learns_and_every_metric_moves(
    make_job: Callable[..., Job], tiny_checkpoint: Path
):
    job = make_job("one")
    job.cfg = replace(CFG, steps=10)
    summary = train(job)
    assert summary["steps"] == 10
    rows = read_rows(job.stage.metrics_file)
    keys = set().union(*rows) - {"step", "time"}
    stuck = {key for key in keys if len({row.get(key) for row in rows}) == 1}
    suffixes = ("/failed_share",)  # the rule never fails here
    assert {key for key in stuck if not key.endswith(suffixes)} <= CONSTANT.keys()
    assert all(row["mismatch/logprob_max"] < 1e-4 for row in rows)
    moved = load_file(job.stage.checkpoint / "model.safetensors")
    before = read_weights(tiny_checkpoint)
    assert any(not bool((before[name] == moved[name]).all()) for name in moved)
    # The engine samples with what was exported.
    assert job.rollouts.engines.version == 10
    table = read_rows(job.stage.samples_file)
    assert table and {"question", "response", "parts", "ratio", "advantage"} <= table[0].keys()


def test_unsolved_prompts_are_retried_with_hints(make_job: Callable[..., Job]):
    job = make_job("hints", rule="lucky", max_level=2)
    groups, metrics = sample_groups(job, job.source.take(12), step=0)
    hinted = [group for group in groups if group.hint_level]
    assert hinted, "no group needed a hint: choose another seed"
    for group in hinted:
        assert group.solved
        text = job.rollouts.encoder.tokenizer.decode(group.prompt.ids.tolist())
        assert f"Hint: {hint(group.sample, group.hint_level)}" in text
        assert all(t.prompt is group.prompt for t in group.trajectories)
    asked, leaking = metrics["hints/L1/asked"], metrics["hints/leaking"]
    assert asked == pytest.approx(12 * metrics["hints/all_wrong_share"], abs=leaking)
    assert metrics["hints/rescued_share"] == pytest.approx(len(hinted) / 12)
    # The un-hinted accuracy is that of all prompts, not of those that needed no hint.
    assert metrics["reward/solved_share"] == pytest.approx(1 - metrics["hints/all_wrong_share"])
    # What a prompt needed is remembered over an interruption.
    job.learner.save(job.stage.state, 1, progress(job))
    again = make_job("hints", rule="lucky", max_level=2)
    assert resume(again) == 1
    assert again.hints.state() == job.hints.state() != {"levels": {}}
    for group in hinted:
        assert again.hints.memory.start(group.sample.id) == group.hint_level


def test_the_control_retries_the_same_prompts_without_their_hints(make_job: Callable[..., Job]):
    hinted = make_job("hinted", rule="lucky", max_level=1)
    _, expected = sample_groups(hinted, hinted.source.take(12), step=0)
    job = make_job("reroll", rule="lucky", max_level=1, reroll=True)
    groups, metrics = sample_groups(job, job.source.take(12), step=0)
    assert metrics["hints/L1/asked"] == expected["hints/L1/asked"] > 0
    assert all(group.hint_level == 0 for group in groups) and len(job.hints.memory) == 0
    # A retry that is solved comes from other noise, not from a look at what was wrong before.
    assert metrics["hints/L1/solve_rate"] > 0, "no retry was solved: choose another seed"
    assert metrics["reward/solved_share"] == pytest.approx(1 - metrics["hints/all_wrong_share"])


def test_dynamic_sampling_fills_the_update_and_shaping_keeps_what_is_correct(
    make_job: Callable[..., Job],
):
    job = make_job("dynamic", rule="one_in_eight")
    plain, _ = sample_groups(job, job.source.take(6), step=0)
    assert not all(group.informative for group in plain), "choose another seed"
    job = make_job("dynamic", rule="one_in_eight")
    job.dynamic, job.overlong = DynamicConfig(budget=6), OverlongConfig(buffer=4, penalty=0.5)
    groups, metrics = sample_groups(job, job.source.take(6), step=0)
    assert len(groups) == 6 and all(group.informative for group in groups)
    assert metrics["dynamic/filled_share"] == 1 and metrics["dynamic/batches"] > 1
    assert metrics["data/samples"] == metrics["dynamic/prompts"] > 6
    # All responses run to the limit here: each loses the whole penalty, and stays right or wrong.
    assert metrics["overlong/punished_share"] == pytest.approx(1, abs=0.1)
    before = {g.sample.id: g.correct.tolist() for g in plain}
    for group in groups:
        assert before.get(group.sample.id, group.correct.tolist()) == group.correct.tolist()
        for score, correct in zip(group.scores, group.correct, strict=True):
            assert score.total == pytest.approx(correct + score.parts["overlong"].value)


def test_nothing_to_learn_is_an_error(make_job: Callable[..., Job]):
    with pytest.raises(KeyeError, match="not one update"):
        train(make_job("never", rule="never"))


def test_a_bad_row_is_quarantined_and_the_stream_goes_on(tmp_path: Path):
    data = tmp_path / "data.jsonl"
    good = '{"id": "%s", "messages": [{"role": "user", "content": "1+%d?"}], "answer": "2", '
    good += '"task_type": "text/sum"}\n'
    rows = [good % (f"row{i}", i) for i in range(4)]
    data.write_text("".join([*rows, '{"id": "bad", "messages": []}\n']))
    cfg = DataConfig(files=[str(data)], quarantine=str(tmp_path / "q.jsonl"), max_bad_share=0.5)
    stream = FileStream(SampleFiles(cfg), seed=0)
    assert {sample.id for sample in stream.take(4)} == {"row0", "row1", "row2", "row3"}
    assert "bad" in (tmp_path / "q.jsonl").read_text()
