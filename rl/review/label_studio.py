"""Items and decisions as Label Studio tasks, and decisions made there back into the log.

A line of the exported JSONL is a task, `{"data": …, "predictions": […], "annotations": […]}`:

- `data`: `item_id`, `version` (number of decisions at export), `task_type`, `mode`, `question`,
  `media` (HTML with the pictures in it), `answer`, `response`, `steps`, `confidence`, `grade`,
  `findings` (texts) and `candidates` (`[{id: "1"…, title, body}]`);
- `predictions`: one, with the current text as the `response` that the annotator starts from;
- `annotations`: one for each decision. Its results are named `action` (choices: accept, edit, drop,
  rank), `response` (textarea), `ranking` (ranker with buckets "1" (best), "2", …, which hold
  candidates' ids), `reviewer` (textarea), and, written here only, `version` (number) and `time`
  (textarea).

`label_config` makes the project's labelling interface with these names. An annotation without
`version` was made in Label Studio: it becomes a decision on the version that was exported, by
`reviewer` or, without one, `completed_by`, and is refused if someone decided here in the meantime.

Invariant: an import writes nothing unless every line can be read, and importing a file twice
changes nothing.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pretrain.run.directory import atomic_write
from pretrain.run.errors import KeyeError
from rl.review.decisions import ACTIONS, Decision, DecisionError, StaleDecision, edited_text
from rl.review.desk import Desk, ItemState
from rl.review.items import ReviewItem
from rl.review.media import Medium
from rl.tables import question

MAX_EMBEDDED = 16 << 20
"""Larger videos are named, not embedded: a task would become unusable in the browser."""


def label_config(ranks: int) -> str:
    """The labelling interface for candidates with ranks 1…`ranks`."""
    choices = "".join(f'<Choice value="{action}" hotkey="{action[0]}"/>' for action in ACTIONS)
    buckets = "".join(f'<Bucket name="{n}" title="Rank {n}"/>' for n in range(1, ranks + 1))
    ranker = (
        '  <List name="candidates" value="$candidates" title="Candidates"/>\n'
        f'  <Ranker name="ranking" toName="candidates">{buckets}</Ranker>\n'
    )
    return (
        "<View>\n"
        '  <HyperText name="media" value="$media"/>\n'
        '  <Header value="Question"/><Text name="question" value="$question"/>\n'
        '  <Header value="Reference answer"/><Text name="answer" value="$answer"/>\n'
        '  <Header value="Steps and their confidence"/><Text name="steps" value="$steps"/>\n'
        '  <Header value="Findings"/><Text name="findings" value="$findings"/>\n'
        f'  <Choices name="action" toName="question" required="true">{choices}</Choices>\n'
        '  <TextArea name="response" toName="question" maxSubmissions="1" editable="true"/>\n'
        f"{ranker if ranks else ''}"
        '  <Header value="Reviewer"/><TextArea name="reviewer" toName="question" '
        'maxSubmissions="1"/>\n'
        '  <View style="display: none"><Number name="version" toName="question"/>'
        '<TextArea name="time" toName="question" maxSubmissions="1"/></View>\n'
        "</View>\n"
    )


# ------------------------------------------------------------------------------------ export


def export_tasks(desk: Desk) -> Iterator[dict[str, Any]]:
    """A task of every item with all its decisions. Raises `KeyeError` for unreadable media."""
    for state in desk.states():
        yield {
            "data": _data(state, desk.media(state.item.id)),
            "predictions": [
                {
                    "model_version": f"version {state.version}",
                    "result": [_result("response", "textarea", "text", [state.response])],
                }
                | ({} if (score := state.item.confidence) is None else {"score": score})
            ],
            "annotations": [_annotation(decision) for decision in state.history],
        }


def _data(state: ItemState, media: list[Medium]) -> dict[str, Any]:
    item = state.item
    return {
        "item_id": item.id,
        "version": state.version,
        "task_type": item.sample.task_type,
        "mode": item.sample.mode,
        "question": question(item.sample.messages),
        "media": "".join(_html(medium) for medium in media) or "<p>no media</p>",
        "answer": item.sample.answer,
        "response": item.response,
        "steps": "\n".join(
            step.text if step.confidence is None else f"{step.text}  [{step.confidence:.0%}]"
            for step in item.steps
        ),
        "confidence": item.confidence,
        "grade": item.grade,
        "findings": "\n".join(item.findings),
        "candidates": [
            {"id": str(number), "title": f"Candidate {number}", "body": text}
            for number, text in enumerate(item.candidates, start=1)
        ],
    }


def _html(medium: Medium) -> str:
    caption = html.escape(medium.caption)
    size = medium.content.stat().st_size if isinstance(medium.content, Path) else 0
    if size > MAX_EMBEDDED:
        return f"<p>{caption}: {html.escape(str(medium.content))}</p>"
    source = f"data:{medium.mime};base64,{base64.b64encode(medium.data()).decode()}"
    if medium.kind == "video":
        return f'<p>{caption}<br><video controls src="{source}"></video></p>'
    return f'<p>{caption}<br><img src="{source}"></p>'


def _annotation(decision: Decision) -> dict[str, Any]:
    results = [
        _result("action", "choices", "choices", [decision.action]),
        _result("reviewer", "textarea", "text", [decision.reviewer]),
        _result("version", "number", "number", decision.version),
        _result("time", "textarea", "text", [decision.time]),
    ]
    if decision.response is not None:
        results.append(_result("response", "textarea", "text", [decision.response]))
    if decision.ranking is not None:
        buckets: dict[str, list[str]] = {str(n + 1): [] for n in range(len(decision.ranking))}
        for number, rank in enumerate(decision.ranking, start=1):
            buckets[str(rank)].append(str(number))
        results.append(_result("ranking", "ranker", "ranker", buckets, to="candidates"))
    return {"result": results, "created_at": decision.time, "was_cancelled": False}


def _result(name: str, kind: str, key: str, value: Any, to: str = "question") -> dict[str, Any]:
    return {
        "id": name,
        "from_name": name,
        "to_name": to,
        "type": kind,
        "value": {key: value},
    }


def export_file(desk: Desk, path: Path) -> int:
    """Write all tasks to `path` and the interface to `path`.xml; returns the number of tasks."""
    rows = [json.dumps(task, ensure_ascii=False) + "\n" for task in export_tasks(desk)]
    atomic_write(path, "".join(rows))
    most = max(len(item.candidates) for item in desk.items)
    atomic_write(path.with_suffix(".xml"), label_config(most))
    return len(rows)


# ------------------------------------------------------------------------------------ import


@dataclass
class ImportReport:
    """What an import did."""

    added: int = 0
    """Decisions written."""
    known: int = 0
    """Decisions that were in the log already."""
    refused: list[str] = field(default_factory=list)
    """Why the others were not written; they are still in the imported file."""


def import_tasks(desk: Desk, content: bytes, name: str) -> ImportReport:
    """Decisions out of Label Studio's JSON (a list of tasks) or JSONL (a task a line).

    `name` is what errors call the file. Raises `KeyeError` naming the file, the task, the reason
    and the fix, before anything is written.
    """
    found: list[Decision] = []
    for where, task in _tasks(content, name):
        try:
            found += _decisions(desk, task)
        except DecisionError as error:
            raise KeyeError(
                f"{where}: {error}. Nothing was imported: mend that task, or remove it, and import "
                "again."
            ) from None
    report = ImportReport()
    desk.log.refresh()
    for decision in found:
        history = desk.log.history(decision.id)
        if _is_known(history, decision):
            report.known += 1
            continue
        try:
            desk.append(decision)
            report.added += 1
        except (StaleDecision, DecisionError) as error:
            report.refused.append(str(error))
    return report


def _tasks(content: bytes, name: str) -> Iterator[tuple[str, Any]]:
    """Every task with where it stands."""
    try:
        text = content.decode("utf-8-sig")
        if text.lstrip().startswith("["):
            for number, task in enumerate(json.loads(text), start=1):
                yield f"{name}, task {number}", task
            return
    except ValueError as error:
        raise KeyeError(f"{name}: not valid JSON in UTF-8 ({error}). Export it again.") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield f"{name}:{number}", json.loads(line)
            except ValueError as error:
                raise KeyeError(
                    f"{name}:{number}: not valid JSON ({error}). Nothing was imported: mend that "
                    "line and import again."
                ) from None


def _decisions(desk: Desk, task: Any) -> list[Decision]:
    """A task's decisions in the order in which they were made; `DecisionError`."""
    data = task.get("data") if isinstance(task, Mapping) else None
    if not isinstance(data, Mapping) or "item_id" not in data:
        raise DecisionError("a task needs `data` with an `item_id`, as the export wrote it")
    try:
        item = desk.item(data["item_id"])
    except (KeyError, TypeError):
        raise DecisionError(f"no item has the id {data['item_id']!r}") from None
    annotations = task.get("annotations") or []
    if not isinstance(annotations, list) or not all(isinstance(a, Mapping) for a in annotations):
        raise DecisionError("`annotations` must be a list of objects")
    made = [a for a in annotations if not a.get("was_cancelled")]
    ours = [a for a in made if "version" in _values(a)]
    theirs = sorted(
        (a for a in made if "version" not in _values(a)), key=lambda a: str(a.get("created_at"))
    )
    decisions = [_decision(item, a, _values(a)["version"] - 1) for a in ours]
    decisions.sort(key=lambda decision: decision.version)
    exported = data.get("version", 0)
    if not isinstance(exported, int) or exported < 0:
        raise DecisionError(f"`data.version` must be a number from 0 on, got {exported!r}")
    desk.log.refresh()
    standing = edited_text(desk.log.history(item.id)[:exported]) or item.response
    return decisions + [_their_decision(item, a, exported, standing) for a in theirs]


