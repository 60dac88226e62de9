"""The engine against plain PyTorch, over ranks, ZeRO stages and micro-batches."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from pretrain.run.errors import ConfigError, KeyeError
from pretrain.training.engine import TrainConfig, learning_rate
from pretrain.training.ranks import Rank, RankGroup

TOTAL_STEPS = 10
BATCH = 12


def make_model() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.LayerNorm(16), torch.nn.Linear(16, 4)
    )


def make_batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(BATCH, 8, generator=generator), torch.randn(BATCH, 4, generator=generator)


def config(zero_stage: int, **changes) -> TrainConfig:
    return TrainConfig(zero_stage=zero_stage, grad_clip=0.5, warmup_steps=2, **changes)


def reference(cfg: TrainConfig, steps: int) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The same training in plain PyTorch: whole batch, one process."""
    model = make_model()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": cfg.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(cfg.betas[0], cfg.betas[1]))
    norms = []
    for step in range(steps):
        optimizer.zero_grad()
        x, y = make_batch(step)
        (((model(x) - y) ** 2).sum() / BATCH).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.grad_clip)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, TOTAL_STEPS, cfg)
        optimizer.step()
    return {n: p.detach() for n, p in model.named_parameters()}, norms


def probe_class() -> type[Rank]:
    """A rank that trains the small model; local, so that Ray ships it by value."""
    build, batch, total, size = make_model, make_batch, TOTAL_STEPS, BATCH

    class Probe(Rank):
        def open(self, cfg, trainable=None):
            from pretrain.training.engine import build_engine

            chosen = None if trainable is None else (lambda name: name.startswith(trainable))
            self.engine = build_engine(build(), cfg, total_steps=total, trainable=chosen)

        def train(self, first, last, micro_batches):
            norms = []
            for step in range(first, last):
                x, y = batch(step)
                share = size // self.world_size
                mine = slice(self.rank * share, (self.rank + 1) * share)
                parts = list(
                    zip(x[mine].chunk(micro_batches), y[mine].chunk(micro_batches), strict=True)
                )
                dtype = next(self.engine.module.parameters()).dtype
                for number, (a, b) in enumerate(parts):
                    loss = ((self.engine(a.to(dtype)).float() - b) ** 2).sum() / size
                    self.engine.backward(loss, last=number == len(parts) - 1)
                norms.append(self.engine.step().grad_norm)
            return self.weights(), norms

        def weights(self):
            with self.engine.gathered():
                return {
                    n: p.detach().float().clone() for n, p in self.engine.module.named_parameters()
                }

        def save(self, directory, step, progress):
            from pretrain.training.checkpoint import save_state

            save_state(self.engine, directory, step, progress)

        def load(self, directory):
            from pretrain.training.checkpoint import load_state

            return load_state(self.engine, directory)

        def close_engine(self):
            self.engine.destroy()

        def die(self):
            import os

            os._exit(3)

        def die_or_wait(self):
            import torch.distributed as dist

            if self.rank == 1:
                self.die()
            dist.barrier()

        def sleep(self):
            import time

            time.sleep(60)

    return Probe


@pytest.fixture(scope="module", params=[1, 2], ids=["1rank", "2ranks"])
def ranks(request, ray_cluster):
    group = RankGroup(probe_class(), request.param, name="probe", cpus_per_rank=0.1)
    yield group
    group.close()


def call(group: RankGroup, method: str, *args):
    return group.call(method, *args, phase="test", timeout_s=60)


def max_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_engine_equals_plain_pytorch(ranks, zero_stage):
    cfg = config(zero_stage)
    expected, norms = reference(cfg, 3)
    assert max(norms) > cfg.grad_clip  # so clipping is part of what is compared
    for micro_batches in (1, 3):
        call(ranks, "open", cfg)
        results = call(ranks, "train", 0, 3, micro_batches)
        call(ranks, "close_engine")
        for weights, measured in results:
            assert max_difference(weights, expected) < 1e-7
            assert measured == pytest.approx(norms, rel=1e-5)


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_bf16_stays_near_fp32(ranks, zero_stage):
    cfg = config(zero_stage, dtype="bf16")
    expected, _ = reference(cfg, 3)
    call(ranks, "open", cfg)
    weights, _ = call(ranks, "train", 0, 3, 2)[0]
    call(ranks, "close_engine")
    # Three steps of at most lr each; bf16 rounds weights near 1 by up to 0.004.
    assert 0 < max_difference(weights, expected) < 5e-3


