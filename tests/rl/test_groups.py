"""Groups: rewards, advantages, what is trained on and what is dropped, and how a step counts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pretrain.data.sample import Sample
from pretrain.keye_vl.prompt import EncodedPrompt
from pretrain.run.directory import StageDir
from pretrain.run.errors import KeyeError
from pretrain.run.metrics import MetricLogger, WandbConfig
from rewards.result import RewardResult, Score
from rl.config import GspoConfig
from rl.dynamic import DynamicConfig
from rl.groups import Group, accepted, reasons, spread_metrics, to_training
from rl.rollouts import rollout_metrics
from rl.tables import COLUMNS, sample_table
from rl.train import Job, sample_groups, train
from rollout.config import HintConfig
from rollout.hint_sampler import HintSampler
from rollout.trajectory import Trajectory


def make_group(rewards: list[float | None], hint_level: int = 0, name: str = "s") -> Group:
    """A group whose verifier gave `rewards` (None: the rule failed)."""
    prompt = EncodedPrompt(np.arange(5, dtype=np.int32), [0, 1, 2, 3, 4])
    sample = Sample(
        id=name,
        messages=[{"role": "user", "content": [{"type": "text", "text": "1+1?"}]}],
        answer="2",
        task_type="text/arithmetic",
    )
    scores = []
    for value in rewards:
        part = RewardResult.failure("broken") if value is None else RewardResult(value)
        scores.append(Score(value, {"exact": part}, verifiers=("exact",)))
    return Group(
        sample=sample,
        hint_level=hint_level,
        prompt=prompt,
        trajectories=[
            Trajectory(
                sample_id=name,
                prompt=prompt,
                response_ids=np.array([7, 8 + k], np.int32),
                logprobs=np.full(2, -1.0, np.float32),
                hint_level=hint_level,
                weight_version=0,
                seed=k,
                finish_reason="stop",
            )
            for k in range(len(rewards))
        ],
        responses=["2"] * len(rewards),
        scores=scores,
    )


def test_a_failed_reward_and_a_preference_are_no_wrong_answers():
    assert make_group([1, 0, None, 0]).accuracy == pytest.approx(1 / 3)
    assert make_group([None, None]).accuracy is None
    judged = make_group([0.3, 0.7])
    judged.scores = [replace(score, by_model=True) for score in judged.scores]
    assert judged.accuracy is None and judged.informative
    metrics = rollout_metrics([judged, make_group([1, 0])])
    assert metrics["reward/accuracy"] == metrics[f"reward/accuracy/{judged.sample.mode}"] == 0.5
    assert metrics["reward/solved_share"] == 1.0
    assert "reward/accuracy" not in rollout_metrics([judged])


def test_groups_without_spread_are_dropped_and_counted():
    groups = [make_group([1, 0, 0, 1]), make_group([1, 1, 1, 1]), make_group([0, 0, 0, 0])]
    sequences, metrics = to_training(groups), spread_metrics(groups)
    assert len(sequences) == 4 and {s.group_id for s in sequences} == {0}
    assert metrics["reward/zero_variance_share"] == pytest.approx(2 / 3)
    expected = 0.5 / np.std([1, 0, 0, 1], ddof=1)
    assert [s.advantage for s in sequences] == pytest.approx(
        [expected, -expected, -expected, expected]
    )


def test_a_failed_reward_leaves_the_statistics_and_the_update():
    groups = [make_group([1, None, 0, 0])]
    sequences = to_training(groups)
    assert spread_metrics(groups)["reward/failed_responses"] == 1
    assert len(sequences) == 3
    assert sum(s.advantage for s in sequences) == pytest.approx(0, abs=1e-6)
    one_left = make_group([1, None, None, None])
    assert to_training([one_left]) == []


def test_correct_and_solved_need_the_verifier():
    group = make_group([1, 0, None])
    assert group.correct.tolist() == [True, False, False] and group.solved
    assert np.isnan(group.rewards[2])
    assert not make_group([0.5, 0.0]).solved


def test_rejection_sampling_trains_on_correct_responses_alone():
    groups = [make_group([1, 0, 0, 1]), make_group([1, 1, 1, 1]), make_group([0, None, 0, 0])]
    sequences, metrics = to_training(groups, "rejection_sampling"), spread_metrics(groups)
    assert [s.group_id for s in sequences] == [0, 0, 1, 1, 1, 1]
    assert {s.advantage for s in sequences} == {1.0}
    assert metrics["reward/failed_responses"] == 1
    # The second has nothing to tell apart, whatever is learned from it.
    assert metrics["reward/zero_variance_share"] == pytest.approx(2 / 3)


def test_rejection_sampling_accepts_the_best_of_the_correct_ones():
    group = make_group([1, 1, 0, 1])
    for row, total in enumerate([1.0, 1.1, 0.1, 1.1]):  # the first lacks the format's tenth
        group.scores[row].total = total
    assert accepted(group).tolist() == [False, True, False, True]
    group.scores[1].total = None
    assert accepted(group).tolist() == [False, False, False, True]
    assert not accepted(make_group([0, 0])).any()


def test_hint_levels_reach_the_learner():
    sequences = to_training([make_group([1, 0], hint_level=3, name="hard")])
    assert {(s.hint_level, s.sample_id) for s in sequences} == {(3, "hard")}


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("<think>3+5=8</think><answer>\\boxed{8}</answer>", True),
        ("<think></think><answer>\\boxed{8}</answer>", False),
        ("<think> </think>8", False),
        ("<answer>\\boxed{8}</answer>", False),
        ("<think>3+5", False),
        ("", False),
    ],
)
def test_reasons(response: str, expected: bool):
    assert reasons(response) is expected


def test_the_table_shows_best_and_worst_with_their_part_in_the_update():
    groups = [make_group([0, 1, 0]), make_group([1, 1, 1])]
    sequences = to_training(groups)
    for sequence in sequences:
        sequence.ratio = 1.25
    columns, rows = sample_table(groups, sequences, 2)
    assert columns == COLUMNS and all(len(row) == len(columns) for row in rows)
    first = dict(zip(columns, rows[0], strict=True))
    assert (first["reward"], first["ratio"]) == (1, 1.25) and first["advantage"] > 0
    assert first["question"] == "1+1?" and first["parts"] == {"exact": 1}
    untrained = dict(zip(columns, rows[-1], strict=True))
    assert untrained["advantage"] is None and untrained["ratio"] is None


def test_the_table_shows_a_videos_first_frame():
    group = make_group([1, 0])
    frames = np.arange(3 * 2 * 2 * 3, dtype=np.uint8).reshape(3, 2, 2, 3)
    group.prompt.engine_media["video"] = [frames]
    columns, rows = sample_table([group], [], 1)
    np.testing.assert_array_equal(rows[0][columns.index("media")], frames[0])


class Prompts:
    """Prompts in a circle, each with its responses' rewards: source and engine in one."""

    def __init__(self, *rewards: list[float | None]) -> None:
        self.rewards, self.position = rewards, 0
        self.sampling = SimpleNamespace(max_tokens=8)
        self.engines = SimpleNamespace(update_weights=lambda weights, version: None)

    def take(self, count: int) -> list[Sample]:
        self.position += count
        places = range(self.position - count, self.position)
        return [make_group([0], name=str(k)).sample for k in places]

    def groups(self, samples: Sequence[Sample], **how: Any) -> list[Group]:
        places = [int(sample.id) % len(self.rewards) for sample in samples]
        return [
            make_group(self.rewards[k], name=sample.id)
            for k, sample in zip(places, samples, strict=True)
        ]

    def metrics(self) -> dict[str, float]:
        return {}

    def take_seconds(self) -> dict[str, float]:
        return {"time/generate": 1.0}

    def state(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state(self, state: dict[str, int]) -> None:
        self.position = state["position"]


class Learner:
    """Learns nothing; its state outlives it in `saved`."""

    def __init__(self, saved: dict[str, Any], algorithm: str = "gspo") -> None:
        self.cfg = SimpleNamespace(algorithm=algorithm, mini_batches=1, world_size=1)
        self.saved, self.updates, self.exported = saved, 0, False

    def load(self, directory: Path) -> tuple[int, dict[str, Any]] | None:
        self.updates = self.saved.get("updates", 0)
        return self.saved.get("state")

    def save(self, directory: Path, step: int, progress: dict[str, Any]) -> None:
        self.saved |= {"updates": self.updates, "state": (step, progress)}

    def update(self, batch: Any) -> dict[str, float]:
        self.updates += 1
        return {}

    def weights(self) -> None:
        return None

    def export(self, path: Path) -> None:
        self.exported = True


def make_job(folder: Path, prompts: Any, learner: Any, steps: int = 1, budget: float = 1) -> Job:
    stage = StageDir(folder / "gspo")
    stage.path.mkdir(parents=True, exist_ok=True)
    return Job(
        cfg=GspoConfig(steps=steps, prompts_per_step=2, group_size=2, save_every=1),
        stage=stage,
        source=prompts,
        rollouts=prompts,
        hints=HintSampler(HintConfig(0)),
        learner=learner,
        log=MetricLogger(stage, WandbConfig(mode="disabled"), {}),
        dynamic=DynamicConfig(budget),
    )


@pytest.mark.parametrize("algorithm", ["gspo", "rejection_sampling"])
def test_spread_is_that_of_all_groups_drawn_and_not_of_the_chosen_ones(
    tmp_path: Path, algorithm: str
):
    prompts = Prompts([1, 0], [1, 1], [0, 0], [0, None, 0], [1, 0], [0, 1])
    job = make_job(tmp_path, prompts, Learner({}, algorithm), budget=3)
    groups, metrics = sample_groups(job, prompts.take(2), step=0)
    seen = int(metrics["dynamic/prompts"])
    assert len(groups) == 2 and seen == (6 if algorithm == "gspo" else 2)
    assert metrics["reward/zero_variance_share"] == 0.5
    assert metrics["reward/failed_responses"] == (1 if algorithm == "gspo" else 0)


def test_updates_before_an_interruption_count(tmp_path: Path):
    saved: dict[str, Any] = {}
    train(make_job(tmp_path, Prompts([1, 0]), Learner(saved), steps=1))
    learner = Learner(saved)  # the second step's prompts are all right
    train(make_job(tmp_path, Prompts([1, 1]), learner, steps=2))
    assert learner.exported and learner.updates == 1
    saved.clear()
    for _ in range(2):  # the second time nothing is left to do but the export
        with pytest.raises(KeyeError, match="2 steps and not one update"):
            train(make_job(tmp_path, Prompts([1, 1]), Learner(saved), steps=2))
