"""Instruction following: queries with 2–6 constraints that one answer can follow together."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from pretrain.data.render import query
from pretrain.data.sample import Sample
from pretrain.data.world.text import WORDS
from pretrain.run.errors import ConfigError
from rewards.constraints.compose import compose, describe
from rewards.constraints.kinds import KINDS
from rewards.judge.templates import SOFT
from rl.alignment.config import AlignmentConfig, InstructionConfig
from rl.alignment.prompts import BOX, answer_entries, format_entry, marked, with_query
from rl.alignment.writer import written_answer

Constraint = dict[str, Any]
FEWEST = 2  # hard constraints of a query
TRIES = 100
"""Draws before a configuration is given up as one whose constraints don't fit together."""


def _words(r: random.Random, fewest: int, most: int) -> list[str]:
    return r.sample(WORDS, r.randint(fewest, most))


def _exact_words(r: random.Random) -> Constraint:
    least = r.randint(3, 7)
    return {"minimum": least, "maximum": least + 1}


def _exact(r: random.Random) -> Constraint:
    count = r.randint(2, 3)
    return {"minimum": count, "maximum": count}


# kind: (random arguments, telegram wording), for answers of a few words
TINY: dict[str, tuple[Callable[[random.Random], Constraint], Callable[[Constraint], str]]] = {
    "starts_with": (lambda r: {"phrase": r.choice(WORDS)}, lambda c: f"first {c['phrase']}"),
    "ends_with": (lambda r: {"phrase": r.choice(WORDS)}, lambda c: f"end {c['phrase']}"),
    "keywords_include": (
        lambda r: {"keywords": _words(r, 1, 2)},
        lambda c: f"use {' '.join(c['keywords'])}",
    ),
    "keywords_exclude": (
        lambda r: {"keywords": _words(r, 1, 1)},
        lambda c: f"no {' '.join(c['keywords'])}",
    ),
    "keyword_count": (
        lambda r: {"keyword": r.choice(WORDS), **_exact(r)},
        lambda c: f"{c['minimum']} {c['keyword']}",
    ),
    "ordered_mentions": (
        lambda r: {"items": _words(r, 2, 2)},
        lambda c: f"{c['items'][0]} then {c['items'][1]}",
    ),
    "word_count": (_exact_words, lambda c: f"{c['minimum']}-{c['maximum']} text"),
    "capital_words": (
        lambda r: {"minimum": 1, "maximum": 1},
        lambda c: f"{c['minimum']} upper",
    ),
    "uppercase": (lambda r: {}, lambda c: "all upper"),
    "lowercase": (lambda r: {}, lambda c: "all lower"),
    "quotation": (lambda r: {}, lambda c: '"'),
    "repeat_prompt": (lambda r: {}, lambda c: "repeat"),
    "line_count": (lambda r: {"count": r.randint(2, 3)}, lambda c: f"{c['count']} lines"),
    "bullets": (lambda r: {"count": r.randint(2, 3)}, lambda c: f"{c['count']} *"),
    "highlights": (lambda r: {"count": 1}, lambda c: "*text*"),
    "title": (lambda r: {}, lambda c: "<<text>>"),
}

# soft kind: values that fit nearly any query; the wording is the judge's own
SOFT_VALUES: dict[str, list[str]] = {
    "tone": ["friendly", "sober", "enthusiastic"],
    "style": ["a newspaper report", "a letter to a friend", "a manual"],
    "audience": ["children of eight", "experts", "someone in a hurry"],
    "formality": ["formal", "casual"],
    "emotion": ["joy", "calm", "curiosity"],
    "perspective": ["first person", "second person", "a neutral observer"],
    "role": ["a patient teacher", "a museum guide", "a detective"],
    "topic": ["the question itself"],
    "avoid_topic": ["money", "politics", "the weather"],
    "genre": ["a riddle", "a dialogue", "a short report"],
    "purpose": ["to teach", "to persuade", "to reassure"],
    "detail": ["brief", "thorough"],
    "metaphor": ["the sea", "cooking", "travel"],
    "humour": ["dry", "playful"],
    "simplicity": ["a beginner", "a child"],
    "argument": ["the answer can be trusted"],
    "balance": ["the question"],
    "example": ["everyday life", "sport"],
    "culture": ["Japan", "Brazil"],
    "time": ["the 1920s", "the Middle Ages"],
}


