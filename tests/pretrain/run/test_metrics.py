"""Metrics: JSONL is complete whatever happens to W&B, and W&B's offline run holds the numbers."""

from __future__ import annotations

import json
import math
import threading
import time

import numpy as np
import pytest

from pretrain.run import wandb_writer
from pretrain.run.directory import StageDir
from pretrain.run.errors import ConfigError
from pretrain.run.metrics import MetricLogger, WandbConfig, read_rows


@pytest.fixture
def stage(tmp_path):
    return StageDir(tmp_path / "run" / "gspo")


@pytest.fixture(autouse=True)
def wandb_environment(monkeypatch, tmp_path):
    """No test depends on who is logged in on this machine."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def silent(stage, config=None):
    return MetricLogger(stage, WandbConfig(mode="disabled"), config or {})


def test_rows_hold_every_number(stage):
    with silent(stage) as logger:
        logger.log({"reward/mean": np.float32(0.5), "gspo/groups": 7}, step=1)
        logger.log({"reward/mean": math.nan}, step=2)
    rows = read_rows(stage.metrics_file)
    assert [(row["step"], row["reward/mean"]) for row in rows] == [(1, 0.5), (2, None)]
    assert rows[0]["gspo/groups"] == 7 and isinstance(rows[0]["gspo/groups"], int)
    assert abs(rows[0]["time"] - time.time()) < 60


def test_sample_rows_have_shapes_instead_of_pixels(stage):
    image = np.zeros((8, 6, 3), np.uint8)
    with silent(stage) as logger:
        logger.table("samples", ["image", "text", "r"], [[image, "né", np.float64(0.25)]], step=3)
    assert read_rows(stage.samples_file) == [
        {"step": 3, "table": "samples", "image": {"image": [8, 6, 3]}, "text": "né", "r": 0.25}
    ]


def test_row_of_wrong_length_is_refused(stage):
    with silent(stage) as logger, pytest.raises(ValueError):
        logger.table("samples", ["a", "b"], [[1]], step=0)


def test_resume_drops_the_steps_done_again(stage):
    with silent(stage) as logger:
        for step in range(5):
            logger.log({"x": step}, step)
            logger.table("samples", ["y"], [[step]], step)
    with open(stage.metrics_file, "a") as file:
        file.write('{"step": 5, "x"')  # the kill came while this line was written
    with silent(stage) as logger:
        logger.truncate(2)
        logger.log({"x": 30}, 3)
    assert [row["x"] for row in read_rows(stage.metrics_file)] == [0, 1, 2, 30]
    assert [row["y"] for row in read_rows(stage.samples_file)] == [0, 1, 2]


def test_unknown_mode_is_named():
    with pytest.raises(ConfigError, match=r"wandb\.mode=of: choose one of auto, offline"):
        WandbConfig(mode="of")


def offline_records(folder):
    """History rows and media of a W&B run file, read record by record.

    The file is a log of blocks of 32 KiB after a 7-byte header; a record is a 7-byte head
    (checksum, length, kind: 1 whole, 2 first, 3 middle, 4 last) and its part of a message.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("offline-run-*/run-*.wandb")
    data = file.read_bytes()
    records, message, at = [], b"", 7
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        size = int.from_bytes(data[at + 4 : at + 6], "little")
        kind = data[at + 6]
        message += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(message)
            records.append(record)
            message = b""
    return records


