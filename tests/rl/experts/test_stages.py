"""Domain experts: their data, their checkpoints along the steps, and the recipe with the merge."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pretrain.data.ingest import FileDataConfig
from pretrain.run.command import compose
from pretrain.run.directory import RunDir, StageDir
from pretrain.run.errors import ConfigError, KeyeError
from rl import recipes
from rl.config import RlConfig
from rl.experts.config import ExpertConfig, MergeConfig
from rl.experts.stages import DomainExamples, expert_checkpoints, experts, merge
from rl.sft.rank import SftJob, SftRank
from rl.sft.training import SftConfig, fine_tune, snapshot
from rl.stages import Run

SFT = SftConfig(steps=4, batch_size=4, lr=1e-3, warmup_steps=1, save_every=2, world_size=1)


def test_a_pool_is_gone_through_in_another_order_every_epoch(tmp_path: Path):
    cfg = ExpertConfig(tasks={"text/ocr": 1.0, "digits/read": 1.0}, pool=20, seed=4)
    examples = DomainExamples(cfg, tmp_path)
    epochs = [[str(examples(k + start)) for k in range(20)] for start in (0, 20)]
    assert sorted(epochs[0]) == sorted(epochs[1]) and epochs[0] != epochs[1]
    endless = DomainExamples(replace(cfg, pool=0), tmp_path)
    assert str(endless(25)) not in epochs[0]


def test_the_text_experts_world_has_no_images(tmp_path: Path):
    cfg = ExpertConfig(tasks={"shapes/count": 1.0}, textual=True)
    kinds = [part["type"] for part in DomainExamples(cfg, tmp_path)(3)[0]["content"]]
    assert kinds == ["text"]
    with_images = DomainExamples(replace(cfg, textual=False), tmp_path)
    assert [part["type"] for part in with_images(3)[0]["content"]] == ["image", "text"]


def test_rows_of_files_bring_their_replies_and_modes(tmp_path: Path):
    rows = [
        {
            "id": f"r{k}",
            "messages": [{"role": "user", "content": f"{k}+1=?"}],
            "answer": str(k + 1),
            "task_type": "text/arithmetic",
            "mode": "think",
            "solution": f"{k}+1={k + 1}",
        }
        for k in range(3)
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cfg = ExpertConfig(data=FileDataConfig(files=[str(tmp_path / "r.jsonl")]))
    examples = DomainExamples(cfg, tmp_path)
    replies = {examples(k)[-1]["content"] for k in range(3)}
    assert replies == {
        f"<think>{k}+1={k + 1}</think><answer>\\boxed{{{k + 1}}}</answer>" for k in range(3)
    }


class LocalRank:
    """A `RankGroup` of one rank in this process: a single rank needs no rendezvous."""

    def __init__(self) -> None:
        self.rank = SftRank(0, 1, 1)

    def call(self, method: str, *args: Any, phase: str, timeout_s: float) -> list[Any]:
        return [getattr(self.rank, method)(*args)]


def test_checkpoints_along_the_steps_also_after_an_interruption(
    tiny_checkpoint: Path, tmp_path: Path
):
    examples: Any = DomainExamples(ExpertConfig(tasks={"text/arithmetic": 1.0}), tmp_path)

    def train(rank: Any, stage: StageDir) -> None:
        fine_tune(rank, tiny_checkpoint, examples, SFT, stage, snapshots=[2, 3, 4])

    whole, broken = StageDir(tmp_path / "whole"), StageDir(tmp_path / "broken")
    train(LocalRank(), whole)
    rank = LocalRank()
    kept = {step: snapshot(broken, step) for step in (2, 3, 4)}
    job = SftJob(tiny_checkpoint, broken.state, examples, SFT, kept)
    rank.call("open", job, phase="", timeout_s=0)
    rank.call("advance", 3, phase="", timeout_s=0)  # saved after step 2; step 3 is done again
    train(LocalRank(), broken)

    def weights(folder: Path) -> dict[str, torch.Tensor]:
        return load_file(folder / "model.safetensors")

    start, last = weights(tiny_checkpoint), weights(whole.checkpoint)
    moved = []
    for step in (2, 3, 4):
        first, second = weights(snapshot(whole, step)), weights(snapshot(broken, step))
        assert all(torch.equal(first[name], second[name]) for name in first)
        moved.append(sum(float((first[name] - start[name]).abs().sum()) for name in start))
    assert 0 < moved[0] < moved[1] < moved[2]
    final = weights(snapshot(whole, 4))
    assert all(torch.equal(final[name], last[name]) for name in last)
    from pretrain.keye_vl.checkpoint import load_processor

    load_processor(snapshot(whole, 2))  # a whole checkpoint, tokenizer included


def fake_run(folder: Path, **merge: Any) -> Any:
    """What `expert_checkpoints` reads of a run with one trained expert."""
    run = RunDir(folder)
    run.stage("experts/ocr").path.mkdir(parents=True, exist_ok=True)
    run.stage("experts/ocr").finish({}, "hash")
    experts = {"ocr": ExpertConfig(checkpoints=[2], sft=SFT)}
    return SimpleNamespace(
        cfg=SimpleNamespace(merge=MergeConfig(**merge), experts=experts), folder=run
    )


def test_which_checkpoint_of_an_expert_is_merged(tmp_path: Path):
    stage = RunDir(tmp_path).stage("experts/ocr")
    assert expert_checkpoints(fake_run(tmp_path)) == {"ocr": stage.checkpoint}
    assert expert_checkpoints(fake_run(tmp_path, steps={"ocr": 4})) == {"ocr": stage.checkpoint}
    assert expert_checkpoints(fake_run(tmp_path, steps={"ocr": 2})) == {"ocr": snapshot(stage, 2)}
    given = fake_run(tmp_path, checkpoints={"x": "a/b"})
    assert expert_checkpoints(given) == {"x": Path("a/b")}
    with pytest.raises(ConfigError, match=r"merge\.steps\.ocr=3: it has checkpoints at \[2, 4\]"):
        expert_checkpoints(fake_run(tmp_path, steps={"ocr": 3}))
    with pytest.raises(ConfigError, match=r"'math' is no expert \(ocr\)"):
        expert_checkpoints(fake_run(tmp_path, steps={"math": 3}))
    untrained = fake_run(tmp_path)
    untrained.cfg.experts["math"] = ExpertConfig(sft=SFT)
    with pytest.raises(KeyeError, match="expert math is not trained"):
        expert_checkpoints(untrained)


def test_bad_settings_are_named():
    with pytest.raises(ConfigError, match=r"checkpoints has 9, which is not in 1…steps=4"):
        ExpertConfig(checkpoints=[9], sft=SFT)
    with pytest.raises(ConfigError, match="'slerp' is none of"):
        MergeConfig(method="slerp")
    with pytest.raises(ConfigError, match=r"density=0 is not in \(0, 1\]"):
        MergeConfig(density=0)


SMALL = ["sft.steps=2", "sft.batch_size=4", "sft.world_size=1", "checkpoints=[1]"]
OVERRIDES = [
    "recipe=experts",
    "run=r",
    "stages=[experts,merge]",
    "~experts.text",
    "wandb.mode=disabled",
    *(f"experts.{name}.{setting}" for name in ("ocr", "math") for setting in SMALL),
]


def check_merge(folder: RunDir, base: Path) -> None:
    """The merge is the average of base and both experts."""
    sources = [base] + [folder.stage(f"experts/{name}").checkpoint for name in ("ocr", "math")]
    given = [load_file(source / "model.safetensors") for source in sources]
    merged = load_file(folder.stage("merge").checkpoint / "model.safetensors")
    for name, tensor in merged.items():
        assert torch.allclose(tensor, sum(w[name] for w in given) / 3, atol=1e-6)


def test_experts_are_trained_once_and_merged_in_several_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path
):
    def train_here(checkpoint: Path, examples: Any, cfg: Any, stage: Any, **more: Any) -> Any:
        ranks: Any = LocalRank()
        return fine_tune(ranks, checkpoint, examples, cfg, stage, **more)

    monkeypatch.setattr("rl.experts.stages.run_sft", train_here)
    folder, session = RunDir(tmp_path / "r"), None

    def run(*more: str) -> Run:
        cfg = compose("rl", RlConfig, [*OVERRIDES, f"checkpoint={tiny_checkpoint}", *more])
        started = Run(cfg, folder, session, tiny_checkpoint)  # type: ignore[arg-type]
        experts(started)
        assert started.checkpoint == tiny_checkpoint  # experts are no policy
        merge(started)
        return started

    done = run()
    assert done.checkpoint == folder.stage("merge").checkpoint and done.made_by == "merge"
    check_merge(folder, tiny_checkpoint)
    trained = folder.stage("experts/ocr").summary()
    run("merge.method=ties", "merge.steps.ocr=1", "merge.density=0.5")
    assert folder.stage("experts/ocr").summary() == trained
    assert folder.stage("merge").summary()["metrics"] == {
        "method": "ties",
        "weights": {"ocr": 1.0, "math": 1.0},
        "steps": {"ocr": 1, "math": 2},
    }


@pytest.mark.slow
def test_the_recipe_trains_two_experts_and_merges_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path, ray_cluster: None
):
    monkeypatch.setattr(recipes, "RUNS", tmp_path / "runs")
    recipes.run_recipe(compose("rl", RlConfig, [*OVERRIDES, f"checkpoint={tiny_checkpoint}"]))
    check_merge(RunDir(recipes.RUNS / "r"), tiny_checkpoint)
