"""Agreement of values with labels against closed forms, and the command on a file."""

import json

import numpy as np
import pytest

from pretrain.run.errors import KeyeError
from rewards.calibration import CalibrateConfig, agreement, run


def test_agreement():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200).astype(float)
    values = np.clip(0.5 * labels + rng.uniform(0, 0.6, 200), 0, 1)
    found = agreement(values.tolist(), labels.tolist())
    assert found.pearson == pytest.approx(np.corrcoef(values, labels)[0, 1])
    pairs = [(a > b) + 0.5 * (a == b) for a in values[labels == 1] for b in values[labels == 0]]
    assert found.auc == pytest.approx(np.mean(pairs))
    assert found.bias == pytest.approx((values - labels).mean())
    assert sum(count for _, _, count, _, _ in found.bins) == 200
    perfect = agreement([0.0, 0.5, 1.0], [0.1, 0.2, 0.9])
    assert perfect.spearman == pytest.approx(1.0)
    assert np.isnan(agreement([1.0, 1.0], [0.0, 1.0]).pearson)


def test_command(tmp_path, capsys):
    rows = [
        {"answer": "8", "mode": "no_think", "responses": ["8", "9"], "label": [1, 0]},
        {"answer": "7", "mode": "no_think", "response": "7", "label": 1},
    ]
    data = tmp_path / "labels.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(CalibrateConfig(data=str(data), rule="exact")) == 0
    out = capsys.readouterr().out
    assert "exact against label" in out and "1.000" in out
    data.write_text(json.dumps({**rows[1], "label": "good"}) + "\n")
    with pytest.raises(KeyeError, match=r"labels.jsonl:1.*'good'"):
        run(CalibrateConfig(data=str(data), rule="exact"))
