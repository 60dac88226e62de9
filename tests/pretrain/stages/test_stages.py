"""The stages on real ranks: what moves, what resumes, what is skipped."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from pretrain.keye_vl.checkpoint import load_model
from pretrain.run.command import compose
from pretrain.run.directory import RunDir, StageDir
from pretrain.run.errors import ConfigError
from pretrain.run.metrics import WandbConfig, read_rows
from pretrain.stages.config import AnnealConfig, HeldOutConfig, PretrainConfig, StageConfig
from pretrain.stages.driver import train_stage
from pretrain.stages.pipeline import Pretraining, pretrain
from pretrain.stages.rank import StageRank
from pretrain.stages.stage import StageJob, part_of, stage_seed
from pretrain.training.engine import TrainConfig
from pretrain.training.ranks import RankGroup

MIX = {"shapes/caption": 1.0, "digits/read": 1.0, "digits/sum": 1.0, "text/arithmetic": 1.0}
HELD_OUT = HeldOutConfig(tasks=["digits/read", "text/arithmetic"], samples=4)
MOVES = {
    "vit": {"vision"},
    "text": {"decoder"},
    "align": {"projector"},
    "multitask": {"vision", "projector", "decoder"},
    "anneal": {"vision", "projector", "decoder"},
}


def small_stage(**changes) -> StageConfig:
    return StageConfig(
        steps=2, batch_size=8, mix=MIX, train=TrainConfig(zero_stage=1, warmup_steps=1), **changes
    )


def small_config() -> PretrainConfig:
    """All stages with two steps each, on two ranks."""
    stage = small_stage()
    cfg = PretrainConfig(
        world_size=2,
        vit=replace(stage, mix={"shapes/caption": 1.0, "digits/locate": 1.0}),
        text=stage,
        align=replace(stage, train=TrainConfig(zero_stage=2)),
        multitask=replace(stage, train=TrainConfig(zero_stage=3)),
        anneal=AnnealConfig(**vars(replace(stage, think_share=0.5, context=128)), long_share=0.5),
        evaluation=HELD_OUT,
        wandb=WandbConfig(mode="disabled"),
    )
    cfg.fuse.experts = {"one": stage, "two": replace(stage, steps=1)}
    return cfg


@pytest.fixture(scope="module")
def run(ray_cluster, tmp_path_factory) -> tuple[RunDir, dict]:
    """One whole pre-training."""
    run = RunDir(tmp_path_factory.mktemp("run"))
    return run, pretrain(small_config(), run)


def weights(run: RunDir, stage: str) -> dict[str, torch.Tensor]:
    return load_file(run.stage(stage).checkpoint / "model.safetensors")


@pytest.mark.parametrize("stage", MOVES)
def test_a_stage_moves_its_own_weights_and_no_others(run, stage):
    run, _ = run
    order = ["init", *MOVES]
    before = weights(run, order[order.index(stage) - 1])
    after = weights(run, stage)
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {part_of(name) for name in moved} == MOVES[stage]
    frozen = {name for name in before if part_of(name) not in MOVES[stage]}
    assert not frozen & moved
    # Everything trainable gets a gradient; the table of packed positions is never used.
    still = {n for n in before if part_of(n) in MOVES[stage]} - moved
    assert all("packing_position" in name or name.endswith("k_proj.bias") for name in still)


def test_every_stage_reports_held_out_accuracy(run):
    _, results = run
    assert set(results) == {"init", *MOVES, "fuse"}
    assert results["vit"]["zero_shot"]["n"] == results["vit"]["recall"]["n"] / 2 == 8
    for stage in ("text", "align", "multitask", "anneal", "fuse"):
        assert results[stage]["direct"].keys() == {"digits/read", "text/arithmetic"}
        assert results[stage]["reading"]["n"] == 8
    assert results["anneal"]["think"]["text/arithmetic"]["n"] == 4
    assert "think" not in results["multitask"]


def test_fuse_is_the_mean_of_its_experts(run):
    run, _ = run
    one, two, fused = (weights(run, name) for name in ("expert_one", "expert_two", "fuse"))
    for name in fused:
        torch.testing.assert_close(fused[name], (one[name] + two[name]) / 2, rtol=1e-6, atol=1e-7)


def test_anneal_raises_rope_base_and_context(run):
    run, _ = run
    before = load_model(run.stage("multitask").checkpoint).config
    for stage in ("anneal", "fuse"):
        after = load_model(run.stage(stage).checkpoint).config
        ratio = after.rope_parameters["rope_theta"] / before.rope_parameters["rope_theta"]
        assert ratio == 8.0
        assert after.max_position_embeddings == 4 * before.max_position_embeddings


def test_finished_stages_are_not_run_again(run):
    run, results = run
    files = sorted(run.path.glob("*/checkpoint/model.safetensors"))
    times = [file.stat().st_mtime_ns for file in files]
    with Pretraining(small_config(), run) as stages:
        again = {name: stages.execute(name) for name in results}
        assert stages._ranks is None  # not a single process was started
    assert again == results
    assert [file.stat().st_mtime_ns for file in files] == times


def test_metrics_have_a_row_per_step(run):
    run, _ = run
    rows = read_rows(run.stage("multitask").metrics_file)
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2]
    assert all(row["time/data"] < row["time/step"] for row in rows if "train/loss" in row)


# ------------------------------------------------------------------------------- one stage alone


@pytest.fixture(scope="module")
def one_rank(ray_cluster):
    group = RankGroup(StageRank, 1, name="pretrain", cpus_per_rank=0.1)
    yield group
    group.close()


def job(source, directory, cfg: StageConfig, kind: str = "multitask") -> StageJob:
    return StageJob(kind, source, directory, cfg, HELD_OUT, seed=stage_seed(0, kind))


def train(group, source, directory, cfg, save_every=2) -> dict:
    return train_stage(
        group,
        job(source, directory, cfg),
        StageDir(directory),
        save_every=save_every,
        timeout_s=120.0,
        wandb=WandbConfig(mode="disabled"),
    )


def test_an_interrupted_stage_ends_bitwise_equal(one_rank, tiny_checkpoint, tmp_path, monkeypatch):
    cfg = replace(small_stage(think_share=0.5), steps=5)
    train(one_rank, tiny_checkpoint, tmp_path / "unbroken", cfg)

    call = RankGroup.call

    def killed_at_step_4(self, method, *args, **kwargs):
        if "steps 5" in kwargs["phase"]:
            raise KeyboardInterrupt
        return call(self, method, *args, **kwargs)

    broken = tmp_path / "broken"
    monkeypatch.setattr(RankGroup, "call", killed_at_step_4)
    with pytest.raises(KeyboardInterrupt):
        train(one_rank, tiny_checkpoint, broken, cfg)
    monkeypatch.undo()
    assert (broken / "state" / "latest").read_text() == "step-00000004"
    train(one_rank, tiny_checkpoint, broken, cfg)

    unbroken = load_file(tmp_path / "unbroken" / "checkpoint" / "model.safetensors")
    resumed = load_file(broken / "checkpoint" / "model.safetensors")
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
    steps = [row["step"] for row in read_rows(broken / "metrics.jsonl") if "train/loss" in row]
    assert steps == [1, 2, 3, 4, 5]


def test_micro_batches_and_ranks_do_not_change_the_result(
    one_rank, ray_cluster, tiny_checkpoint, tmp_path
):
    cfg = replace(small_stage(think_share=0.5, length_power=0.5), steps=3)
    # Adam divides a gradient that is only rounding noise by its own size; a larger eps doesn't.
    cfg.train = replace(cfg.train, eps=1e-4)
    # About eight micro-batches a step instead of one.
    split = replace(cfg, train=replace(cfg.train, micro_batch_tokens=60))
    train(one_rank, tiny_checkpoint, tmp_path / "whole", cfg)
    train(one_rank, tiny_checkpoint, tmp_path / "split", split)
    pair = RankGroup(StageRank, 2, name="pretrain", cpus_per_rank=0.1)
    train(pair, tiny_checkpoint, tmp_path / "pair", cfg)
    pair.close()
    whole, *others = (
        load_file(tmp_path / name / "checkpoint" / "model.safetensors")
        for name in ("whole", "split", "pair")
    )
    for other in others:
        difference = max(float((whole[name] - other[name]).abs().max()) for name in whole)
        assert difference < 1e-5


def test_zero_steps_are_an_error(one_rank, tiny_checkpoint, tmp_path):
    with pytest.raises(ConfigError, match="steps=0 trains nothing"):
        train(one_rank, tiny_checkpoint, tmp_path, replace(small_stage(), steps=0))


def test_unknown_stage_names_the_choices(tmp_path):
    with pytest.raises(ConfigError, match="stage='vid' is not one of all, init, vit"):
        pretrain(PretrainConfig(stage="vid"), RunDir(tmp_path))


def test_committed_configuration_trains_every_stage_in_order():
    cfg = compose("pretrain", PretrainConfig, [])
    assert cfg.stages == ["vit", "text", "align", "multitask", "anneal", "fuse"]
    stages = [cfg.vit, cfg.text, cfg.align, cfg.multitask, cfg.anneal, *cfg.fuse.experts.values()]
    assert all(stage.steps > 0 and sum(stage.mix.values()) > 0 for stage in stages)
    assert cfg.align.train.zero_stage == cfg.multitask.train.zero_stage == 2
    assert cfg.vit.train.zero_stage == cfg.anneal.train.zero_stage == 1