def _their_decision(
    item: ReviewItem, annotation: Mapping[str, Any], exported: int, standing: str
) -> Decision:
    """A decision made in Label Studio, whose interface always sends its text field.

    Accepting a text that one has changed is an edit; beside other actions the text doesn't count.
    """
    decision = _decision(item, annotation, exported, with_text=False)
    text = _values(annotation).get("response")
    if decision.action == "accept" and text is not None and text != standing:
        return replace(decision, action="edit", response=text)
    return decision


def _decision(
    item: ReviewItem, annotation: Mapping[str, Any], base_version: int, with_text: bool = True
) -> Decision:
    values = _values(annotation)
    action = values.get("action", "")
    return Decision(
        id=item.id,
        version=base_version + 1,
        base_version=base_version,
        action=action,
        reviewer=values.get("reviewer") or _person(annotation.get("completed_by")),
        time=values.get("time") or _time(annotation.get("created_at")),
        response=values.get("response") if with_text or action == "edit" else None,
        ranking=_ranks(values.get("ranking"), len(item.candidates)) if action == "rank" else None,
    )


def _values(annotation: Mapping[str, Any]) -> dict[str, Any]:
    """Result name → its value: a text, a number or the ranker's buckets."""
    values: dict[str, Any] = {}
    results = annotation.get("result")
    if not isinstance(results, list) or not all(isinstance(r, Mapping) for r in results):
        raise DecisionError("an annotation's `result` must be a list of objects")
    for result in results:
        kind, value = result.get("type"), result.get("value")
        key = "text" if kind == "textarea" else kind
        if not isinstance(value, Mapping) or key not in value:
            raise DecisionError(f"result {result.get('from_name')!r} has no value of type {kind!r}")
        inner = value[key]
        if isinstance(inner, list):
            inner = "\n".join(map(str, inner))
        values[str(result.get("from_name"))] = inner
    version = values.get("version")
    if version is not None and (not isinstance(version, int | float) or version != int(version)):
        raise DecisionError(f"result 'version' must be a whole number, got {version!r}")
    return values if version is None else values | {"version": int(version)}


