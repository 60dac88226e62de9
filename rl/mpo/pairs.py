"""Preference pairs from a policy's own responses, scored by rules or by the reward model.

Chosen is a correct response with the highest reward; rejected a wrong one, and of the wrong ones
that which the policy itself finds likeliest: a hard negative. Where no rule knows the truth the
rewards alone decide, the reward model's among them: it compares, and calls nothing correct.

Invariant: a sampled response is kept as the token ids that were sampled; no response stands in two
pairs; a response whose reward failed stands in none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.render import render
from pretrain.data.sample import Sample, SampleError
from pretrain.run.console import Progress
from pretrain.run.errors import KeyeError
from rewards.result import is_correct
from rl.groups import Group
from rl.hints.writers import EndpointWriter, WriterFailure, nobody_answers
from rl.mpo.config import PairConfig
from rl.review_rows import item_row
from rl.rollouts import Rollouts
from rl.row_log import RowLog
from rl.tables import question
from rl.trace_rows import SampleSource, given_reply, sample_of
from rollout.config import SamplingConfig
from rollout.seeds import stable_seed

PAIRS = "pairs.jsonl"
"""One row a prompt: `{id, index, …, accuracy, pairs: [{chosen, rejected, kind}]}`; `accuracy` is
None where no rule knows the truth. Kinds: `sampled`, `reward_model` (it alone chose), `reference`,
`endpoint`, and `human` (`rl.mpo.rankings`)."""
CANDIDATES = "candidates.jsonl"
"""The responses of each exported item: `{id, prompt, candidates: [{text, ids, …}]}`."""
REVIEW = "review.jsonl"
"""The exported items, for `python -m rl review`."""


def likelihood(group: Group, row: int) -> float:
    """Mean log-probability of a response's tokens as sampled; 0 when they weren't asked for."""
    logprobs = group.trajectories[row].logprobs
    return float(logprobs.mean()) if len(logprobs) else 0.0


def pair_up(group: Group, count: int, margin: float, truth: bool = True) -> list[tuple[int, int]]:
    """(chosen, rejected) responses of a group, at most `count`, the clearest first.

    `truth`: whether the group's verifiers say what is right; if not, rewards alone decide.
    """
    rewards = group.rewards
    known = [row for row in range(len(rewards)) if not np.isnan(rewards[row])]
    if truth and any(score.verifiers for score in group.scores):
        good = [row for row in known if group.correct[row]]
        bad = [row for row in known if not group.correct[row]]
    else:
        good, bad = list(known), list(known)
    good.sort(key=lambda row: -rewards[row])
    bad.sort(key=lambda row: -likelihood(group, row))
    pairs: list[tuple[int, int]] = []
    used: set[str] = set()
    for chosen in good:
        if len(pairs) == count:
            break
        for rejected in bad:
            texts = {group.responses[chosen], group.responses[rejected]}
            if len(texts) == 2 and not texts & used and _apart(rewards, chosen, rejected, margin):
                pairs.append((chosen, rejected))
                used |= texts
                break
    return pairs


def _apart(rewards: np.ndarray, chosen: int, rejected: int, margin: float) -> bool:
    gap = rewards[chosen] - rewards[rejected]
    return bool(gap > 0 and gap >= margin)


def prompt_row(index: int, group: Group, cfg: PairConfig) -> dict[str, Any]:
    """A prompt with its pairs."""
    by_model = any(score.by_model for score in group.scores)
    pairs = [
        {
            "kind": "reward_model" if by_model else "sampled",
            "chosen": _response(group, chosen),
            "rejected": _response(group, rejected),
        }
        for chosen, rejected in pair_up(group, cfg.per_prompt, cfg.margin, not by_model)
    ]
    truth = any(score.verifiers for score in group.scores)
    return {
        "id": group.sample.id,
        "index": index,
        "task_type": group.sample.task_type,
        "mode": group.sample.mode,
        "question": question(group.sample.messages),
        "answer": group.sample.answer,
        "accuracy": group.accuracy if truth else None,
        "pairs": pairs,
    }


def candidates_of(group: Group, count: int) -> list[dict[str, Any]]:
    """Up to `count` different responses of a group, in the order in which they were sampled."""
    first: dict[str, int] = {}
    for row, text in enumerate(group.responses):
        if text.strip():
            first.setdefault(text, row)
    return [_response(group, row) for row in list(first.values())[:count]]


def _response(group: Group, row: int) -> dict[str, Any]:
    return {
        "text": group.responses[row],
        "ids": group.trajectories[row].response_ids.tolist(),
        "reward": None if np.isnan(group.rewards[row]) else float(group.rewards[row]),
        "likelihood": likelihood(group, row),
    }


def _better_pair(group: Group, text: str, kind: str, rollouts: Rollouts) -> dict[str, Any] | None:
    """A pair of an answer from elsewhere and the likeliest wrong response, if it is right."""
    known = [row for row in range(len(group.scores)) if not group.scores[row].failed]
    known = [row for row in known if group.responses[row] != text]
    if not known:
        return None
    score = rollouts.score([group.sample], [[text]])[0][0]
    worst = max(known, key=lambda row: likelihood(group, row))
    if not is_correct(score) or score.total is None or score.total <= group.rewards[worst]:
        return None
    chosen = {"text": text, "ids": None, "reward": score.total, "likelihood": None}
    return {"kind": kind, "chosen": chosen, "rejected": _response(group, worst)}


def better_answers(groups: Sequence[Group], cfg: PairConfig) -> list[str | None]:
    """An answer from elsewhere for each all-wrong group: the row's own, or a stronger model's."""
    samples = [group.sample for group in groups]
    if cfg.wrong == "reference":
        return [_reference(sample) for sample in samples]
    if cfg.wrong == "skip" or not samples:
        return [None] * len(samples)
    sampling = SamplingConfig(temperature=0.0, max_tokens=2048)
    with EndpointWriter(cfg.endpoint(), sampling) as writer:
        seeds = [stable_seed(cfg.seed, sample.id) for sample in samples]
        answers = writer.write([render(sample) for sample in samples], seeds)
    if nobody_answers(answers):
        raise KeyeError(f"the stronger model gave no answer ({answers[0]}); mend that and go on")
    return [None if isinstance(answer, WriterFailure) else answer for answer in answers]


def _reference(sample: Sample) -> str | None:
    try:
        return given_reply(sample)
    except SampleError:  # no solution to reason with, or a response that isn't the policy's alone
        return None


def make_pairs(
    source: SampleSource, count: int, rollouts: Rollouts, cfg: PairConfig, folder: Path, seed: int
) -> dict[str, Any]:
    """Sample the first `count` prompts and write `folder`/pairs.jsonl; resumable.

    Returns `pair_statistics`. Raises `KeyeError` when there is not one pair.
    """
    log = RowLog(folder / PAIRS)
    done = {row["index"] for row in log.rows()}
    left = [index for index in range(count) if index not in done]
    with Progress("pairs", total=count) as bar:
        bar.advance(count - len(left))
        for start in range(0, len(left), cfg.chunk):
            numbers = left[start : start + cfg.chunk]
            samples = [source[index] for index in numbers]
            groups = rollouts.groups(samples, n=cfg.samples, seed=seed)
            if cfg.review:
                _export(groups, cfg, folder)
            log.append(_rows(numbers, groups, rollouts, cfg))
            bar.advance(len(numbers))
    return pair_statistics(log.rows(), folder)


def _rows(
    numbers: Sequence[int], groups: Sequence[Group], rollouts: Rollouts, cfg: PairConfig
) -> list[dict[str, Any]]:
    """The prompts' rows; where all responses are wrong, with an answer from elsewhere."""
    rows = [prompt_row(index, group, cfg) for index, group in zip(numbers, groups, strict=True)]
    wrong = [k for k, row in enumerate(rows) if row["accuracy"] == 0]
    answers = better_answers([groups[k] for k in wrong], cfg)
    for k, answer in zip(wrong, answers, strict=True):
        pair = _better_pair(groups[k], answer, cfg.wrong, rollouts) if answer else None
        if pair and not rows[k]["pairs"]:
            rows[k]["pairs"].append(pair)
    return rows


