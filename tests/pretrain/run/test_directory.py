"""Run directory and ledger: atomic files, stages that are skipped, redone or resumed."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from dataclasses import dataclass

import pytest

from pretrain.run import directory
from pretrain.run.command import config_hash
from pretrain.run.directory import RunDir, StageDir, atomic_write, disk_guard
from pretrain.run.errors import KeyeError
from pretrain.run.stages import run_stage


@dataclass
class Config:
    steps: int = 3


def test_atomic_write_replaces_and_leaves_nothing_else(tmp_path):
    file = tmp_path / "a" / "summary.json"
    atomic_write(file, "one")
    atomic_write(file, b"two")
    assert file.read_text() == "two"
    assert os.listdir(file.parent) == ["summary.json"]


def test_full_disk_names_file_and_space_and_keeps_the_old_content(tmp_path, monkeypatch):
    file = tmp_path / "summary.json"
    atomic_write(file, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(directory.os, "fsync", full)
    with pytest.raises(KeyeError, match=r"summary\.json: the disk is full \([\d,]+ bytes free\)"):
        atomic_write(file, "new")
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["summary.json"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_reported_by_the_kernel():
    with (
        pytest.raises(KeyeError, match=r"/dev/full: the disk is full"),
        disk_guard("/dev/full"),
        open("/dev/full", "w") as file,
    ):
        file.write("x")


def test_disk_guard_knows_the_texts_of_torch_and_safetensors(tmp_path):
    for text in ("I/O error: No space left on device (os error 28)", "PytorchStreamWriter failed"):
        with pytest.raises(KeyeError, match="the disk is full"), disk_guard(tmp_path / "x"):
            raise RuntimeError(text)


def test_disk_guard_leaves_other_errors_alone(tmp_path):
    with pytest.raises(ZeroDivisionError), disk_guard(tmp_path):
        _ = 1 / 0


def test_complete_stage_is_not_run_again(tmp_path, capsys):
    run = RunDir(tmp_path / "quickstart")
    calls = []

    def train(stage):
        calls.append(stage.name)
        stage.checkpoint.mkdir()
        return {"accuracy": 0.5}

    for _ in range(2):
        assert run_stage(run, "vit", Config(), train) == {"accuracy": 0.5}
    assert calls == ["vit"]
    assert "vit: already complete" in capsys.readouterr().out
    summary = json.loads((tmp_path / "quickstart" / "summary.json").read_text())
    assert summary["run"] == "quickstart"
    (stage,) = summary["stages"]
    assert (stage["name"], stage["metrics"]) == ("vit", {"accuracy": 0.5})
    assert stage["checkpoint"] == str(tmp_path / "quickstart" / "vit" / "checkpoint")
    assert stage["seconds"] >= 0
    assert (tmp_path / "quickstart" / "vit" / "config.yaml").read_text() == "steps: 3\n"


def test_changed_configuration_runs_again_and_keeps_the_old_result(tmp_path):
    run = RunDir(tmp_path)
    run_stage(run, "vit", Config(3), lambda stage: {"steps": 3})
    assert run_stage(run, "vit", Config(4), lambda stage: {"steps": 4}) == {"steps": 4}
    old = json.loads((tmp_path / "vit.previous" / "summary.json").read_text())
    assert old["metrics"] == {"steps": 3}
    assert [stage["metrics"] for stage in run.stage_summaries()] == [{"steps": 4}]


def test_what_people_wrote_stays_whatever_the_configuration(tmp_path):
    stage = StageDir(tmp_path / "review")
    stage.begin(Config(3))
    (stage.path / "decisions.jsonl").write_text("one\n")
    (stage.path / "items.jsonl").write_text("made\n")
    stage.begin(Config(4))
    stage.begin(Config(5))
    assert (stage.path / "decisions.jsonl").read_text() == "one\n"
    assert not (stage.path / "items.jsonl").exists()
    # A kill between setting aside and taking back.
    previous = tmp_path / "review.previous"
    (stage.path / "decisions.jsonl").rename(previous / "decisions.jsonl")
    stage.begin(Config(6))
    assert (stage.path / "decisions.jsonl").read_text() == "one\n"


def test_interrupted_stage_finds_its_state(tmp_path):
    run = RunDir(tmp_path)

    def first(stage):
        stage.state.mkdir()
        (stage.state / "step").write_text("2")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(run, "gspo", Config(), first)
    metrics = run_stage(run, "gspo", Config(), lambda s: {"from": (s.state / "step").read_text()})
    assert metrics == {"from": "2"}
    assert run.stage("gspo").summary()["resumed"] is True


def test_state_of_another_configuration_is_not_resumed(tmp_path):
    stage = StageDir(tmp_path / "gspo")
    stage.begin(Config(3))
    stage.state.mkdir()
    stage.begin(Config(4))
    assert not stage.state.exists()
    assert (tmp_path / "gspo.previous" / "state").exists()


def test_change_upstream_runs_everything_downstream(tmp_path):
    run = RunDir(tmp_path)
    calls = []

    def train(stage):
        calls.append(stage.name)
        return {}

    for steps in (3, 3, 4):
        run_stage(run, "align", Config(steps), train)
        run_stage(run, "multitask", Config(1), train, inputs=["align"])
    assert calls == ["align", "multitask", "align", "multitask"]


def test_missing_input_stage_is_named(tmp_path):
    with pytest.raises(KeyeError, match=r"stage align .* is not complete"):
        run_stage(RunDir(tmp_path), "multitask", Config(), lambda stage: {}, inputs=["align"])


def test_is_complete_needs_the_same_hash(tmp_path):
    stage = StageDir(tmp_path / "vit")
    stage.begin(Config())
    assert not stage.is_complete(config_hash(Config()))
    stage.finish({"a": 1}, config_hash(Config()))
    assert stage.is_complete(config_hash(Config()))
    assert not stage.is_complete(config_hash(Config(9)))


def test_extra_content_of_the_run_summary_stays(tmp_path):
    run = RunDir(tmp_path)
    run.write_summary({"evaluation": {"before": 0.4}})
    run_stage(run, "vit", Config(), lambda stage: {})
    summary = run.write_summary()
    assert summary["evaluation"] == {"before": 0.4}
    assert [stage["name"] for stage in summary["stages"]] == ["vit"]


def test_broken_summary_is_named(tmp_path):
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(KeyeError, match=r"summary\.json is not valid JSON"):
        RunDir(tmp_path).write_summary()


def test_second_process_is_refused_until_the_first_is_dead(tmp_path):
    reader, writer = os.pipe()
    holder = os.fork()
    if holder == 0:
        with RunDir(tmp_path).exclusive():
            os.write(writer, b"held")
            time.sleep(60)
        os._exit(0)
    try:
        assert os.read(reader, 4) == b"held"
        with pytest.raises(KeyeError, match="another process"), RunDir(tmp_path).exclusive():
            pass
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
    with RunDir(tmp_path).exclusive():
        held = True
    assert held
