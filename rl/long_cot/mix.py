"""The fine-tuning data: scored traces drawn by weight, in all modes.

Invariant: example i is a pure function of (rows, configuration, i).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pretrain.data.render import render
from pretrain.data.sample import Sample
from pretrain.run.errors import KeyeError
from rl.long_cot.agentic import AgenticTraces
from rl.long_cot.config import TrainMixConfig
from rl.long_cot.questions import Questions, Row
from rollout.tools.traces import ToolTrace

DESCRIBED = 2000
"""Examples that the description of a mix is taken over."""


class Pool:
    """Rows drawn by weight."""

    def __init__(self, rows: Sequence[Any], weights: Sequence[float]) -> None:
        kept = [(row, weight) for row, weight in zip(rows, weights, strict=True) if weight > 0]
        self.rows = [row for row, _ in kept]
        self._edges = np.cumsum([weight for _, weight in kept])

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, where: float) -> Any:
        """The row at `where` in 0…1."""
        place = np.searchsorted(self._edges, where * self._edges[-1], side="right")
        return self.rows[min(int(place), len(self.rows) - 1)]


class MixedExamples:
    """`examples(i)` for fine-tuning.

    Args:
        cfg: the mix.
        questions: rows → samples.
        asked: rows of all questions; they have reference answers whether or not a path solved them.
        scored: rows with traces and weights.
        agentic: responses that call tools.
    """

    def __init__(
        self,
        cfg: TrainMixConfig,
        questions: Questions,
        asked: Sequence[Row],
        scored: Sequence[Row],
        agentic: AgenticTraces,
    ) -> None:
        self.cfg, self.questions, self.agentic = cfg, questions, agentic
        traces = [(row, trace) for row in scored for trace in row["traces"]]
        # A question's weight is shared by its traces: two paths don't count twice.
        shares = [row["weight"] * self._video(row) / len(row["traces"]) for row, _ in traces]
        known = [row for row in scored if row["score"] is not None]
        self.pools: dict[str, Pool] = {
            "think": Pool(traces, shares),
            "no_think": Pool(asked, [self._video(row) for row in asked]),
            # Not by weight: the low scores are the questions that need no reasoning, and without
            # them the policy would never see when to leave it out.
            "auto_think": Pool(known, [self._video(row) for row in known]),
            "agentic": Pool(range(len(agentic)), [1.0] * len(agentic)),
        }
        weights = {mode: weight for mode, weight in cfg.modes.items() if weight > 0}
        if not len(agentic):
            weights.pop("agentic", None)
        empty = [mode for mode in weights if not len(self.pools[mode])]
        if empty or not weights:
            raise KeyeError(
                f"long_cot.train.modes: there is nothing to train {', '.join(empty) or 'on'}: no "
                "row has a weight above 0 (long_cot.score.weights, long_cot.train.video_weight)"
            )
        self._modes = Pool(list(weights), list(weights.values()))

    def _video(self, row: Row) -> float:
        return self.cfg.video_weight if row["medium"] == "video" else 1.0

    def _draw(self, index: int) -> tuple[str, Any]:
        mode_at, row_at = np.random.default_rng([self.cfg.seed, index]).random(2)
        mode = self._modes.draw(mode_at)
        return mode, self.pools[mode].draw(row_at)

    def __call__(self, index: int) -> list[dict[str, Any]] | ToolTrace:
        """Example `index`: a conversation with the assistant's turn last, or one with tools."""
        mode, drawn = self._draw(index)
        if mode == "agentic":
            return self.agentic[drawn]
        row = drawn[0] if mode == "think" else drawn
        sample = self.questions(row)
        if mode == "think":
            return _conversation(sample, "think", drawn[1]["response"])
        if mode == "no_think":
            return _conversation(sample, "no_think", sample.answer)
        return _conversation(sample, "auto_think", self._auto_reply(row))

    def _auto_reply(self, row: Row) -> str:
        """At once where that works, else the first trace."""
        if self._answers_at_once(row):
            return f"<answer>\\boxed{{{row['answer']}}}</answer>"
        return row["traces"][0]["response"]

    def _answers_at_once(self, row: Row) -> bool:
        return row["without_reasoning"] >= self.cfg.direct_from

    def describe(self, count: int) -> dict[str, Any]:
        """Shares of modes, media and scores among the first `count` examples (at most 2,000)."""
        drawn = [self._draw(index) for index in range(min(count, DESCRIBED))]
        modes = Counter(mode for mode, _ in drawn)
        rows = [row[0] if mode == "think" else row for mode, row in drawn if mode != "agentic"]
        media = Counter(row["medium"] for row in rows)
        scores = Counter(row[0]["score"] for mode, row in drawn if mode == "think")
        auto = [self._answers_at_once(row) for mode, row in drawn if mode == "auto_think"]
        shares: dict[str, Any] = {
            "modes": {name: n / len(drawn) for name, n in sorted(modes.items())},
            "media": {name: n / len(drawn) for name, n in sorted(media.items())},
        }
        if scores:
            total = sum(scores.values())
            shares["think_scores"] = {str(s): n / total for s, n in sorted(scores.items())}
        if auto:
            shares["auto_think_direct"] = float(np.mean(auto))
        return shares


def _conversation(sample: Sample, mode: str, text: str) -> list[dict[str, Any]]:
    turn = {"role": "assistant", "content": [{"type": "text", "text": text}]}
    return [*render(replace(sample, mode=mode)), turn]
