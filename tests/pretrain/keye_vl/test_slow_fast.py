"""The frame plan against keye-vl-utils 1.5.2 and against its budgets on hostile videos."""

from __future__ import annotations

import sys
import types

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_images

from pretrain.keye_vl import slow_fast
from pretrain.keye_vl.frame_similarity import comparison_size, find_slow
from pretrain.run.errors import KeyeError

PACKAGE_SETTINGS = {"frame_similarity": 0.9, "total_tokens": 65_536, "compatible": True}


def make_clip(seed: int, frames: int, height: int, width: int) -> np.ndarray:
    """Shots that pan over photographs, with noise, fades, moving discs and black frames.

    uint8 `[frames, height, width, 3]`.
    """
    rng = np.random.default_rng(seed)
    photographs = load_sample_images().images
    clip: list[np.ndarray] = []
    while len(clip) < frames:
        photograph = photographs[rng.integers(2)]
        zoom = rng.uniform(1.05, 2) * max(height / 427, width / 640)
        scene = cv2.resize(photograph, None, fx=zoom, fy=zoom).astype(np.float32)
        room = np.maximum(np.array(scene.shape[:2]) - [height, width], 0)
        start, speed = rng.uniform(0, 1, 2) * room, rng.uniform(-4, 4, 2) * rng.choice([0, 0.3, 2])
        noise, fade = rng.choice([0, 5]), rng.choice([0, -0.02, -0.3])
        radius, colour = int(rng.integers(1, 80)), rng.integers(0, 256, 3).tolist()
        for k in range(int(rng.integers(2, 14))):
            top, left = np.clip(start + speed * k, 0, room).astype(int)
            frame = scene[top : top + height, left : left + width] * max(0.0, 1 + fade * k)
            if noise:
                frame = frame + rng.normal(0, noise, frame.shape)
            frame = np.ascontiguousarray(np.clip(frame, 0, 255).astype(np.uint8))
            cv2.circle(frame, (7 * k % width, height // 2), radius, colour, -1)
            clip.append(frame)
    return np.stack(clip[:frames])


def as_tensor(clip: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(clip).permute(0, 3, 1, 2)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 30),
    st.integers(30, 420),
    st.integers(30, 420),
    st.sampled_from([0.5, 2, 25, 29.97, 30]),
)
def test_compatible_plan_of_frames_is_the_packages(package, seed, count, height, width, fps):
    """Its list-of-frames path, which resizes the frames first: those are what is planned here."""
    clip = make_clip(seed, count, height, width)
    if int(count / fps * fps) < 1:
        return
    pictures = [Image.fromarray(frame) for frame in clip]
    _, found = package.fetch_video({"video": pictures, "fps": fps})
    resized = [package.fetch_image({"image": picture}, is_video=True) for picture in pictures]
    resized = np.stack([np.array(picture) for picture in resized])
    plan = slow_fast.plan(as_tensor(resized), fps, **PACKAGE_SETTINGS)
    np.testing.assert_array_equal(plan.frame_types, found["frame_types"].numpy())
    np.testing.assert_array_equal(plan.timestamps, found["timestamps"].numpy())
    assert plan.slow_size == (found["height"], found["width"])
    assert plan.fast_size == (found["fast_height"], found["fast_width"])


def test_compatible_plan_of_a_decoded_video_is_the_packages(package):
    """Its decoder path keeps the frames as they are, and caps their number at total // min."""
    clip = make_clip(3, 150, 40, 52)

    class Reader:
        def __init__(self, _):
            pass

        def __len__(self):
            return len(clip)

        def get_avg_fps(self):
            return 1.0

        def get_batch(self, indices):
            return types.SimpleNamespace(asnumpy=lambda: clip[indices])

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "decord", types.SimpleNamespace(VideoReader=Reader))
        _, found = package.fetch_video({"video": "any.mp4", "min_pixels": 512 * 28 * 28})
    plan = slow_fast.plan(as_tensor(clip), 1.0, min_tokens=512, **PACKAGE_SETTINGS)
    assert len(plan.frame_indices) == 128 == len(found["frame_types"])
    np.testing.assert_array_equal(plan.frame_types, found["frame_types"].numpy())
    np.testing.assert_array_equal(plan.timestamps, found["timestamps"].numpy())
    assert plan.slow_size == (found["height"], found["width"])
    assert plan.fast_size == (found["fast_height"], found["fast_width"])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_decisions_at_the_edge_of_float32_are_the_packages(package, seed, choice):
    """The patch threshold is set to the float32 cosine of one of the patches themselves."""
    clip = make_clip(seed, 2, 224, 280)
    tensors = as_tensor(clip)
    cosines = []
    for first, second in _patches(clip[0], clip[1]):
        cosines.append(float(first @ second / np.linalg.norm(first) / np.linalg.norm(second)))
    threshold = sorted(cosines)[choice % len(cosines)]
    share = package.get_frame_sim(*tensors, threshold=threshold)
    for frame_threshold in (share, np.nextafter(share, 2), np.nextafter(share, 0)):
        types_ = find_slow(
            clip,
            comparison_size(224, 280),
            frame_similarity=frame_threshold,
            patch_similarity=threshold,
        )
        assert types_[1] == int(not share < frame_threshold)