def test_frozen_weights_do_not_move(ranks):
    cfg = config(1)
    call(ranks, "open", cfg, "3.")
    weights, _ = call(ranks, "train", 0, 3, 2)[0]
    call(ranks, "close_engine")
    before = dict(make_model().named_parameters())
    moved = {name for name in before if not torch.equal(weights[name], before[name])}
    assert moved == {"3.weight", "3.bias"}


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_resume_is_bitwise_equal(ranks, zero_stage, tmp_path):
    cfg = config(zero_stage)
    call(ranks, "open", cfg)
    call(ranks, "train", 0, 2, 2)
    call(ranks, "save", tmp_path, 2, {"cursor": 24})
    unbroken, _ = call(ranks, "train", 2, 5, 2)[0]
    call(ranks, "close_engine")
    call(ranks, "open", cfg)
    assert call(ranks, "load", tmp_path)[0] == (2, {"cursor": 24})
    resumed, _ = call(ranks, "train", 2, 5, 2)[0]
    call(ranks, "close_engine")
    assert max_difference(unbroken, resumed) == 0.0


def test_only_the_last_complete_state_counts(ranks, tmp_path):
    call(ranks, "open", config(0))
    assert call(ranks, "load", tmp_path)[0] is None
    call(ranks, "save", tmp_path, 1, {})
    call(ranks, "save", tmp_path, 2, {})
    (tmp_path / "step-00000003.partial").mkdir()  # what a kill in the middle of saving leaves
    assert call(ranks, "load", tmp_path)[0] == (2, {})
    assert [p.name for p in tmp_path.glob("step-*[0-9]")] == ["step-00000002"]
    call(ranks, "close_engine")


def test_resume_with_other_rank_count_names_both(ray_cluster, tmp_path):
    save = tmp_path / "state"
    group = RankGroup(probe_class(), 1, name="probe", cpus_per_rank=0.1)
    call(group, "open", config(1))
    call(group, "save", save, 1, {})
    meta = save / "step-00000001" / "progress.json"
    meta.write_text(meta.read_text().replace('"world_size": 1', '"world_size": 4'))
    with pytest.raises(KeyeError, match="4 ranks and can't be resumed by 1"):
        call(group, "load", save)
    group.close()


def test_dead_rank_is_named_and_the_group_closed(ray_cluster):
    group = RankGroup(probe_class(), 2, name="learner", cpus_per_rank=0.1)
    with pytest.raises(KeyeError, match="learner rank 1 of 2 died in phase 'update'"):
        group.call("die_or_wait", phase="update", timeout_s=30)
    with pytest.raises(KeyeError, match="learner group is closed"):
        group.call("weights", phase="weights", timeout_s=1)


def test_hung_rank_is_named(ray_cluster):
    group = RankGroup(probe_class(), 1, name="learner", cpus_per_rank=0.1)
    with pytest.raises(KeyeError, match="learner rank 0 of 1 did not answer within 1 s") as lost:
        group.call("sleep", phase="update", timeout_s=1)
    assert str(lost.value).endswith("raise timeout_s of this stage.")


def test_learning_rate_schedule():
    cosine = TrainConfig(lr=2.0, warmup_steps=4, end_factor=0.1)
    assert learning_rate(0, 100, cosine) == pytest.approx(0.5)
    halfway = 2.0 * (0.1 + 0.9 * 0.5)
    assert learning_rate(50, 100, cosine) == pytest.approx(halfway)
    assert learning_rate(100, 100, cosine) == pytest.approx(0.2)
    assert learning_rate(500, 100, cosine) == pytest.approx(0.2)
    constant = TrainConfig(lr=2.0, warmup_steps=4, schedule="constant")
    assert [learning_rate(s, 100, constant) for s in (1, 3, 99)] == [1.0, 2.0, 2.0]
    rates = [learning_rate(s, 100, cosine) for s in range(4, 100)]
    assert all(a > b for a, b in pairwise(rates))
    assert math.isclose(max(rates), 2.0, rel_tol=0.01)


@pytest.mark.parametrize(
    "changes", [{"schedule": "linear"}, {"zero_stage": 4}, {"dtype": "fp16"}], ids=str
)
def test_unknown_choices_name_key_and_value(changes):
    ((key, value),) = changes.items()
    with pytest.raises(ConfigError, match=f"{key}={value!r}"):
        TrainConfig(**changes)


def test_nothing_trainable_is_an_error(ranks):
    with pytest.raises(ConfigError, match="no parameter"):
        call(ranks, "open", config(0), "nothing")


def test_state_folder_is_created(tmp_path: Path):
    from pretrain.training.checkpoint import latest_state

    assert latest_state(tmp_path / "missing") is None
