"""Tasks on handwritten digits: reading, locating, and reasoning about what was read."""

from __future__ import annotations

from typing import Any

import numpy as np

from pretrain.data.sample import Sample
from pretrain.data.world.canvas import POSITIONS
from pretrain.data.world.digits import digit_scene
from pretrain.data.world.tasks import STEP, draw, running_sum, task

MATH = {"rule": "math"}


def _scene(
    rng: np.random.Generator, split: str, low: int, high: int
) -> tuple[dict[str, Any], list[str], list[int]]:
    """`low`…`high` digits: (image and alt text for `draw`, names of the cells, digits)."""
    image, cells, digits = digit_scene(rng, int(rng.integers(low, high + 1)), split)
    places = [POSITIONS[cell] for cell in cells]
    alt = ", ".join(f"{place}{digit}" for place, digit in zip(places, digits, strict=True))
    return {"image": image, "alt": alt}, places, digits


def _written(digits: list[int]) -> str:
    return "".join(map(str, digits))


def _hints(
    places: list[str], digits: list[int], strategy: str, solution: str, answer: int
) -> list[str]:
    """L1 how many there are, L2 where, L3 the first step's material, L4 all digits, L5 the rest."""
    return [
        f"there are {len(digits)} digits",
        f"at {' '.join(places)}",
        strategy,
        f"digits {_written(digits)}",
        f"{solution} answer {answer}",
    ]


@task("digits/read")
def read(rng: np.random.Generator, split: str) -> Sample:
    """One to four digits in reading order: `358`."""
    scene, _, digits = _scene(rng, split, 1, 4)
    return draw("digits/read", "read digits", _written(digits), **scene)


@task("digits/locate")
def locate(rng: np.random.Generator, split: str) -> Sample:
    """Two to five digits with their cells: `tl3, mr5`."""
    scene, _, _ = _scene(rng, split, 2, 5)
    return draw("digits/locate", "describe digits", scene["alt"], **scene)


@task("digits/max")
def maximum(rng: np.random.Generator, split: str) -> Sample:
    """The largest of two to four digits."""
    scene, _, digits = _scene(rng, split, 2, 4)
    answer = str(max(digits))
    solution = f"digits {_written(digits)}{STEP}max {answer}"
    return draw("digits/max", "max of the digits?", answer, rule=MATH, solution=solution, **scene)


def _sum(rng: np.random.Generator, split: str, low: int, high: int, task_type: str) -> Sample:
    scene, places, digits = _scene(rng, split, low, high)
    answer = sum(digits)
    solution = f"digits {_written(digits)}{STEP}{running_sum(digits)}"
    first = f"first {places[0]}{digits[0]} {places[1]}{digits[1]}"
    return draw(
        task_type,
        "sum of the digits?",
        str(answer),
        rule=MATH,
        solution=solution,
        hints=_hints(places, digits, first, solution, answer),
        **scene,
    )


@task("digits/sum")
def total(rng: np.random.Generator, split: str) -> Sample:
    """The sum of two to four digits."""
    return _sum(rng, split, 2, 4, "digits/sum")


@task("digits/sum_hard")
def long_total(rng: np.random.Generator, split: str) -> Sample:
    """The sum of four to six digits."""
    return _sum(rng, split, 4, 6, "digits/sum_hard")


@task("digits/difference")
def difference(rng: np.random.Generator, split: str) -> Sample:
    """The largest minus the smallest of two to four digits."""
    scene, places, digits = _scene(rng, split, 2, 4)
    high, low = max(digits), min(digits)
    steps = (
        f"digits {_written(digits)}",
        f"max {high}",
        f"min {low}",
        f"{high}-{low}={high - low}",
    )
    solution = STEP.join(steps)
    return draw(
        "digits/difference",
        "max minus min of the digits?",
        str(high - low),
        rule=MATH,
        solution=solution,
        hints=_hints(places, digits, f"max {high}", solution, high - low),
        **scene,
    )
