"""The reward model at work: comparisons in, preferences out, on a pool of vLLM engines.

Invariant: every comparison is judged in both orders unless asked otherwise, greedily or with seeds
that are always the same, so a preference depends on the weights and the two responses alone, and
not on which came first.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.render import render
from pretrain.data.sample import Sample
from pretrain.policy.encoder import Encoder, open_encoder
from pretrain.run.errors import KeyeError
from rewards.keye_rm.config import RewardModelConfig
from rewards.keye_rm.pairs import question
from rewards.keye_rm.parsing import Judgement, parse
from rewards.keye_rm.scoring import (
    first_bias,
    first_preferred,
    over_orders,
    over_samples,
    schedule,
    unbiased,
    verdict_token,
    win_rates,
)
from rewards.keye_rm.templates import Template
from rollout.config import SamplingConfig
from rollout.engines import EnginePool
from rollout.trajectory import Trajectory

NO_THINK_TOKENS = 8
"""Room for a verdict and its end token."""
Answer = tuple[Judgement, float | None, int]
"""A judgement, the preference for the response shown first (None if malformed), and its tokens."""


@dataclass(slots=True)
class Comparison:
    """Two responses to one query."""

    query: Sample
    first: str
    second: str
    task: str = ""
    """A task definition; empty: the template's."""


@dataclass(slots=True)
class Preference:
    """What the model makes of a comparison."""

    value: float | None
    """Probability that the first response is better; None when no judgement could be read."""
    judgements: list[Judgement]
    """All of the first order, then all of the second, in which first and second are swapped."""
    verdicts: list[int | None]
    """What each order says on the whole, both told for the comparison's own order."""
    marks: tuple[dict[str, float], dict[str, float]] | None
    """Mean marks of the first and of the second response by dimension, 0…1; None in no_think."""
    tokens: int
    """Tokens generated for it."""

    @property
    def malformed(self) -> int:
        """How many of the judgements could not be read."""
        return sum(not judgement.ok for judgement in self.judgements)


