"""People's rankings of a policy's responses → preference pairs of kind `human`.

Invariant: where a person has ranked a prompt's responses, only that ranking makes its pairs. A
ranking belongs to the very candidates that were ranked: an item's id names them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain.run.errors import ConfigError, KeyeError
from rl.mpo.pairs import CANDIDATES, PAIRS, pair_statistics
from rl.review.decisions import RANKINGS, Decision, load_decisions
from rl.row_log import RowLog
from rl.trace_rows import save_rows


def read_rankings(files: Sequence[str]) -> dict[str, Decision]:
    """Item → ranking (or drop), out of several files; `KeyeError` if two decide on one item."""
    rankings: dict[str, Decision] = {}
    for file in files:
        found = load_decisions(file, RANKINGS)
        twice = sorted(set(found) & set(rankings))
        if twice:
            raise ConfigError(
                f"item {twice[0]!r} is ranked in {file} and in a file before it: leave one of the "
                "files out, or its decision on this item"
            )
        rankings |= found
    return rankings


def ranked_pairs(
    candidates: Sequence[Mapping[str, Any]], ranks: Sequence[int], count: int
) -> list[dict[str, Any]]:
    """Pairs from ranks (1 is the best, ties allowed): the best with the worst, the second with the
    last but one, …; at most `count`, no candidate in two of them, no pair of equals."""
    order = sorted(range(len(ranks)), key=lambda place: ranks[place])
    pairs: list[dict[str, Any]] = []
    for good, bad in zip(order, reversed(order), strict=True):
        if len(pairs) == count or ranks[good] >= ranks[bad]:
            break
        pairs.append({"kind": "human", "chosen": candidates[good], "rejected": candidates[bad]})
    return pairs


def add_rankings(
    source: Path, rankings: Mapping[str, Decision], folder: Path, per_prompt: int, only_round: bool
) -> dict[str, Any]:
    """Write `folder`/pairs.jsonl: the pairs of `source` with people's in place of the prompts' own.

    Args:
        source: the folder that `rl.mpo.pairs.make_pairs` has filled.
        rankings: see `read_rankings`.
        folder: where the new file goes.
        per_prompt: pairs of one prompt at most.
        only_round: whether no other round could have exported the ranked items.

    Returns:
        `rl.mpo.pairs.pair_statistics`, and how many prompts were `ranked` and `dropped` by people,
        how many rankings are of equals only (`tied`) and how many `unmatched` by an exported item.

    Raises:
        KeyeError: a ranking of another number of candidates, no ranking that matches, or no pair.
    """
    items = {row["id"]: row for row in RowLog(source / CANDIDATES).rows()}
    matched = {item: decision for item, decision in rankings.items() if item in items}
    if only_round and not matched:
        raise KeyeError(
            f"none of {len(rankings)} rankings is of an item in {source}: they belong to another "
            "run, or the pairs were sampled anew since they were exported"
        )
    own: dict[str, list[dict[str, Any]]] = {}
    counts = {"ranked": 0, "dropped": 0, "tied": 0, "unmatched": len(rankings) - len(matched)}
    for item, decision in matched.items():
        candidates = items[item]["candidates"]
        if decision.action == "drop":
            own[items[item]["prompt"]] = []
            counts["dropped"] += 1
            continue
        ranks = decision.ranking or ()
        if len(ranks) != len(candidates):
            raise KeyeError(
                f"item {item!r}: {decision.reviewer} ranked {len(ranks)} candidates, but it has "
                f"{len(candidates)}; mend the decision's `ranking`"
            )
        pairs = ranked_pairs(candidates, ranks, per_prompt)
        own[items[item]["prompt"]] = pairs
        counts["ranked"] += 1
        counts["tied"] += not pairs
    rows = RowLog(source / PAIRS).rows()
    rows = [row | {"pairs": own.get(row["id"], row["pairs"])} for row in rows]
    save_rows(folder / PAIRS, rows)
    return pair_statistics(rows, folder) | {"rankings": counts}
