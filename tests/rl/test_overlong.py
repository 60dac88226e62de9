"""Soft overlong punishment: the paper's curve, and what it must not change."""

from __future__ import annotations

import numpy as np
import pytest

from pretrain.data.sample import Sample
from pretrain.keye_vl.prompt import EncodedPrompt
from pretrain.run.errors import ConfigError
from rewards.result import RewardResult, Score
from rl.groups import Group
from rl.overlong import OverlongConfig, overlong_metrics, punishment, shape
from rollout.trajectory import Trajectory


def group(lengths: list[int], totals: list[float | None], verifiers: tuple[str, ...]) -> Group:
    prompt = EncodedPrompt(np.arange(3, dtype=np.int32), [0, 1, 2])
    trajectories = [
        Trajectory("s", prompt, np.zeros(n, np.int32), np.zeros(n, np.float32), 0, 0, 0, "stop")
        for n in lengths
    ]
    sample = Sample("s", [{"role": "user", "content": "?"}], "2", "text/sum")
    scores = [Score(t, {"math": RewardResult(t)}, verifiers) for t in totals]
    return Group(sample, 0, prompt, trajectories, [""] * len(lengths), scores)


def test_the_curve_is_that_of_the_paper():
    # DAPO's own numbers: a limit of 20480 tokens with a buffer of 4096.
    cfg = OverlongConfig(buffer=4096)
    lengths = [100, 16384, 18432, 20480, 30000]
    assert [punishment(n, 20480, cfg) for n in lengths] == [0, 0, -0.5, -1, -1]
    assert punishment(18432, 20480, OverlongConfig(4096, penalty=0.2)) == pytest.approx(-0.1)


@pytest.mark.parametrize("verifiers", [(), ("math",)])
def test_totals_change_and_correctness_does_not(verifiers: tuple[str, ...]):
    before = group([4, 8, 10, 10], [1.0, 1.0, 0.0, None], verifiers)
    after = shape([before], OverlongConfig(buffer=4), max_tokens=10)[0]
    assert after.rewards[:3] == pytest.approx([1.0, 0.5, -1.0]) and np.isnan(after.rewards[3])
    assert after.correct.tolist() == before.correct.tolist() == [True, True, False, False]
    assert before.rewards[:3].tolist() == [1, 1, 0]
    assert overlong_metrics([after]) == {
        "overlong/punished_share": 0.75,
        "overlong/reward": pytest.approx(-2.5 / 4),
    }
    assert after.scores[1].parts["overlong"].value == -0.5


def test_switched_off_nothing_changes():
    before = group([10], [1.0], ())
    assert shape([before], OverlongConfig(), max_tokens=10) == [before]
    assert overlong_metrics([before]) == {}


def test_bad_settings_are_named():
    with pytest.raises(ConfigError, match="buffer=-1"):
        OverlongConfig(buffer=-1)
    with pytest.raises(ConfigError, match="penalty=0"):
        OverlongConfig(penalty=0)
    with pytest.raises(ConfigError, match="max_tokens=64"):
        OverlongConfig(buffer=64).check(64)
