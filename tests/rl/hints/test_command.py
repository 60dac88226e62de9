"""`python -m rl hints` against a real HTTP endpoint and a real engine."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pretrain.data.ingest import FileDataConfig, SampleFiles
from pretrain.data.sample import Sample
from pretrain.run.command import compose
from pretrain.run.errors import ConfigError, KeyeError
from rl.hints.command import HintsConfig, open_draft, run_hints, write_levels
from rl.hints.prompts import hint_text, problem, request
from rl.hints.writers import EngineWriter, WriterFailure
from rl.row_log import RowLog
from rollout.config import SamplingConfig

SOUND = {
    1: "Hint: a right angle",
    2: "split it in two",
    3: "half of base by height",
    4: "<think>24? 18?</think>6·8 = 48",
    5: "half of 48 is 24",
}


class Endpoint(BaseHTTPRequestHandler):
    """Writes sound hints, except that the first L2 of each row gives the answer away."""

    bodies: list[dict[str, Any]]
    broken = False
    too_large = "\0"
    """Requests with this text are refused."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)  # type: ignore[attr-defined]
        text = body["messages"][1]["content"][-1]["text"]
        level = int(text.partition("Write a level ")[2][0])
        reply = "it is 24" if level == 2 and "refused" not in text else SOUND[level]
        if "hopeless" in text and level == 1:
            reply = "use the formula"
        answer = json.dumps({"choices": [{"message": {"content": reply}}], "usage": {}}).encode()
        status = 400 if self.too_large in text else 500 if self.server.broken else 200  # type: ignore[attr-defined]
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    server.bodies, server.broken = [], False  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three rows: a picture without hints; two hints, one of which leaks; a hopeless one."""
    Image.fromarray(np.full((28, 28, 3), 7, np.uint8)).save(tmp_path / "a.png")
    rows = [
        {
            "id": "a",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": "a.png"},
                        {"type": "text", "text": "What is the area?"},
                    ],
                }
            ],
            "source": "book 3",
        },
        {
            "id": "b",
            "messages": [{"role": "user", "content": "6 by 8, halved?"}],
            "hints": ["the answer is 24", "", "mine", "", ""],
        },
        {"id": "c", "messages": [{"role": "user", "content": "hopeless: half of 48?"}]},
    ]
    path = tmp_path / "train.jsonl"
    common = {"answer": "24", "task_type": "math/geometry"}
    path.write_text("".join(json.dumps(row | common) + "\n" for row in rows))
    return path


def config(data: Path, endpoint: Any, **settings: Any) -> HintsConfig:
    url = f"http://127.0.0.1:{endpoint.server_port}/v1"
    files = FileDataConfig(files=[str(data)], quarantine=str(data.parent / "q.jsonl"))
    return HintsConfig(data=files, url=url, model="m", retries=0, **settings)


def test_levels_are_written_checked_and_reported(data: Path, endpoint: Any):
    run_hints(config(data, endpoint))
    out = data.with_name("train.hinted.jsonl")
    rows = {row["id"]: row for row in RowLog(out).rows()}
    clean = ["a right angle", "split it in two", "half of base by height", "6·8 = 48", SOUND[5]]
    assert rows["a"]["hints"] == clean and rows["a"]["source"] == "book 3"
    assert rows["b"]["hints"] == [*clean[:2], "mine", *clean[3:]]
    assert rows["b"]["hint_report"] == {
        "L3": "kept", "L1": "written", "L2": "written", "L4": "written", "L5": "written",
    }  # fmt: skip
    # Refused at every attempt: an empty level, with the reason.
    assert rows["c"]["hints"][0] == ""
    assert rows["c"]["hint_report"]["L1"] == "leak: L1 names a method ('use')"
    # A refused hint is asked for again with the reason; L1 of the hopeless row three times.
    texts = [body["messages"][1]["content"][-1]["text"] for body in endpoint.bodies]
    assert len(texts) == 5 + 4 + 5 + 3 + 2
    again = [text for text in texts if "refused" in text and "What is the area" in text]
    assert len(again) == 1 and "L2 contains the answer ('24')" in again[0]
    pictures = [b for b in endpoint.bodies if b["messages"][1]["content"][0]["type"] != "text"]
    assert len(pictures) == 6
    url = pictures[0]["messages"][1]["content"][0]["image_url"]["url"]
    assert url.startswith("data:image/png;base64,")
    # What was written is a data file: its media are still found.
    files = SampleFiles(FileDataConfig(files=[str(out)], quarantine=str(data.parent / "q.jsonl")))
    assert files[0].hints == clean and files[0].media()[0]["image"].shape == (28, 28, 3)


def test_an_interrupted_command_goes_on_and_asks_nothing_twice(data: Path, endpoint: Any):
    out = data.with_name("train.hinted.jsonl")
    run_hints(config(data, endpoint, chunk=1))
    whole, asked = out.read_text(), len(endpoint.bodies)
    lines = whole.splitlines(keepends=True)
    out.write_text(lines[0] + lines[1][:20])  # killed while the second row was written
    run_hints(config(data, endpoint, chunk=1))
    assert out.read_text() == whole
    assert len(endpoint.bodies) == asked + (4 + 1) + (5 + 3)
    run_hints(config(data, endpoint))
    assert len(endpoint.bodies) == asked + 13


def test_a_refused_request_costs_its_level_and_nothing_else(
    data: Path, endpoint: Any, monkeypatch: pytest.MonkeyPatch
):
    # At the second attempt it is the only one left, and refused again.
    monkeypatch.setattr(Endpoint, "too_large", "level 4")
    run_hints(config(data, endpoint, levels=[1, 4], chunk=1))
    rows = {row["id"]: row for row in RowLog(data.with_name("train.hinted.jsonl")).rows()}
    assert list(rows) == ["a", "b", "c"]
    assert all(row["hint_report"]["L4"].startswith("failed: judge") for row in rows.values())
    assert rows["a"]["hint_report"]["L1"] == "written"
    # An endpoint that refuses everything has been asked in a way that it doesn't understand.
    monkeypatch.setattr(Endpoint, "too_large", "level")
    data.with_name("train.hinted.jsonl").unlink()
    with pytest.raises(KeyeError, match="status 400"):
        run_hints(config(data, endpoint))


def test_levels_that_failed_are_asked_for_again_and_the_rest_of_their_rows_stays(
    data: Path, endpoint: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Endpoint, "too_large", "level 4")
    run_hints(config(data, endpoint))
    before = RowLog(data.with_name("train.hinted.jsonl")).rows()
    asked = len(endpoint.bodies)
    # Still refused: nothing changes, and the command ends as it did.
    run_hints(config(data, endpoint))
    assert RowLog(data.with_name("train.hinted.jsonl")).rows() == before
    monkeypatch.setattr(Endpoint, "too_large", "\0")
    endpoint.bodies.clear()
    run_hints(config(data, endpoint))
    after = RowLog(data.with_name("train.hinted.jsonl")).rows()
    texts = [body["messages"][1]["content"][-1]["text"] for body in endpoint.bodies]
    assert len(texts) == 3 < asked and all("level 4" in text for text in texts)
    for old, new in zip(before, after, strict=True):
        assert old["hints"][3] == "" and new["hints"][3] == "6·8 = 48"
        old["hints"][3], old["hint_report"]["L4"] = new["hints"][3], "written"
        assert new == old
    # What a level leaks is no failure: it was asked for as often as it should be.
    assert after[2]["hint_report"]["L1"].startswith("leak")


def test_an_endpoint_that_is_down_stops_the_command_and_nothing_is_lost(data: Path, endpoint: Any):
    endpoint.broken = True
    with pytest.raises(KeyeError, match="status 500"):
        run_hints(config(data, endpoint))
    assert data.with_name("train.hinted.jsonl").read_text() == ""


def test_a_file_edited_by_hand_with_an_error_is_named(data: Path, endpoint: Any):
    data.with_name("train.hinted.jsonl").write_text('{"id": "a"}\n{oops\n')
    with pytest.raises(KeyeError, match=r"train\.hinted\.jsonl:2 "):
        run_hints(config(data, endpoint))
    assert endpoint.bodies == []


def test_the_endpoint_is_named_on_the_command_line():
    words = ["data.files=[a.jsonl]", "url=http://127.0.0.1:8000/v1", "model=org/name-1"]
    cfg = compose("hints", HintsConfig, words)
    assert (cfg.model, cfg.url) == ("org/name-1", "http://127.0.0.1:8000/v1")


def test_settings_that_cannot_work_are_named(data: Path, endpoint: Any, tmp_path: Path):
    with pytest.raises(ConfigError, match="relative to it"):
        run_hints(config(data, endpoint, out=str(tmp_path / "other" / "x.jsonl")))
    with pytest.raises(ConfigError, match=r"levels=\[6\]"):
        HintsConfig(levels=[6])
    nobody = config(data, endpoint)
    nobody.url = ""
    with pytest.raises(ConfigError, match="nobody to write hints"):
        run_hints(nobody)


def test_a_checkpoint_writes_through_the_engines(engine_pool: Any, encoder: Any):
    """The untrained policy writes nonsense; what counts is that it is asked and recorded."""
    messages = [{"role": "user", "content": "max?"}]
    sample = Sample("r", messages, "8", "digits/max", hints=None)
    draft = open_draft(sample, [5], overwrite=False)
    writer = EngineWriter(engine_pool, encoder, SamplingConfig(max_tokens=8, logprobs=False))
    write_levels([draft], writer, attempts=1, seed=0)
    assert draft.report == {"L5": "written"} and draft.hints[4]
    too_long = request(Sample("s", [{"role": "user", "content": "x " * 900}], "8", "a/b"), 1)
    failure = writer.write([too_long], [0])[0]
    assert isinstance(failure, WriterFailure) and "at most" in str(failure)


def test_what_is_taken_from_a_reply():
    assert hint_text("<think>8</think>\n **Hint L2:** add  them<|im_end|>") == "add them"
    assert hint_text("area: width <|image_pad|>times height") == "area: width times height"
    sample = Sample("s", [{"role": "system", "content": "be brief"},
                          {"role": "user", "content": [{"type": "text", "text": "1+1?"}]}],
                    "2", "a/b", solution="1+1=2")  # fmt: skip
    assert problem(sample) == "be brief\n1+1?"
    text = request(sample, 3)[1]["content"][-1]["text"]
    assert "Reference solution:\n1+1=2" in text and "level 3" in text and "refused" not in text
