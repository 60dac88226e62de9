"""One training or evaluation example, in memory and as a JSONL/Parquet row.

Invariant: after `Sample.from_row` every message has a list of parts, every part is
`{"type": "text", "text": str}`, `{"type": "image", "image": …}` or `{"type": "video", "video": …}`,
and there are as many media parts as the row announced; nothing else reaches a processor.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from PIL import Image

from pretrain.run.errors import KeyeError

MODES = ("think", "no_think", "auto_think")
ROLES = ("system", "user", "assistant")
HINT_LEVELS = 5
MEDIA = ("image", "video")
VIDEO_OPTIONS = {
    "fps": ("fps",),
    "num_frames": ("num_frames", "nframes"),
    "start": ("start", "video_start"),
    "end": ("end", "video_end"),
}
"""What a video part may ask of its reader, and how `keye-vl-utils` spells it."""
# A literal one of these in a text would be read as a medium that is not there.
PLACEHOLDERS = (
    "<|image_pad|>",
    "<|video_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|frame|>",
    "<|fast_start|>",
    "<|fast_end|>",
)


class SampleError(KeyeError):
    """A row that cannot become a sample; the message says which field is wrong and why."""


@dataclass(slots=True)
class Sample:
    """One example: what is asked, what is right, and how a response is scored."""

    id: str
    """Unique and stable: errors, the ledger and the sample table name the sample by it."""
    messages: list[dict[str, Any]]
    """Chat messages, ending with the user's turn; images may be uint8 HWC arrays, PIL images,
    bytes, data URIs or paths until they are resolved (`pretrain.data.media`)."""
    answer: str
    """The reference answer, without any tag or box."""
    task_type: str
    """`domain/kind`: the unit of mixing and of per-task metrics."""
    rewards: list[dict[str, Any]] = field(default_factory=list)
    """`{"rule": name, "weight": w, …arguments}`: what scores a response."""
    hints: list[str] | None = None
    """L1…L5, from an observation to the whole solution; an empty string is a missing level."""
    solution: str | None = None
    """Chain-of-thought text that ends at the answer."""
    constraints: list[dict[str, Any]] | None = None
    """Instruction-following constraints, for the rules that check them."""
    mode: str = "auto_think"
    """`think`, `no_think` or `auto_think`."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Columns the format doesn't know; handed to reward rules unchanged."""

    def validate(self) -> Sample:
        """Return self, or raise `SampleError` that names the sample and the first wrong field."""
        _require(isinstance(self.id, str) and bool(self.id), "id", "must be a non-empty string")
        try:
            _check_fields(self)
            _check_messages(self.messages)
        except SampleError as error:
            raise SampleError(f"sample {self.id!r}: {error}") from None
        return self

    def media(self) -> list[dict[str, Any]]:
        """The image and video parts in order of appearance (the parts themselves, not copies)."""
        return [
            part
            for message in self.messages
            if isinstance(message["content"], list)
            for part in message["content"]
            if part["type"] in MEDIA
        ]

    def to_row(self, media: bool = True) -> dict[str, Any]:
        """A JSON-serialisable row; in-memory images become PNG data URIs.

        With `media=False` media parts lose their content: that is what reward workers are sent.
        """
        messages = [
            {
                "role": message["role"],
                "content": message["content"]
                if isinstance(message["content"], str)
                else [_part_to_row(part, media) for part in message["content"]],
            }
            for message in self.messages
        ]
        row = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
        row["messages"] = messages
        return self.extra | {k: v for k, v in row.items() if v is not None}

    @classmethod
    def from_row(cls, row: Mapping[str, Any], default_id: str = "") -> Sample:
        """Build and validate a sample from a JSONL/Parquet row.

        Nones (a reader's filling of absent keys) are dropped, OpenAI and Hugging Face spellings of
        media parts become ours, and `<image>`/`<video>` markers with `images`/`videos` columns
        become parts. Raises `SampleError`.
        """
        _require(isinstance(row, Mapping), "row", f"must be an object, not {type(row).__name__}")
        row = {key: value for key, value in row.items() if value is not None}
        known = {f.name for f in fields(cls)} - {"extra"}
        name = str(row.get("id", default_id))
        try:
            for key in ("messages", "answer", "task_type"):
                _require(key in row, key, "is missing")
            messages = _normal_messages(row)
            answer = row["answer"]
            if isinstance(answer, int | float) and not isinstance(answer, bool):
                answer = str(answer)
        except SampleError as error:
            raise SampleError(f"sample {name!r}: {error}") from None
        used = known | {"images", "videos"}
        return cls(
            **{
                **{key: _without_none(row[key]) for key in known if key in row},
                "id": name,
                "messages": messages,
                "answer": answer,
                "extra": {key: value for key, value in row.items() if key not in used},
            }
        ).validate()