def _export(groups: Sequence[Group], cfg: PairConfig, folder: Path) -> None:
    """Items for people to rank, until there are `cfg.review`; before the prompts' own rows, so
    that none is missed after an interruption."""
    items, kept = RowLog(folder / REVIEW), RowLog(folder / CANDIDATES)
    for group in groups:
        candidates = candidates_of(group, cfg.review_candidates)
        if len(candidates) < 2 or len(items.ids) >= cfg.review:
            continue
        texts = [candidate["text"] for candidate in candidates]
        item = item_row(group.sample, texts[0], candidates=texts)
        row = {"id": item["id"], "prompt": group.sample.id, "candidates": candidates}
        for log, line in ((kept, row), (items, item)):
            if line["id"] not in log.ids:
                log.append([line])


def pair_statistics(rows: Sequence[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Prompts and pairs by kind and mode, lengths and rewards of both sides.

    `chosen_longer_share` is what a length bias would be learned from.
    """
    pairs = [pair | {"mode": row["mode"]} for row in rows for pair in row["pairs"]]
    if not pairs:
        raise KeyeError(
            f"not one pair from {len(rows)} prompts (see {folder / PAIRS}): all responses to a "
            "prompt are right, or none is and there is no reference. Take harder or easier data."
        )
    accuracy = np.array([row["accuracy"] for row in rows if row["accuracy"] is not None])
    longer = [len(p["chosen"]["text"]) > len(p["rejected"]["text"]) for p in pairs]

    def counts(values: Sequence[str]) -> dict[str, int]:
        return {name: list(values).count(name) for name in sorted(set(values))}

    def mean(side: str, key: str) -> float | None:
        values = [p[side][key] for p in pairs if p[side][key] is not None]
        lengths = [len(v) if isinstance(v, str) else v for v in values]
        return float(np.mean(lengths)) if lengths else None

    return {
        "prompts": len(rows),
        "pairs": len(pairs),
        "no_truth": len(rows) - len(accuracy),
        **_shares(accuracy),
        "kinds": counts([p["kind"] for p in pairs]),
        "modes": counts([p["mode"] for p in pairs]),
        "chosen_characters": mean("chosen", "text"),
        "rejected_characters": mean("rejected", "text"),
        "chosen_longer_share": float(np.mean(longer)),
        "chosen_reward": mean("chosen", "reward"),
        "rejected_reward": mean("rejected", "reward"),
        "rejected_likelihood": mean("rejected", "likelihood"),
    }


def _shares(accuracy: np.ndarray) -> dict[str, float]:
    """Of the prompts whose truth a rule knows, those all right and all wrong; nothing if none."""
    if not len(accuracy):
        return {}
    shares = {"all_right_share": accuracy == 1, "all_wrong_share": accuracy == 0}
    return {name: float(share.mean()) for name, share in shares.items()}


class PairExamples:
    """`examples(i)` for training: pairs in a new order every epoch, pure in i."""

    def __init__(self, source: SampleSource, path: Path, seed: int) -> None:
        self.source, self.seed = source, seed
        self.pairs = [
            (row, pair["chosen"], pair["rejected"])
            for row in RowLog(path).rows()
            for pair in row["pairs"]
        ]

    def __call__(self, index: int) -> tuple[list[dict[str, Any]], Any, Any]:
        """(prompt messages, chosen, rejected); a reply is int32 `[R]` ids or a text."""
        epoch, place = divmod(index, len(self.pairs))
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.pairs))
        row, chosen, rejected = self.pairs[int(order[place])]
        return render(sample_of(self.source, row)), _tokens(chosen), _tokens(rejected)


def _tokens(response: dict[str, Any]) -> Any:
    ids = response["ids"]
    return response["text"] if ids is None else np.array(ids, np.int32)
