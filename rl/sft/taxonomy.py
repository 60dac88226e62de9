"""A taxonomy of task types, and draws of rows that are balanced over it.

Invariants: draw i is a pure function of (rows' types, settings, seed, i), in O(log types) time; in
an epoch a type is drawn as often as its share says, to within one draw; over whole epochs the rows
of a type are drawn equally often, to within a few draws.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pretrain.run.errors import ConfigError
from rl.permutation import mix, permuted, uniform

EXAMPLES = 5
"""Names that a report lists of each kind of mismatch."""
GOLDEN = 0.6180339887498949
"""Multiples of it, modulo 1, are spread more evenly than random numbers: an epoch's offsets."""


def load_taxonomy(path: Path | str) -> dict[str, float]:
    """Task type → weight (1 where none is given) from a TSV, YAML or JSON file.

    * `.tsv`: a line a type, `domain/kind` and, after a tab, its weight. `#` starts a comment line.
    * `.yaml`, `.json`: a list of names (or of objects with `name` and optionally `weight` and
      `children`), or a tree of mappings: a leaf is a name with nothing or with its weight, a branch
      may have a key `weight`. Weights multiply along a path; a path's first name is the domain, and
      deeper levels are joined by dots: `math: {algebra: {linear: 2}}` is `math/algebra.linear`.

    Raises:
        ConfigError: no such file, or an entry that is none; the text names it.
    """
    path = Path(path)
    readers = {".tsv": _read_tsv, ".json": _read_json, ".yaml": _read_yaml, ".yml": _read_yaml}
    if path.suffix not in readers:
        raise ConfigError(f"taxonomy {path}: the name must end in {', '.join(readers)}")
    if not path.is_file():
        raise ConfigError(f"taxonomy {path} does not exist (from {Path.cwd()})")
    types: dict[str, float] = {}
    for where, name, weight in readers[path.suffix](path):
        if name in types:
            raise ConfigError(f"{where}: task type {name!r} is listed twice; remove one")
        types[name] = weight
    if not any(types.values()):
        raise ConfigError(f"taxonomy {path} lists no task type with a weight above 0")
    return types


Entry = tuple[str, str, float]
"""Where it stands, task type, weight."""


def _read_tsv(path: Path) -> Iterator[Entry]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            name, _, weight = line.rstrip("\n").partition("\t")
            where = f"{path}:{number}"
            yield where, _task_type(where, [name.strip()]), _weight(where, weight.strip() or 1.0)


def _read_json(path: Path) -> Iterator[Entry]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        if twice:
            raise ConfigError(f"taxonomy {path}: key {twice[0]!r} stands twice in one object")
        return dict(pairs)

    try:
        tree = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)
    except ValueError as error:
        raise ConfigError(f"taxonomy {path} is no JSON: {error}") from None
    return _leaves(str(path), tree, [], 1.0)


def _read_yaml(path: Path) -> Iterator[Entry]:
    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is ten times faster

    class Loader(base):  # type: ignore[misc, valid-type]
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = [key for key, count in Counter(map(str, keys)).items() if count > 1]
            if twice:
                line = node.start_mark.line + 1
                raise ConfigError(f"{path}:{line}: key {twice[0]!r} stands twice in one mapping")
            return super().construct_mapping(node, deep)

    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"taxonomy {path} is no YAML: {error}") from None
    return _leaves(str(path), tree, [], 1.0)


def _leaves(where: str, node: Any, names: list[str], weight: float) -> Iterator[Entry]:
    """All leaves below a node whose names and product of weights are given."""
    at = f"{where}: {'/'.join(names)}" if names else where
    if isinstance(node, Mapping):
        weight *= _weight(at, node.get("weight", 1.0))
        children = [(name, child) for name, child in node.items() if name != "weight"]
        if not children and names:
            yield at, _task_type(at, names), weight
        for name, child in children:
            yield from _leaves(where, child, [*names, _name(at, name)], weight)
    elif isinstance(node, list):
        for entry in node:
            if isinstance(entry, Mapping) and "name" in entry:
                name, own = _name(at, entry["name"]), _weight(at, entry.get("weight", 1.0))
                unknown = sorted(set(entry) - {"name", "weight", "children"})
                if unknown:
                    raise ConfigError(f"{at}: {name} has an unknown key {unknown[0]!r}")
                yield from _leaves(where, entry.get("children"), [*names, name], weight * own)
            else:
                yield from _leaves(where, None, [*names, _name(at, entry)], weight)
    elif names:
        own = 1.0 if node is None else _weight(at, node)
        yield at, _task_type(at, names), weight * own
    else:
        raise ConfigError(f"{where} is neither a list nor a tree of task types")


