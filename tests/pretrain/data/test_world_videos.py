"""The clips' answers are what the decoded mp4 files show."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from pretrain.data.stream import WorldStream, heldout
from pretrain.data.world import TASKS, textual
from pretrain.data.world.shapes import COLORS
from pretrain.data.world.videos import FPS, FRAMES, PLACES
from pretrain.keye_vl import slow_fast
from pretrain.keye_vl.video import VideoConfig, load_video

VIDEO_TASKS = [name for name in TASKS if name.startswith("video/")]


def samples(task_type, n=60):
    return heldout({task_type: 1}, n, seed=3, modes={"think": 1})


def question(sample) -> str:
    return sample.messages[0]["content"][-1]["text"]


def decode(sample) -> np.ndarray:
    """int `[6, 56, 56, 3]` frames of the sample's file."""
    clip = load_video(sample.media()[0]["video"], VideoConfig(), fps=FPS)
    np.testing.assert_array_equal(clip.timestamps, np.arange(FRAMES) / FPS)
    return clip.frames.transpose(0, 2, 3, 1).astype(int)


def color_of(cell: np.ndarray) -> str | None:
    """The nearest colour name of a cell's bright pixels; None if the cell is empty."""
    bright = cell[cell.max(-1) > 130]
    if len(bright) < 60:
        return None
    middle = np.median(bright, axis=0)
    return min(COLORS, key=lambda name: np.abs(middle - COLORS[name]).sum())


def seen(sample) -> dict[str, list[str | None]]:
    """Per cell, the colour in each of the six frames."""
    frames = decode(sample)
    return {
        place: [color_of(frame[y : y + 28, x : x + 28]) for frame in frames]
        for place, (y, x) in PLACES.items()
    }


def expected(sample) -> str:
    """The answer, worked out from the decoded pixels (and the question) alone."""
    if sample.task_type == "video/direction":
        bright = [np.argwhere(frame.max(-1) > 130).mean(0) for frame in decode(sample)]
        down, right = bright[-1] - bright[0]
        if abs(down) > abs(right):
            return "down" if down > 0 else "up"
        return "right" if right > 0 else "left"
    cells = [colors for colors in seen(sample).values() if any(colors)]
    if sample.task_type == "video/count":
        return str(len(cells))
    if sample.task_type == "video/change":
        (colors,) = cells
        return format(next(k for k in range(6) if colors[k] != colors[0]) / FPS, ".1f")
    first = {next(filter(None, c)): next(k for k in range(6) if c[k]) for c in cells}
    if sample.task_type == "video/order":
        return ", ".join(sorted(first, key=first.get))
    color = question(sample).split()[3]
    colors = next(c for c in cells if color in c)
    start, stop = colors.index(color), 6 - colors[::-1].index(color)
    return f"<|clip_time_start|>[{start / FPS}, {stop / FPS}]<|clip_time_end|>"


@pytest.mark.parametrize("task_type", VIDEO_TASKS)
def test_answers_follow_from_the_decoded_pixels(task_type):
    answers = Counter()
    for sample in samples(task_type):
        assert sample.answer == expected(sample), sample.media()[0]["alt"]
        answers[sample.answer] += 1
    assert max(answers.values()) <= 30  # no answer is right more often than not


def test_there_are_the_five_kinds():
    assert VIDEO_TASKS == [
        "video/direction",
        "video/change",
        "video/count",
        "video/order",
        "video/grounding",
    ]


@pytest.mark.parametrize("task_type", VIDEO_TASKS)
def test_rewards_solutions_and_texts(task_type):
    rules = {"video/change": "math", "video/count": "math", "video/grounding": "temporal_iou"}
    for sample in samples(task_type):
        assert sample.validate().rewards[0]["rule"] == rules.get(task_type, "exact")
        assert len(re.findall(r"[a-z]+|\d|[.=;]", sample.solution)) <= 20
        (part,) = textual(sample).messages[0]["content"]
        assert part["text"] == f"{sample.media()[0]['alt']}. {question(sample)}"
        if task_type in ("video/change", "video/count", "video/order", "video/grounding"):
            numbers = re.findall(r"[\d.]+|[a-z]+", sample.answer.replace("clip_time_", ""))
            words = [w for w in numbers if w not in ("start", "end")]
            listed = re.findall(r"[\d.]+|[a-z]+", sample.solution)
            assert [w for w in listed if w in words][-len(words) :] == words


def test_still_frames_become_fast_and_moving_ones_slow():
    """Fast frames by task under the tiny model's plan: nothing moves between two events."""
    shares = {}
    for task_type in ("video/direction", "video/change"):
        types = [
            slow_fast.plan(
                decode(sample).astype(np.uint8).transpose(0, 3, 1, 2),
                FPS,
                min_tokens=1,
                max_tokens=16,
                total_tokens=128,
            ).frame_types
            for sample in samples(task_type, 20)
        ]
        shares[task_type] = float(np.mean(types))
    assert shares["video/direction"] < 0.4 < shares["video/change"]


def test_a_clip_is_a_pure_function_of_its_index():
    one, other = (WorldStream({"video/count": 1}, 5)[7] for _ in range(2))
    assert one.media()[0]["video"] == other.media()[0]["video"]
    assert one.media()[0]["video"] != WorldStream({"video/count": 1}, 5)[8].media()[0]["video"]
