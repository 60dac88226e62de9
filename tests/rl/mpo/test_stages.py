"""MPO through TRL: its loss on our model, what is learned, and across an interruption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from pretrain.data.render import render
from pretrain.data.stream import WorldStream
from pretrain.keye_vl.checkpoint import load_model
from pretrain.keye_vl.prompt import pack
from pretrain.run.directory import StageDir
from pretrain.run.metrics import read_rows
from rl.mpo.config import MpoTrainConfig
from rl.mpo.rank import MpoRank, PairCollator
from rl.mpo.stages import run_mpo

CFG = MpoTrainConfig(
    steps=6, batch_size=4, lr=1e-3, warmup_steps=1, save_every=3, world_size=1, timeout_s=400
)


class Pairs:
    """The right answer against another number; some prompts with an image, some without."""

    def __init__(self) -> None:
        self.stream = WorldStream({"digits/sum": 1, "text/arithmetic": 1}, seed=1)

    def __call__(self, index: int) -> tuple[list[dict[str, Any]], Any, Any]:
        sample = self.stream[index]
        return render(sample), sample.answer, np.array([5, 6 + index % 3, 7], np.int32)


class LocalRank:
    """A `RankGroup` of one rank in this process: a single rank needs no rendezvous."""

    def __init__(self) -> None:
        self.rank = MpoRank(0, 1, 1)

    def call(self, method: str, *args: Any, phase: str, timeout_s: float) -> list[Any]:
        return [getattr(self.rank, method)(*args)]


def run(checkpoint: Path, stage: StageDir, cfg: MpoTrainConfig = CFG) -> dict[str, Any]:
    examples: Any = Pairs()
    return run_mpo(checkpoint, examples, cfg, stage, ranks=LocalRank())


@pytest.fixture(scope="module")
def unbroken(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    stage = StageDir(tmp_path_factory.mktemp("mpo") / "unbroken")
    return stage, run(tiny_checkpoint, stage)


def logprob(model: Any, prompt: Any, reply: np.ndarray) -> torch.Tensor:
    """Log-probs `[R]` of a reply, by our own packed forward."""
    with torch.no_grad():
        logits = model(**pack([prompt], [reply], model.config).model_inputs()).logits
    targets = torch.from_numpy(np.asarray(reply)).long()
    return -F.cross_entropy(logits.reshape(len(reply), -1), targets, reduction="none")


def test_the_loss_is_the_weighted_sum_of_the_three(
    unbroken: Any, tiny_checkpoint: Path, encoder: Any
):
    """At the first step policy and reference agree: DPO's loss is log 2, BCO's is 2 log 2, and the
    third is the mean negative log-prob of the chosen tokens."""
    model = load_model(tiny_checkpoint, torch.float32)
    collator = PairCollator(Pairs(), encoder, 0)
    triples = [collator._encode(index) for index in range(CFG.batch_size)]
    chosen = torch.cat([logprob(model, prompt, reply) for prompt, reply, _ in triples])
    sums = [float(logprob(model, prompt, reply).sum()) for prompt, _, reply in triples]
    rows = read_rows(unbroken[0].metrics_file)
    expected = (0.8 + 2 * 0.2) * np.log(2) + float(-chosen.mean())
    assert rows[0]["mpo/loss"] == pytest.approx(expected, rel=1e-5)
    assert rows[0]["mpo/rejected_logprob"] == pytest.approx(float(np.mean(sums)), rel=1e-5)
    assert rows[0]["mpo/margin"] == pytest.approx(0, abs=1e-6)


def test_the_chosen_response_becomes_likelier_than_the_rejected_one(unbroken: Any):
    stage, summary = unbroken
    rows = read_rows(stage.metrics_file)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["mpo/loss"] < rows[0]["mpo/loss"] - 0.2
    assert rows[-1]["mpo/margin"] > 0.05 and rows[-1]["mpo/accuracy"] >= 0.75
    assert summary["steps"] == 6 and summary["mpo/loss"] < rows[0]["mpo/loss"]
    moved = load_file(stage.checkpoint / "model.safetensors")
    assert moved and all(bool(value.isfinite().all()) for value in moved.values())


def test_an_interrupted_run_ends_as_the_unbroken_one(
    unbroken: Any, tiny_checkpoint: Path, tmp_path: Path
):
    stage = StageDir(tmp_path / "broken")
    rank = LocalRank()
    from rl.mpo.rank import MpoJob

    job = MpoJob(tiny_checkpoint, stage.state, Pairs(), CFG)
    rank.call("open", job, phase="", timeout_s=0)
    rank.call("advance", 4, phase="", timeout_s=0)  # saved after step 3; step 4 is lost
    summary = run(tiny_checkpoint, stage)
    first, second = (load_file(s.checkpoint / "model.safetensors") for s in (unbroken[0], stage))
    assert all(bool((first[name] == second[name]).all()) for name in first)
    assert summary["mpo/loss"] == pytest.approx(
        np.mean([row["mpo/loss"] for row in read_rows(unbroken[0].metrics_file)[3:]])
    )


def test_a_loss_can_be_left_out(tiny_checkpoint: Path, tmp_path: Path):
    cfg = replace(CFG, steps=1, loss_weights={"sigmoid": 1.0, "sft": 0.0})
    stage = StageDir(tmp_path / "dpo")
    run(tiny_checkpoint, stage, cfg)
    assert read_rows(stage.metrics_file)[0]["mpo/loss"] == pytest.approx(np.log(2), rel=1e-5)


class TextPairs(Pairs):
    """Pairs without any image: the vision tower has no gradient."""

    def __init__(self) -> None:
        self.stream = WorldStream({"text/arithmetic": 1}, seed=1)


@pytest.mark.slow
def test_pairs_without_media_train_in_a_rank_of_its_own(
    ray_cluster: None, tiny_checkpoint: Path, tmp_path: Path
):
    stage = StageDir(tmp_path / "text")
    cfg = replace(CFG, steps=3, world_size=1)
    summary = run_mpo(tiny_checkpoint, TextPairs(), cfg, stage)
    assert summary["steps"] == 3 and np.isfinite(summary["mpo/loss"])


def test_a_batch_holds_the_chosen_rows_and_then_the_rejected_ones(encoder: Any):
    batch = PairCollator(Pairs(), encoder, pad_id=0)([{"index": 0}, {"index": 1}, {"index": 2}])
    assert (
        batch["input_ids"].shape == batch["completion_mask"].shape and len(batch["input_ids"]) == 6
    )
    lengths = batch["prompt_lengths"].tolist()
    assert lengths[:3] == lengths[3:]
    for k in range(3):
        end = lengths[k] + 3
        assert batch["input_ids"][3 + k, lengths[k] : end].tolist() == [5, 6 + k % 3, 7]
        assert batch["completion_mask"][3 + k].sum() == 3
        assert batch["attention_mask"][3 + k].sum() == end
        assert bool(
            (batch["input_ids"][k, : lengths[k]] == batch["input_ids"][3 + k, : lengths[k]]).all()
        )
    images = sum("image" in str(Pairs()(k)[0][0]["content"][0]["type"]) for k in range(3))
    assert len(batch["grid_thw"]) == 2 * images
