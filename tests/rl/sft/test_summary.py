"""What SFT and MPO say of their last ten steps after an interruption; no rank is started."""

from pathlib import Path

import pytest

from pretrain.run.directory import StageDir
from rl.mpo.config import MpoTrainConfig
from rl.mpo.stages import LOGGED as MPO_LOGGED
from rl.mpo.stages import run_mpo
from rl.sft.training import LOGGED, SftConfig, fine_tune


class Ranks:
    """Logs each step's number under every name; stops with `ends` steps done."""

    def __init__(self, done, ends=100):
        self.done, self.ends = done, ends

    def call(self, method, *args, phase, timeout_s):
        if method == "open":
            return [self.done]
        if self.done >= self.ends:
            raise KeyboardInterrupt
        if method != "advance":
            return [None]
        names = LOGGED.keys() | MPO_LOGGED.keys()
        steps = range(self.done + 1, self.done + args[0] + 1)
        self.done = steps[-1]
        return [[{"step": k, **dict.fromkeys(names, float(k))} for k in steps]]


def sft(folder, ranks):
    cfg = SftConfig(steps=14, batch_size=2)
    return fine_tune(ranks, Path("policy"), list.__getitem__, cfg, StageDir(folder))


def mpo(folder, ranks):
    cfg = MpoTrainConfig(steps=14)
    return run_mpo(Path("policy"), None, cfg, StageDir(folder), ranks=ranks)


@pytest.mark.parametrize(("run", "key"), [(sft, "token_accuracy"), (mpo, "mpo/margin")])
def test_the_last_ten_steps_are_the_same_after_an_interruption(tmp_path, run, key):
    whole = run(tmp_path / "whole", Ranks(0))
    assert whole[key] == sum(range(5, 15)) / 10
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", Ranks(0, ends=10))
    assert run(tmp_path / "broken", Ranks(8)) == whole  # the last state is that of step 8
    assert run(tmp_path / "broken", Ranks(14)) == whole  # only the export was missing
