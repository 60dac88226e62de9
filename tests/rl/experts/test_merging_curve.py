"""`scripts/reproduce/merge`: which step is chosen, and what counts as reproduced."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "reproduce" / "merge_curve.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("merge_curve", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(script: Any, merged: tuple[float, ...], expert: tuple[float, ...]) -> list[dict[str, Any]]:
    """Two seeds' answers with the given accuracies after 10, 20 and 40 steps; the base has 0.5."""
    found, generator = [], np.random.default_rng(0)
    models = [("base", 0, 0.5)]
    for kind, shares in (("merged", merged), ("expert", expert)):
        models += [(kind, step, share) for step, share in zip((10, 20, 40), shares, strict=True)]
    luck = {name: generator.random(300) for name in (*script.OCR, *script.OTHERS)}
    for seed in (0, 1):
        for kind, step, share in models:
            answers = {task: [int(x < share) for x in luck[task]] for task in luck}
            row = {"id": f"{seed}/{kind}/{step}", "seed": seed, "kind": kind, "step": step}
            found.append(row | {"test": answers, "validation": answers})
    return found


@pytest.mark.parametrize(
    ("merged", "expert", "verdicts", "step"),
    [
        ((0.6, 0.8, 0.7), (0.55, 0.7, 0.75), ("reproduced", "reproduced"), 20),
        ((0.6, 0.8, 0.7), (0.55, 0.9, 0.75), ("not reproduced", "reproduced"), 20),
        ((0.6, 0.7, 0.8), (0.55, 0.6, 0.7), ("reproduced", "not reproduced"), 40),
        ((0.6, 0.7, 0.6955), (0.55, 0.6, 0.7), ("reproduced", "undecided"), 20),
        ((0.4, 0.45, 0.3), (0.2, 0.2, 0.2), ("not reproduced", "not reproduced"), 20),
    ],
)
def test_verdicts(
    script: Any, tmp_path: Path, merged: Any, expert: Any, verdicts: tuple[str, str], step: int
):
    args = script.parse(["--steps", "20", "10", "40", "--seeds", "0", "1"])
    result = script.report(args, rows(script, merged, expert))
    relations = result["relations"]
    assert result["chosen_step"] == step
    found = (relations["beats_both"]["verdict"], relations["rises_then_falls"]["verdict"])
    assert found == verdicts
    assert result["accuracy"]["ocr"]["base/0"]["n"] == 900
    at = (10, 20, 40).index(step)
    elsewhere = relations["others"]["merged_over_expert"]["value"]
    assert elsewhere == pytest.approx(merged[at] - expert[at], abs=0.05)
    text = script.markdown(result)
    assert f"**{verdicts[0]}**" in text and f"| {step} |" in text
    script.draw(result, tmp_path / "merge.png")
    assert (tmp_path / "merge.png").stat().st_size > 10_000
    json.dumps(result)
