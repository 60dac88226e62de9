"""What all sources do to a sample: add to its query, keep its rewards beside their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pretrain.data.sample import Sample

Entry = dict[str, Any]
ANSWER = "answer"
"""Name of the reward part that says whether the question is answered."""
STRUCTURES = ("format", "agentic_format")
"""Rules that a sample may bring and that each source sets by itself."""
BOX = "\\boxed{}"


def with_query(sample: Sample, instruction: str) -> Sample:
    """A copy whose last text ends with the instruction, on a line of its own."""
    *before, last = sample.messages
    content = last["content"]
    if isinstance(content, str):
        content = f"{content}\n{instruction}"
    else:
        parts = [dict(part) for part in content]
        texts = [part for part in parts if part["type"] == "text"]
        if texts:
            texts[-1]["text"] += f"\n{instruction}"
        else:
            parts.append({"type": "text", "text": instruction})
        content = parts
    return replace(sample, messages=[*before, {"role": last["role"], "content": content}])


def marked(sample: Sample, source: str, kind: str) -> Sample:
    """A copy that says which source it comes from and what kind of prompt it is.

    Only a sample that names its tools may call some.
    """
    about = {"alignment": {"source": source, "kind": kind}, "tools": sample.extra.get("tools", [])}
    name = sample.id if sample.id.startswith(f"{source}/") else f"{source}/{sample.id}"
    return replace(sample, id=name, extra=sample.extra | about)


def answer_entries(sample: Sample, factor: float) -> list[Entry]:
    """The sample's own rewards but for the structure's, as part `answer`, weights × `factor`."""
    own = [entry for entry in sample.rewards if entry["rule"] not in STRUCTURES]
    if not factor:
        return []
    return [
        entry | {"name": ANSWER, "weight": factor * entry.get("weight", 1.0)}
        for entry in own
        if entry.get("weight", 1.0)
    ]


def format_entry(weight: float, gate: bool, **args: Any) -> list[Entry]:
    """The reward for the mode's structure; none if it neither weighs nor closes anything."""
    if not weight and not gate:
        return []
    return [{"rule": "format", "weight": weight, **({"gate": 1.0} if gate else {}), **args}]


def agentic_entry(weight: float, gate: bool, min_calls: int, **args: Any) -> list[Entry]:
    """The same for agentic thinking: think, call, result, think, answer."""
    more = {"rule": "agentic_format", "name": "format", "min_calls": min_calls}
    return [entry | more for entry in format_entry(weight, gate, **args)]


def is_boxed(sample: Sample) -> bool:
    """Whether the answer stands in a box: always in the thinking modes, elsewhere if it counts."""
    answers = any(entry.get("name") == ANSWER for entry in sample.rewards)
    return sample.mode != "no_think" or answers


def section(sample: Sample, answer: str, reason: bool) -> str:
    """A written answer in the structure of the sample's mode."""
    if sample.mode == "no_think":
        return answer
    thought = f"<think>{sample.solution}</think>" if reason and sample.solution else ""
    return f"{thought}<answer>{answer}</answer>"


def pick(rng: Any, weights: dict[str, float]) -> str:
    """A name drawn by weight."""
    names: Sequence[str] = list(weights)
    total = sum(weights.values())
    return str(rng.choice(names, p=[weights[name] / total for name in names]))
