"""What a stage logs and says of itself after an interruption; no rank is started."""

from types import SimpleNamespace

import pytest

from pretrain.run.directory import StageDir
from pretrain.run.metrics import WandbConfig, read_rows
from pretrain.stages.accuracy import Outcome
from pretrain.stages.config import StageConfig
from pretrain.stages.driver import train_stage


class Ranks:
    """Each step's loss is its number; killed when it is to do `killed_at`."""

    def __init__(self, done, killed_at=""):
        self.done, self.killed_at = done, killed_at

    def call(self, method, *args, phase, timeout_s):
        if method == self.killed_at:
            raise KeyboardInterrupt
        if method == "open":
            return [self.done]
        if method == "evaluate":
            return [[Outcome("digits/read", "no_think", True)]]
        if method != "advance":
            return [None]
        steps = range(self.done + 1, self.done + args[0] + 1)
        self.done = steps[-1]
        names = ("train/loss", "time/step", "time/data", "perf/samples_per_s")
        return [[dict.fromkeys(names, float(k)) for k in steps]]


def run(folder, ranks):
    job = SimpleNamespace(cfg=StageConfig(steps=6))
    wandb = WandbConfig(mode="disabled")
    return train_stage(ranks, job, StageDir(folder), save_every=4, timeout_s=1, wandb=wandb)


def test_a_resumed_stage_says_the_same_as_an_unbroken_one(tmp_path):
    whole = run(tmp_path / "whole", Ranks(0))
    assert whole["loss"] == 6 and whole["samples_per_s"] == pytest.approx(91 / 21)
    steps = [row["step"] for row in read_rows(tmp_path / "whole" / "metrics.jsonl")]
    assert steps == [1, 2, 3, 4, 5, 6, 6]  # the last is the evaluation's
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", Ranks(0, killed_at="export"))
    for done in (6, 4):  # the export was missing; the state of step 6 was lost too
        assert run(tmp_path / "broken", Ranks(done)) == whole
        rows = read_rows(tmp_path / "broken" / "metrics.jsonl")
        assert [row["step"] for row in rows] == steps