def with_constraints(sample: Sample, rng: np.random.Generator, cfg: AlignmentConfig) -> Sample:
    """Constraints are drawn and added to the query; a row's own stand in it already.

    Hard ones are checked by rules, soft ones by the judge, the answer by the sample's own rewards.
    """
    own = cfg.instructions
    draw = random.Random(int(rng.integers(2**62)))
    answers = answer_entries(sample, own.answer_weight)
    sample = replace(sample, rewards=answers)
    constraints = sample.constraints
    if not constraints:
        count = draw.randint(*own.count)
        soft_count = min(own.soft, count - FEWEST) if cfg.judge.url else 0
        constraints = hard_constraints(sample, draw, own, count - soft_count)
        wordings = [_wording(constraints, own)]
        if soft_count:
            soft = _soft_constraints(draw, soft_count)
            wordings += [f"The response {SOFT[c['kind']].format(**c)}." for c in soft]
            constraints = constraints + soft
        if answers and sample.mode == "no_think":
            wordings.append(BOX if own.scale == "tiny" else f"Put the result in {BOX}.")
        sample = with_query(sample, (", " if own.scale == "tiny" else " ").join(wordings))
    hard = [c for c in constraints if c.get("kind") not in SOFT]
    rewards = [*answers, *format_entry(own.format_weight, own.format_gate)]
    if hard:
        rewards += [
            {"rule": "constraints", "weight": own.strict_weight, "verifier": True},
            {
                "rule": "constraints",
                "name": "constraints_share",
                "weight": own.share_weight,
                "every": False,
                "verifier": False,
            },
        ]
    if len(hard) < len(constraints):
        rewards += cfg.judge.entry("soft_constraints", name="soft", weight=own.soft_weight)
    made = replace(sample, rewards=rewards, constraints=constraints)
    return marked(made, "instructions", str(len(constraints)))


def hard_constraints(
    sample: Sample, draw: random.Random, cfg: InstructionConfig, count: int
) -> list[Constraint]:
    """`count` of them without contradictions; at scale `tiny` a set that the writer can follow.

    `ConfigError` when the configured kinds don't fit together.
    """
    tiny = cfg.scale == "tiny"
    draws = {name: entry[0] for name, entry in TINY.items()} if tiny else None
    kinds = cfg.kinds or list(TINY if tiny else KINDS)
    asked = query(sample)
    for _ in range(TRIES):
        try:
            chosen = compose(draw, count, kinds, draws)
        except ValueError as error:
            raise ConfigError(f"alignment.instructions: {error}") from error
        chosen = [c | {"prompt": asked} if KINDS[c["kind"]].needs_prompt else c for c in chosen]
        if not tiny or written_answer(chosen, sample.answer) is not None:
            return chosen
    raise ConfigError(
        f"alignment.instructions: in {TRIES} draws no set of {count} of these kinds could be "
        f"followed: {', '.join(kinds)}. Allow fewer constraints, or more kinds."
    )


def _wording(constraints: list[Constraint], cfg: InstructionConfig) -> str:
    if cfg.scale == "full":
        return describe(constraints)
    return ", ".join(TINY[c["kind"]][1](c) for c in constraints)


def _soft_constraints(draw: random.Random, count: int) -> list[Constraint]:
    kinds = draw.sample(list(SOFT_VALUES), count)
    return [{"kind": kind, "value": draw.choice(SOFT_VALUES[kind])} for kind in kinds]


def check_kinds(cfg: InstructionConfig) -> None:
    """`ConfigError` for a kind that this scale doesn't know."""
    known = TINY if cfg.scale == "tiny" else KINDS
    unknown = [kind for kind in cfg.kinds if kind not in known]
    if unknown:
        raise ConfigError(
            f"alignment.instructions.kinds: {unknown[0]!r} is none of the kinds of scale "
            f"{cfg.scale}: {', '.join(known)}"
        )
