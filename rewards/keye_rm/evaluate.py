"""Measuring a reward model: every held-out pair judged in both modes and both orders.

Pairs come from the tiny world's test split or from files; nothing of them is in any training
stream.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretrain.run.console import table
from pretrain.run.directory import atomic_write
from rewards.keye_rm.config import HeldoutPairsConfig
from rewards.keye_rm.files import FilePairs, open_pairs
from rewards.keye_rm.measures import Record
from rewards.keye_rm.model import Comparison, KeyeRewardModel, Preference
from rewards.keye_rm.pairs import PreferencePair
from rewards.keye_rm.world_pairs import WorldPairs


def heldout_pairs(config: HeldoutPairsConfig, folder: Path) -> list[PreferencePair]:
    """The pairs of an evaluation, always the same; bad rows go to `folder`/quarantine.jsonl."""
    source = open_pairs(config, config.world, folder, "test")
    if isinstance(source, FilePairs):
        return [source[index] for index in range(min(len(source), config.pairs))]
    return [source[index] for index in range(config.pairs)] + _length_pairs(config)


def _length_pairs(config: HeldoutPairsConfig) -> list[PreferencePair]:
    """Pairs in which length says nothing: the reasoned or the direct response is the wrong one."""
    world = replace(
        config.world,
        defects={"correctness": 1.0},
        direct_share=0.0,
        flawed_share=0.0,
        mixed_share=1.0,
        mixed_longer_share=0.5,
    )
    source, index = WorldPairs(world, "test"), 0
    found: list[PreferencePair] = []
    while len(found) < config.length_pairs:
        pair = source[index]
        index += 1
        if pair.shorter_is_better or pair.longer_is_better:
            found.append(replace(pair, id=f"{pair.id}/length", extra={"length_pair": True}))
    return found


def judge_pairs(
    model: KeyeRewardModel, pairs: list[PreferencePair], modes: list[str]
) -> list[Record]:
    """A record a pair and mode; see `rewards.keye_rm.measures`."""
    comparisons = [Comparison(pair.query, pair.good, pair.bad, pair.task) for pair in pairs]
    return [
        _record(pair, mode, preference)
        for mode in modes
        for pair, preference in zip(pairs, model.compare(comparisons, mode), strict=True)
    ]


def _record(pair: PreferencePair, mode: str, preference: Preference) -> Record:
    found = None
    if preference.marks is not None and pair.violated in preference.marks[0]:
        good, bad = preference.marks
        found = bad[pair.violated] < good[pair.violated]
    return {
        "id": pair.id,
        "mode": mode,
        "violated": pair.violated,
        "task_type": pair.query.task_type,
        "value": preference.value,
        "verdicts": [None if verdict is None else verdict == 0 for verdict in preference.verdicts],
        "length_pair": bool(pair.extra.get("length_pair")),
        "longer": pair.longer_is_better,
        "shorter": pair.shorter_is_better,
        "judgements": len(preference.judgements),
        "malformed": preference.malformed,
        "fault": next((j.fault for j in preference.judgements if j.fault), ""),
        "tokens": preference.tokens,
        "dimension": found,
        "good": pair.good,
        "bad": pair.bad,
    }


def save_records(path: Path, records: list[Record]) -> None:
    """Write the records as JSONL, atomically."""
    atomic_write(path, "".join(json.dumps(record) + "\n" for record in records))


def show(found: dict[str, Any], title: str) -> None:
    """Print the tables of a report."""
    modes = found["modes"]
    names = ["accuracy", "single_order", "dimension_found", "shorter_better", "longer_better"]
    names += ["length_bias", "length_bias_matched", "position_bias", "malformed", "tokens"]
    rows = [
        [name, *(leaf(own[name]) if name in own else "" for own in modes.values())]
        for name in names
        if any(name in own for own in modes.values())
    ]
    violated = sorted({name for own in modes.values() for name in own["violated"]})
    rows += [
        [f"  {name}", *(leaf(own["violated"].get(name)) for own in modes.values())]
        for name in violated
    ]
    table(f"{title}: held-out pairs (95 % intervals)", ["measure", *modes], rows)
    others = [[f"baseline: {name}", leaf(value)] for name, value in found["baselines"].items()]
    if "agreement" in found:
        others.append(["agreement of the modes", leaf(found["agreement"])])
    table("Beside it", ["", "accuracy"], others)


def leaf(value: dict[str, Any] | None) -> str:
    """`0.912 [0.880, 0.936] (240)`."""
    if value is None:
        return ""
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}] ({value['n']})"
