"""Preference pairs from files: our own rows, and three public forms of preference data.

- `pairs` (ours): `messages`, `good`, `bad`; optional `violated`, `good_marks`, `bad_marks`, `task`;
- MMPR: `question`, `chosen`, `rejected`, `image` (a path or several);
- R1-Reward: `message` (a chat, or its JSON text, with [Question], [Response 1] and [Response 2]),
  `answer` (which is better: 1 or 2), optional `question`;
- RewardBench: `prompt` (a text or a chat), `chosen`, `rejected` (a text, a list, or a chat);
- VL-RewardBench: `query`, `image`, `response` (two), `human_ranking` (0 is the better one's).

A row's form is told by its keys. A bad row is quarantined with file, line and reason. Invariant:
every good row is handed out once an epoch, in an order that only the seed decides.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.ingest import FileDataConfig
from pretrain.data.media import check_media, load_media
from pretrain.data.quarantine import Quarantine
from pretrain.data.row_files import RowFile, open_rows
from pretrain.data.sample import PLACEHOLDERS, Sample, SampleError
from pretrain.run.errors import KeyeError
from rewards.keye_rm.pairs import PreferencePair
from rewards.keye_rm.world_pairs import WorldPairs, WorldPairsConfig

Row = Mapping[str, Any]
_R1_PARTS = re.compile(
    r"\[Question\]:(?P<question>.*?)#*\s*\[Response 1\]:(?P<first>.*?)"
    r"#*\s*\[Response 2\]:(?P<second>.*?)(?:#+\s*\**Output Format.*|$)",
    re.DOTALL,
)
_R1_CHOICE = re.compile(r"(?:<answer>)?\s*([12])\s*(?:</answer>)?")
_IMAGE_MARKER = re.compile(r"\s*<image>\s*")


def read_pair(row: Row, default_id: str) -> PreferencePair:
    """A pair of any known form; `SampleError` says what is wrong with the row."""
    row = {key: value for key, value in row.items() if value is not None}
    for keys, reader in _FORMS:
        if keys <= row.keys():
            try:
                pair = reader(row, default_id)
            except (TypeError, KeyError, AttributeError, ValueError, IndexError) as error:
                raise SampleError(
                    f"row {default_id!r} has a value of a wrong type: {error!r}"
                ) from (None)
            _check(pair)
            return pair
    known = "; ".join(", ".join(sorted(keys)) for keys, _ in _FORMS)
    raise SampleError(
        f"row {default_id!r} has the keys {', '.join(map(str, row))}, which no form of preference "
        f"data has. Needed is one of: {known}"
    )


def _check(pair: PreferencePair) -> None:
    for name, text in (("better", pair.good), ("worse", pair.bad)):
        if not isinstance(text, str) or not text.strip():
            raise SampleError(f"pair {pair.id!r}: the {name} response is no text")
        literal = [token for token in PLACEHOLDERS if token in text]
        if literal:
            raise SampleError(f"pair {pair.id!r}: the {name} response contains {literal[0]}")
    if pair.good == pair.bad:
        raise SampleError(f"pair {pair.id!r}: both responses are the same")


def _query(row: Row, name: str, text: str, images: Any = None) -> Sample:
    """A one-turn query: its images before its text, their markers taken out of it."""
    parts = [{"type": "image", "image": image} for image in _listed(images)]
    if parts:
        text = _IMAGE_MARKER.sub("\n", text).strip()
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
    return _sample(row, name, messages)


def _sample(row: Row, name: str, messages: list[dict[str, Any]]) -> Sample:
    return Sample.from_row(
        {"id": name, "messages": messages, "answer": "-", "task_type": "preference/file"}
    )


def _listed(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _own(row: Row, default_id: str) -> PreferencePair:
    name = str(row.get("id", default_id))
    for key in ("good_marks", "bad_marks"):
        value = row.get(key)
        if value is not None and not (
            isinstance(value, dict) and all(type(mark) is int for mark in value.values())
        ):
            raise SampleError(f"pair {name!r}: `{key}` must map dimensions to whole numbers")
    return PreferencePair(
        id=name,
        query=_sample(row, name, row["messages"]),
        good=row["good"],
        bad=row["bad"],
        violated=str(row.get("violated", "unknown")),
        task=str(row.get("task", "")),
        good_marks=row.get("good_marks"),
        bad_marks=row.get("bad_marks"),
    )


def _mmpr(row: Row, default_id: str) -> PreferencePair:
    name = str(row.get("id", default_id))
    return PreferencePair(
        id=name,
        query=_query(row, name, str(row["question"]), row.get("image")),
        good=row["chosen"],
        bad=row["rejected"],
    )


def _r1_reward(row: Row, default_id: str) -> PreferencePair:
    name = str(row.get("id", default_id))
    message = row["message"]
    if isinstance(message, str):
        try:
            message = json.loads(message)
        except ValueError as error:
            raise SampleError(f"pair {name!r}: `message` is no JSON: {error}") from None
    parts = message[-1]["content"] if isinstance(message, list) and message else []
    if isinstance(parts, str):
        parts = [{"type": "text", "text": parts}]
    text = "\n".join(part.get("text", "") for part in parts if part.get("type") == "text")
    found = _R1_PARTS.search(text)
    choice = _R1_CHOICE.fullmatch(str(_listed(row["answer"])[0]) if row["answer"] else "")
    if found is None or choice is None:
        raise SampleError(
            f"pair {name!r}: needs [Question], [Response 1] and [Response 2] in `message`, and "
            f"`answer` 1 or 2, got {row['answer']!r}"
        )
    responses = [found["first"].strip(), found["second"].strip()]
    better = int(choice[1]) - 1
    images = [part["image"] for part in parts if part.get("type") == "image"]
    question = str(row.get("question") or found["question"]).strip()
    return PreferencePair(
        id=name,
        query=_query(row, name, question, images),
        good=responses[better],
        bad=responses[1 - better],
    )


def _rewardbench(row: Row, default_id: str) -> PreferencePair:
    name = str(row.get("id", default_id))
    prompt = row["prompt"]
    query = (
        _query(row, name, prompt, row.get("image"))
        if isinstance(prompt, str)
        else _sample(row, name, prompt)
    )
    return PreferencePair(
        id=name,
        query=query,
        good=_last_text(row["chosen"]),
        bad=_last_text(row["rejected"]),
        violated=str(row.get("subset", "unknown")),
    )


def _vl_rewardbench(row: Row, default_id: str) -> PreferencePair:
    name = str(row.get("id", default_id))
    responses, ranking = row["response"], row["human_ranking"]
    if len(responses) != 2 or sorted(ranking) != [0, 1]:
        raise SampleError(f"pair {name!r}: needs two responses and a ranking of 0 and 1")
    better = ranking.index(0)
    return PreferencePair(
        id=name,
        query=_query(row, name, str(row["query"]), row.get("image")),
        good=responses[better],
        bad=responses[1 - better],
        violated=str(row.get("query_source", "unknown")),
    )


def _last_text(response: Any) -> Any:
    """A response as text: itself, the first of a list, or the last turn of a chat."""
    if isinstance(response, list) and response:
        if isinstance(response[-1], Mapping):
            return response[-1].get("content")
        return response[0]
    return response


_FORMS: tuple[tuple[set[str], Callable[[Row, str], PreferencePair]], ...] = (
    ({"messages", "good", "bad"}, _own),
    ({"message", "answer"}, _r1_reward),
    ({"question", "chosen", "rejected"}, _mmpr),
    ({"prompt", "chosen", "rejected"}, _rewardbench),
    ({"query", "response", "human_ranking"}, _vl_rewardbench),
)


class FilePairs:
    """`pairs[i]`: the pairs of some files, reshuffled every epoch; media are loaded when asked."""

    def __init__(
        self, config: FileDataConfig, seed: int, max_length_gap: float = 1.0, prefer: str = "any"
    ) -> None:
        """Scan the files. `KeyeError` for a missing file, too many bad rows, or no pair left."""
        self.config, self.seed = config, seed
        self.files = [open_rows(Path(name)) for name in config.files]
        self.quarantine = Quarantine(
            Path(config.quarantine or "quarantine.jsonl"), config.max_bad_share
        )
        self._epoch, self._order = -1, np.arange(0)
        self._good: list[tuple[int, int]] = []
        for number, file in enumerate(self.files):
            for row in range(len(file)):
                pair = self._scan(file, row)
                if pair is None or pair.length_gap > max_length_gap:
                    continue
                if prefer == "any" or getattr(pair, f"{prefer}_is_better"):
                    self._good.append((number, row))
        self.quarantine.check()
        if not self._good:
            raise KeyeError(f"no preference pair in {', '.join(config.files)} can be used")

    def _scan(self, file: RowFile, row: int) -> PreferencePair | None:
        line = file.line(row)
        try:
            pair = self._read(file, row)
            check_media(pair.query, file.path.parent, self.config.media)
        except SampleError as error:
            self.quarantine.add(file.path, line, str(error), file.raw(row))
            return None
        self.quarantine.good()
        return pair

    def _read(self, file: RowFile, row: int) -> PreferencePair:
        return read_pair(file.row(row), f"{file.path.name}:{file.line(row)}")

    def __len__(self) -> int:
        """Pairs in one epoch."""
        return len(self._good)

    def __getitem__(self, index: int) -> PreferencePair:
        """Pair `index` ≥ 0 of the endless, reshuffled stream, its media loaded."""
        epoch, place = divmod(index, len(self._good))
        if epoch != self._epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self._good))
            self._epoch, self._order = epoch, order
        number, row = self._good[int(self._order[place])]
        file = self.files[number]
        pair = self._read(file, row)
        return replace(pair, query=load_media(pair.query, file.path.parent, self.config.media))

    def fingerprint(self) -> str:
        """What decides the stream, hashed."""
        facts = [[file.fingerprint for file in self.files], len(self), self.seed]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def open_pairs(
    config: FileDataConfig, world: WorldPairsConfig, folder: Path, split: str = "train"
) -> FilePairs | WorldPairs:
    """The pairs that a configuration names: of its files, or else the tiny world's.

    `prefer`, `max_length_gap` and `seed` of `world` hold for files too. Bad rows are copied to
    `folder`/quarantine.jsonl.
    """
    if not config.files:
        return WorldPairs(world, split)
    quarantine = config.quarantine or str(folder / "quarantine.jsonl")
    plain = FileDataConfig(config.files, config.media, quarantine, config.max_bad_share)
    return FilePairs(plain, world.seed, world.max_length_gap, world.prefer)
