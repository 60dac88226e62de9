"""RL prompts that a policy solves sometimes: accuracy strictly between 0 and 1.

A prompt that is always or never solved has no gradient. Which ones those are depends on the policy,
so each round's new cold-start model filters anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.cursor import Cursor
from pretrain.data.sample import Sample
from pretrain.run.console import Progress
from pretrain.run.errors import KeyeError
from rl.rollouts import Rollouts
from rl.row_log import RowLog
from rl.trace_rows import SampleSource
from rollout.seeds import stable_seed

ACCURACY = "accuracy.jsonl"
"""One row a prompt looked at: `{id, index, task_type, mode, accuracy, tokens, kept}`."""


def filter_prompts(
    source: SampleSource,
    count: int,
    rollouts: Rollouts,
    folder: Path,
    *,
    samples: int,
    chunk: int,
    seed: int,
) -> dict[str, Any]:
    """Sample the first `count` prompts and write `folder`/accuracy.jsonl; resumable.

    Returns:
        `prompts`, `kept`, `unknown` (no rule knows the truth, or all rewards failed), and of the
        others the shares `all_wrong` and `all_right` and the mean `accuracy`.

    Raises:
        KeyeError: no prompt is left.
    """
    log = RowLog(folder / ACCURACY)
    done = {row["index"] for row in log.rows()}
    left = [index for index in range(count) if index not in done]
    with Progress("filter", total=count) as bar:
        bar.advance(count - len(left))
        for start in range(0, len(left), chunk):
            numbers = left[start : start + chunk]
            asked = [source[index] for index in numbers]
            groups = rollouts.groups(asked, n=samples, seed=stable_seed(seed, "filter"))
            rows = []
            for index, group in zip(numbers, groups, strict=True):
                accuracy = group.accuracy
                rows.append(
                    {
                        "id": group.sample.id,
                        "index": index,
                        "task_type": group.sample.task_type,
                        "mode": group.sample.mode,
                        "accuracy": accuracy,
                        "tokens": group.tokens / samples,
                        # Where only a reward model judges, a spread is all that there can be.
                        "kept": group.informative if accuracy is None else 0 < accuracy < 1,
                    }
                )
            log.append(rows)
            bar.advance(len(numbers))
    return _summary(log.rows(), folder)


def _summary(rows: Sequence[dict[str, Any]], folder: Path) -> dict[str, Any]:
    known = [row["accuracy"] for row in rows if row["accuracy"] is not None]
    accuracy = np.array(known or [np.nan])
    kept = int(sum(row["kept"] for row in rows))
    if not kept:
        raise KeyeError(
            f"none of {len(rows)} RL prompts has an accuracy strictly between 0 and 1 "
            f"({(accuracy == 0).mean():.0%} all wrong, {(accuracy == 1).mean():.0%} all right, "
            f"{len(rows) - len(known)} unknown; see "
            f"{folder / ACCURACY}): take other data, or more of it (iterated.prompts)"
        )
    found: dict[str, Any] = {
        "prompts": len(rows),
        "kept": kept,
        "unknown": len(rows) - len(known),
    }
    if known:
        found["all_wrong"] = float((accuracy == 0).mean())
        found["all_right"] = float((accuracy == 1).mean())
        found["accuracy"] = float(accuracy.mean())
    return found


class ChosenPrompts:
    """An endless stream over some prompts of a source, reshuffled every epoch."""

    def __init__(self, source: SampleSource, indices: Sequence[int], seed: int) -> None:
        self.source, self.indices, self.seed = source, list(indices), seed
        facts = json.dumps([self.indices, seed])
        self.cursor = Cursor(0, hashlib.sha256(facts.encode()).hexdigest()[:16])

    @classmethod
    def kept(cls, source: SampleSource, folder: Path, seed: int) -> ChosenPrompts:
        """Those that `filter_prompts` has kept in `folder`."""
        rows = RowLog(folder / ACCURACY).rows()
        return cls(source, sorted(row["index"] for row in rows if row["kept"]), seed)

    def take(self, count: int) -> list[Sample]:
        """The next `count` samples; moves the cursor."""
        samples = []
        for position in range(self.cursor.position, self.cursor.position + count):
            epoch, place = divmod(position, len(self.indices))
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.indices))
            samples.append(self.source[self.indices[int(order[place])]])
        self.cursor.position += count
        return samples

    def metrics(self) -> dict[str, float]:
        """Counts for the log, under `data/`."""
        return {
            "data/prompts": float(len(self.indices)),
            "data/epoch": self.cursor.position / len(self.indices),
        }

    def state(self) -> dict[str, Any]:
        """The cursor, for a checkpoint."""
        return self.cursor.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; `KeyeError` if other prompts were kept then."""
        self.cursor.load_state(state, what=f"the {len(self.indices)} filtered prompts")
