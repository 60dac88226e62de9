"""Marks given by a language model: tasks with their templates, and soft constraints."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Any

from rewards.judge import templates
from rewards.judge.client import Endpoint, JudgeClient, JudgeError
from rewards.registry import rule
from rewards.result import RewardResult

DEADLINE_S = 180.0  # retries included


@lru_cache(maxsize=16)
def _client(endpoint: Endpoint) -> JudgeClient:
    return JudgeClient(endpoint)


@rule(verifier=False, deadline_s=DEADLINE_S)
async def judge(
    response: str,
    sample: dict[str, Any],
    url: str,
    model: str,
    task: str = "agreement",
    criterion: str = "",
    reason_length: int = 300,
    **endpoint: Any,
) -> RewardResult:
    """A judge's mark from 1 to 5 as a value from 0 to 1, from an OpenAI-compatible endpoint.

    `task`: agreement (with the sample's answer), reasoning, attributes, safety, steps, retrieval;
    `criterion` replaces the task's wording ("whether the response …"). More arguments are those of
    `rewards.judge.client.Endpoint`: `retries`, `timeout_s`, `concurrency`, `cache` (a SQLite file),
    `key_variable`, `price_in`, `price_out`. An endpoint that fails or an answer that is not the
    JSON asked for is an `error`. Details: the reason, tokens, attempts, cost.
    """
    if task not in templates.TASKS:
        return RewardResult.failure(f"task {task!r} is none of {', '.join(templates.TASKS)}")
    wording, fields = templates.TASKS[task]
    shown = {name: sample[name] for name in fields if sample.get(name) is not None}
    client = _client(Endpoint(url=url, model=model, **endpoint))
    body = templates.request(criterion or wording, shown, response, sample, reason_length)
    return await _mark(client, body)


@rule(verifier=False, deadline_s=DEADLINE_S)
async def soft_constraints(
    response: str,
    sample: dict[str, Any],
    url: str,
    model: str,
    reason_length: int = 300,
    **endpoint: Any,
) -> RewardResult:
    """Mean mark, 0 to 1, of the sample's soft constraints `{kind, value}`, each judged by itself.

    The kinds are those of `rewards.judge.templates.SOFT` (tone, style, audience, …); hard kinds in
    the same list are left to the rule `constraints`. Arguments as for `judge`.
    """
    wanted = [c for c in sample.get("constraints") or [] if c.get("kind") in templates.SOFT]
    if not wanted:
        return RewardResult.failure("the sample has no soft constraints")
    client = _client(Endpoint(url=url, model=model, **endpoint))
    bodies = []
    for constraint in wanted:
        asked = templates.SOFT[constraint["kind"]].format(value=constraint.get("value", ""))
        criterion = f"whether the response {asked}."
        bodies.append(templates.request(criterion, {}, response, sample, reason_length))
    marks = await asyncio.gather(*(_mark(client, body) for body in bodies))
    failed = next((mark for mark in marks if mark.value is None), None)
    if failed is not None:
        return failed
    details = {c["kind"]: m.value for c, m in zip(wanted, marks, strict=True)}
    mean = sum(mark.value or 0.0 for mark in marks) / len(marks)
    return RewardResult(mean, details=details)


async def _mark(client: JudgeClient, body: dict[str, Any]) -> RewardResult:
    try:
        reply = await client.complete(body)
    except JudgeError as error:
        return RewardResult.failure(str(error))
    details: dict[str, Any] = {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "attempts": reply.attempts,
        "cached": reply.cached,
        "cost": reply.cost,
    }
    try:
        value, reason = templates.parse(reply.text)
    except (ValueError, RecursionError) as error:
        details["message"] = f"the judge's answer is malformed ({error}): {reply.text[:200]!r}"
        return RewardResult(None, "error", details=details)
    return RewardResult(value, details={**details, "reason": reason[:500]})
