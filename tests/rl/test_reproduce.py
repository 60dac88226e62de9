"""`scripts/reproduce/{stages,rejection,reward_model}`: their reports, from small evaluations."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.keye_vl.checkpoint import load_model
from pretrain.run.directory import RunDir
from rewards.keye_rm.measures import report
from rl.evaluate import Evaluation
from rl.statistics import Estimate, leaf, verdict

SCRIPTS = Path(__file__).parents[2] / "scripts" / "reproduce"
MODES = ("think", "auto_think", "no_think")
COUNT = 30


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save(folder: RunDir, stage: str, right: int) -> None:
    """An evaluation of which the first `right` prompts of each mode are answered correctly."""
    records = [
        {
            "id": f"p{k}",
            "mode": mode,
            "task_type": f"digits/{'sum' if k % 2 else 'max'}",
            "greedy": k < right,
            "sampled": float(k < right),
            "pass_at_8": k < right,
        }
        for mode in MODES
        for k in range(COUNT)
    ]
    path = folder.stage(stage).path
    path.mkdir(parents=True)
    Evaluation(records).save(path / "evaluation.jsonl")


def save_alignment(folder: RunDir, stage: str, value: float, failed: int) -> None:
    """Marks of held-out alignment prompts; prompt `failed` has none."""
    rows = [
        {
            "id": f"q{k}",
            "source": "formats",
            "kind": "json",
            "mode": "think",
            "task_type": "digits/sum",
            "sampled": {} if k == failed else {"correct": value, "format": value},
        }
        for k in range(4)
    ]
    path = folder.stage(stage).path
    path.mkdir(parents=True)
    (path / "alignment.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_changes_of_the_stages_are_paired_and_averaged_over_seeds(tmp_path):
    stages = script("stage_effects")
    shared = RunDir(tmp_path / "shared")
    for right, stage in zip((10, 12, 12), stages.SHARED.values(), strict=True):
        save(shared, stage, right)
    seeds = {seed: RunDir(tmp_path / f"seed{seed}") for seed in (0, 1)}
    for seed, folder in seeds.items():
        for place, stage in enumerate(stages.BY_SEED.values()):
            save(folder, stage, 20 + place + 2 * seed)
        save_alignment(folder, "alignment_before", 0.25, failed=seed)
        save_alignment(folder, "alignment_after", 0.75, failed=3)
    result = stages.report(shared, seeds)
    row = result["modes"]["think"]["greedy"]["all tasks"]
    assert row["SFT"]["step"]["value"] == pytest.approx(2 / 30)
    assert row["MPO"]["step"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": COUNT}
    assert row["cold start"]["value"] == pytest.approx(21 / 30)
    assert row["cold start"]["by_seed"] == pytest.approx([20 / 30, 22 / 30])
    assert row["LongCoT"]["step"]["value"] == pytest.approx(1 / 30)
    tasks = result["modes"]["no_think"]["sampled"]
    assert tasks["digits/max"]["cold start"]["by_seed"] == pytest.approx([10 / 15, 11 / 15])
    odd = tasks["digits/sum"]["LongCoT"]["by_seed"]  # prompts 0…20 and 0…22 are right
    assert odd == pytest.approx([10 / 15, 11 / 15])
    assert list(tasks) == ["all tasks", "digits/max", "digits/sum"]
    # Of prompts 0 to 3 only number 2 has marks in all four measurements.
    relations = result["relations"]
    assert relations["MPO improves on the stage before"]["verdict"] == "not reproduced"
    assert relations["SFT improves on the stage before"]["verdict"] == "undecided"
    assert relations["cold start improves on the stage before"]["verdict"] == "reproduced"
    assert relations["alignment helps in think"]["evidence"].keys() == {"format/think"}
    cell = result["alignment"]["formats/think/correct"]
    assert cell["change"]["value"] == 0.5 and cell["change"]["n"] == 1
    text = stages.markdown(result, stages.parse(["--seeds", "0", "1", "--set", "gspo.steps=5"]))
    assert "`./scripts/reproduce/stages --seeds 0 1 --set gspo.steps=5`" in text
    assert "| cold start improves on the stage before | **reproduced** | think, greedy +0." in text
    assert "| all tasks | 0.333 | 0.400 (+0.067) | 0.400 (+0.000) | 0.700 (**+0.300**)" in text
    stages.draw(result, tmp_path / "stages.png")
    assert (tmp_path / "stages.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("on", "said"), [(28, "reproduced"), (12, "not reproduced"), (21, "undecided")]
)
def test_rejection_sampling_is_judged_by_the_paired_difference(tmp_path, monkeypatch, on, said):
    monkeypatch.syspath_prepend(SCRIPTS)
    control = script("rejection_control")
    folders = {}
    for seed in (0, 1):
        folders[seed] = {arm: RunDir(tmp_path / str(seed) / arm) for arm in control.ARMS}
        for arm, folder in folders[seed].items():
            save(folder, "round0/evaluate", 15)
            save(folder, "round1/evaluate", on if arm == "on" else 20)
            rows = folder.stage("round1/rejection")
            rows.path.mkdir(parents=True)
            metrics = {"replaced_share": 0.2, "correct_before": 0.8, "correct_after": 0.95}
            rows.summary_file.write_text(json.dumps({"metrics": metrics}))
    result = control.report(folders)
    assert result["verdict"] == said
    assert result["modes"]["think"]["greedy"]["round 0"]["value"] == 0.5
    text = control.markdown(result, control.parse(["--set", "gspo.steps=5"]))
    assert f"**{said}**" in text and "0.800 → 0.950" in text
    assert "`./scripts/reproduce/rejection --seeds 0 1 --set gspo.steps=5`" in text


def test_the_arm_without_rejection_sampling_starts_from_a_copy_of_round_0(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    control = script("rejection_control")
    folder = tmp_path / "stages" / "seed0"
    for stage in ("merge", "round0/gspo", "round1/gspo", "alignment_sft", "evaluate_aligned"):
        (folder / stage).mkdir(parents=True)
        (folder / stage / "summary.json").write_text(stage)
    asked = []

    def run_seed(args, shared, seed, *more, folder="", last=""):
        asked.append((more, last))
        return RunDir(tmp_path / "stages" / (folder or f"seed{seed}"))

    monkeypatch.setattr(control, "run_seed", run_seed)
    for _ in range(2):  # the second time the copy is there
        arms = control.both(control.parse([]), RunDir(tmp_path), 0)
    assert arms["on"].path == folder
    left = {
        str(path.parent.relative_to(arms["off"].path)) for path in arms["off"].path.rglob("*.json")
    }
    assert left == {"merge", "round0/gspo"}
    assert asked == [((), "iterate"), (("iterated.margin=1000000.0",), "iterate")] * 2


def test_leaves_and_verdicts():
    assert leaf(Estimate(0.5, 0.4, 0.6, 9).to_dict()) == "0.500 [0.400, 0.600]"
    assert leaf(Estimate(0.5, 0.4, 0.6, 9).to_dict(), sign=True) == "+0.500 [+0.400, +0.600]"
    assert verdict([Estimate(0.1, 0.0, 0.2, 9), Estimate(0.2, 0.1, 0.3, 9)]) == "undecided"


def judged(right: int, first: int) -> list[dict[str, Any]]:
    """Twenty held-out pairs in both modes: in `right` the better one is preferred; of the others,
    `first` are decided by position. Four more pairs measure the liking for length."""
    rows = []
    for mode in ("no_think", "think"):
        for k in range(24):
            good, place = k < right, right <= k < right + first
            rows.append(
                {
                    "id": f"p{k}",
                    "mode": mode,
                    "violated": "correctness" if k % 2 else "safety",
                    "value": 0.9 if good else 0.3,
                    "verdicts": [True, True]
                    if good
                    else [True, False]
                    if place
                    else [False, False],
                    "length_pair": k >= 20,
                    "longer": k % 2 == 0,
                    "shorter": k % 2 == 1,
                    "judgements": 2,
                    "malformed": 0,
                    "tokens": 4,
                    "dimension": None,
                }
            )
    return rows


def test_the_reward_model_s_report_pools_the_seeds(tmp_path, monkeypatch):
    script_ = script("keye_reward_model")
    monkeypatch.setattr(script_, "RUNS", tmp_path)
    args = script_.parse(["--seeds", "0", "1", "--curve", "500", "--pairs", "20", "--run", "rm"])
    seeds = {}
    for seed, rights in ((0, (10, 14, 16)), (1, (12, 14, 18))):
        folder = RunDir(tmp_path / "rm" / f"seed{seed}")
        reports = {}
        for phase, right in zip(script_.PHASES, rights, strict=True):
            rows = judged(right, first=20 - right if seed else 0)
            path = folder.stage(f"{phase}_measured").path
            path.mkdir(parents=True)
            (path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            reports[phase] = report(rows)
        seeds[str(seed)] = reports
    whole = script_.pooled(args)
    assert whole["reward_sft"]["think"]["accuracy"]["value"] == pytest.approx(0.55)
    assert whole["reward_gspo"]["think"]["accuracy"]["n"] == 20  # pairs, not pairs × seeds
    # Seed 1 takes the first place in 8 of 20 pairs in both orders: half of that above one half.
    assert whole["reward_sft"]["think"]["position_bias"]["value"] == pytest.approx(0.1)
    curve = [{"layers": 4, "steps": 500, "examples": 32_000, "report": seeds["0"]["reward_sft"]}]
    result = {"seeds": seeds, "pooled": whole, "curve": curve}
    text = script_.markdown(result, args)
    assert "--seeds 0 1 --curve 500`" in text and "| 4 | 32,000 | 0.500 [" in text
    assert "| reward_gspo | 0.850 [" in text
    script_.draw(result, tmp_path / "rm.png")
    assert (tmp_path / "rm.png").stat().st_size > 5_000


def test_a_smaller_base_has_the_first_layers_alone(tmp_path, monkeypatch, tiny_checkpoint):
    script_ = script("keye_reward_model")
    monkeypatch.setattr(script_, "RUNS", tmp_path)
    args = script_.parse(["--base", str(tiny_checkpoint), "--run", "rm"])
    whole, cut = load_model(tiny_checkpoint), load_model(script_.cut(args, 1))
    assert cut.config.num_hidden_layers == len(cut.model.layers) == 1
    kept = cut.state_dict()
    assert all(torch.equal(kept[name], whole.state_dict()[name]) for name in kept)
    assert len(kept) < len(whole.state_dict())