def _name(where: str, name: Any) -> str:
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"{where}: {name!r} is no name of a task type; write it in quotes")
    return name.strip()


def _weight(where: str, weight: Any) -> float:
    try:
        number = float(weight)
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(weight, bool) or not np.isfinite(number) or number < 0:
        raise ConfigError(f"{where}: the weight must be a number ≥ 0, got {weight!r}")
    return number


def _task_type(where: str, names: Sequence[str]) -> str:
    parts = "/".join(names).split("/")
    if len(parts) < 2 or not all(parts):
        raise ConfigError(f"{where}: {'/'.join(names)!r} must read `domain/kind`")
    return f"{parts[0]}/{'.'.join(parts[1:])}"


class BalancedRows:
    """`rows(i)` is the row of draw i ≥ 0.

    Args:
        types: every row's task type.
        weights: the taxonomy; None weighs every type 1.
        exponent: a type with n rows gets a share ∝ weight · n^exponent: 1 leaves the data's own
            proportions, 0 gives every type the same, values between (1 / temperature) are a
            compromise (as for languages in Conneau et al. 2020, §3.1).
        unlisted: weight of a type that the taxonomy lacks; 0 leaves its rows out.
        seed: seed of the order.

    Raises:
        ConfigError: no row has a type with a weight above 0.
    """

    def __init__(
        self,
        types: Sequence[str],
        weights: Mapping[str, float] | None = None,
        *,
        exponent: float = 0.5,
        unlisted: float = 1.0,
        seed: int = 0,
    ) -> None:
        numbers: dict[str, int] = {}
        codes = np.array([numbers.setdefault(name, len(numbers)) for name in types], np.int32)
        counts = np.bincount(codes, minlength=len(numbers))
        self.seed, self.size = seed, len(codes)
        self._names = list(numbers)
        self._order = np.argsort(codes, kind="stable")  # rows, type after type
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        listed = np.array([weights is None or name in weights for name in self._names], bool)
        own = [1.0 if weights is None else weights.get(n, unlisted) for n in self._names]
        mass = np.array(own) * counts.astype(np.float64) ** exponent
        if not mass.sum() > 0:
            raise ConfigError(
                f"balancing leaves no row of {self.size}: none of their {len(numbers)} task types "
                "has a weight above 0. Compare the taxonomy's names with the rows' task_type."
            )
        self.shares = mass / mass.sum()
        """float64 `[types]`: each type's share of the draws, in order of first appearance."""
        self._edges = np.concatenate([[0.0], np.cumsum(self.shares)])
        self._last = int(np.nonzero(mass)[0][-1])
        self._edges[self._last + 1 :] = 1.0  # rounding must open no gap at the end
        self._report = self._count(listed, counts, weights)

    def __len__(self) -> int:
        """Draws of an epoch: as many as there are rows."""
        return self.size

    def __call__(self, index: int) -> int:
        """The row of draw `index`."""
        epoch, place = divmod(index, self.size)
        offset = (uniform(self.seed, 1) + epoch * GOLDEN) % 1.0
        point = permuted(place, self.size, mix(self.seed, 2, epoch))
        kind = int(np.searchsorted(self._edges, (point + offset) / self.size, "right")) - 1
        kind = min(kind, self._last)
        # Draws that this type has had: in earlier epochs, and at lower points of this one.
        first = int(np.ceil(self._edges[kind] * self.size - offset))
        turn = int(epoch * self.shares[kind] * self.size) + point - first
        start, end = int(self._starts[kind]), int(self._starts[kind + 1])
        lap, turn = divmod(turn, end - start)
        within = permuted(turn, end - start, mix(self.seed, 3, kind, lap))
        return int(self._order[start + within])

    def report(self) -> dict[str, Any]:
        """Types in the data, those that the taxonomy lacks, those that have no row, how even."""
        return self._report

    def _count(
        self, listed: np.ndarray, counts: np.ndarray, weights: Mapping[str, float] | None
    ) -> dict[str, Any]:
        missing = [name for name, known in zip(self._names, listed, strict=True) if not known]
        present = set(self._names)
        empty = [name for name in weights or {} if name not in present]
        shares = self.shares[self.shares > 0]
        return {
            "types": len(self._names),
            "unlisted_types": len(missing),
            "unlisted_rows": int(counts[~listed].sum()),
            "unlisted_examples": missing[:EXAMPLES],
            "empty_types": len(empty),
            "empty_examples": empty[:EXAMPLES],
            # exp(entropy): so many types with equal shares would be as varied.
            "effective_types": float(np.exp(-(shares * np.log(shares)).sum())),
            "largest_share": float(shares.max()),
        }