def _patches(first: np.ndarray, second: np.ndarray):
    images = [cv2.cvtColor(x, cv2.COLOR_RGB2HSV).astype(np.float32) for x in (first, second)]
    for row in range(0, first.shape[0], 28):
        for column in range(0, first.shape[1], 28):
            yield [x[row : row + 28, column : column + 28].ravel() for x in images]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from(["equal", "noise", "black", "flicker"]),
    st.integers(48, 6_000),
    st.integers(1, 48),
)
def test_budgets_hold_for_any_video(count, height, width, kind, total, minimum):
    rng = np.random.default_rng(count)
    frames = np.zeros((count, 3, height, width), dtype=np.uint8)
    if kind == "equal":
        frames[:] = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
    elif kind == "noise":
        frames[:] = rng.integers(0, 256, frames.shape, dtype=np.uint8)
    elif kind == "flicker":
        frames[::2] = 255
    plan = slow_fast.plan(frames, 2.0, total_tokens=total, min_tokens=minimum, max_tokens=64)
    kept = min(count, total // minimum)
    assert len(plan.frame_indices) == len(plan.frame_types) == len(plan.timestamps) == kept
    assert (np.diff(plan.frame_indices) > 0).all() and plan.frame_indices[-1] < count
    assert plan.total_tokens <= total and plan.tokens_per_frame.max() <= 64
    assert plan.frame_types[0] == 0
    np.testing.assert_allclose(plan.timestamps, plan.frame_indices / 2)
    if kind in ("equal", "black"):
        assert plan.frame_types.sum() == kept - 1


@pytest.mark.parametrize(("height", "width"), [(1, 640), (640, 1), (2160, 3840), (1, 1)])
def test_extreme_shapes_stay_within_the_bounds(height, width):
    frames = np.random.default_rng(0).integers(0, 256, (3, 3, height, width), dtype=np.uint8)
    plan = slow_fast.plan(frames, [0.0, 0.04, 3.7])
    assert plan.tokens_per_frame.min() >= 48 and plan.tokens_per_frame.max() <= 768


def test_ten_thousand_frames_are_subsampled_uniformly():
    frames = np.broadcast_to(np.full((1, 3, 30, 40), 90, dtype=np.uint8), (10_000, 3, 30, 40))
    plan = slow_fast.plan(frames, 25.0)
    assert len(plan.frame_indices) == 75_000 // 48 == 1_562
    assert plan.frame_indices[0] == 0 and plan.frame_indices[-1] == 9_999
    assert set(np.diff(plan.frame_indices)) == {6, 7}
    assert plan.total_tokens <= 75_000
    assert plan.timestamps[-1] == np.float32(9_999 / 25)


def test_every_input_layout_and_thread_count_gives_the_same_plan():
    clip = make_clip(11, 40, 180, 320)
    base = slow_fast.plan(as_tensor(clip), 2.0)
    assert 1 < (base.frame_types == 0).sum() < 40
    for frames in (as_tensor(clip).contiguous(), clip.transpose(0, 3, 1, 2)):
        for threads in (1, 3):
            again = slow_fast.plan(frames, np.arange(40) / 2, threads=threads)
            np.testing.assert_array_equal(again.frame_types, base.frame_types)
            np.testing.assert_array_equal(again.timestamps, base.timestamps)
            assert (again.slow_size, again.fast_size) == (base.slow_size, base.fast_size)


def test_plan_describes_pixel_rows_and_prompt_text():
    frames = np.full((3, 3, 360, 640), 120, dtype=np.uint8)
    frames[2] = 0
    plan = slow_fast.plan(frames, [0.0, 0.5, 1.26])
    assert plan.frame_types.tolist() == [0, 1, 0]
    assert plan.slow_size == (364, 644) and plan.fast_size == (196, 336)
    assert plan.grid_thw.tolist() == [[1, 26, 46], [1, 14, 24], [1, 26, 46]]
    assert plan.tokens_per_frame.tolist() == [299, 84, 299] and plan.total_tokens == 682
    assert plan.frame_size(1) == (196, 336)
    assert plan.timestamp_texts() == ["0.0", "0.5", "1.3"]
    assert plan.processor_kwargs() == {
        "frame_types": (0, 1, 0),
        "timestamps": (0.0, 0.5, float(np.float32(1.26))),
        "slow_size": (364, 644),
        "fast_size": (196, 336),
    }


GOOD = np.zeros((2, 3, 28, 28), dtype=np.uint8)


@pytest.mark.parametrize(
    ("frames", "times", "keywords", "message"),
    [
        (GOOD.astype(np.float32), 2.0, {}, "uint8"),
        (GOOD.transpose(0, 2, 3, 1), 2.0, {}, r"\[T, 3, H, W\]"),
        (GOOD[:0], 2.0, {}, "T, H, W ≥ 1"),
        ([1, 2], 2.0, {}, "list"),
        (GOOD, 0.0, {}, "positive"),
        (GOOD, float("nan"), {}, "positive"),
        (GOOD, [0.0], {}, "2 timestamps"),
        (GOOD, [1.0, 0.0], {}, "must not decrease"),
        (GOOD, "2", {}, "timestamps"),
        (GOOD, 2.0, {"total_tokens": 47}, "total_tokens=47"),
        (GOOD, 2.0, {"min_tokens": 800}, "max_tokens=768"),
        (GOOD, 2.0, {"fast_ratio": 0.0}, "fast_ratio"),
        (GOOD, 2.0, {"threads": 0}, "threads"),
        (np.zeros((2, 3, 1, 201), dtype=np.uint8), 2.0, {"compatible": True}, "compatible=False"),
    ],
)
def test_bad_input_is_named(frames, times, keywords, message):
    with pytest.raises(KeyeError, match=message):
        slow_fast.plan(frames, times, **keywords)
