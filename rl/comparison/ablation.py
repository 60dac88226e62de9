"""`python -m rl ablation runs=[…]`: accuracy per task and stage, with paired differences.

Invariant: a difference is taken over the same prompts in both stages, and over nothing else.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain.run.console import say, table
from pretrain.run.directory import atomic_write, read_json
from pretrain.run.errors import ConfigError, KeyeError
from rl.evaluate import KINDS, Evaluation
from rl.stages import RECORDS
from rl.statistics import mean_interval, paired_difference, wilson

ALL = "all tasks"


@dataclass
class AblationConfig:
    """Everything `python -m rl ablation` can be told."""

    runs: list[str] = field(default_factory=list)
    """What is put side by side, in order: run directories (all their evaluations), folders of one
    evaluation, or its evaluation.jsonl; `NAME=PATH` names a column."""
    baseline: str = ""
    """Column that all others are compared with; by default the first. Each is also compared with
    the one before it."""
    kinds: list[str] = field(default_factory=lambda: ["greedy", "sampled"])
    """Measures: greedy, sampled (temperature 1), pass_at_8."""
    out: str = "ablation"
    """Files to write: OUT.json and OUT.md."""

    def __post_init__(self) -> None:
        wrong = [kind for kind in self.kinds if kind not in KINDS]
        if wrong or not self.kinds:
            raise ConfigError(f"kinds={self.kinds}: choose from {', '.join(KINDS)}")


def run_ablation(cfg: AblationConfig) -> None:
    """Print the tables and write them as JSON and Markdown."""
    columns = load_columns(cfg.runs)
    found = ablation(columns, cfg.kinds, cfg.baseline or next(iter(columns)))
    atomic_write(Path(f"{cfg.out}.json"), json.dumps(found, indent=2) + "\n")
    atomic_write(Path(f"{cfg.out}.md"), markdown(found))
    for mode, kinds in found["modes"].items():
        for kind, tasks in kinds.items():
            rows = [
                [task, *(_cell(row.get(name), found["baseline"], name) for name in columns)]
                for task, row in tasks.items()
            ]
            table(f"{mode}, {kind} (change from {found['baseline']})", ["task", *columns], rows)
    say(f"tables: {cfg.out}.json, {cfg.out}.md")


def load_columns(runs: Sequence[str]) -> dict[str, Evaluation]:
    """Evaluations by column name, in order. `KeyeError` for a path without one."""
    columns: dict[str, Evaluation] = {}
    for given in runs:
        name, equals, path = given.rpartition("=")
        file = Path(path) if Path(path).is_file() else Path(path) / RECORDS
        files = [file] if file.is_file() else _evaluations(Path(path))
        if not files:
            raise KeyeError(
                f"runs: {path} is no {RECORDS} and holds none. Give a run directory whose stages "
                "include an evaluation, or the output folder of `python -m rl evaluate`"
            )
        for found in files:
            own = name if equals else file.parent.name
            key = own if found == file else f"{own}/{found.parent.relative_to(path)}"
            if key in columns:
                raise ConfigError(f"runs: two columns would be called {key!r}; use NAME=PATH")
            columns[key] = Evaluation.load(found)
    if len(columns) < 2:
        raise ConfigError(f"runs={list(runs)}: an ablation needs at least two evaluations")
    return columns


def _evaluations(folder: Path) -> list[Path]:
    """All evaluations of a run, in the order in which their stages were finished."""
    files = sorted(folder.glob(f"**/{RECORDS}"), key=_finished)
    return [file for file in files if not any(".previous" in part for part in file.parts)]


def _finished(file: Path) -> tuple[float, str]:
    """When the stage of an evaluation was finished."""
    return float(read_json(file.parent / "summary.json").get("finished", 0.0)), str(file)


def ablation(columns: dict[str, Evaluation], kinds: Sequence[str], baseline: str) -> dict[str, Any]:
    """`{columns, baseline, modes: {mode: {kind: {task: {column: cell}}}}}`.

    A cell is `{value, low, high, n}`, and, but for the first column or the baseline itself,
    `change` (from the baseline) and `step` (from the column before): paired differences over the
    prompts that both have. A column without a task or a mode has no cell there.
    """
    if baseline not in columns:
        raise ConfigError(f"baseline={baseline!r} is none of the columns {', '.join(columns)}")
    values = {name: _values(evaluation) for name, evaluation in columns.items()}
    modes = dict.fromkeys(m for evaluation in columns.values() for m in evaluation.modes())
    tasks = sorted({task for own in values.values() for _, task, _ in own} - {ALL})
    names = list(columns)
    found: dict[str, Any] = {"columns": names, "baseline": baseline, "modes": {}}
    for mode in modes:
        found["modes"][mode] = {
            kind: {
                task: row
                for task in [ALL, *tasks]
                if (row := _row(values, names, baseline, (mode, task, kind)))
            }
            for kind in kinds
        }
    return found


Values = dict[tuple[str, str, str], dict[str, float]]


def _values(evaluation: Evaluation) -> Values:
    """(mode, task, kind) → prompt → value, for single tasks and for all."""
    values: Values = {}
    for record in evaluation.records:
        for kind in KINDS:
            for task in (record["task_type"], ALL):
                own = values.setdefault((record["mode"], task, kind), {})
                own[record["id"]] = float(record[kind])
    return values


def _row(
    values: dict[str, Values], names: Sequence[str], baseline: str, key: tuple[str, str, str]
) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for place, name in enumerate(names):
        own = values[name].get(key)
        if not own:
            continue
        leaf = mean_interval if key[2] == "sampled" else wilson
        row[name] = leaf(list(own.values())).to_dict()  # type: ignore[operator, arg-type]
        for label, other in (("change", baseline), ("step", names[place - 1] if place else "")):
            theirs = values[other].get(key) if other and other != name else None
            common = [prompt for prompt in theirs or {} if prompt in own]
            if theirs and common:
                before, after = ([side[prompt] for prompt in common] for side in (theirs, own))
                row[name][label] = paired_difference(before, after).to_dict()
    return row


def markdown(found: dict[str, Any]) -> str:
    """The tables as Markdown: value, and the paired change from the baseline with its interval."""
    lines = []
    for mode, kinds in found["modes"].items():
        for kind, tasks in kinds.items():
            lines += [f"### {mode}, {kind}", "", _line(["task", *found["columns"]])]
            lines.append(_line(["---"] * (len(found["columns"]) + 1)))
            for task, row in tasks.items():
                cells = [_cell(row.get(name), found["baseline"], name) for name in found["columns"]]
                lines.append(_line([task, *cells]))
            lines.append("")
    note = (
        f"Values are means over prompts; in brackets the change from {found['baseline']}, paired "
    )
    return "\n".join([*lines, note + "over the same prompts, with its 95 % interval.", ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(leaf: dict[str, Any] | None, baseline: str, name: str) -> str:
    if leaf is None:
        return ""
    text = f"{leaf['value']:.3f}"
    change = leaf.get("change")
    if change is None or name == baseline:
        return text
    return f"{text} ({change['value']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}])"
