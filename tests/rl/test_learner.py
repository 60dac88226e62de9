"""The learner against plain torch, and against itself on other ranks, shards and micro-batches.

Rank processes are started once for the file and rebuilt with each test's configuration.
"""

from dataclasses import replace

import numpy as np
import pytest
import ray
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from pretrain.data.render import render
from pretrain.data.stream import WorldStream
from pretrain.keye_vl.checkpoint import checkpoint_tensors, load_model, load_processor
from pretrain.keye_vl.prompt import pack
from pretrain.run.errors import ConfigError, KeyeError
from pretrain.training.engine import TrainConfig
from rl.learner import LearnerConfig, LearnerGroup
from rl.learner_rank import LearnerRank, MicroBatch
from rl.sequences import TrainingSequence, split_mini_batches
from rollout.tokens import forbidden_ids

# A larger eps than usual: AdamW turns a gradient of 1e-10 that is pure rounding noise into a whole
# step of lr, and no two orders of summation agree on its sign.
TRAIN = TrainConfig(
    lr=1e-3, betas=[0.9, 0.99], eps=1e-4, weight_decay=0.01, warmup_steps=2, schedule="constant"
)
CONFIG = LearnerConfig(mini_batches=2, timeout_s=120, train=TRAIN)


@pytest.fixture(scope="module")
def batch(encoder):
    """Six groups of four responses, with and without images."""
    rng = np.random.default_rng(5)
    stream = WorldStream({"digits/sum": 2, "shapes/count": 1, "text/arithmetic": 1}, seed=3)
    sequences = []
    for group, sample in enumerate(stream.take(6)):
        prompt = encoder.encode(render(sample), sample.id)
        advantages = rng.normal(size=4)
        for advantage in advantages - advantages.mean():
            length = int(rng.integers(1, 24))
            sequences.append(
                TrainingSequence(
                    prompt=prompt,
                    response_ids=rng.integers(100, 500, length).astype(np.int32),
                    engine_logprobs=np.full(length, -6.0, np.float32),
                    advantage=float(advantage),
                    group_id=group,
                    sample_id=sample.id,
                )
            )
    assert len({sequence.prompt.pixel_values is None for sequence in sequences}) == 2
    return sequences


@pytest.fixture(scope="module")
def one_rank(ray_cluster, tiny_checkpoint):
    learner = LearnerGroup(CONFIG, tiny_checkpoint, total_updates=10)
    yield learner
    learner.close()


@pytest.fixture(scope="module")
def two_ranks(ray_cluster, tiny_checkpoint):
    learner = LearnerGroup(replace(CONFIG, world_size=2), tiny_checkpoint, total_updates=10)
    yield learner
    learner.close()


def rebuild(learner, checkpoint, **changes):
    """The same processes with another configuration and the checkpoint's weights."""
    train = replace(TRAIN, **changes.pop("train", {}))
    learner.cfg = replace(CONFIG, world_size=learner.cfg.world_size, train=train, **changes)
    learner.updates = 0
    learner._call("build", learner.cfg, str(checkpoint), 20, phase="rebuild")


def weights(learner):
    named = ray.get(learner.weights())
    return {name: torch.as_tensor(value).float() for name, value in named.items()}


def distance(a, b):
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def response_logprobs(model, sequence, forbidden, temperature=1.0):
    """One sequence alone, through the whole vocabulary."""
    packed = pack([sequence.prompt], [sequence.response_ids], model.config)
    logits = model(**packed.model_inputs()).logits.reshape(len(sequence.response_ids), -1)
    logits = (logits / temperature).index_fill(-1, torch.tensor(forbidden), -torch.inf)
    logprobs = F.log_softmax(logits, dim=-1)
    return logprobs.gather(-1, torch.from_numpy(sequence.response_ids).long()[:, None])[:, 0]


def plain_torch(checkpoint, batch, updates):
    """GSPO written out sequence by sequence, with torch's optimiser and clipping."""
    model = load_model(checkpoint, torch.float32)
    forbidden = forbidden_ids(load_processor(checkpoint).tokenizer)
    parameters = [p for n, p in model.named_parameters() if "packing_position" not in n]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": TRAIN.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=TRAIN.lr, betas=tuple(TRAIN.betas), eps=TRAIN.eps)
    norms, step = [], 0
    for update in range(updates):
        with torch.no_grad():
            old = [response_logprobs(model, s, forbidden) for s in batch]
        rng = np.random.default_rng([0, update])
        for part in split_mini_batches([s.group_id for s in batch], 2, rng):
            optimizer.zero_grad()
            for i in part:
                log_ratio = response_logprobs(model, batch[i], forbidden) - old[i]
                ratio, a = log_ratio.mean().exp(), batch[i].advantage
                kept = ratio.clamp(1 - CONFIG.clip_low, 1 + CONFIG.clip_high)
                (-torch.minimum(ratio * a, kept * a) / len(part)).backward()
            norms.append(torch.nn.utils.clip_grad_norm_(parameters, TRAIN.grad_clip).item())
            for group in optimizer.param_groups:
                group["lr"] = TRAIN.lr * min(1.0, (step + 1) / TRAIN.warmup_steps)
            optimizer.step()
            step += 1
    return {name: t.detach().clone() for name, t in checkpoint_tensors(model)}, norms


