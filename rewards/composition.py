"""From a sample's `rewards` entries to parts, and from the parts' results to one total.

An entry is `{rule, weight, …args}`. These keys belong to composition, all others are arguments of
the rule:
- `rule` (or Hydra's `_target_`): which rule; `name`: what the part is called in logs (the rule's
  short name by default; a second part of that name gets `#2`);
- `weight` (1.0): factor in the sum; 0 logs the part without rewarding it;
- `gate`: a threshold (true = 1.0). If this part's value is below it, the parts that are no gates
  count as 0: format before content;
- `range`: `[low, high]` is mapped linearly to 0…1 and clipped, e.g. a judge's marks from 1 to 5;
- `verifier`: overrides whether the rule decides that an answer is right;
- `deadline_s`: overrides the pool's deadline for this rule.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field
from typing import Any

from rewards.config import RewardConfig
from rewards.result import RewardResult

OWN_KEYS = {"rule", "_target_", "name", "weight", "gate", "range", "verifier", "deadline_s"}


class SpecError(Exception):
    """A rewards entry that cannot be understood; the message names the entry and the fix."""


@dataclass(slots=True)
class Part:
    """One rewards entry, checked."""

    name: str
    rule: str
    weight: float = 1.0
    gate: float | None = None
    range: tuple[float, float] | None = None
    verifier: bool | None = None
    deadline_s: float | None = None
    args: dict[str, Any] = field(default_factory=dict)


def parts_of(sample: dict[str, Any], config: RewardConfig) -> list[Part]:
    """The parts of a sample: its own `rewards`, or the route of its `task_type`."""
    entries = sample.get("rewards") or route(str(sample.get("task_type", "")), config.routes)
    if not entries:
        raise SpecError(
            f"sample {sample.get('id')!r} (task_type {sample.get('task_type')!r}) has no rewards; "
            "give the row a `rewards` list, or add a route for its task_type to `routes`"
        )
    parts: list[Part] = []
    counts: dict[str, int] = {}
    for entry in entries:
        part = _part(entry, sample)
        counts[part.name] = counts.get(part.name, 0) + 1
        if counts[part.name] > 1:
            part.name = f"{part.name}#{counts[part.name]}"
        parts.append(part)
    return parts


def route(task_type: str, routes: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The rewards of the longest pattern that matches, or an empty list."""
    matching = [pattern for pattern in routes if fnmatch.fnmatchcase(task_type, pattern)]
    return routes[max(matching, key=len)] if matching else []


def _part(entry: dict[str, Any], sample: dict[str, Any]) -> Part:
    where = f"sample {sample.get('id')!r}: rewards entry {entry!r}"
    if not isinstance(entry, dict):
        raise SpecError(f"{where} must be a mapping such as {{rule: math, weight: 1.0}}")
    name = entry.get("rule") or entry.get("_target_")
    if not isinstance(name, str):
        raise SpecError(f"{where} names no rule; add `rule: NAME`")
    gate = entry.get("gate")
    bounds = entry.get("range")
    if bounds is not None and not (len(bounds) == 2 and bounds[0] < bounds[1]):
        raise SpecError(f"{where}: `range` must be [low, high] with low < high")
    try:
        weight = float(entry.get("weight", 1.0))
        threshold = None if gate is None or gate is False else float(gate)
        deadline = None if entry.get("deadline_s") is None else float(entry["deadline_s"])
    except (TypeError, ValueError) as error:
        raise SpecError(f"{where}: weight, gate and deadline_s are numbers ({error})") from None
    return Part(
        name=str(entry.get("name") or short_name(name)),
        rule=name,
        weight=weight,
        gate=threshold,
        range=None if bounds is None else (float(bounds[0]), float(bounds[1])),
        verifier=entry.get("verifier"),
        deadline_s=deadline,
        args={k: v for k, v in entry.items() if k not in OWN_KEYS and v is not None},
    )


def short_name(rule: str) -> str:
    """`math` → `math`; `pkg.module:f`, `pkg.module.f` and `dir/file.py:f` → `f`."""
    return rule.rpartition(":")[2] if ":" in rule else rule.rpartition(".")[2]


def scaled(part: Part, value: float) -> float:
    """The value mapped from `range` to 0…1 and clipped to it; unchanged without a range."""
    if part.range is None:
        return value
    low, high = part.range
    return min(max((value - low) / (high - low), 0.0), 1.0)


def total(
    parts: list[Part], results: dict[str, RewardResult], config: RewardConfig
) -> float | None:
    """Σ weight · value, after gates, normalisation and clipping; None if any part failed."""
    values: dict[str, float] = {}
    for part in parts:
        value = results[part.name].value
        if value is None:
            return None
        values[part.name] = scaled(part, value)
    closed = any(p.gate is not None and values[p.name] < p.gate for p in parts)
    counted = [p for p in parts if p.gate is not None or not closed]
    summed = sum(p.weight * values[p.name] for p in counted)
    if config.normalise == "weights":
        summed /= sum(abs(p.weight) for p in parts) or 1.0
    if config.clip is not None:
        summed = min(max(summed, config.clip[0]), config.clip[1])
    return summed
