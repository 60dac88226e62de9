"""Fine-tuning with TRL: what is learned, by how many ranks, and across an interruption."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from pretrain.data.render import conversation
from pretrain.data.stream import WorldStream
from pretrain.keye_vl.checkpoint import load_model
from pretrain.keye_vl.prompt import pack
from pretrain.run.directory import StageDir
from pretrain.run.errors import ConfigError, KeyeError
from pretrain.run.metrics import read_rows
from pretrain.training.ranks import RankGroup
from rl.sft.rank import Collator, SftJob, SftRank, make_pacer
from rl.sft.training import SftConfig, fine_tune

CONFIG = SftConfig(steps=6, batch_size=4, warmup_steps=2, save_every=3, world_size=1, timeout_s=200)


class Conversations:
    """Examples of the world, some with an image and some without."""

    def __init__(self):
        mix = {"digits/sum": 1, "shapes/count": 1, "text/arithmetic": 2}
        self.stream = WorldStream(mix, seed=1, modes={"think": 1, "no_think": 1})

    def __call__(self, index):
        return conversation(self.stream[index])


class Texts(Conversations):
    """Examples without any image."""

    def __init__(self):
        self.stream = WorldStream({"text/arithmetic": 1}, seed=1, modes={"think": 1})


class LocalRank:
    """A `RankGroup` of one rank in this process: a single rank needs no rendezvous."""

    def __init__(self):
        self.rank = SftRank(0, 1, 1)

    def call(self, method, *args, phase, timeout_s):
        return [getattr(self.rank, method)(*args)]


@pytest.fixture(scope="module")
def one_rank():
    return LocalRank()


@pytest.fixture(scope="module")
def unbroken(one_rank, tiny_checkpoint, tmp_path_factory):
    stage = StageDir(tmp_path_factory.mktemp("sft") / "unbroken")
    summary = fine_tune(one_rank, tiny_checkpoint, Conversations(), CONFIG, stage)
    return stage, summary


def stored_weights(stage):
    return load_file(stage.checkpoint / "model.safetensors")


def distance(a, b):
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def test_only_replies_are_put_through_the_output_layer(
    one_rank, unbroken, tiny_checkpoint, encoder, tmp_path, monkeypatch
):
    from trl.trainer import utils

    scored = []
    original = utils._ChunkedLogProbFunction.apply

    def counted(hidden, *rest):
        scored.append(len(hidden))
        return original(hidden, *rest)

    monkeypatch.setattr(utils._ChunkedLogProbFunction, "apply", counted)
    fine_tune(
        one_rank, tiny_checkpoint, Conversations(), replace(CONFIG, steps=1), StageDir(tmp_path)
    )
    replies = [
        len(encoder.encode_example(Conversations()(index), str(index))[1])
        for index in range(CONFIG.batch_size)
    ]
    assert scored == [sum(replies)]


def test_only_replies_are_learned(unbroken, tiny_checkpoint, encoder):
    """TRL's first loss is the mean negative log-prob of the reply tokens, and of nothing else."""
    model = load_model(tiny_checkpoint, torch.float32)
    losses = []
    for index in range(CONFIG.batch_size):
        prompt, reply = encoder.encode_example(Conversations()(index), str(index))
        with torch.no_grad():
            logits = model(**pack([prompt], [reply], model.config).model_inputs()).logits
        targets = torch.from_numpy(reply).long()
        losses.append(F.cross_entropy(logits.reshape(len(reply), -1), targets, reduction="none"))
    rows = read_rows(unbroken[0].metrics_file)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[0]["train/loss"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)
    assert rows[-1]["train/loss"] < rows[0]["train/loss"] - 0.3
    assert unbroken[1]["examples"] == 24


def test_an_interrupted_run_ends_with_the_same_bits(unbroken, one_rank, tiny_checkpoint, tmp_path):
    stage = StageDir(tmp_path / "broken")
    job = SftJob(tiny_checkpoint, stage.state, Conversations(), CONFIG)
    assert one_rank.call("open", job, phase="open", timeout_s=200) == [0]
    one_rank.call("advance", 5, phase="steps", timeout_s=200)  # and then never comes back
    fine_tune(one_rank, tiny_checkpoint, Conversations(), CONFIG, stage)
    assert [row["step"] for row in read_rows(stage.metrics_file)] == [4, 5, 6]
    assert distance(stored_weights(stage), stored_weights(unbroken[0])) == 0


def test_a_run_that_only_lacks_its_export(unbroken, one_rank, tiny_checkpoint):
    stage, _ = unbroken
    before = stored_weights(stage)
    stage.checkpoint.rename(stage.path / "lost")
    summary = fine_tune(one_rank, tiny_checkpoint, Conversations(), CONFIG, stage)
    assert distance(stored_weights(stage), before) == 0
    assert summary == unbroken[1]