def _require(condition: bool, name: str, problem: str) -> None:
    if not condition:
        raise SampleError(f"`{name}` {problem}")


def _check_fields(sample: Sample) -> None:
    _require(
        isinstance(sample.answer, str) and bool(sample.answer.strip()),
        "answer",
        f"must be a non-empty string, got {sample.answer!r}",
    )
    parts = sample.task_type.split("/") if isinstance(sample.task_type, str) else []
    _require(
        len(parts) == 2 and all(parts),
        "task_type",
        f"must read `domain/kind`, got {sample.task_type!r}",
    )
    _require(sample.mode in MODES, "mode", f"must be one of {MODES}, got {sample.mode!r}")
    _require(
        isinstance(sample.rewards, list)
        and all(isinstance(r, dict) and isinstance(r.get("rule"), str) for r in sample.rewards),
        "rewards",
        'must be a list of objects with a "rule"',
    )
    _require(
        sample.hints is None
        or (
            isinstance(sample.hints, list)
            and len(sample.hints) == HINT_LEVELS
            and all(isinstance(hint, str) for hint in sample.hints)
        ),
        "hints",
        f"must be {HINT_LEVELS} strings (L1…L{HINT_LEVELS}; an empty one is a missing level)",
    )
    weights = [rule.get("weight", 1.0) for rule in sample.rewards]
    _require(
        all(isinstance(w, int | float) and math.isfinite(w) for w in weights),
        "rewards",
        f"have a weight that is no finite number: {weights}",
    )
    _require(
        sample.constraints is None
        or (
            isinstance(sample.constraints, list)
            and all(isinstance(c, dict) for c in sample.constraints)
        ),
        "constraints",
        "must be a list of objects",
    )
    _require(
        sample.solution is None or isinstance(sample.solution, str),
        "solution",
        "must be a string",
    )


def _check_messages(messages: Any) -> None:
    _require(isinstance(messages, list) and bool(messages), "messages", "must be a non-empty list")
    for message in messages:
        _require(
            isinstance(message, dict) and message.get("role") in ROLES,
            "messages",
            f"need a role out of {ROLES}",
        )
        content = message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        _require(isinstance(parts, list) and bool(parts), "messages", "have an empty content")
        for part in parts:
            kind = str(part.get("type"))
            _require(kind in ("text", *MEDIA), "messages", f"have a part of type {kind!r}")
            if kind != "text":
                _require(part.get(kind) is not None, "messages", f"have an {kind} part without it")
                if kind == "video":
                    _check_video_options(part)
                continue
            _require(isinstance(part.get("text"), str), "messages", "have a text part without text")
            literal = [token for token in PLACEHOLDERS if token in part["text"]]
            _require(
                not literal,
                "messages",
                f"contain the placeholder {', '.join(literal)} as text, so placeholders and media "
                "would not match; use image/video parts instead",
            )
    _require(messages[-1]["role"] == "user", "messages", "must end with the user's turn")


def _check_video_options(part: Mapping[str, Any]) -> None:
    """Numbers the reader can follow: fps > 0, whole num_frames ≥ 1, 0 ≤ start < end in seconds."""
    given = {name: part[name] for name in VIDEO_OPTIONS if part.get(name) is not None}
    for name, value in given.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        least = 1 if name == "num_frames" else 0
        good = number and math.isfinite(value) and value >= least and (name != "fps" or value > 0)
        if name == "num_frames":
            good = good and value == int(value)
        wanted = {"fps": "a number above 0", "num_frames": "a whole number from 1 on"}
        _require(
            good,
            "messages",
            f"have a video part with {name}={value!r}, which must be "
            f"{wanted.get(name, 'seconds from 0 on')}",
        )
    if {"start", "end"} <= given.keys():
        start, end = given["start"], given["end"]
        _require(start < end, "messages", f"have a video part with end={end} ≤ start={start}")


