"""Reading of benchmark files: all forms, and what is said when one isn't as expected."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from pretrain.data.sample import SampleError
from pretrain.run.errors import ConfigError, KeyeError
from rl.benchmarks.config import BenchmarkConfig
from rl.benchmarks.run import load_benchmark

STAR = {"index": 0, "question": "which?", "A": "cat", "B": "dog", "answer": "B"}


def load(root: Path, name: str = "mmstar", **settings):
    return load_benchmark(name, root, BenchmarkConfig(**settings))


def test_a_missing_file_is_named_with_the_expected_form(tmp_path):
    with pytest.raises(KeyeError, match=r"no file MMStar.*\.tsv.*MMStar\.tsv, with index"):
        load(tmp_path)
    with pytest.raises(KeyeError, match="no directory"):
        load(tmp_path / "absent")
    with pytest.raises(KeyeError, match=r"there\.tsv does not exist"):
        load(tmp_path, files={"mmstar": "there.tsv"})
    with pytest.raises(ConfigError, match="'mmbar' is not one of mmmu, ai2d"):
        load(tmp_path, "mmbar")


def test_a_missing_column_is_named_with_file_and_form(tmp_path, tsv, image):
    row = {**STAR, "image": image()}
    del row["answer"]
    tsv(tmp_path / "MMStar.tsv", [row])
    with pytest.raises(KeyeError, match=r"MMStar\.tsv lacks the column 'answer'.*Expected"):
        load(tmp_path)


def test_two_files_that_could_be_meant_are_an_error(tmp_path, tsv, image):
    rows = [{**STAR, "image": image()}]
    tsv(tmp_path / "MMStar_a.tsv", rows)
    chosen = tsv(tmp_path / "MMStar_b.tsv", rows)
    with pytest.raises(KeyeError, match=r"several files.*benchmark\.files\.mmstar=PATH"):
        load(tmp_path)
    assert load(tmp_path, files={"mmstar": "MMStar_b.tsv"}).files == [chosen]


def test_the_usual_name_goes_first(tmp_path, tsv, image):
    row = {"index": 0, "id": "validation_Math_1", "question": "how many?", "answer": "2"}
    for name in ("MMMU_DEV_VAL", "MMMU_TEST"):
        tsv(tmp_path / f"{name}.tsv", [{**row, "image": image()}])
    assert [path.stem for path in load(tmp_path, "mmmu").files] == ["MMMU_DEV_VAL"]


def test_an_image_may_stand_in_another_row(tmp_path, tsv, image):
    rows = [
        {**STAR, "image": image(1)},
        {**STAR, "index": 1, "image": "0"},
        {**STAR, "index": 2, "image": "7"},
    ]
    tsv(tmp_path / "MMStar.tsv", rows)
    loaded = load(tmp_path)
    first, second = (loaded.benchmark.sample(row, loaded.media) for row in loaded.rows[:2])
    assert first.media()[0]["image"] == second.media()[0]["image"] == f"data:;base64,{image(1)}"
    with pytest.raises(SampleError, match="refers to index '7', which no row has"):
        loaded.benchmark.sample(loaded.rows[2], loaded.media)


def test_parquet_shards_are_one_table(tmp_path, image):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "ai2d" / "data"
    folder.mkdir(parents=True)
    content = base64.b64decode(image())
    for shard, answer in enumerate(("1", "0")):
        row = {"question": "which?", "options": ["cat", "dog"], "answer": answer}
        row["image"] = {"bytes": content, "path": "x.png"}
        pq.write_table(pa.Table.from_pylist([row]), folder / f"test-0000{shard}-of-00002.parquet")
    loaded = load(tmp_path, "ai2d")
    samples = [loaded.benchmark.sample(row, loaded.media) for row in loaded.rows]
    assert [sample.answer for sample in samples] == ["B", "A"]
    assert samples[0].media()[0]["image"]["bytes"] == content
    assert len({sample.id for sample in samples}) == 2
    text = samples[0].messages[0]["content"][-1]["text"]
    assert text.startswith("Question: which?\nOptions:\nA. cat\nB. dog\nPlease select")


def test_cut_files_and_wrong_json_are_errors(tmp_path):
    (tmp_path / "MMStar.jsonl").write_text('{"question": "a"}\n{"quest')
    with pytest.raises(KeyeError, match=r"MMStar\.jsonl is not valid JSON"):
        load(tmp_path)
    (tmp_path / "MMStar.jsonl").write_text("")
    with pytest.raises(KeyeError, match=r"MMStar\.jsonl has no rows"):
        load(tmp_path)
    (tmp_path / "MMStar.jsonl").write_text(json.dumps([1]))
    with pytest.raises(KeyeError, match="must hold rows"):
        load(tmp_path)


def test_a_limit_counts_questions(tmp_path, tsv, image):
    rows = [{**STAR, "index": k, "image": image()} for k in range(3)]
    tsv(tmp_path / "MMBench_DEV_EN.tsv", rows)
    assert len(load(tmp_path, "mmbench", samples=2).rows) == 4  # two questions, two rotations each
    assert len(load(tmp_path, "mmbench", samples=2, circular=False).rows) == 2


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match=r"benchmark\.mode='fast'"):
        BenchmarkConfig(mode="fast")
    with pytest.raises(ConfigError, match=r"benchmark\.samples=-1"):
        BenchmarkConfig(samples=-1)