@pytest.fixture(scope="module")
def reference(tiny_checkpoint, batch):
    return plain_torch(tiny_checkpoint, batch, updates=3)


def test_one_rank_equals_plain_torch(one_rank, tiny_checkpoint, batch, reference):
    rebuild(one_rank, tiny_checkpoint)
    before = weights(one_rank)
    metrics = [one_rank.update(batch) for _ in range(3)]
    expected, norms = reference
    after = weights(one_rank)
    assert distance(after, before) > 1e-3
    assert distance(after, expected) <= 1e-6
    pairs = [np.mean(norms[i : i + 2]) for i in (0, 2, 4)]
    assert [m["gspo/grad_norm"] for m in metrics] == pytest.approx(pairs, rel=1e-4)
    assert metrics[0]["gspo/lr"] == TRAIN.lr
    assert metrics[0]["gspo/clip_fraction/mini_batch_0"] == 0
    assert metrics[1]["gspo/clip_fraction/mini_batch_1"] > 0
    assert metrics[0]["gspo/sequences"] == 24


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_equal_one(two_ranks, tiny_checkpoint, batch, reference, stage):
    """Whatever ZeRO shards; under ZeRO-3 with logits in chunks, too."""
    chunk = 32 if stage == 3 else 4096
    rebuild(two_ranks, tiny_checkpoint, logit_chunk=chunk, train={"zero_stage": stage})
    for _ in range(3):
        metrics = two_ranks.update(batch)
    expected, norms = reference
    assert distance(weights(two_ranks), expected) <= 1e-5
    assert metrics["gspo/grad_norm"] == pytest.approx(np.mean(norms[4:]), rel=1e-3)


def test_the_cut_into_micro_batches_changes_nothing(one_rank, tiny_checkpoint, batch, reference):
    rebuild(one_rank, tiny_checkpoint, logit_chunk=16, train={"micro_batch_tokens": 90})
    for _ in range(3):
        one_rank.update(batch)
    assert distance(weights(one_rank), reference[0]) <= 1e-6


def test_ratios_come_back_with_their_sequences(one_rank, tiny_checkpoint, batch):
    rebuild(one_rank, tiny_checkpoint, train={"micro_batch_tokens": 200})
    metrics = one_rank.update(batch)
    ratios = np.array([sequence.ratio for sequence in batch])
    first, second = split_mini_batches(
        [s.group_id for s in batch], 2, np.random.default_rng([0, 0])
    )
    assert np.abs(ratios[first] - 1).max() <= 1e-6
    assert np.abs(ratios[second] - 1).min() > 1e-6
    assert metrics["gspo/ratio_max"] == pytest.approx(ratios.max())


def test_a_single_mini_batch_is_exactly_on_policy(one_rank, tiny_checkpoint, batch):
    rebuild(one_rank, tiny_checkpoint, mini_batches=1)
    metrics = one_rank.update(batch)
    assert [s.ratio for s in batch] == [1.0] * 24
    assert metrics["gspo/clip_fraction"] == 0
    assert metrics["gspo/grad_norm"] > 0
    assert metrics["gspo/entropy"] > 4  # a random model, more than 500 tokens


@pytest.mark.parametrize("algorithm", ["gspo_token", "grpo"])
def test_other_algorithms_train(one_rank, tiny_checkpoint, batch, algorithm):
    """GSPO-token is GSPO when a response has one advantage; GRPO isn't, after the first step."""
    rebuild(one_rank, tiny_checkpoint)
    one_rank.update(batch)
    gspo = weights(one_rank)
    rebuild(one_rank, tiny_checkpoint, algorithm=algorithm)
    one_rank.update(batch)
    difference = distance(weights(one_rank), gspo)
    assert difference <= 1e-6 if algorithm == "gspo_token" else difference > 1e-6


