"""Groups: rewards, advantages, what is trained on and what is dropped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pretrain.data.sample import Sample
from pretrain.keye_vl.prompt import EncodedPrompt
from rewards.result import RewardResult, Score
from rl.groups import Group, accepted, reasons, to_training
from rl.tables import COLUMNS, sample_table
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


def test_groups_without_spread_are_dropped_and_counted():
    groups = [make_group([1, 0, 0, 1]), make_group([1, 1, 1, 1]), make_group([0, 0, 0, 0])]
    sequences, metrics = to_training(groups)
    assert len(sequences) == 4 and {s.group_id for s in sequences} == {0}
    assert metrics["reward/zero_variance_share"] == pytest.approx(2 / 3)
    expected = 0.5 / np.std([1, 0, 0, 1], ddof=1)
    assert [s.advantage for s in sequences] == pytest.approx(
        [expected, -expected, -expected, expected]
    )


def test_a_failed_reward_leaves_the_statistics_and_the_update():
    sequences, metrics = to_training([make_group([1, None, 0, 0])])
    assert metrics["reward/failed_responses"] == 1
    assert len(sequences) == 3
    assert sum(s.advantage for s in sequences) == pytest.approx(0, abs=1e-6)
    one_left = make_group([1, None, None, None])
    assert to_training([one_left])[0] == []


def test_correct_and_solved_need_the_verifier():
    group = make_group([1, 0, None])
    assert group.correct.tolist() == [True, False, False] and group.solved
    assert np.isnan(group.rewards[2])
    assert not make_group([0.5, 0.0]).solved


def test_rejection_sampling_trains_on_correct_responses_alone():
    groups = [make_group([1, 0, 0, 1]), make_group([1, 1, 1, 1]), make_group([0, None, 0, 0])]
    sequences, metrics = to_training(groups, "rejection_sampling")
    assert [s.group_id for s in sequences] == [0, 0, 1, 1, 1, 1]
    assert {s.advantage for s in sequences} == {1.0}
    assert metrics["reward/failed_responses"] == 1


def test_rejection_sampling_accepts_the_best_of_the_correct_ones():
    group = make_group([1, 1, 0, 1])
    for row, total in enumerate([1.0, 1.1, 0.1, 1.1]):  # the first lacks the format's tenth
        group.scores[row].total = total
    assert accepted(group).tolist() == [False, True, False, True]
    group.scores[1].total = None
    assert accepted(group).tolist() == [False, False, False, True]
    assert not accepted(make_group([0, 0])).any()


def test_hint_levels_reach_the_learner():
    sequences, _ = to_training([make_group([1, 0], hint_level=3, name="hard")])
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
    sequences, _ = to_training(groups)
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
