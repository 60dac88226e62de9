"""`python -m rewards score` and `list` on real files, and their messages."""

import json

import pytest

from pretrain.run.errors import ConfigError, KeyeError
from rewards.__main__ import COMMANDS
from rewards.config import RewardConfig
from rewards.listing import ListConfig
from rewards.listing import run as run_list
from rewards.report import Scored, histogram, strangest, summary
from rewards.result import RewardResult
from rewards.score import ScoreConfig, run

ROWS = [
    {"id": "a", "answer": "12", "mode": "no_think", "response": "12"},
    {"id": "b", "answer": "1/2", "mode": "no_think", "responses": ["0.5", "3", "\\frac{1}{2}"]},
    {"id": "c", "answer": "1/2", "mode": "no_think"},
]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_results_in_order_and_bad_rows_set_aside(data, tmp_path, capsys):
    out = tmp_path / "deep" / "out.jsonl"
    assert run(ScoreConfig(data=str(data), rule="math", out=str(out), max_bad_share=0.5)) == 0
    first, second = lines(out)
    assert first["id"] == "a" and set(first["result"]) == {"value", "status", "seconds", "details"}
    assert [r["value"] for r in second["results"]] == [1.0, 0.0, 1.0]
    (bad,) = lines(out.with_suffix(".quarantine.jsonl"))
    assert bad["line"] == 3 and "response" in bad["reason"]
    shown = capsys.readouterr().out
    assert "strangest" in shown and "p99_ms" in shown and "█" in shown


def test_too_many_bad_rows_stop_the_job(data):
    with pytest.raises(KeyeError, match="1 of 3 data rows are bad"):
        run(ScoreConfig(data=str(data), rule="math", max_bad_share=0.1))


def test_parquet_with_the_rows_own_rewards(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rewards = [{"rule": "math", "weight": 2.0}, {"rule": "format", "weight": 0.5}]
    rows = [
        {**ROWS[0], "rewards": rewards},
        {**ROWS[0], "id": "d", "response": "13", "rewards": rewards},
    ]
    data = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), data)
    assert run(ScoreConfig(data=str(data))) == 0
    results = [row["result"] for row in lines(tmp_path / "rows.scores.jsonl")]
    assert [result["value"] for result in results] == [2.5, 0.5]
    assert results[0]["details"]["parts"]["format"]["value"] == 1.0


def test_rule_from_a_file_outside_with_arguments(data, tmp_path):
    rule = tmp_path / "mine.py"
    rule.write_text("def mine(response, sample, bonus=0): return len(response) + bonus\n")
    config = ScoreConfig(data=str(data), rule=f"{rule}:mine", args={"bonus": 10}, max_bad_share=0.5)
    assert run(config) == 0
    assert lines(tmp_path / "rows.scores.jsonl")[0]["result"]["value"] == 12.0


def test_limit_and_messages(data, tmp_path):
    assert run(ScoreConfig(data=str(data), rule="exact", limit=1)) == 0
    assert len(lines(tmp_path / "rows.scores.jsonl")) == 1
    with pytest.raises(ConfigError, match="data=FILE"):
        run(ScoreConfig(rule="math"))
    with pytest.raises(ConfigError, match="the data file itself"):
        run(ScoreConfig(data=str(data), rule="math", out=str(data)))
    with pytest.raises(KeyeError, match="did you mean 'math'"):
        run(ScoreConfig(data=str(data), rule="mth"))
    hopeless = tmp_path / "bad.py"
    hopeless.write_text("def f(response, sample): raise ValueError('no luck')\n")
    with pytest.raises(KeyeError, match="no luck"):
        pool = RewardConfig(max_failed_share=1.0)
        run(ScoreConfig(data=str(data), rule=f"{hopeless}:f", max_bad_share=0.5, pool=pool))


def test_list_shows_every_rule(capsys):
    assert run_list(ListConfig()) == 0
    out = capsys.readouterr().out
    assert "box_iou(threshold=0.5, grid=1000)  [verifier]" in out
    assert "length(maximum, soft=0, minimum=0, unit='character')  [shaping]" in out
    with pytest.raises(ConfigError, match="did you mean 'math'"):
        run_list(ListConfig(rule="mth"))
    assert set(COMMANDS) == {"score", "list", "calibrate", "evaluate"}


def scored(value, seconds=0.001, status="ok", name="x"):
    return Scored(name, "text", RewardResult(value, status, seconds, {}))


def test_report_numbers():
    rows = [scored(0.0), scored(1.0), scored(1.0), scored(None, status="timeout", seconds=5.0)]
    found = summary(rows)
    assert found["mean"] == pytest.approx(2 / 3)
    assert (found["timeouts"], found["errors"], found["responses"]) == (1, 0, 4)
    assert histogram([0.0, 1.0, 1.0]) == [("0", 1), ("1", 2)]
    assert sum(count for _, count in histogram([i / 100 for i in range(100)])) == 100


def test_strangest_are_failures_then_outliers():
    rows = [scored(0.5 + i % 2 * 0.01, name=f"usual{i}") for i in range(50)]
    rows += [scored(9.0, name="far"), scored(0.5, seconds=4.0, name="slow")]
    rows += [scored(None, status="error", name="failed")]
    names = [one.id for one in strangest(rows)]
    assert names[0] == "failed" and set(names[1:3]) == {"far", "slow"} and len(names) == 10