class KeyeRewardModel:
    """A reward model on running engines."""

    def __init__(
        self,
        engines: EnginePool,
        encoder: Encoder,
        template: Template,
        *,
        max_tokens: int = 512,
        batch: int = 4096,
        samples: int = 1,
    ) -> None:
        self.engines, self.encoder, self.template = engines, encoder, template
        self.max_tokens, self.batch, self.samples = max_tokens, batch, samples

    @classmethod
    def open(cls, config: RewardModelConfig) -> "KeyeRewardModel":
        """Start engines for a checkpoint; needs a Ray session. `close` ends them."""
        if not config.checkpoint:
            raise KeyeError("no reward model: give reward_model.checkpoint=DIRECTORY")
        checkpoint = Path(config.checkpoint)
        encoder = open_encoder(checkpoint, config.engine.max_length)
        return cls(
            EnginePool(config.engine, config.checkpoint),
            encoder,
            load_template(checkpoint),
            max_tokens=config.max_tokens,
            batch=config.batch,
            samples=config.samples,
        )

    def close(self) -> None:
        """End the engines."""
        self.engines.close()

    # -------------------------------------------------------------------------- comparing

    def compare(
        self, comparisons: list[Comparison], mode: str, both_orders: bool = True
    ) -> list[Preference]:
        """Preferences, in order. `mode`: think or no_think."""
        orders = (False, True) if both_orders else (False,)
        asked = [(comparison, swapped) for comparison in comparisons for swapped in orders]
        answers: list[list[Answer]] = []
        for start in range(0, len(asked), self.batch):
            answers += self._judge(asked[start : start + self.batch], mode)
        size = len(orders)
        return [
            self._preference(answers[k * size : (k + 1) * size], mode)
            for k in range(len(comparisons))
        ]

    def measure_first_bias(self, comparisons: list[Comparison], mode: str) -> float:
        """The log-odds by which a mode's preferences favour the first place, as the weights have
        it; 0 when no judgement could be read."""
        asked = [(comparison, swapped) for comparison in comparisons for swapped in (False, True)]
        read = [self._first_preferred(answers) for answers in self._judge(asked, mode)]
        values = [value for value in read if value is not None]
        return first_bias(values) if values else 0.0

    def _judge(self, asked: list[tuple[Comparison, bool]], mode: str) -> list[list[Answer]]:
        """The answers to each question: one, or in think mode `samples`."""
        samples = []
        for number, (comparison, swapped) in enumerate(asked):
            responses = (comparison.first, comparison.second)
            shown = responses[::-1] if swapped else responses
            sample = question(self.template, comparison.query, *shown, mode, comparison.task)
            sample.id = f"{comparison.query.id}/comparison {number}"
            samples.append(sample)
        prompts = [self.encoder.encode(render(sample), sample.id) for sample in samples]
        longest = self.max_tokens if mode == "think" else NO_THINK_TOKENS
        n = self.samples if mode == "think" else 1
        groups = self.engines.generate(
            prompts,
            SamplingConfig(temperature=float(n > 1), max_tokens=longest),
            seeds=[0] * len(prompts),
            n=n,
            sample_ids=[sample.id for sample in samples],
        )
        return [[self._read(trajectory, mode) for trajectory in group] for group in groups]

    def _read(self, trajectory: Trajectory, mode: str) -> Answer:
        count = len(trajectory.response_ids)
        if trajectory.finish_reason != "stop":
            return Judgement(None, fault=f"not ended after {count} tokens"), None, count
        ids = trajectory.response_ids[:-1].tolist()
        text = self._decode(ids)
        judgement = parse(text, mode, self.template)
        if judgement.verdict is None:
            return judgement, None, count
        token = verdict_token(self._decode, ids, judgement.verdict_at)
        preferred = first_preferred(judgement.verdict, float(trajectory.logprobs[token]))
        return judgement, preferred, count

    def _decode(self, ids: list[int]) -> str:
        return self.encoder.tokenizer.decode(ids, skip_special_tokens=False)

    @staticmethod
    def _first_preferred(answers: list[Answer]) -> float | None:
        """What a question's answers say together, a liking for the first place included."""
        return over_samples([value for _, value, _ in answers])

    def _preference(self, orders: list[list[Answer]], mode: str) -> Preference:
        answers = [answer for order in orders for answer in order]
        bias = self.template.first_bias.get(mode, 0.0)
        read = [self._first_preferred(order) for order in orders]
        values = [None if value is None else unbiased(value, bias) for value in read]
        verdicts = [
            None if value is None else int((value < 0.5) != bool(order))
            for order, value in enumerate(values)
        ]
        return Preference(
            value=over_orders(values[0], values[1] if len(values) > 1 else None),
            judgements=[judgement for judgement, _, _ in answers],
            verdicts=verdicts,
            marks=self._mean_marks(orders),
            tokens=sum(tokens for _, _, tokens in answers),
        )

    def _mean_marks(
        self, orders: list[list[Answer]]
    ) -> tuple[dict[str, float], dict[str, float]] | None:
        sides: tuple[list[dict[str, int]], list[dict[str, int]]] = ([], [])
        for swapped, order in enumerate(orders):
            for judgement, _, _ in order:
                if judgement.marks is not None:
                    first, second = judgement.marks[::-1] if swapped else judgement.marks
                    sides[0].append(first)
                    sides[1].append(second)
        if not sides[0]:
            return None
        means = [self._mean(side) for side in sides]
        return means[0], means[1]

    def _mean(self, marks: list[dict[str, int]]) -> dict[str, float]:
        return {
            name: float(np.mean([self.template.scaled(mark[name]) for mark in marks]))
            for name in self.template.dimensions
        }

    # ---------------------------------------------------------------------- rating responses

    def rate_group(
        self, groups: list[tuple[Sample, list[str]]], mode: str, opponents: int, task: str = ""
    ) -> list[list[dict[str, Any]]]:
        """Win rates within groups: each response against `opponents` others of its group.

        Equal responses are not compared: they tie. Returns a rating a response: `{value, wins:
        comparisons that count, malformed, tokens, marks}`; value None when nothing could be read.
        """
        plans = [schedule(len(responses), opponents) for _, responses in groups]
        comparisons: dict[tuple[int, str, str], Comparison] = {}
        for number, ((query, responses), plan) in enumerate(zip(groups, plans, strict=True)):
            for i, j in plan:
                first, second = sorted((responses[i], responses[j]))
                if first != second:
                    key = (number, first, second)
                    comparisons.setdefault(key, Comparison(query, first, second, task))
        preferences = dict(
            zip(comparisons, self.compare(list(comparisons.values()), mode), strict=True)
        )
        return [
            _group_ratings(number, responses, plan, preferences)
            for number, ((_, responses), plan) in enumerate(zip(groups, plans, strict=True))
        ]

    def rate_against(
        self, items: list[tuple[Sample, str, str]], mode: str, task: str = ""
    ) -> list[dict[str, Any]]:
        """Ratings of responses against references: items are (query, response, reference)."""
        comparisons = [
            Comparison(query, response, reference, task) for query, response, reference in items
        ]
        ratings = []
        for comparison, preference in zip(
            comparisons, self.compare(comparisons, mode), strict=True
        ):
            same = comparison.first == comparison.second
            rating = _rating([(preference, False)])
            ratings.append(rating | ({"value": 0.5} if same else {}))
        return ratings


def _group_ratings(
    number: int,
    responses: list[str],
    plan: list[tuple[int, int]],
    preferences: dict[tuple[int, str, str], Preference],
) -> list[dict[str, Any]]:
    met: list[list[tuple[Preference, bool]]] = [[] for _ in responses]
    values: list[float | None] = []
    for i, j in plan:
        first, second = sorted((responses[i], responses[j]))
        if first == second:
            values.append(0.5)
            continue
        preference = preferences[number, first, second]
        swapped = responses[i] != first
        value = preference.value
        values.append(1.0 - value if swapped and value is not None else value)
        met[i].append((preference, swapped))
        met[j].append((preference, not swapped))
    rates = win_rates(len(responses), plan, values)
    if not plan:  # a group of one has nobody to win against
        rates[:] = 0.5
    return [
        _rating(own) | {"value": None if np.isnan(rate) else float(rate)}
        for own, rate in zip(met, rates, strict=True)
    ]


def _rating(met: list[tuple[Preference, bool]]) -> dict[str, Any]:
    """What a response's comparisons say of it; `True` beside those in which it is the second."""
    marks = [
        preference.marks[int(second)] for preference, second in met if preference.marks is not None
    ]
    names = marks[0] if marks else {}
    value = met[0][0].value if met else 0.5
    return {
        "value": value,
        "comparisons": len(met),
        "malformed": sum(preference.malformed for preference, _ in met),
        "fault": next((j.fault for p, _ in met for j in p.judgements if j.fault), ""),
        "tokens": sum(preference.tokens for preference, _ in met),
        "marks": {name: float(np.mean([mark[name] for mark in marks])) for name in names},
    }


def load_template(checkpoint: Path) -> Template:
    """A checkpoint's template; a broken file is a `KeyeError`."""
    try:
        return Template.load(checkpoint)
    except ValueError as error:
        raise KeyeError(str(error)) from error