def _ranks(buckets: Any, count: int) -> tuple[int, ...]:
    """Each candidate's rank out of `{rank: [candidate ids]}`, the best one's made 1."""
    ranks: dict[int, int] = {}
    try:
        for bucket, ids in buckets.items():
            if bucket != "_":  # Label Studio's list of those in no bucket
                ranks |= {int(id): int(bucket) for id in ids}
        if not ranks or sorted(ranks) != list(range(1, count + 1)):
            raise ValueError
    except (AttributeError, ValueError, TypeError):
        raise DecisionError(
            f"result 'ranking' must put each of the {count} candidates into a bucket 1, 2, …, got "
            f"{buckets!r}"
        ) from None
    best = min(ranks.values())
    return tuple(ranks[number] - best + 1 for number in sorted(ranks))


def _person(completed_by: Any) -> str:
    if isinstance(completed_by, Mapping):
        completed_by = completed_by.get("email") or completed_by.get("id")
    return f"label-studio:{completed_by or 'unknown'}"


def _time(created_at: Any) -> str:
    try:
        moment = datetime.fromisoformat(str(created_at))
    except ValueError:
        raise DecisionError(f"`created_at` must be ISO 8601, got {created_at!r}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


def _is_known(history: list[Decision], decision: Decision) -> bool:
    """Whether the log has this decision: by the same person at the same time, to one effect."""

    def effect(d: Decision) -> tuple[Any, ...]:
        return d.action, d.reviewer, d.time, d.ranking, d.response if d.action == "edit" else None

    return any(effect(made) == effect(decision) for made in history)
