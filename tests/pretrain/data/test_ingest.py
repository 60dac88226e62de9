"""Files of samples: bad rows are put aside with file, line and reason; good ones come once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from pretrain.data.export import ExportConfig, export, write_samples
from pretrain.data.ingest import FileDataConfig, FileStream, SampleFiles
from pretrain.data.media import MediaConfig
from pretrain.data.quarantine import Quarantine
from pretrain.data.sample import Sample
from pretrain.data.stream import WorldStream
from pretrain.data.world import TASKS
from pretrain.run.errors import KeyeError

MIX = {"digits/sum": 1, "shapes/grounding": 1, "text/arithmetic": 1}


@pytest.fixture
def world(tmp_path):
    """A file with 12 exported samples: (path, the samples)."""
    path = tmp_path / "world.jsonl"
    samples = WorldStream(MIX, 3, modes={"auto_think": 1}).take(12)
    write_samples(samples, path)
    return path, samples


def open_files(*paths, folder, **config) -> SampleFiles:
    quarantine = str(folder / "bad.jsonl")
    return SampleFiles(
        FileDataConfig([str(path) for path in paths], quarantine=quarantine, **config)
    )


def quarantined(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "bad.jsonl").read_text().splitlines()]


def append(path: Path, *rows) -> None:
    with open(path, "ab") as file:
        for row in rows:
            file.write((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n")


def bad_rows(good: dict) -> list[tuple[object, str]]:
    """Rows with what their reason must say."""
    part = {"type": "image", "image": "images/none.png"}
    return [
        (b'{"id": "cut off', "not valid JSON"),
        (b'{"id": "\xff"}', "not valid JSON"),
        (b"[1, 2]", "must be an object"),
        ({**good, "id": "no-answer", "answer": None}, "sample 'no-answer': `answer` is missing"),
        (
            {**good, "id": "no-image", "messages": [{"role": "user", "content": [part]}]},
            "missing file",
        ),
        (
            {
                **good,
                "id": "url",
                "messages": [{"role": "user", "content": [part | {"image": "http://x"}]}],
            },
            "URL",
        ),
        ({**good, "id": "count", "images": ["images/none.png"]}, "0 <image> marker"),
        (good, "already used at"),
    ]


def same(one: Sample, other: Sample) -> bool:
    pixels = [[part.get("image") for part in sample.media()] for sample in (one, other)]
    equal = all(np.array_equal(a, b) for a, b in zip(*pixels, strict=True))
    return equal and one.to_row(media=False) == other.to_row(media=False)


def test_an_exported_file_gives_the_same_samples(world, tmp_path):
    path, samples = world
    data = open_files(path, folder=tmp_path)
    assert len(data) == 12 and all(same(data[i], samples[i]) for i in range(12))


def test_hugging_face_datasets_reads_an_exported_file(tmp_path):
    path = tmp_path / "all.jsonl"
    samples = WorldStream(dict.fromkeys(TASKS, 1.0), 3, modes={"auto_think": 1}).take(60)
    write_samples(samples, path)
    rows = datasets.load_dataset(
        "json", data_files=str(path), split="train", cache_dir=str(tmp_path)
    )
    again = [Sample.from_row(row) for row in rows]
    assert [s.to_row(media=False) for s in again] == [s.to_row(media=False) for s in samples]


def test_the_export_command_writes_a_file_that_can_be_read(tmp_path):
    config = ExportConfig(path=str(tmp_path / "out" / "w.jsonl"), count=5, split="test")
    assert export(config) == 0
    data = open_files(config.path, folder=tmp_path)
    assert len(data) == 5 and "/test/" in data[0].id and data[0].mode == "think"


def test_bad_rows_are_put_aside_with_file_line_and_reason(world, tmp_path):
    path, _ = world
    good = json.loads(path.read_text().splitlines()[0])
    bad = bad_rows(good)
    append(path, b"", *(row for row, _ in bad))  # a blank line is no row, but it has a number
    data = open_files(path, folder=tmp_path, max_bad_share=0.5)
    entries = quarantined(tmp_path)
    assert len(data) == 12 and len(entries) == len(bad)
    for number, (entry, (row, reason)) in enumerate(zip(entries, bad, strict=True)):
        assert entry["file"] == str(path) and entry["line"] == 14 + number
        assert reason in entry["reason"]
        raw = row.decode(errors="replace") if isinstance(row, bytes) else json.dumps(row)
        assert entry["row"] == raw
    assert data.quarantine.metrics() == {"data/rows": 20.0, "data/bad_rows": 8.0}
    open_files(path, folder=tmp_path, max_bad_share=0.5)
    assert len(quarantined(tmp_path)) == len(bad)  # a second run writes none of them again


def test_too_many_bad_rows_stop_the_job_with_the_first_reasons(world, tmp_path):
    path, _ = world
    append(path, b"{", b"[")
    with pytest.raises(KeyeError) as error:
        open_files(path, folder=tmp_path, max_bad_share=0.1)
    text = str(error.value)
    assert "2 of 14 data rows are bad (14.3%" in text and "max_bad_share=0.1" in text
    assert f"{path}:13: not valid JSON" in text and "bad.jsonl" in text
    assert len(open_files(path, folder=tmp_path, max_bad_share=0.15)) == 12


def test_a_hopeless_file_is_given_up_early(tmp_path):
    path = tmp_path / "rows.jsonl"
    append(path, *[b"{"] * 5000)
    with pytest.raises(KeyeError, match="1000 of 1000 data rows"):
        open_files(path, folder=tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, r"none\.jsonl does not exist"),
        ("rows.csv", b"a,b", r"rows\.csv: unknown data format; use one of \.jsonl, \.parquet"),
        ("empty.jsonl", b"\n", "no row in .* can be used"),
        ("broken.parquet", b"PAR1 no", r"broken\.parquet cannot be read as Parquet"),
    ],
)
def test_files_that_cannot_be_used_are_named(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(KeyeError, match=message):
        open_files(tmp_path / name, folder=tmp_path)
    with pytest.raises(KeyeError, match="no data file is named"):
        open_files(folder=tmp_path)


def test_parquet_rows_with_embedded_images(world, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    _, samples = world
    image = np.full((20, 30, 3), 7, np.uint8)
    rows = [s.to_row() for s in samples if s.media()]
    columns = {
        key: [row.get(key) for row in rows] for key in ("id", "answer", "task_type", "hints")
    }
    text = [f"<image>{row['messages'][0]['content'][-1]['text']}" for row in rows]
    columns["messages"] = [[{"role": "user", "content": line}] for line in text]
    columns["images"] = [[Image.fromarray(image)] for _ in rows]
    table = datasets.Dataset.from_dict(columns)
    table = table.cast_column("images", datasets.List(datasets.Image()))
    table.to_parquet(str(tmp_path / "rows.parquet"))
    data = open_files(tmp_path / "rows.parquet", folder=tmp_path)
    assert len(data) == len(rows)
    for index, row in enumerate(rows):
        sample = data[index]
        np.testing.assert_array_equal(sample.media()[0]["image"], image)
        assert (sample.id, sample.answer) == (row["id"], row["answer"])
        assert [part["type"] for part in sample.messages[0]["content"]] == ["image", "text"]
        assert sample.hints == row.get("hints")


def test_every_epoch_has_every_row_once_in_a_new_order(world, tmp_path):
    path, samples = world
    stream = FileStream(open_files(path, folder=tmp_path), seed=1)
    epochs = [[sample.id for sample in stream.take(12)] for _ in range(2)]
    assert stream.epoch == 2.0 and epochs[0] != epochs[1]
    assert all(Counter(ids) == Counter(sample.id for sample in samples) for ids in epochs)
    plain = FileStream(open_files(path, folder=tmp_path), seed=1, shuffle=False)
    assert [sample.id for sample in plain.take(24)] == [sample.id for sample in samples] * 2


def test_resume_continues_and_refuses_changed_data(world, tmp_path):
    path, _ = world
    whole = [s.id for s in FileStream(open_files(path, folder=tmp_path), seed=1).take(30)]
    first = FileStream(open_files(path, folder=tmp_path), seed=1)
    head = [s.id for s in first.take(17)]
    state = json.loads(json.dumps(first.state()))
    second = FileStream(open_files(path, folder=tmp_path), seed=1)
    second.load_state(state)
    assert head + [s.id for s in second.take(13)] == whole
    with pytest.raises(KeyeError, match="cannot resume"):
        FileStream(open_files(path, folder=tmp_path), seed=2).load_state(state)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    with pytest.raises(KeyeError, match=r"cannot resume: .*world\.jsonl is not the data"):
        FileStream(open_files(path, folder=tmp_path), seed=1).load_state(state)


def test_an_image_that_breaks_after_the_scan_is_skipped(world, tmp_path):
    path, samples = world
    data = open_files(path, folder=tmp_path, max_bad_share=0.1)
    images = sorted((tmp_path / "images").iterdir())
    images[0].unlink()
    stream = FileStream(data, seed=1)
    got = Counter(sample.id for sample in stream.take(22))
    assert len(got) == 11 and set(got.values()) == {2}  # two epochs without the lost one
    (entry,) = quarantined(tmp_path)
    lost = next(s.id for s in samples if s.id.replace("/", "_") in images[0].name)
    assert f"'{lost}'" in entry["reason"] and "missing file" in entry["reason"]
    assert stream.metrics()["data/bad_rows"] == 1.0
    images[1].unlink()
    with pytest.raises(KeyeError, match="2 of 12 data rows are bad"):
        stream.take(24)


def test_the_stream_ends_when_no_row_is_left(tmp_path):
    path = tmp_path / "one.jsonl"
    write_samples(WorldStream({"digits/sum": 1}, 0).take(1), path)
    stream = FileStream(open_files(path, folder=tmp_path, max_bad_share=1.0), seed=0)
    next((tmp_path / "images").iterdir()).unlink()
    with pytest.raises(KeyeError, match="1 of 1 data rows are bad"):
        stream.take(1)


def test_a_full_disk_is_named(world, tmp_path):
    with pytest.raises(KeyeError, match=r"cannot write /dev/full: the disk is full"):
        Quarantine(Path("/dev/full"), 1.0).add(tmp_path, 1, "bad", {"id": 1})


def test_the_configuration_is_a_structured_one():
    config = OmegaConf.to_object(OmegaConf.structured(FileDataConfig))
    assert isinstance(config, FileDataConfig) and isinstance(config.media, MediaConfig)
    export_config = OmegaConf.to_object(OmegaConf.structured(ExportConfig))
    assert isinstance(export_config, ExportConfig) and export_config.modes == {"think": 1.0}
