"""Scores responses: every rule of every response, in killable processes, with deadlines.

    with RewardPool(RewardConfig()) as pool:
        scores = pool.score([("<think>…</think><answer>…</answer>", sample_row), …])

A score comes for every item, in order. `submit` returns at once with a future, so that scoring
hides behind generation.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import threading
from collections.abc import Sequence
from typing import Any

from pretrain.run.errors import KeyeError
from rewards.composition import Part, SpecError, parts_of, total
from rewards.config import RewardConfig
from rewards.dispatch import Dispatcher
from rewards.processes import Call
from rewards.result import RewardResult, Score

QUEUED_AT_ONCE = 256  # calls; small against max_pending, so that workers never run dry
Item = tuple[str, dict[str, Any]]


class RewardError(KeyeError):
    """Scoring cannot go on: a rule that cannot be loaded, or too many failures."""


class RewardFailureError(RewardError):
    """Too many responses of a batch have a failed rule. `scores` holds what was computed."""

    def __init__(self, message: str, scores: list[Score]) -> None:
        super().__init__(message)
        self.scores = scores


class RewardPool:
    """Worker processes and the composition of their results. Close it, or use it with `with`."""

    def __init__(self, config: RewardConfig) -> None:
        self.config = config
        self._dispatcher = Dispatcher(config)
        self._ids = itertools.count()

    def __enter__(self) -> RewardPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers; unfinished items get error results."""
        self._dispatcher.close()

    @property
    def restarts(self) -> int:
        """Workers that were killed, died or were retired so far."""
        return self._dispatcher.restarts

    def check(self, rules: Sequence[str]) -> None:
        """Loads rules ahead of any work; RewardError says which cannot be loaded and why."""
        self._dispatcher.need(set(rules))
        for name in rules:
            facts = self._dispatcher.facts[name]
            if isinstance(facts, str):
                raise RewardError(facts)

    def score(self, items: Sequence[Item]) -> list[Score]:
        """Scores of all items, in order. RewardFailureError above `max_failed_share`."""
        scores = self.submit(items).result()
        self.check_failures(scores)
        return scores

    def submit(self, items: Sequence[Item]) -> concurrent.futures.Future[list[Score]]:
        """Starts scoring; blocks only while the queue is full.

        Consecutive items of the same sample are a group: batched rules get it in one call.
        """
        batch = _Batch(list(items), self.config)
        names = {part.rule for parts in batch.parts for part in parts}
        self._dispatcher.need(names)
        calls = batch.calls(self._dispatcher.facts, self._ids)
        step = min(QUEUED_AT_ONCE, self.config.max_pending)
        for start in range(0, len(calls), step):
            self._dispatcher.add(calls[start : start + step])
        batch.seal(len(calls))
        return batch.future

    def check_failures(self, scores: Sequence[Score]) -> None:
        """Raises RewardFailureError if too large a share failed, naming the worst rule."""
        failed = [score for score in scores if score.failed]
        if len(failed) <= self.config.max_failed_share * len(scores):
            return
        by_rule: dict[str, list[RewardResult]] = {}
        for score in failed:
            for name, result in score.parts.items():
                if result.status != "ok":
                    by_rule.setdefault(name, []).append(result)
        name, results = max(by_rule.items(), key=lambda entry: len(entry[1]))
        raise RewardFailureError(
            f"reward rule {name!r} failed on {len(results)} of {len(scores)} responses "
            f"({results[0].status}: {results[0].details.get('message', 'no message')}). "
            "Mend the rule or the data, or raise max_failed_share "
            f"({self.config.max_failed_share:g}).",
            list(scores),
        )