def test_mismatch_is_measured_at_the_sampling_temperature(one_rank, tiny_checkpoint, batch):
    rebuild(one_rank, tiny_checkpoint, temperature=0.7)
    model = load_model(tiny_checkpoint, torch.float32)
    forbidden = forbidden_ids(load_processor(tiny_checkpoint).tokenizer)
    with torch.no_grad():
        own = [response_logprobs(model, s, forbidden, 0.7).numpy() for s in batch]
    noise = np.random.default_rng(0).normal(0, 0.1, 1000).astype(np.float32)
    exact = [replace(s, engine_logprobs=lp) for s, lp in zip(batch, own, strict=True)]
    off = [
        replace(s, engine_logprobs=lp - noise[: len(lp)]) for s, lp in zip(batch, own, strict=True)
    ]
    assert one_rank.update(exact)["mismatch/logprob_max"] <= 1e-5
    rebuild(one_rank, tiny_checkpoint, temperature=0.7)
    metrics = one_rank.update(off)
    delta = np.concatenate([noise[: len(lp)] for lp in own]).astype(np.float64)
    assert metrics["mismatch/logprob_mean"] == pytest.approx(np.abs(delta).mean(), rel=1e-3)
    assert metrics["mismatch/kl"] == pytest.approx((np.exp(delta) - 1 - delta).mean(), rel=1e-2)


def test_weights_equal_the_exported_checkpoint(two_ranks, tiny_checkpoint, batch, tmp_path):
    rebuild(two_ranks, tiny_checkpoint, train={"zero_stage": 3})
    two_ranks.update(batch)
    two_ranks.export(tmp_path / "out")
    named = weights(two_ranks)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert distance(named, stored) == 0
    assert load_model(tmp_path / "out").config.model_type == "KeyeVL1_5"
    assert load_processor(tmp_path / "out").tokenizer.eos_token_id is not None


def test_half_precision_weights_are_sent_as_they_are(two_ranks, tiny_checkpoint, batch):
    rebuild(two_ranks, tiny_checkpoint, train={"zero_stage": 2, "dtype": "bf16"})
    metrics = two_ranks.update(batch)
    named = ray.get(two_ranks.weights())
    assert named["model.norm.weight"].dtype == torch.bfloat16
    assert metrics["gspo/clip_fraction/mini_batch_0"] == 0


def test_resume_is_bitwise_on_one_rank(one_rank, tiny_checkpoint, batch, tmp_path):
    rebuild(one_rank, tiny_checkpoint)
    assert one_rank.load(tmp_path / "state") is None
    one_rank.update(batch)
    one_rank.save(tmp_path / "state", step=1, progress={"cursor": 24})
    expected_metrics = one_rank.update(batch)
    expected = weights(one_rank)
    rebuild(one_rank, tiny_checkpoint)
    assert one_rank.load(tmp_path / "state") == (1, {"cursor": 24})
    assert one_rank.updates == 1
    metrics = one_rank.update(batch)
    assert distance(weights(one_rank), expected) == 0
    for key in ("gspo/loss", "gspo/grad_norm", "gspo/lr", "gspo/ratio_max"):
        assert metrics[key] == expected_metrics[key]


def test_a_step_without_update_can_be_saved(one_rank, tiny_checkpoint, batch, tmp_path):
    """All groups may be without spread: the loop's step and cursor still move on."""
    rebuild(one_rank, tiny_checkpoint)
    one_rank.update(batch)
    one_rank.save(tmp_path / "state", step=1, progress={"cursor": 24})
    one_rank.save(tmp_path / "state", step=2, progress={"cursor": 48})
    assert one_rank.load(tmp_path / "state") == (2, {"cursor": 48})


def test_too_few_sequences_are_refused_by_numbers(two_ranks, tiny_checkpoint, batch):
    rebuild(two_ranks, tiny_checkpoint, mini_batches=4)
    with pytest.raises(KeyeError, match=r"mini-batch of 1 sequences.*world_size=2"):
        two_ranks.update(batch[:4])


def test_a_forward_pass_that_cannot_be_repeated_stops_the_learner():
    rank = LearnerRank(1, 2, 1)
    rank.cfg = CONFIG
    old = torch.zeros(3)
    micro = MicroBatch(1, 1, {}, old, old, old, old, old_logprobs=old)
    rank._check_on_policy(old + 1e-7, micro)
    for bad in (1e-4, float("nan")):
        with pytest.raises(KeyeError, match=r"learner rank 1.*isn't repeatable"):
            rank._check_on_policy(old + bad, micro)


def test_bad_settings_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"algorithm='ppo'.*gspo, gspo_token, grpo"):
        LearnerConfig(algorithm="ppo")
    with pytest.raises(ConfigError, match="temperature=0"):
        LearnerConfig(temperature=0)
    with pytest.raises(ConfigError, match="mini_batches=0"):
        LearnerConfig(mini_batches=0)
