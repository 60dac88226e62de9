"""Two short questions as one, whose answer is both (the report's "merging sub-tasks").

Invariant: each half of a merged answer is judged by the half's own rule and reference, and a merged
response is right only if both halves are.
"""

from __future__ import annotations

from typing import Any

from pretrain.data.sample import Sample

RULE = "rl.long_cot.merged_answer:merged_answer"
MERGEABLE = ("math", "exact", "fuzzy", "number", "counting", "chart_value")
"""Rules that compare one short answer with the sample's `answer`."""
KEPT = ("format",)
"""Rules that judge no answer and stay beside the merged one."""
STEP_JOIN = ";"


def obstacle(first: Sample, second: Sample, separator: str, max_images: int) -> str | None:
    """Why two samples can't be merged; None if they can."""
    media = shared_media(first, second)
    if any(part["type"] == "video" for part in media):
        return "a video"  # one prompt takes one video, and two halves would share its tokens
    if len(media) > max_images:
        return f"more than {max_images} images"
    for sample in (first, second):
        if len(sample.messages) != 1:
            return "several turns"
        if separator.strip() in sample.answer:
            return f"{separator!r} in an answer"
        if sample.constraints or "answers" in sample.extra or "parts" in sample.extra:
            return "constraints or several answers"
        rules = [rule["rule"] for rule in sample.rewards]
        judging = [rule for rule in rules if rule not in KEPT]
        if len(judging) != 1 or judging[0] not in MERGEABLE:
            return f"rules {', '.join(rules) or 'none'}"
    return None


def merged_sample(first: Sample, second: Sample, separator: str) -> Sample:
    """One sample that asks both questions in order; equal media are shown once."""
    content = [*first.media(), *_texts(first)]
    if not same_media(first, second):
        content += second.media()
    content += _texts(second)
    kinds = [sample.task_type.partition("/")[2] for sample in (first, second)]
    weights = [_judging(sample).get("weight", 1.0) for sample in (first, second)]
    rewards = [
        {
            "rule": RULE,
            "name": "merged",
            "weight": sum(weights) / 2,
            "separator": separator,
            "parts": [_part(sample) for sample in (first, second)],
        }
    ]
    rewards += [rule for rule in first.rewards if rule["rule"] in KEPT]
    solutions = [sample.solution for sample in (first, second)]
    return Sample(
        id=f"{first.id}+{second.id}",
        messages=[{"role": "user", "content": content}],
        answer=separator.join(sample.answer.strip() for sample in (first, second)),
        task_type=f"merged/{'+'.join(kinds)}",
        rewards=rewards,
        solution=STEP_JOIN.join(filter(None, solutions)) if all(solutions) else None,
        mode="think",
        extra={"parts": [sample.answer for sample in (first, second)]},
    )


def same_media(first: Sample, second: Sample) -> bool:
    """Whether both samples show the same things in the same order."""
    return [_identity(p) for p in first.media()] == [_identity(p) for p in second.media()]


def shared_media(first: Sample, second: Sample) -> list[dict[str, Any]]:
    """The media of a merged question."""
    return first.media() + ([] if same_media(first, second) else second.media())


def _identity(part: dict[str, Any]) -> Any:
    value = part[part["type"]]
    return value.tobytes() if hasattr(value, "tobytes") else value


def _texts(sample: Sample) -> list[dict[str, Any]]:
    content = sample.messages[0]["content"]
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [dict(part) for part in content if part["type"] == "text"]


def _judging(sample: Sample) -> dict[str, Any]:
    return next(rule for rule in sample.rewards if rule["rule"] not in KEPT)


def _part(sample: Sample) -> dict[str, Any]:
    own = ("rule", "weight", "name", "gate", "range", "verifier", "deadline_s")
    rule = _judging(sample)
    arguments = {key: value for key, value in rule.items() if key not in own}
    return {"rule": rule["rule"], "answer": sample.answer, "arguments": arguments}
