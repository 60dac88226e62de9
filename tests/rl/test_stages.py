"""When a stage of a recipe is done again: for what decides its outcome, and for nothing else."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from pretrain.data.ingest import FileDataConfig
from pretrain.keye_vl.prompt import check_length
from pretrain.run.command import compose, config_hash
from pretrain.run.directory import RunDir, checkpoint_identity
from pretrain.run.errors import ConfigError, KeyeError
from pretrain.run.metrics import WandbConfig
from rewards.config import RewardConfig
from rewards.keye_rm.config import RewardModelConfig
from rl import evaluate_command, recipes, session, stages
from rl.alignment.config import JudgeConfig
from rl.config import ColdStartConfig, RlConfig
from rl.endpoint_config import EndpointConfig
from rl.evaluate_command import EvaluateConfig, run_evaluate
from rl.experts.config import ExpertConfig, MergeConfig
from rl.experts.stages import _identity as merge_identity
from rl.experts.stages import experts
from rl.identity import data_identity, generation_identity, reward_identity
from rl.iterated import stages as iterated
from rl.recipes import ALL_STAGES
from rl.stages import Run, evaluation, gspo
from rollout.config import EngineConfig, SamplingConfig
from rollout.tools.config import ToolConfig


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


def test_an_old_measurement_is_kept_but_not_shown_again(tmp_path: Path, monkeypatch):
    folder = RunDir(tmp_path)
    folder.write_summary({"evaluation": {"before": {}}})
    shown = []
    for name in ("_show", "_draw"):
        monkeypatch.setattr(recipes, name, lambda *given: shown.append(given))
    recipes._report(folder, RlConfig(stages=["gspo"]))
    assert not shown and "evaluation" in folder.write_summary()


def test_pre_training_logs_where_the_run_does(tmp_path: Path, monkeypatch):
    seen = []
    monkeypatch.setattr(stages, "run_pretraining", lambda cfg, folder: seen.append(cfg.wandb))
    monkeypatch.setattr(stages, "final_checkpoint", lambda cfg, folder: tmp_path)
    cfg = RlConfig(wandb=WandbConfig(mode="disabled"))
    stages.pretrain(Run(cfg, RunDir(tmp_path), SimpleNamespace(), None))
    assert seen == [cfg.wandb]


def test_rounds_are_trained_anew_where_other_examples_show_hints(tmp_path: Path, monkeypatch):
    seen = []
    monkeypatch.setattr(iterated, "_stage", lambda run, name, how, *more: seen.append(how))
    for share, always in ((0.0, []), (0.4, []), (0.4, ["digits/sum_hard"])):
        cfg = RlConfig(cold_start=ColdStartConfig(hinted_share=share, hinted_tasks=always))
        run = Run(cfg, RunDir(tmp_path), SimpleNamespace(), tmp_path)
        iterated._cold_start(run, 1, "pool", tmp_path, "", "")
    assert config_hash(seen[0]) == config_hash(cfg.cold_start.sft)
    assert len({config_hash(how) for how in seen}) == 3


class Stopped(Exception):
    """Ends a command before it starts anything."""


def test_evaluate_opens_a_session_with_the_reward_model(tmp_path: Path, monkeypatch):
    given = {}

    def opened(engine, rewards, sampling, reward_model=None, tools=None):
        given.update(reward_model=reward_model)
        raise Stopped

    monkeypatch.setattr(evaluate_command, "Session", opened)
    monkeypatch.setattr(evaluate_command, "ray_session", nullcontext)
    words = [f"checkpoint={tmp_path}", f"out={tmp_path}", "reward_model.checkpoint=rm"]
    words.append("evaluation.samples=1")
    cfg = compose("evaluate", EvaluateConfig, words)
    with pytest.raises(Stopped):
        run_evaluate(cfg)
    assert given["reward_model"].checkpoint == "rm"
    cfg = compose("evaluate", EvaluateConfig, [*words, "benchmarks=[ai2d]", "tools.names=[search]"])
    with pytest.raises(ConfigError, match=r"benchmarks=\['ai2d'\] are asked without tools"):
        run_evaluate(cfg)


def test_prompts_leave_room_for_their_response(tmp_path: Path, monkeypatch):
    opened = []

    def open_encoder(*given):
        opened.append(given)
        raise Stopped

    monkeypatch.setattr(session, "open_encoder", open_encoder)
    sampling = SamplingConfig(max_tokens=100)
    with (
        pytest.raises(Stopped),
        session.Session(EngineConfig(max_length=512), RewardConfig(), sampling) as opening,
    ):
        opening.rollouts(tmp_path)
    assert opened == [(tmp_path, 512, 100)]
    check_length(412, "q", 512, 100)
    with pytest.raises(KeyeError, match=r"q: 413 tokens, but at most 412 fit beside .* 100 \(max_"):
        check_length(413, "q", 512, 100)


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


def test_a_policy_retrained_at_its_old_path_is_another_policy(tmp_path: Path):
    policy = tmp_path / "elsewhere"
    policy.mkdir()
    seen = set()
    for content in (b"first", b"second one"):
        (policy / "model.safetensors").write_bytes(content)
        seen.add(config_hash(checkpoint_identity(policy)))
    stage = RunDir(tmp_path / "run").stage("gspo")  # one that a run has left: by its stage
    for steps in (1, 2):
        stage.begin({"steps": steps}, f"hash{steps}")
        stage.finish({}, f"hash{steps}")
        seen.add(config_hash(checkpoint_identity(stage.checkpoint)))
        seen.add(config_hash(merge_identity(MergeConfig(checkpoints={"a": str(stage.checkpoint)}))))
    assert len(seen) == 6


def test_stages_notice_new_content_of_what_they_are_given(tmp_path: Path):
    """Evaluation, GSPO, experts and alignment measurements hash content, not names."""
    data, policy = tmp_path / "rows.jsonl", tmp_path / "policy"
    policy.mkdir()
    cfg = RlConfig(checkpoint=str(policy))
    files = [str(data)]
    cfg.evaluation.files = cfg.data.files = files
    cfg.experts = {"ocr": ExpertConfig(data=FileDataConfig(files=files))}
    cfg.alignment.general.files = cfg.alignment.general.heldout = files
    stages: dict[str, Any] = {
        "evaluate_before": lambda run: evaluation(run, "evaluate_before"),
        "gspo": gspo,
        "experts/ocr": experts,
        "alignment_before": ALL_STAGES["alignment_before"],
    }

    def hashes() -> set[str]:
        return {identity_of(name, stage, cfg, tmp_path) for name, stage in stages.items()}

    data.write_text("{}\n")
    (policy / "model.safetensors").write_bytes(b"first")
    first = hashes()
    assert len(first) == 4 and hashes() == first
    data.write_text('{"id": "mended"}\n')
    second = hashes()
    (policy / "model.safetensors").write_bytes(b"second one")
    assert len(first | second | hashes()) == 12


class Begun(Exception):
    """A stage that would start now."""


def identity_of(name: str, stage: Callable[[Run], None], cfg: RlConfig, folder: Path) -> str:
    """The hash under which a stage would start."""

    class Folder(RunDir):
        def stage(self, name: str) -> Any:
            begun = super().stage(name)
            begun.begin = lambda cfg, hash: (_ for _ in ()).throw(Begun(hash))
            return begun

    run = Run(cfg, Folder(folder / "run"), SimpleNamespace(), Path(cfg.checkpoint))  # type: ignore[arg-type]
    with pytest.raises(Begun) as begun:
        stage(run)
    return str(begun.value)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_an_edited_rule_of_a_row_makes_other_data(suffix: str, tmp_path: Path):
    rules, data = tmp_path / "rules.py", tmp_path / f"rows.{suffix}"
    rows = [{"id": "a", "rewards": [{"rule": "math"}, {"rule": f"{rules}:lucky"}]}, {"id": "b"}]
    if suffix == "jsonl":
        data.write_text("not a row\n\n" + "".join(json.dumps(row) + "\n" for row in rows))
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), data)
    cfg, seen = FileDataConfig(files=[str(data)]), set()
    for content in ("first = 1", "second = 2"):
        rules.write_text(content)
        seen.add(config_hash(data_identity(cfg)))
    assert len(seen) == 2 and config_hash(data_identity(cfg)) in seen
    plain = tmp_path / "plain.jsonl"
    plain.write_text(json.dumps(rows[1]) + "\n")
    assert len(data_identity(FileDataConfig(files=[str(plain)]))) == 2


def test_an_edited_plug_in_rule_is_another_reward(tmp_path: Path):
    cfg, seen = RlConfig(), set()
    rules = tmp_path / "rules.py"
    nested = {"rule": "merged", "parts": [{"rule": f"{rules}:lucky"}]}
    for entry in ({"_target_": f"{rules}:lucky"}, nested):
        cfg.rewards.routes = {"*": [entry]}
        for content in ("", "first = 1", "second = 2"):
            rules.unlink(missing_ok=True)
            if content:
                rules.write_text(content)
            seen.add(config_hash(reward_identity(cfg)))
    assert len(seen) == 6


def test_edited_documents_and_tools_are_other_tools(tmp_path: Path):
    plugin, folder = tmp_path / "tool.py", tmp_path / "docs"
    folder.mkdir()
    cfg = RlConfig(tools=ToolConfig(["search", f"{plugin}:Ruler"], documents=str(folder)))
    seen = set()
    for path, content in (
        (plugin, "first = 1"),
        (plugin, "second = 2"),
        (folder / "a.txt", "a text"),
        (folder / "a.txt", "another"),
        (folder / "b.md", "another"),
    ):
        path.write_text(content)
        seen.add(config_hash(generation_identity(cfg)))
    assert len(seen) == 5
    cfg.tools = ToolConfig()  # no tools: what lies there is not read
    alone = config_hash(generation_identity(cfg))
    cfg.tools.documents = str(folder)
    assert config_hash(generation_identity(cfg)) == alone


RUN_ONLY = {
    "learner": ["timeout_s", "threads", "cpus_per_rank", "gpus_per_rank", "logit_chunk",
                "on_policy_tolerance"],
    "gspo": ["save_every", "table_every", "table_groups"],
    "sft.train": ["timeout_s", "threads", "cpus_per_rank", "gpus_per_rank", "save_every"],
    "mpo.train": ["timeout_s", "save_every"],
    "mpo.pairs": ["chunk"],
    "data": ["max_bad_share"],
    "reward_model": ["batch"],
    "reward_model.engine": ["kv_cache_mb"],
    "engine": ["kv_cache_mb", "max_sequences", "max_batched_tokens", "block_size"],
}  # fmt: skip
DECIDING = {
    "learner": ["seed", "world_size", "clip_low", "mini_batches"],
    "learner.train": ["lr", "micro_batch_tokens"],
    "gspo": ["steps", "prompts_per_step", "group_size", "seed"],
    "sft.train": ["steps", "lr", "batch_size", "accumulation", "context"],
    "mpo.pairs": ["samples", "margin", "seed"],
    "data": ["seed"],
    "reward_model": ["samples", "max_tokens"],
    "engine": ["max_length", "max_images"],
}


@pytest.mark.parametrize(("keys", "same"), [(RUN_ONLY, True), (DECIDING, False)])
def test_only_what_decides_the_outcome_is_hashed(keys: dict[str, list[str]], same: bool):
    cfg = RlConfig()
    for section, names in keys.items():
        for name in names:
            part: Any = cfg
            for word in section.split("."):
                part = getattr(part, word)
            before, value = config_hash(part), getattr(part, name)
            setattr(part, name, value * 2 or 1)
            assert (config_hash(part) == before) == same, f"{section}.{name}"
    cfg.engine.dtype, before = "bfloat16", config_hash(cfg.engine)
    cfg.engine.model_class = "transformers"
    assert config_hash(cfg.engine) != before
    cfg.data.quarantine, before = "elsewhere.jsonl", config_hash(cfg.data)
    cfg.data.quarantine = ""
    assert config_hash(cfg.data) == before


def test_rewards_depend_on_how_the_reward_model_judges():
    cfg = RlConfig(reward_model=RewardModelConfig(checkpoint="rm"))
    seen = {config_hash(reward_identity(cfg))}
    for key, value in (("samples", 4), ("max_tokens", 99)):
        setattr(cfg.reward_model, key, value)
        seen.add(config_hash(reward_identity(cfg)))
    cfg.reward_model.engine.max_length = 99
    assert len(seen | {config_hash(reward_identity(cfg))}) == 4


def test_prompts_that_a_stage_does_not_ask_do_not_decide_it(tmp_path: Path):
    """`data` is GSPO's; the reward model and alignment bring prompts of their own."""
    for name in ("reward_gspo", "alignment_gspo"):
        cfg = RlConfig(checkpoint=str(tmp_path))
        before = identity_of(name, ALL_STAGES[name], cfg, tmp_path)
        cfg.data.tasks = {"digits/max": 1.0}
        assert identity_of(name, ALL_STAGES[name], cfg, tmp_path) == before
        cfg.gspo.steps = 7
        assert identity_of(name, ALL_STAGES[name], cfg, tmp_path) != before


@pytest.mark.parametrize(
    ("name", "stage", "setting"),
    [
        ("long_cot/enhance", "long_cot_enhance", "sampling.max_tokens"),  # the writer's limit
        ("reward_sft_measured", "reward_sft_measured", "reward_training.sft.sft.steps"),
        ("reward_sft_measured", "reward_sft_measured", "engine.max_length"),
    ],
)
def test_a_limit_that_a_stage_reads_decides_it(name: str, stage: str, setting: str, tmp_path: Path):
    cfg = RlConfig(checkpoint=str(tmp_path))
    cfg.long_cot.enhance.rewrite = "policy"
    before = identity_of(name, ALL_STAGES[stage], cfg, tmp_path)
    assert identity_of(name, ALL_STAGES[stage], cfg, tmp_path) == before
    *sections, key = setting.split(".")
    part: Any = cfg
    for word in sections:
        part = getattr(part, word)
    setattr(part, key, getattr(part, key) + 1)
    assert identity_of(name, ALL_STAGES[stage], cfg, tmp_path) != before