class _Batch:
    """The items of one `submit`: their parts, their calls, and the results as they arrive."""

    def __init__(self, items: list[Item], config: RewardConfig) -> None:
        self.items, self.config = items, config
        self.future: concurrent.futures.Future[list[Score]] = concurrent.futures.Future()
        self.future.set_running_or_notify_cancel()  # so that nobody can cancel it
        self.parts: list[list[Part]] = []
        self._results: list[dict[str, RewardResult]] = [{} for _ in items]
        self._verifiers: list[tuple[str, ...]] = []
        self._plain: dict[int, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._delivered = 0
        self._expected: int | None = None
        for index, (_, sample) in enumerate(items):
            try:
                self.parts.append(parts_of(sample, config))
            except SpecError as error:  # one bad row must not end the others
                self.parts.append([])
                self._results[index]["rewards"] = RewardResult.failure(str(error))

    def calls(self, facts: dict[str, dict[str, Any] | str], ids: Any) -> list[Call]:
        """One call a part and item; one a part and group for batched rules."""
        calls: list[Call] = []
        for start, end in self._groups():
            for number, part in enumerate(self.parts[start]):
                known = facts[part.rule]
                if isinstance(known, str):
                    for index in range(start, end):
                        self._results[index][part.name] = RewardResult.failure(known)
                elif known["is_batched"]:
                    calls.append(self._call(range(start, end), number, known, ids))
                else:
                    calls += [self._call([i], number, known, ids) for i in range(start, end)]
        for parts in self.parts:
            self._verifiers.append(tuple(p.name for p in parts if _verifies(p, facts[p.rule])))
        return calls

    def _groups(self) -> list[tuple[int, int]]:
        """Runs of consecutive items with the same sample object or the same id."""
        count = len(self.items)
        edges = [i for i in range(count) if i == 0 or not self._same(i - 1, i)] + [count]
        return list(itertools.pairwise(edges))

    def _same(self, left: int, right: int) -> bool:
        a, b = self.items[left][1], self.items[right][1]
        return a is b or (
            a.get("id") is not None
            and all(a.get(key) == b.get(key) for key in ("id", "answer", "rewards"))
        )

    def _call(self, indices: Sequence[int], number: int, facts: dict[str, Any], ids: Any) -> Call:
        part = self.parts[indices[0]][number]
        sample = self.items[indices[0]][1]
        if id(sample) not in self._plain:
            self._plain[id(sample)] = without_pixels(sample)

        def deliver(results: list[RewardResult]) -> None:
            for index, result in zip(indices, results, strict=True):
                self._results[index][part.name] = result
            with self._lock:
                self._delivered += 1
                complete = self._delivered == self._expected
            if complete:
                self._complete()

        return Call(
            id=next(ids),
            rule=part.rule,
            responses=[self.items[index][0] for index in indices],
            sample=self._plain[id(sample)],
            args=part.args,
            deadline_s=part.deadline_s or facts["deadline_s"] or self.config.deadline_s,
            is_async=facts["is_async"],
            deliver=deliver,
        )

    def seal(self, expected: int) -> None:
        """All calls are queued; the future is done once `expected` of them are delivered."""
        with self._lock:
            self._expected = expected
            complete = self._delivered == expected
        if complete:
            self._complete()

    def _complete(self) -> None:
        scores = []
        for parts, results, verifiers in zip(
            self.parts, self._results, self._verifiers, strict=True
        ):
            ordered = {part.name: results[part.name] for part in parts} or results
            value = total(parts, results, self.config) if parts else None
            scores.append(Score(value, ordered, verifiers))
        self.future.set_result(scores)


def _verifies(part: Part, facts: dict[str, Any] | str) -> bool:
    if part.verifier is not None:
        return part.verifier
    return part.weight != 0 and isinstance(facts, dict) and bool(facts["verifier"])


def without_pixels(sample: dict[str, Any]) -> dict[str, Any]:
    """The sample as rules see it: media in memory are left out, paths and URIs stay.

    The same object if nothing had to be left out.
    """
    messages = sample.get("messages") or []
    changed = False
    slim: list[dict[str, Any]] = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, (list, tuple)):
            parts = [_without_pixels(part) for part in content]
            changed |= any(new is not old for new, old in zip(parts, content, strict=True))
            message = {**message, "content": parts}
        slim.append(message)
    return {**sample, "messages": slim} if changed else sample


def _without_pixels(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    heavy = [k for k, v in part.items() if k != "type" and not isinstance(v, (str, int, float))]
    heavy = [k for k in heavy if part[k] is not None and not isinstance(part[k], dict)]
    return {k: v for k, v in part.items() if k not in heavy} if heavy else part
