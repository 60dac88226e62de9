"""Tasks of the tiny world that need a tool, with the conversations that teach it.

- `tools/lookup`: "number of red cat dog?" The number stands in one of the generated documents and
  nowhere else, so a policy without `search` can only guess one of ninety.
- `tools/small_digits`: "digits at tl?" in a picture of 756×756 pixels that the processor reduces to
  224×224; the digits are then 7 pixels high, and `crop` shows them at their full size.

Invariant: sample i is a pure function of (mix, seed, split, i). Facts asked for in the test split
are never asked for in training, and its digits are held-out images; all facts are in the documents.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.cursor import Cursor
from pretrain.data.render import render
from pretrain.data.sample import Sample
from pretrain.data.world.canvas import GRID, POSITIONS, SIZE
from pretrain.data.world.digits import digit_scene
from pretrain.data.world.shapes import COLORS
from pretrain.data.world.tasks import held_out
from pretrain.data.world.text import WORDS
from pretrain.run.directory import atomic_write
from pretrain.run.errors import ConfigError
from rl.cold_start import ColdStartTraces
from rl.config import ColdStartConfig
from rollout.tools.config import ToolConfig
from rollout.tools.crop import SCALE
from rollout.tools.prompting import with_tools
from rollout.tools.registry import open_tools
from rollout.tools.tool import Tool, ToolContext
from rollout.tools.traces import ToolTrace

LOOKUP, SMALL_DIGITS = "tools/lookup", "tools/small_digits"
TASK_TOOLS = {LOOKUP: "search", SMALL_DIGITS: "crop"}
"""The tool that each task needs."""
WORLD_DOCUMENTS = "tiny_world"
"""Value of `tools.documents` that stands for the generated facts."""
_PATCH = 3 * SIZE
"""Side of one of the picture's nine fields; its digits stand in the middle third."""


@cache
def facts() -> dict[str, str]:
    """All facts, name → two-digit number: 5 colours × 120 pairs of words."""
    names = [f"{color} {a} {b}" for color in COLORS for a, b in combinations(WORDS, 2)]
    return {name: str(10 + zlib.crc32(f"fact {name}".encode()) % 90) for name in names}


def write_documents(path: Path) -> None:
    """One document per fact, as JSONL: what `tools.documents` is to be."""
    rows = [{"id": name, "text": f"{name} {number}"} for name, number in facts().items()]
    atomic_write(path, "".join(json.dumps(row) + "\n" for row in rows))


def with_documents(cfg: ToolConfig, folder: Path) -> ToolConfig:
    """The settings with `documents=tiny_world` replaced by a file of the facts in `folder`."""
    if cfg.documents != WORLD_DOCUMENTS:
        return cfg
    path = folder / "documents.jsonl"
    write_documents(path)
    return replace(cfg, documents=str(path))


def needs_tools(mix: Mapping[str, float]) -> bool:
    """Whether a mix is one of tool tasks; `ConfigError` when it has others beside them."""
    wanted = [name for name, weight in mix.items() if weight > 0]
    named = [name for name in wanted if name in TASKS]
    if named and len(named) < len(wanted):
        other = next(name for name in wanted if name not in TASKS)
        raise ConfigError(
            f"tasks: {named[0]} and {other} can't stand in one mix; tool tasks ({', '.join(TASKS)})"
            " have a stream of their own"
        )
    return bool(named)


@dataclass(slots=True)
class ToolTask:
    """A sample, and how it is solved."""

    sample: Sample
    thought: str
    """Before the call."""
    arguments: dict[str, Any]
    """Of the one call."""
    finding: str
    """Reasoning after the result."""


def lookup(rng: np.random.Generator, split: str) -> ToolTask:
    """A fact to look up; facts are split by name."""
    names = _names(split)
    name = names[rng.integers(len(names))]
    number = facts()[name]
    sample = _sample(LOOKUP, [{"type": "text", "text": f"number of {name}?"}], number)
    return ToolTask(sample, f"read {name}", {"query": name}, f"{name} {number}")


@cache
def _names(split: str) -> list[str]:
    """Names of the facts that a split asks for."""
    return [name for name in facts() if held_out(name) == (split == "test")]


def small_digits(rng: np.random.Generator, split: str) -> ToolTask:
    """Digits to read in one of nine fields of a large picture."""
    scenes = [digit_scene(rng, int(rng.integers(1, 4)), split) for _ in POSITIONS]
    side = GRID * _PATCH
    noise = np.frombuffer(rng.bytes(side * side * 3), np.uint8) >> 3
    picture = noise.reshape(side, side, 3)
    for field, (scene, _, _) in enumerate(scenes):
        y, x = (place * _PATCH + SIZE for place in divmod(field, GRID))
        picture[y : y + SIZE, x : x + SIZE] = scene
    field = int(rng.integers(len(POSITIONS)))
    digits = "".join(map(str, scenes[field][2]))
    question = f"digits at {POSITIONS[field]}?"
    content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    arguments = {"box": field_box(field), "zoom": 1}
    thought = f"look at {POSITIONS[field]}"
    return ToolTask(_sample(SMALL_DIGITS, content, digits), thought, arguments, f"digits {digits}")


def field_box(field: int) -> list[int]:
    """The box, in `crop`'s coordinates, of the digits of a field 0…8."""
    low, high = [], []
    for place in divmod(field, GRID)[::-1]:
        start = (place * _PATCH + SIZE) * SCALE / (GRID * _PATCH)
        end = (place * _PATCH + 2 * SIZE) * SCALE / (GRID * _PATCH)
        low.append(int(np.ceil(start)))
        high.append(int(end) - 1)
    return low + high


