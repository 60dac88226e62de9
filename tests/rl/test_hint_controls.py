"""`scripts/reproduce/hints`: its numbers, from counts made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rl.evaluate import Evaluation
from tests.rl.test_reproduce import script

PROMPTS = 40


@pytest.fixture(scope="module")
def hints() -> Any:
    return script("hint_controls")


def rows(solved: list[int], rerolls: list[int]) -> list[dict[str, Any]]:
    """`PROMPTS` prompts of which the first `solved[k]` have a correct response at level k, and the
    first `rerolls[k]` have one in re-roll k."""
    return [
        {
            "id": f"p{n}",
            "task_type": "digits/sum",
            "levels": [2 * (n < count) for count in solved],
            "rerolls": [2 * (n < count) for count in rerolls],
        }
        for n in range(PROMPTS)
    ]


def test_hints_that_inform_have_a_trend_and_rescue_more_than_retries(hints: Any):
    found = hints.analyse_levels(rows([10, 12, 14, 20, 30, 40], [10, 11, 11, 11, 12]))
    shares = [leaf["value"] for leaf in found["all_wrong"]]
    assert shares == pytest.approx([0.75, 0.7, 0.65, 0.5, 0.25, 0])
    assert found["mean_correct"] == pytest.approx([2 * (1 - share) for share in shares])
    # Least squares over the levels 0…5.
    line = sum(share * (level - 2.5) for level, share in enumerate(shares)) / 17.5
    assert found["slope"] == pytest.approx(line) and found["trend_p"] < 1e-6
    assert min(found["rise_p"]) == 1.0
    assert found["failed"] == 30
    by_hint = [leaf["value"] for leaf in found["rescued_by_hints"]]
    by_retry = [leaf["value"] for leaf in found["rescued_by_reroll"]]
    assert by_hint == pytest.approx([2 / 30, 4 / 30, 10 / 30, 20 / 30, 1])
    assert by_retry == pytest.approx([0, 1 / 30, 1 / 30, 1 / 30, 2 / 30])


def test_a_rise_between_neighbours_is_seen_and_no_trend_is_none(hints: Any):
    found = hints.analyse_levels(rows([30, 30, 10, 10, 30, 30], [30] * 5))
    assert found["rise_p"][1] == pytest.approx(0.5**20)
    assert found["rise_p"][2] == 1.0 and found["rise_p"][0] == 1.0
    assert found["trend_p"] == 1.0  # every slope is 0
    up, down = [20, 40, 40, 40, 40, 40], [40, 40, 40, 40, 40, 20]
    both = rows(up, [40] * 5) + rows(down, [40] * 5)
    assert hints.analyse_levels(both)["trend_p"] == pytest.approx(0.5)


def run(folder: Path, stage: str, right: int, gspo: bool = False) -> None:
    """A run's evaluation of which the first `right` prompts are correct, and its metrics."""
    path = folder / stage
    path.mkdir(parents=True)
    records = [
        {
            "id": f"p{n}",
            "mode": "think",
            "task_type": "digits/sum_hard" if n % 2 else "digits/sum",
            "greedy": n < right,
            "sampled": float(n < right),
            "pass_at_8": n < right,
        }
        for n in range(PROMPTS)
    ]
    Evaluation(records).save(path / "evaluation.jsonl")
    if gspo:
        (folder / "gspo").mkdir()
        steps = [
            {
                "perf/rollout_tokens_per_second": 100.0,
                "time/generate": 2.0,
                "time/step": 3.0,
                "hints/all_wrong_share": 0.5 if step < 20 else 0.25,
                "hints/rescued_share": 0.4 if step < 20 else 0.2,
            }
            for step in range(40)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in steps)
        (folder / "gspo" / "metrics.jsonl").write_text(lines)


def test_the_arms_are_compared_over_the_same_prompts_and_seeds(
    hints: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(hints, "RUNS", tmp_path)
    for seed, ends in {0: (30, 26), 1: (28, 28)}.items():
        own = tmp_path / f"x/seed{seed}"
        run(own / "start", "evaluate_before", 20)
        (own / "start/levels").mkdir()
        lines = [json.dumps(row) + "\n" for row in rows([10, 12, 14, 20, 30, 40], [10] * 5)]
        (own / "start/levels/levels.jsonl").write_text("".join(lines))
        for name, right in zip(hints.ARMS, ends, strict=True):
            run(own / name, "evaluate_after", right, gspo=True)
    words = f"--run x --seeds 0 1 --steps 40 --cold-start 200 --prompts {PROMPTS} --always-hinted"
    args = hints.parse(words.split())
    result = hints.report(args)
    cell = result["arms"]["all"]["greedy"]
    assert cell["before"]["value"] == pytest.approx(0.5)
    assert cell["hints"]["value"] == pytest.approx(9 / 40)  # (30 + 28) / 2 against 20
    assert cell["hints_ahead"]["value"] == pytest.approx(2 / 40)
    assert cell["by_seed"] == pytest.approx([4 / 40, 0])
    assert result["arms"][hints.HARD]["greedy"]["before"]["n"] == PROMPTS / 2
    cost = result["training"]["hints"][0]
    assert cost["response_tokens"] == 40 * 200 and cost["seconds"] == 120
    assert (cost["all_wrong_first"], cost["all_wrong_last"]) == (0.5, 0.25)
    text = hints.markdown(result, args)
    assert f"--prompts {PROMPTS} --always-hinted --run x`" in text
    assert "| all | greedy | 0.500" in text and "+0.100 +0.000" in text
    hints.draw(result, tmp_path / "hints.png")
    assert (tmp_path / "hints.png").stat().st_size > 10_000
