"""When a stage of a recipe is done again: for what decides its outcome, and for nothing else."""

from pathlib import Path
from types import SimpleNamespace

from pretrain.run.command import compose, config_hash
from pretrain.run.directory import RunDir
from rl.alignment.config import JudgeConfig
from rl.config import RlConfig
from rl.endpoint_config import EndpointConfig
from rl.recipes import ALL_STAGES
from rl.stages import Run, reward_identity


def test_how_a_model_is_reached_does_not_make_a_stage_run_again(tmp_path: Path):
    run = Run(RlConfig(), RunDir(tmp_path), SimpleNamespace(), tmp_path / "policy")
    asked = []

    def stage(endpoint: EndpointConfig) -> None:
        run.stage("judged", [endpoint, 3], lambda folder: {"asked": asked.append(endpoint)})

    stage(EndpointConfig(url="http://127.0.0.1:8000/v1", model="a"))
    stage(EndpointConfig(url="http://127.0.0.1:9000/v1", model="a", retries=9))
    assert len(asked) == 1
    stage(EndpointConfig(url="http://127.0.0.1:9000/v1", model="b"))
    assert len(asked) == 2


def test_a_judge_on_another_port_is_the_same_judge():
    here, there = (
        config_hash(JudgeConfig(url=f"http://127.0.0.1:{port}/v1", model="a", cache=str(port)))
        for port in (8000, 9000)
    )
    assert here == there != config_hash(JudgeConfig(url="http://127.0.0.1:8000/v1", model="b"))


def test_a_mended_route_and_a_reward_model_trained_anew_are_other_rewards(tmp_path: Path):
    cfg, seen = RlConfig(), set()

    def identity() -> str:
        return config_hash(reward_identity(cfg))

    seen.add(identity())
    cfg.rewards.routes = {"math/*": [{"rule": "math"}]}
    seen.add(identity())
    stage = RunDir(tmp_path).stage("reward_gspo")
    cfg.reward_model.checkpoint = str(stage.checkpoint)
    seen.add(identity())
    for steps in (1, 2):
        stage.begin({"steps": steps}, f"hash{steps}")
        stage.finish({}, f"hash{steps}")
        seen.add(identity())
    assert len(seen) == 5 and identity() in seen


def test_the_full_recipe_names_known_stages_and_round_0_starts_from_the_merged_policy():
    cfg = compose("rl", RlConfig, ["recipe=full"])
    named = [name for name in cfg.stages if not name.startswith("evaluate_")]
    assert set(named) <= ALL_STAGES.keys()
    order = ["pretrain", "reward_model", "sft", "mpo", "cold_start", "long_cot", "experts",
             "merge", "iterate", "alignment_gspo"]  # fmt: skip
    assert sorted(order, key=cfg.stages.index) == order
    assert not cfg.iterated.first_cold_start and cfg.hints.max_level == 5
    assert 0 < cfg.cold_start.hinted_share < 1
    assert {"text/ocr", "digits/sum"} <= cfg.evaluation.tasks.keys()