def _sample(task_type: str, content: list[dict[str, Any]], answer: str) -> Sample:
    return Sample(
        id=task_type,
        messages=[{"role": "user", "content": content}],
        answer=answer,
        task_type=task_type,
        rewards=[
            {"rule": "exact", "weight": 1.0},
            {"rule": "agentic_format", "weight": 0.1},
        ],
        mode="think",
        extra={"tools": [TASK_TOOLS[task_type]]},
    )


TASKS = {LOOKUP: lookup, SMALL_DIGITS: small_digits}


class ToolTasks:
    """An endless stream of tasks; a `PromptSource` for the GSPO loop."""

    def __init__(self, mix: Mapping[str, float], seed: int, split: str = "train") -> None:
        """`mix` weighs the tasks; `ConfigError` for a wrong name or split."""
        self.mix = {name: float(weight) for name, weight in sorted(mix.items()) if weight > 0}
        if not self.mix or any(name not in TASKS for name in self.mix):
            raise ConfigError(
                f"mix={dict(mix)}: weigh some of {', '.join(TASKS)} with a number above 0"
            )
        if split not in ("train", "test"):
            raise ConfigError(f"split={split!r} is not train or test")
        self.seed, self.split = seed, split
        self.cursor = Cursor(position=0, fingerprint=f"tools {self.mix} {seed} {split}")

    def task(self, index: int) -> ToolTask:
        """Task `index`, whatever the cursor."""
        rng = np.random.default_rng([self.seed, index, self.split == "test", 11])
        weights = np.array(list(self.mix.values()))
        name = list(self.mix)[int(rng.choice(len(weights), p=weights / weights.sum()))]
        task = TASKS[name](rng, self.split)
        task.sample.id = f"{name}/{self.split}/{self.seed}/{index}"
        return task

    def __getitem__(self, index: int) -> Sample:
        return self.task(index).sample

    def take(self, count: int) -> list[Sample]:
        """The next `count` samples; moves the cursor."""
        start = self.cursor.position
        self.cursor.position += count
        return [self[index] for index in range(start, start + count)]

    def metrics(self) -> dict[str, float]:
        """Counts for the log, under `data/`."""
        return {"data/samples": float(self.cursor.position)}

    def state(self) -> dict[str, int | str]:
        """The cursor, for a checkpoint."""
        return self.cursor.state()

    def load_state(self, state: Mapping[str, int | str]) -> None:
        """Go on where `state` was taken."""
        self.cursor.load_state(state, what=f"the tool tasks with seed {self.seed}")


class ToolTraces:
    """`examples(i)` for `rl.sft.training.run_sft`: the solved conversation of task i.

    Results are those of the tools themselves, so a rollout that says the same has the same ids.

    Args:
        tasks: the stream.
        tools: the policy's, by name; `ConfigError` when a task's tool is missing.
        cfg: how the policy is told of them, and how long results may be.
    """

    def __init__(self, tasks: ToolTasks, tools: Mapping[str, Tool], cfg: ToolConfig) -> None:
        self.tasks, self.tools, self.cfg = tasks, tools, cfg
        for name in tasks.mix:
            if TASK_TOOLS[name] not in tools:
                raise ConfigError(
                    f"{name} needs the tool {TASK_TOOLS[name]}: add it to tools.names="
                    f"{list(cfg.names)}"
                )

    def __call__(self, index: int) -> ToolTrace:
        """The conversation of task `index`."""
        task = self.tasks.task(index)
        sample = task.sample
        tool = self.tools[TASK_TOOLS[sample.task_type]]
        call = json.dumps({"name": tool.name, "arguments": task.arguments})
        images = [_picture(part) for part in sample.media()]
        result = tool.call(task.arguments, ToolContext(sample.id, images, sample.extra))
        return ToolTrace(
            sample_id=sample.id,
            messages=with_tools(render(sample), [tool], self.cfg.prompt),
            turns=[
                f"<think>{task.thought}</think><tool_call>{call}</tool_call>",
                f"<think>{task.finding}</think><answer>\\boxed{{{sample.answer}}}</answer>",
            ],
            results=[[result]],
            max_result_tokens=self.cfg.max_result_tokens,
        )


def _picture(part: Mapping[str, Any]) -> Any:
    from PIL import Image

    return Image.fromarray(part["image"])


class ColdStartExamples:
    """`examples(i)` of a cold start whose mix holds tool tasks beside those of the world.

    Each example is one or the other by the weights of the mix; pure in i.
    """

    def __init__(self, cfg: ColdStartConfig, tools: ToolConfig) -> None:
        weights = {name: weight for name, weight in cfg.tasks.items() if weight > 0}
        mine = {name: weight for name, weight in weights.items() if name in TASKS}
        rest = {name: weight for name, weight in weights.items() if name not in TASKS}
        self.seed = cfg.seed
        self.share = sum(mine.values()) / sum(weights.values())
        self.with_tools = ToolTraces(ToolTasks(mine, cfg.seed), open_tools(tools), tools)
        self.without = ColdStartTraces(replace(cfg, tasks=rest)) if rest else None

    def __call__(self, index: int) -> ToolTrace | list[dict[str, Any]]:
        """Example `index`."""
        chance = np.random.default_rng([self.seed, index, 5]).random()
        if self.without is None or chance < self.share:
            return self.with_tools(index)
        return self.without(index)


def cold_start_examples(
    cfg: ColdStartConfig, tools: ToolConfig
) -> ColdStartTraces | ColdStartExamples:
    """What a cold start learns from; tools are opened only if a task needs them."""
    if any(name in TASKS for name, weight in cfg.tasks.items() if weight > 0):
        return ColdStartExamples(cfg, tools)
    return ColdStartTraces(cfg)
