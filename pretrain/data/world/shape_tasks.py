"""Tasks on coloured shapes: caption, look-up, attributes, counting, relations, grounding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pretrain.data.answers import MIN_IOU, format_box
from pretrain.data.sample import Sample
from pretrain.data.world.canvas import GRID, SIZE
from pretrain.data.world.shapes import COLORS, SHAPES, Thing, choose_things, draw_things
from pretrain.data.world.tasks import STEP, draw, task

# Counting uses fewer kinds, so that a count is not almost always 0 or 1.
COUNTED = 3
COUNTED_COLORS = tuple(COLORS)[:COUNTED]
COUNTED_SHAPES = SHAPES[:COUNTED]


def _words(things: Sequence[Thing]) -> str:
    return ", ".join(map(str, things))


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


@task("shapes/caption")
def caption(rng: np.random.Generator, split: str) -> Sample:
    """Two to six objects: `tl red circle, mr blue square`."""
    image, things = draw_things(rng, choose_things(rng, int(rng.integers(2, 7))))
    words = _words(things)
    return draw("shapes/caption", "describe", words, image=image, alt=words)


@task("shapes/at")
def at(rng: np.random.Generator, split: str) -> Sample:
    """What is in a named cell: `red circle`."""
    image, things = draw_things(rng, choose_things(rng, int(rng.integers(2, 7))))
    thing = things[int(rng.integers(len(things)))]
    return draw(
        "shapes/at",
        f"what is at {thing.place}?",
        f"{thing.color} {thing.shape}",
        image=image,
        alt=_words(things),
    )


@task("shapes/attribute")
def attribute(rng: np.random.Generator, split: str) -> Sample:
    """The colour of the only such shape, or the shape of the only object of a colour."""
    while True:
        chosen = choose_things(rng, int(rng.integers(2, 6)))
        index = int(rng.integers(len(chosen)))
        _, color, shape = chosen[index]
        only_shape = sum(other[2] == shape for other in chosen) == 1
        only_color = sum(other[1] == color for other in chosen) == 1
        if only_shape and rng.random() < 0.5:
            question, answer = f"what color is the {shape}?", color
            break
        if only_color:
            question, answer = f"what shape is the {color} object?", shape
            break
    image, things = draw_things(rng, chosen)
    return draw(
        "shapes/attribute",
        question,
        answer,
        image=image,
        alt=_words(things),
        solution=str(things[index]),
    )


def _tally(things: Sequence[Thing], word: str) -> tuple[str, int]:
    """Where the objects of a colour or shape are, with their number: (`tl br=2`, 2)."""
    places = [thing.place for thing in things if word in (thing.color, thing.shape)]
    return f"{' '.join(places)}={len(places)}", len(places)


@task("shapes/count")
def count(rng: np.random.Generator, split: str) -> Sample:
    """How many of three to seven objects have a colour or a shape."""
    chosen = choose_things(rng, int(rng.integers(3, 8)), COUNTED, COUNTED)
    word = _pick(rng, COUNTED_COLORS if rng.random() < 0.5 else COUNTED_SHAPES)
    image, things = draw_things(rng, chosen)
    solution, number = _tally(things, word)
    return draw(
        "shapes/count",
        f"how many {word}?",
        str(number),
        image=image,
        alt=_words(things),
        rule={"rule": "math"},
        solution=solution,
    )


@task("shapes/count_sum")
def count_sum(rng: np.random.Generator, split: str) -> Sample:
    """How many of a colour plus how many of a shape, among four to eight objects."""
    chosen = choose_things(rng, int(rng.integers(4, 9)), COUNTED, COUNTED)
    color, shape = _pick(rng, COUNTED_COLORS), _pick(rng, COUNTED_SHAPES)
    image, things = draw_things(rng, chosen)
    (first, a), (second, b) = _tally(things, color), _tally(things, shape)
    begin = f"{color} {first}{STEP}{shape} {second.rpartition('=')[0]}".rstrip()
    solution = STEP.join((f"{color} {first}", f"{shape} {second}", f"{a}+{b}={a + b}"))
    return draw(
        "shapes/count_sum",
        f"count {color} plus count {shape}?",
        str(a + b),
        image=image,
        alt=_words(things),
        rule={"rule": "math"},
        solution=solution,
        hints=[
            f"first {color} then {shape}",
            f"count {color} plus count {shape}",
            f"{color} {first.rpartition('=')[0]}".rstrip(),
            begin,
            f"{solution} answer {a + b}",
        ],
    )


@task("shapes/relation")
def relation(rng: np.random.Generator, split: str) -> Sample:
    """Where one of two objects in the same row or column is, seen from the other."""
    while True:
        chosen = choose_things(rng, 2)
        first, second = rng.permutation(2).tolist()
        down = chosen[first][0] // GRID - chosen[second][0] // GRID
        right = chosen[first][0] % GRID - chosen[second][0] % GRID
        if chosen[0][1:] != chosen[1][1:] and (down == 0 or right == 0):
            break
    image, things = draw_things(rng, chosen)
    one, other = things[first], things[second]
    if down == 0:
        answer = "left" if right < 0 else "right"
    else:
        answer = "up" if down < 0 else "down"
    return draw(
        "shapes/relation",
        f"where is {one.color} {one.shape} relative to {other.color} {other.shape}?",
        answer,
        image=image,
        alt=_words(things),
        solution=f"{one.place} {other.place}",
    )


@task("shapes/grounding")
def grounding(rng: np.random.Generator, split: str) -> Sample:
    """The box of the only object of a colour and shape; no textual form, words have no pixels."""
    while True:
        chosen = choose_things(rng, int(rng.integers(2, 6)))
        index = int(rng.integers(len(chosen)))
        if sum(other[1:] == chosen[index][1:] for other in chosen) == 1:
            break
    image, things = draw_things(rng, chosen)
    thing = things[index]
    return draw(
        "shapes/grounding",
        f"box of the {thing.color} {thing.shape}?",
        format_box(thing.box, SIZE, SIZE),
        image=image,
        rule={"rule": "box_iou", "threshold": MIN_IOU},
    )
