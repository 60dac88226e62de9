"""Tasks on short clips: direction of motion, when something changes or is there, counts, order.

A clip is six frames of 56×56 pixels (four visual tokens each) at two frames a second, written as a
real mp4 file; a prompt encoder decodes it and plans its tokens like any other video. Invariant: a
clip's objects stay inside its four cells, and its background doesn't move, so that frames in which
nothing happens can become fast frames.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import av
import numpy as np

from pretrain.data.answers import MIN_IOU
from pretrain.data.sample import Sample
from pretrain.data.world.canvas import CELL
from pretrain.data.world.shapes import COLORS, RADII, SHAPES, shape_mask
from pretrain.data.world.tasks import STEP, draw, task

SIDE = 2 * CELL
FRAMES = 6
FPS = 2
PLACES = {"tl": (0, 0), "tr": (0, CELL), "bl": (CELL, 0), "br": (CELL, CELL)}
"""Top-left corner of each cell: row and column in pixels."""
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
BACKGROUND = 28
_JITTER = 3
_BIT_RATE = 4_000_000


class Stay(NamedTuple):
    """An object in a cell, visible in the frames `first` … `last`."""

    place: str
    color: str
    shape: str
    first: int
    last: int

    def __str__(self) -> str:
        return f"{seconds(self.first)} {self.place} {self.color} {self.shape}"


def seconds(frame: int) -> str:
    """The time of a frame as the prompt writes it: `1.5`."""
    return format(frame / FPS, ".1f")


def write_mp4(frames: Sequence[np.ndarray], fps: int = FPS) -> bytes:
    """An mp4 file of uint8 `[H, W, 3]` RGB frames with even sides (MPEG-4, nearly lossless)."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = _BIT_RATE
        stream.codec_context.thread_count = 1  # frames this small aren't worth starting threads for
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def _blank(rng: np.random.Generator) -> list[np.ndarray]:
    """All frames of a clip, with the same dark noise."""
    noise = rng.integers(0, BACKGROUND, (SIDE, SIDE, 3), dtype=np.uint8)
    return [noise.copy() for _ in range(FRAMES)]


def _stamp(frame: np.ndarray, mask: np.ndarray, color: str, row: int, column: int) -> None:
    cell = frame[row : row + CELL, column : column + CELL]
    np.copyto(cell, np.array(COLORS[color], dtype=np.uint8), where=mask[..., None])


def _mask(rng: np.random.Generator, shape: str) -> np.ndarray:
    return shape_mask(shape, int(rng.integers(RADII.start, RADII.stop)), 0, 0)


def _film(rng: np.random.Generator, stays: Sequence[Stay]) -> list[np.ndarray]:
    frames = _blank(rng)
    for stay in stays:
        mask = _mask(rng, stay.shape)
        for frame in frames[stay.first : stay.last + 1]:
            _stamp(frame, mask, stay.color, *PLACES[stay.place])
    return frames


def _sample(
    task_type: str,
    question: str,
    answer: str,
    frames: Sequence[np.ndarray],
    *,
    alt: str,
    rule: dict[str, Any] | None = None,
    solution: str | None = None,
) -> Sample:
    sample = draw(task_type, question, answer, rule=rule, solution=solution)
    part = {"type": "video", "video": write_mp4(frames), "alt": alt}
    sample.messages[0]["content"].insert(0, part)
    return sample


def _draw_kinds(rng: np.random.Generator, count: int) -> tuple[list[str], list[str], list[str]]:
    """`count` different colours, any shapes, different cells."""
    colors = [str(color) for color in rng.permutation(list(COLORS))[:count]]
    shapes = [SHAPES[index] for index in rng.integers(0, len(SHAPES), count)]
    places = [str(place) for place in rng.permutation(list(PLACES))[:count]]
    return colors, shapes, places


def _draw_starts(rng: np.random.Generator, count: int, last: int = FRAMES - 1) -> list[int]:
    """`count` different frames up to `last`, ascending."""
    return sorted(rng.permutation(last + 1)[:count].tolist())


