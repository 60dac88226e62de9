"""The reward model as one part among a sample's rewards, beside the rules.

Invariant: composition (weights, gates, ranges, totals) is the rules' own; only who computes the
part differs. Marks by dimension are parts too, of weight 0, so each is logged by name.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pretrain.data.render import reply
from pretrain.data.sample import Sample, SampleError
from rewards.composition import Part, SpecError, parts_of, total
from rewards.keye_rm.model import KeyeRewardModel
from rewards.pool import RewardPool
from rewards.result import RewardResult, Score

RULE = "keye_rm"
AGAINST = ("group", "reference")


def score_groups(
    samples: Sequence[Sample],
    texts: Sequence[Sequence[str]],
    pool: RewardPool,
    model: KeyeRewardModel,
) -> list[list[Score]]:
    """Scores of every response of every group, `keye_rm` parts computed by `model`.

    The rules' workers run while the engines judge. `RewardFailureError` above `max_failed_share`.
    """
    config = pool.config
    rows = [sample.to_row(media=False) for sample in samples]
    parts: list[list[Part]] = []
    for row in rows:
        try:
            parts.append(parts_of(row, config))
        except SpecError as error:
            raise SampleError(str(error)) from error
    plain = [_without_model(row, own) for row, own in zip(rows, parts, strict=True)]
    items = [
        (text, row)
        for row, own, group in zip(plain, parts, texts, strict=True)
        if any(part.rule != RULE for part in own)
        for text in group
    ]
    waiting = pool.submit(items)
    judged = _model_parts(samples, texts, parts, model)
    ruled = iter(waiting.result())
    scores = []
    for number, (own, group) in enumerate(zip(parts, texts, strict=True)):
        has_rules = any(part.rule != RULE for part in own)
        scores.append(
            [
                _merge(own, next(ruled) if has_rules else None, judged[number][k], pool)
                for k in range(len(group))
            ]
        )
    pool.check_failures([score for group in scores for score in group])
    return scores


def _without_model(row: dict[str, Any], parts: list[Part]) -> dict[str, Any]:
    """The row with the rules' entries alone, each under the name it has among all."""
    entries = []
    for part in parts:
        if part.rule != RULE:
            entry = {
                "rule": part.rule,
                "name": part.name,
                "weight": part.weight,
                "gate": part.gate,
                "range": part.range,
                "verifier": part.verifier,
                "deadline_s": part.deadline_s,
            }
            entries.append({k: v for k, v in entry.items() if v is not None} | part.args)
    return row | {"rewards": entries}


def _model_parts(
    samples: Sequence[Sample],
    texts: Sequence[Sequence[str]],
    parts: list[list[Part]],
    model: KeyeRewardModel,
) -> list[list[dict[str, RewardResult]]]:
    """Results of the `keye_rm` parts by name: of each response of each group."""
    results: list[list[dict[str, RewardResult]]] = [[{} for _ in group] for group in texts]
    batches: dict[tuple[Any, ...], list[tuple[int, Part]]] = {}
    for number, own in enumerate(parts):
        for part in own:
            if part.rule == RULE:
                batches.setdefault(_settings(part), []).append((number, part))
    for (against, opponents, mode, task), members in batches.items():
        started = time.perf_counter()
        if against == "group":
            groups = [(samples[number], list(texts[number])) for number, _ in members]
            ratings = model.rate_group(groups, mode, opponents, task)
        else:
            ratings = _against_references(samples, texts, members, model, mode, task)
        count = sum(len(group) for group in ratings)
        seconds = (time.perf_counter() - started) / max(count, 1)
        for (number, part), group in zip(members, ratings, strict=True):
            for place, rating in enumerate(group):
                results[number][place] |= _results(part.name, rating, seconds, against)
    return results


def _settings(part: Part) -> tuple[Any, ...]:
    against = part.args.get("against", "group")
    mode = part.args.get("mode", "no_think")
    opponents = int(part.args.get("opponents", 4))
    if against not in AGAINST or mode not in ("think", "no_think") or opponents < 1:
        raise SampleError(
            f"rewards entry {part.name!r}: against={against!r} must be one of {AGAINST}, "
            f"mode={mode!r} think or no_think, opponents={opponents} at least 1"
        )
    return against, opponents, mode, str(part.args.get("task", ""))


def _against_references(
    samples: Sequence[Sample],
    texts: Sequence[Sequence[str]],
    members: list[tuple[int, Part]],
    model: KeyeRewardModel,
    mode: str,
    task: str,
) -> list[list[dict[str, Any]]]:
    items = [
        (samples[number], text, reference(samples[number]))
        for number, _ in members
        for text in texts[number]
    ]
    ratings = iter(model.rate_against(items, mode, task))
    return [[next(ratings) for _ in texts[number]] for number, _ in members]


def reference(sample: Sample) -> str:
    """What a response is held against: the row's `reference`, or its answer as a reply."""
    given = sample.extra.get("reference")
    if given is not None:
        return str(given)
    if sample.mode == "think" and sample.solution is None:
        return reply(replace(sample, mode="auto_think"), reason=False)
    return reply(sample)


def _results(
    name: str, rating: dict[str, Any], seconds: float, against: str
) -> dict[str, RewardResult]:
    details = {key: rating[key] for key in ("comparisons", "malformed", "tokens")}
    details["against"] = against
    if rating["value"] is None:
        message = f"no judgement could be read: {rating['fault']}"
        own = RewardResult(None, "error", seconds, details | {"message": message})
    else:
        own = RewardResult(rating["value"], "ok", seconds, details)
    marks = {
        f"{name}/{dimension}": RewardResult(mark, "ok")
        for dimension, mark in rating["marks"].items()
    }
    return {name: own} | marks


def _merge(
    parts: list[Part], ruled: Score | None, judged: dict[str, RewardResult], pool: RewardPool
) -> Score:
    """One score of the rules' parts and the model's, in the entries' order, then the marks.

    Without any verifying rule it is the model that judges the answer.
    """
    results = (ruled.parts if ruled else {}) | judged
    ordered = {part.name: results[part.name] for part in parts}
    verifiers = ruled.verifiers if ruled else ()
    by_model = False
    if not verifiers:
        verifiers = tuple(p.name for p in parts if p.rule == RULE and p.weight and p.verifier != 0)
        by_model = bool(verifiers)
    return Score(total(parts, ordered, pool.config), ordered | judged, verifiers, by_model)