def _normal_messages(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    _require(isinstance(row["messages"], list), "messages", "must be a list")
    messages = []
    columns: dict[str, list[Any]] = {kind: list(row.get(f"{kind}s") or []) for kind in MEDIA}
    counts = {kind: len(items) for kind, items in columns.items()}
    markers = dict.fromkeys(MEDIA, 0)
    for message in row["messages"]:
        _require(isinstance(message, Mapping), "messages", "must be objects with role and content")
        content = message.get("content")
        if isinstance(content, str):
            content = _split_markers(content, columns, counts, markers)
        elif isinstance(content, list):
            content = [_normal_part(part) for part in content]
        messages.append({"role": message.get("role"), "content": content})
    for kind in MEDIA:
        _require(
            markers[kind] == counts[kind],
            f"{kind}s",
            f"has {counts[kind]} item(s) but the text has {markers[kind]} <{kind}> marker(s)",
        )
    return messages


def _split_markers(
    text: str, columns: dict[str, list], counts: dict[str, int], markers: dict[str, int]
) -> list[dict[str, Any]]:
    """Replace `<image>`/`<video>` markers by the row's `images`/`videos`, in order."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    for kind in MEDIA:
        if not counts[kind]:
            continue  # without the column the marker is ordinary text
        split: list[dict[str, Any]] = []
        for part in parts:
            pieces = part["text"].split(f"<{kind}>") if part["type"] == "text" else []
            if not pieces:
                split.append(part)
            for number, piece in enumerate(pieces):
                if number:
                    markers[kind] += 1
                    if columns[kind]:
                        split.append({"type": kind, kind: columns[kind].pop(0)})
                if piece:
                    split.append({"type": "text", "text": piece})
        parts = split
    return parts


def _normal_part(part: Any) -> dict[str, Any]:
    """One message part in our spelling; see `Sample.from_row`."""
    _require(isinstance(part, Mapping), "messages", "have a part that is no object")
    part = {key: value for key, value in part.items() if value is not None}
    kind = str(part.get("type"))
    if kind in ("image_url", "video_url"):
        url = part.get(kind)
        kind = kind.removesuffix("_url")
        value = url.get("url") if isinstance(url, Mapping) else url
    elif kind in MEDIA:
        value = next((part[k] for k in (kind, "url", "path", "bytes") if k in part), None)
        if value is None and "base64" in part:
            value = f"data:;base64,{part['base64']}"
    else:
        return {key: part[key] for key in ("type", "text") if key in part}
    _require(value is not None, "messages", f"have an {kind} part without it")
    normal = {"type": kind, kind: value}
    if kind == "video":
        for name, spellings in VIDEO_OPTIONS.items():
            given = next((part[key] for key in spellings if key in part), None)
            if given is not None:
                whole = name == "num_frames" and isinstance(given, float) and given.is_integer()
                normal[name] = int(given) if whole else given  # columnar readers turn 8 into 8.0
    return normal | {"alt": part["alt"]} if "alt" in part else normal


def _part_to_row(part: dict[str, Any], media: bool) -> dict[str, Any]:
    kind = part["type"]
    if kind == "text":
        return part
    if not media:
        return {key: value for key, value in part.items() if key != kind}
    return part | {kind: media_to_row(part[kind])}


def media_to_row(value: Any) -> Any:
    """Arrays, PIL images and bytes as data URIs (images as PNG, lossless); the rest as it is."""
    if isinstance(value, np.ndarray):
        if value.ndim == 4:
            return [media_to_row(frame) for frame in value]
        value = Image.fromarray(value)
    if isinstance(value, Image.Image):
        buffer = io.BytesIO()
        value.save(buffer, format="PNG")
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    if isinstance(value, bytes):
        return "data:;base64," + base64.b64encode(value).decode()
    if isinstance(value, list):
        return [media_to_row(item) for item in value]
    return value


def _without_none(value: Any) -> Any:
    """Drop the Nones that columnar readers put where an object lacks a key."""
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value