@task("video/direction")
def direction(rng: np.random.Generator, split: str) -> Sample:
    """One object crosses the clip: `left`, `right`, `up` or `down`."""
    name = list(DIRECTIONS)[int(rng.integers(len(DIRECTIONS)))]
    (color,), (shape,), _ = _draw_kinds(rng, 1)
    across = int(rng.integers(2)) * CELL
    across = int(np.clip(across + rng.integers(-_JITTER, _JITTER + 1), 0, CELL))
    along = np.linspace(0, CELL, FRAMES).round().astype(int)
    down, right = DIRECTIONS[name]
    along = along[::-1] if down + right < 0 else along
    track = [(int(a), across) if down else (across, int(a)) for a in along]
    frames, mask = _blank(rng), _mask(rng, shape)
    for frame, (row, column) in zip(frames, track, strict=True):
        _stamp(frame, mask, color, row, column)
    words = [f"{seconds(k)} {_nearest(track[k])}" for k in (0, FRAMES - 1)]
    return _sample(
        "video/direction",
        f"where does the {shape} move?",
        name,
        frames,
        alt=f"{color} {shape}: {', '.join(words)}",
        solution=STEP.join(words),
    )


def _nearest(corner: tuple[int, int]) -> str:
    return ("b" if corner[0] > CELL / 2 else "t") + ("r" if corner[1] > CELL / 2 else "l")


@task("video/change")
def change(rng: np.random.Generator, split: str) -> Sample:
    """One object changes its colour; the answer is the time of the first frame with the new one."""
    (before, after), (shape, _), (place, _) = _draw_kinds(rng, 2)
    at = int(rng.integers(1, FRAMES))
    mask, frames = _mask(rng, shape), _blank(rng)
    for k, frame in enumerate(frames):
        _stamp(frame, mask, before if k < at else after, *PLACES[place])
    return _sample(
        "video/change",
        f"when does the {shape} change?",
        seconds(at),
        frames,
        alt=f"{seconds(0)} {place} {before} {shape}, {seconds(at)} {place} {after} {shape}",
        rule={"rule": "math"},
        solution=f"{seconds(at - 1)} {before}{STEP}{seconds(at)} {after}",
    )


@task("video/count")
def count(rng: np.random.Generator, split: str) -> Sample:
    """How many of one to four objects appear in all; each is visible for one to three frames."""
    number = int(rng.integers(1, 5))
    colors, shapes, places = [], [], list(rng.permutation(list(PLACES)))
    colors = [list(COLORS)[k] for k in rng.integers(0, len(COLORS), number)]
    shapes = [SHAPES[k] for k in rng.integers(0, len(SHAPES), number)]
    starts = _draw_starts(rng, number)
    lasts = [min(first + int(rng.integers(0, 3)), FRAMES - 1) for first in starts]
    stays = [
        Stay(str(place), *rest)
        for place, *rest in zip(places[:number], colors, shapes, starts, lasts, strict=True)
    ]
    listed = " ".join(stay.place for stay in stays)
    return _sample(
        "video/count",
        "how many appear?",
        str(number),
        _film(rng, stays),
        alt=", ".join(map(str, stays)),
        rule={"rule": "math"},
        solution=f"{listed}={number}",
    )


@task("video/order")
def order(rng: np.random.Generator, split: str) -> Sample:
    """The colours of two or three objects in the order in which they appear: `red, blue`."""
    number = int(rng.integers(2, 4))
    colors, shapes, places = _draw_kinds(rng, number)
    starts = _draw_starts(rng, number)
    stays = [
        Stay(place, color, shape, first, FRAMES - 1)
        for place, color, shape, first in zip(places, colors, shapes, starts, strict=True)
    ]
    return _sample(
        "video/order",
        "in which order do colors appear?",
        ", ".join(colors),
        _film(rng, stays),
        alt=", ".join(map(str, stays)),
        solution=STEP.join(f"{seconds(s.first)} {s.color}" for s in stays),
    )


@task("video/grounding")
def grounding(rng: np.random.Generator, split: str) -> Sample:
    """From when to when one of two objects is visible, as Keye writes a span of time in seconds."""
    colors, shapes, places = _draw_kinds(rng, 2)
    stays = []
    for place, color, shape in zip(places, colors, shapes, strict=True):
        first = int(rng.integers(0, FRAMES - 1))
        stays.append(Stay(place, color, shape, first, int(rng.integers(first + 1, FRAMES))))
    asked = stays[int(rng.integers(2))]
    visible = sorted(stays, key=lambda stay: stay.first)
    words = [
        f"{s.color} {s.shape} from {seconds(s.first)} to {seconds(s.last + 1)}" for s in visible
    ]
    span = f"{seconds(asked.first)}, {seconds(asked.last + 1)}"
    return _sample(
        "video/grounding",
        f"when is the {asked.color} {asked.shape} there?",
        f"<|clip_time_start|>[{span}]<|clip_time_end|>",
        _film(rng, stays),
        alt=", ".join(words),
        rule={"rule": "temporal_iou", "threshold": MIN_IOU},
        solution=f"from {seconds(asked.first)} to {seconds(asked.last + 1)}",
    )