def test_offline_runs_hold_the_numbers_when_finish_returns(tmp_path):
    for name in ("first", "second"):  # stages of one process, one after the other
        stage = StageDir(tmp_path / name)
        logger = MetricLogger(stage, WandbConfig(mode="auto"), {"lr": 3e-5})
        for step in range(3):
            logger.log({"reward/mean": 0.125 * step}, step)
        image = np.full((8, 8, 3), 255, np.uint8)
        rows = [[image, 0.5, {"math": 1.0}], [None, None, {"exact": 1.0, "format": "timeout"}]]
        logger.table("samples", ["image", "reward", "parts"], rows, step=3)
        complete = logger.wandb.finish()
        assert len(read_rows(stage.metrics_file)) == 3
        if not complete:
            pytest.skip("W&B's service did not start in time on this loaded machine")
        history = [
            {"/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for record in offline_records(stage.path / "wandb")
            if record.HasField("history")
        ]
        logged = [row["reward/mean"] for row in history if "reward/mean" in row]
        assert logged == [0.0, 0.125, 0.25]
        (table,) = [row for row in history if "samples/nrows" in row]
        assert (table["samples/ncols"], table["samples/nrows"]) == (3, 2)


class Broken:
    """Stands where `wandb.init` stands and fails in one way."""

    def __init__(self, error=None, hold=None):
        self.error, self.hold = error, hold

    def __call__(self, wandb, mode, run_id):
        if self.hold is not None:
            self.hold.wait(30)
        raise self.error or OSError("no service")


def test_failing_wandb_costs_one_warning_and_no_number(stage, monkeypatch, capsys):
    broken = Broken(OSError("the service did not start"))
    monkeypatch.setattr(wandb_writer.WandbWriter, "_init", lambda self, *a: broken(*a))
    with MetricLogger(stage, WandbConfig(mode="offline"), {}) as logger:
        for step in range(50):
            logger.log({"x": step}, step)
    assert len(read_rows(stage.metrics_file)) == 50
    error = capsys.readouterr().err
    assert error.count("warning: W&B") == 1
    assert "the service did not start" in error and "metrics.jsonl" in error


def test_unreachable_server_means_offline(stage, monkeypatch, capsys):
    modes = []

    def init(self, wandb, mode, run_id):
        modes.append((mode, run_id))
        if mode == "online":
            raise TimeoutError("server unreachable")
        raise SystemExit  # enough seen

    monkeypatch.setattr(wandb_writer.WandbWriter, "_init", init)
    with MetricLogger(stage, WandbConfig(mode="online"), {}):
        pass
    assert [mode for mode, _ in modes] == ["online", "offline"]
    assert modes[0][1] != modes[1][1]
    assert "server unreachable" in capsys.readouterr().err


def test_hanging_wandb_never_holds_up_training(stage, monkeypatch, capsys):
    release = threading.Event()
    broken = Broken(hold=release)
    monkeypatch.setattr(wandb_writer.WandbWriter, "_init", lambda self, *a: broken(*a))
    for name in ("START_SECONDS", "CONNECT_SECONDS", "FINISH_SECONDS"):
        monkeypatch.setattr(wandb_writer, name, 0.1)
    started = time.monotonic()
    with MetricLogger(stage, WandbConfig(mode="offline"), {}) as logger:
        for step in range(100):
            logger.log({"x": step}, step)
    assert time.monotonic() - started < 10
    release.set()
    assert "did not finish in time" in capsys.readouterr().err
    assert len(read_rows(stage.metrics_file)) == 100


def test_full_queue_is_one_warning(stage, monkeypatch, capsys):
    release = threading.Event()
    broken = Broken(hold=release)
    monkeypatch.setattr(wandb_writer.WandbWriter, "_init", lambda self, *a: broken(*a))
    monkeypatch.setattr(wandb_writer, "QUEUE_LIMIT", 3)
    monkeypatch.setattr(wandb_writer, "FINISH_SECONDS", 0.1)
    logger = MetricLogger(stage, WandbConfig(mode="offline"), {})
    for step in range(20):
        logger.log({"x": step}, step)
    release.set()
    logger.finish()
    assert capsys.readouterr().err.count("warning: W&B") == 1
    assert len(read_rows(stage.metrics_file)) == 20


def test_run_id_is_kept_for_the_resumed_stage(stage):
    writers = [wandb_writer.WandbWriter(stage.path, WandbConfig(mode="disabled"), {}) for _ in "ab"]
    assert writers[0]._run_id() == writers[1]._run_id()
    assert len(writers[0]._run_id()) == 12
