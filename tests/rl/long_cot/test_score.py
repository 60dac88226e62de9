"""Quality from measurements, and the fine-tuning mix that is drawn by it."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pretrain.data.ingest import FileDataConfig
from pretrain.data.sample import SampleError
from pretrain.run.errors import ConfigError, KeyeError
from rl.long_cot.agentic import AgenticTraces
from rl.long_cot.config import EnhanceConfig, ScoreConfig, TrainMixConfig
from rl.long_cot.mix import MixedExamples
from rl.long_cot.questions import open_sources
from rl.long_cot.score import SCORED, quality, score_rows, score_statistics


@pytest.mark.parametrize(
    ("without_media", "without_reasoning", "steps", "score"),
    [
        (1.0, 1.0, 9, 1),  # answered at once without the picture
        (None, 1.0, 9, 1),  # a text question answered at once
        (0.0, 1.0, 9, 2),  # needs eyes alone
        (1.0, 0.0, 9, 3),  # needs thought alone
        (None, 0.0, 9, 3),
        (0.5, 0.5, 2, 4),
        (0.5, 0.5, 3, 5),
        (0.75, 0.5, 3, 3),
    ],
)
def test_the_score_says_what_a_question_needs(
    without_media: float | None, without_reasoning: float, steps: int, score: int
):
    assert quality(without_media, without_reasoning, steps, ScoreConfig()) == score


class Policy:
    """Answers at once right if the question's number is even; without a picture if it is below 2.

    It may be interrupted. The rewards of question `failing` fail where `failing_unseen` says.
    """

    def __init__(
        self, stop_after: int = 10**6, failing: int = -1, failing_unseen: bool = False
    ) -> None:
        self.stop_after, self.calls = stop_after, 0
        self.failing = failing, failing_unseen
        self.asked: Counter[str] = Counter()

    def groups(self, samples: Any, *, n: int, seed: int) -> list[Any]:
        self.calls += 1
        if self.calls > self.stop_after:
            raise KeyboardInterrupt
        groups = []
        for sample in samples:
            unseen = sample.id.endswith("/blind")
            assert sample.mode == ("think" if unseen else "no_think")
            assert bool(sample.media()) != unseen
            self.asked[sample.id] += 1
            number = int(sample.id.removesuffix("/blind").rpartition("/")[2])
            right = number < 2 if unseen else number % 2 == 0
            failed = self.failing == (number, unseen)
            groups.append(SimpleNamespace(accuracy=None if failed else float(right)))
        return groups


def refined(world: Any, count: int = 5) -> tuple[list[Any], Any]:
    rows, questions = world(count)
    for row in rows:
        sample = questions(row)
        text = f"<think>{sample.solution}</think><answer>\\boxed{{{sample.answer}}}</answer>"
        traces = [{"id": f"{row['id']}#{k}", "response": text + " " * k} for k in range(2)]
        row |= {"accuracy": 0.5, "shortest_steps": 3, "traces": traces}
    return rows, questions


def score(folder: Path, policy: Any, world: Any) -> tuple[dict[str, Any], list[Any]]:
    rows, questions = refined(world)
    summary = score_rows(rows, questions, policy, ScoreConfig(), folder, 2)
    return summary, [json.loads(line) for line in (folder / SCORED).read_text().splitlines()]


def test_scores_are_measured_and_go_on_after_an_interruption(tmp_path: Path, world: Any):
    whole, rows = score(tmp_path / "a", Policy(), world)
    assert [row["score"] for row in rows] == [1, 3, 2, 5, 2]
    assert [row["weight"] for row in rows] == [0.25, 1.0, 0.5, 3.0, 0.5]
    assert whole["score_2"] == 0.4 and whole["without_media"] == 0.4
    assert whole["without_reasoning"] == 0.6 and whole["traces"] == 10
    with pytest.raises(KeyboardInterrupt):
        score(tmp_path / "b", Policy(stop_after=3), world)
    policy = Policy()
    assert score(tmp_path / "b", policy, world) == (whole, rows)
    assert len(policy.asked) == 6  # three questions were left, each asked twice


@pytest.mark.parametrize("unseen", [False, True])
def test_a_question_whose_rewards_all_failed_has_no_score(tmp_path: Path, world: Any, unseen: bool):
    summary, rows = score(tmp_path, Policy(failing=3, failing_unseen=unseen), world)
    assert [row["score"] for row in rows] == [1, 3, 2, None, 2]
    assert rows[3]["weight"] == 0 and summary["unscored"] == 0.2
    assert summary["without_reasoning"] == pytest.approx(0.6 if unseen else 0.75)


def test_without_any_score_no_mean_is_made_up():
    row = {"accuracy": 0.5, "traces": [], "score": None}
    failed = row | {"without_reasoning": None, "without_media": None}
    summary = score_statistics([failed])
    assert summary["unscored"] == 1 and summary["without_reasoning"] is None
    json.dumps(summary, allow_nan=False)


class NoTurns:
    def __len__(self) -> int:
        return 0


def mixed(world: Any, **settings: Any) -> tuple[MixedExamples, list[Any]]:
    rows, questions = refined(world)
    facts = [(1, 0.25, 1.0), (3, 1.0, 0.0), (2, 0.5, 1.0), (5, 3.0, 0.0), (2, 0.0, 0.75)]
    for row, (score, weight, direct) in zip(rows, facts, strict=True):
        row |= {"score": score, "weight": weight, "without_reasoning": direct}
    turns: Any = NoTurns()
    return MixedExamples(TrainMixConfig(**settings), questions, rows, rows, turns), rows


def test_traces_are_drawn_by_weight_and_auto_think_reasons_only_where_it_must(world: Any):
    examples, rows = mixed(world, modes={"think": 2.0, "no_think": 1.0, "auto_think": 1.0})
    texts = {row["traces"][0]["response"].strip(): number for number, row in enumerate(rows)}
    direct = {f"<answer>\\boxed{{{row['answer']}}}</answer>" for row in rows}
    thought: Counter[int] = Counter()
    kinds: Counter[str] = Counter()
    reasoned = 0
    for index in range(1200):
        *prompt, turn = examples(index)
        question = prompt[-1]["content"][-1]["text"]
        reply = turn["content"][0]["text"].strip()
        if question.endswith(" /no_think"):
            kinds["no_think"] += 1
            assert reply in {row["answer"] for row in rows}
        elif question.endswith(" /think"):
            kinds["think"] += 1
            thought[texts[reply]] += 1
        else:
            kinds["auto_think"] += 1
            assert reply in direct or texts[reply] in (1, 3)  # 0, 2 and 4 are answered at once
            reasoned += reply in texts
    assert kinds["think"] / 1200 == pytest.approx(0.5, abs=0.05)
    shares = [thought[number] / kinds["think"] for number in range(5)]
    assert shares == pytest.approx([0.25 / 4.75, 1 / 4.75, 0.5 / 4.75, 3 / 4.75, 0], abs=0.06)
    assert reasoned / kinds["auto_think"] == pytest.approx(2 / 5, abs=0.1)
    described = examples.describe(1200)
    for name, count in kinds.items():
        assert described["modes"][name] == pytest.approx(count / 1200)
    assert described["auto_think_direct"] == pytest.approx(1 - reasoned / kinds["auto_think"])
    assert described["think_scores"]["5"] == pytest.approx(thought[3] / kinds["think"])
    again = pickle.loads(pickle.dumps(examples))  # ranks get a copy
    for index in (0, 7, 500):
        assert again(index)[-1] == examples(index)[-1]


def test_a_mix_with_nothing_in_it_is_refused(world: Any):
    rows, questions = refined(world)
    for row in rows:
        row |= {"score": 1, "weight": 0.0, "without_reasoning": 1.0}
    turns: Any = NoTurns()
    with pytest.raises(KeyeError, match="nothing to train think"):
        MixedExamples(TrainMixConfig(), questions, rows, rows, turns)
    with pytest.raises(KeyeError, match="nothing to train on"):
        MixedExamples(TrainMixConfig(modes={"agentic": 1.0}), questions, rows, rows, turns)
    with pytest.raises(ConfigError, match=r"train\.modes.*'fly'"):
        TrainMixConfig(modes={"fly": 1.0})


def test_video_rows_are_drawn_more_often(world: Any):
    rows, questions = refined(world)
    for number, row in enumerate(rows):
        row |= {"score": 5, "weight": 1.0, "without_reasoning": 0.0}
        row["medium"] = "video" if number == 0 else "image"
    turns: Any = NoTurns()
    shares = []
    for weight in (1.0, 4.0):
        cfg = TrainMixConfig(video_weight=weight)
        examples = MixedExamples(cfg, questions, rows, rows, turns)
        shares.append(examples.describe(2000)["media"]["video"])
    assert shares == pytest.approx([1 / 5, 4 / 8], abs=0.05)


TOOL_ROW = {
    "id": "agent",
    "messages": [{"role": "user", "content": "What is written there?"}],
    "answer": "cat",
    "task_type": "text/ocr",
    "mode": "think",
    "response": (
        '<think>small</think><tool_call>{"name": "crop", "arguments": {"box": [0, 0, 9, 9]}}'
        "</tool_call><tool_response>\nimage 1: part\n<image>\n</tool_response>"
        "<think>cat</think><answer>\\boxed{cat}</answer>"
    ),
    "response_images": ["crop.png"],
}


def traces_of(folder: Path, **facts: Any) -> AgenticTraces:
    Image.fromarray(np.full((28, 28, 3), 9, np.uint8)).save(folder / "crop.png")
    (folder / "rows.jsonl").write_text(json.dumps(TOOL_ROW | facts) + "\n")
    cfg = EnhanceConfig(data=FileDataConfig(files=[str(folder / "rows.jsonl")]))
    return AgenticTraces(open_sources(cfg, folder), cfg, 64)


def test_an_agents_row_is_learned_as_the_tool_loop_would_have_sampled_it(
    tmp_path: Path, encoder: Any
):
    from rollout.tools.tool import ToolResult
    from rollout.tools.turns import TurnWriter

    traces = traces_of(tmp_path)
    assert len(traces) == 1
    trace = traces[0].encode(encoder)
    crop = Image.open(tmp_path / "crop.png")
    written, read = TurnWriter(encoder, 64).write([ToolResult("image 1: part", crop)])
    assert read in TOOL_ROW["response"]  # the row holds what reward rules read
    result = np.flatnonzero(~trace.sampled)
    assert trace.ids[result].tolist() == written.ids.tolist()  # nothing of it is learned
    assert result.tolist() == list(range(result[0], result[-1] + 1))
    learned = encoder.tokenizer.decode(trace.ids[trace.sampled].tolist())
    first, last = TOOL_ROW["response"].split(read)
    assert learned == f"{first}<|im_end|>{last}<|im_end|>"
    assert trace.media is not None and len(trace.media.grid_thw) == 1
    prompt = encoder.tokenizer.decode(trace.prompt.ids.tolist())
    assert "What is written there? /think" in prompt


@pytest.mark.parametrize(
    ("facts", "match"),
    [
        ({"response_images": []}, "1 <image> .* but 0 `response_images`"),
        ({"response": "<tool_call>{}</tool_call><tool_response>x</tool_response>"}, "must begin"),
    ],
)  # fmt: skip
def test_an_agents_row_that_does_not_add_up_is_named(
    tmp_path: Path, facts: dict[str, Any], match: str
):
    with pytest.raises(SampleError, match=match):
        traces_of(tmp_path, **facts)