def test_token_ids_are_learned_as_they_are(unbroken, one_rank, tiny_checkpoint, encoder, tmp_path):
    pairs = [encoder.encode_example(Conversations()(i), str(i)) for i in range(24)]
    stage = StageDir(tmp_path / "ids")
    fine_tune(one_rank, tiny_checkpoint, pairs.__getitem__, CONFIG, stage)
    assert distance(stored_weights(stage), stored_weights(unbroken[0])) == 0


def test_two_ranks_equal_one(one_rank, ray_cluster, tiny_checkpoint, tmp_path):
    """With eps = 1 AdamW's step is linear in the gradients, which are those of the whole batch.

    (With eps = 1e-8 a weight moves by lr in the direction of its gradient's sign, and where the
    gradient is only rounding noise the order of summation decides that sign: the same gradients
    give weights that differ by 5 % of the way.)
    """
    config = replace(CONFIG, steps=3, lr=0.1, eps=1.0, weight_decay=0.0)
    ranks = RankGroup(SftRank, 2, name="sft")
    one, two = StageDir(tmp_path / "one"), StageDir(tmp_path / "two")
    try:
        fine_tune(one_rank, tiny_checkpoint, Conversations(), config, one)
        fine_tune(ranks, tiny_checkpoint, Conversations(), replace(config, world_size=2), two)
    finally:
        ranks.close()
    start, theirs, ours = (
        torch.cat([weight.flatten() for _, weight in sorted(weights.items())])
        for weights in (
            load_file(tiny_checkpoint / "model.safetensors"),
            stored_weights(one),
            stored_weights(two),
        )
    )
    moved = (theirs - start).norm()
    assert moved > 1e-2
    assert (ours - theirs).norm() <= 1e-5 * moved
    for a, b in zip(read_rows(one.metrics_file), read_rows(two.metrics_file), strict=True):
        assert b["train/loss"] == pytest.approx(a["train/loss"], rel=1e-5)
        assert b["train/grad_norm"] == pytest.approx(a["train/grad_norm"], rel=1e-5)


def test_batches_without_media_leave_the_vision_tower_alone(ray_cluster, tiny_checkpoint, tmp_path):
    """In a rank process of its own, where torch waits for every parameter's gradient."""
    ranks, stage = RankGroup(SftRank, 1, name="sft"), StageDir(tmp_path / "text")
    config = replace(CONFIG, steps=3, weight_decay=0.0)
    try:
        fine_tune(ranks, tiny_checkpoint, Texts(), config, stage)
    finally:
        ranks.close()
    given, taught = load_file(tiny_checkpoint / "model.safetensors"), stored_weights(stage)
    seen = [name for name in given if not torch.equal(given[name], taught[name])]
    assert seen and not any("visual" in name or "mlp_AR" in name for name in seen)


def test_a_batch_is_padded_on_the_right(encoder, processor):
    collate = Collator(Conversations(), encoder, pad_id=processor.tokenizer.pad_token_id)
    batch = collate([{"index": i} for i in range(6)])
    for row in range(6):
        prompt, reply = encoder.encode_example(Conversations()(row), str(row))
        length = len(prompt.ids) + len(reply)
        assert batch["attention_mask"][row].sum() == length
        assert batch["attention_mask"][row, length:].sum() == 0
        assert batch["input_ids"][row, :length].tolist() == [*prompt.ids, *reply]
        labels = batch["labels"][row]
        assert labels[labels != -100].tolist() == reply.tolist()
        assert batch["prompt_lengths"][row] == len(prompt.ids)
    patches = int(batch["grid_thw"].prod(1).sum())
    assert len(batch["pixel_values"]) == patches > 0


def test_a_bad_example_is_named(encoder):
    collate = Collator(lambda index: [{"role": "user", "content": "2+2?"}] * 2, encoder, pad_id=0)
    with pytest.raises(KeyeError, match="sample 7 of the fine-tuning data"):
        collate([{"index": 7}])


def test_an_error_in_the_trainer_reaches_the_driver(tmp_path):
    pacer = make_pacer(tmp_path)
    pacer.start(0)
    pacer.end(KeyeError("sample 7 is bad"))
    with pytest.raises(KeyeError, match="sample 7"):
        pacer.advance(1)


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match=r"batch_size=10.*world_size=2.*accumulation=2"):
        SftConfig(batch_size=10, world_size=2, accumulation=2)
    with pytest.raises(ConfigError, match="steps=0 trains nothing"):
        SftConfig(steps=0)
    with pytest.raises(ConfigError, match="dtype='fp16'"):
        SftConfig(dtype="fp16")
