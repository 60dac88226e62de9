"""Reading real video files: which frames, at which times, and what bad files say."""

from __future__ import annotations

import base64
import io
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pretrain.keye_vl import slow_fast, video
from pretrain.keye_vl.video import VideoConfig, load_video
from pretrain.run.errors import KeyeError

CONFIG = VideoConfig()


def write_video(
    frames: np.ndarray,
    times: np.ndarray | None = None,
    *,
    container: str = "mp4",
    codec: str = "libx264",
    pixels: str = "yuv420p",
    audio: bool = False,
    options: dict[str, str] | None = None,
) -> bytes:
    """Encode `[T, H, W, 3]` frames shown at `times` seconds (25 per second by default)."""
    times = np.arange(len(frames)) / 25 if times is None else times
    with tempfile.NamedTemporaryFile() as file:
        with av.open(file.name, "w", format=container, options=options or {}) as output:
            stream = output.add_stream(codec, rate=25, options={"g": "10"})
            stream.bit_rate = 4_000_000
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = pixels
            stream.codec_context.time_base = Fraction(1, 1000)
            sound = output.add_stream("aac", rate=44_100, layout="mono") if audio else None
            for image, time in zip(frames, times, strict=True):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)
                frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
                output.mux(stream.encode(frame))
            output.mux(stream.encode())
            if sound:
                output.mux(sound.encode(silence(44_100)))
                output.mux(sound.encode())
        return Path(file.name).read_bytes()


def silence(samples: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, samples), np.float32), "fltp", "mono")
    frame.sample_rate = 44_100
    return frame


def grey_steps(count: int, step: int = 4, height: int = 64, width: int = 96) -> np.ndarray:
    """Frame i has brightness step × i everywhere, so a decoded frame tells its number."""
    levels = (np.arange(count) * step).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def numbers(clip: video.VideoClip, step: int = 4) -> list[int]:
    return np.rint(clip.frames.mean((1, 2, 3)) / step).astype(int).tolist()


FORMATS = [
    ("mp4", "libx264", "yuv420p"),
    ("mp4", "mpeg4", "yuv420p"),
    ("webm", "libvpx-vp9", "yuv420p"),
    ("gif", "gif", "gray"),
    ("avi", "mpeg4", "yuv420p"),
    ("mpegts", "libx264", "yuv420p"),
]


@pytest.mark.parametrize(("container", "codec", "pixels"), FORMATS)
@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, [0, 16, 33, 49]),
        ({"fps": 5.0}, [0, 5, 11, 16, 22, 27, 33, 38, 44, 49]),
        ({"num_frames": 2}, [0, 49]),
        ({"num_frames": 99}, list(range(50))),
        ({"start": 1.0, "end": 1.2, "fps": 25.0}, [25, 26, 27, 28, 29, 30]),
        ({"start": 1.6, "num_frames": 2}, [40, 49]),
    ],
)
def test_the_frames_and_times_of_each_format(container, codec, pixels, request_, expected):
    data = write_video(grey_steps(50), container=container, codec=codec, pixels=pixels)
    clip = load_video(data, CONFIG, **request_)
    assert numbers(clip) == expected
    np.testing.assert_allclose(clip.timestamps, np.array(expected) / 25, atol=2e-3)
    assert clip.frames.dtype == np.uint8 and clip.frames.shape[1:] == (3, 64, 96)
    assert clip.complete


def test_count_of_frames_is_the_packages(package):
    for count in (1, 7, 50, 61):
        data = write_video(grey_steps(count))
        for fps in (0.5, 1.0, 2.0, 3.0, 25.0, 60.0):
            wanted = package.smart_nframes({"fps": fps}, total_frames=count, video_fps=25.0)
            clip = load_video(data, CONFIG, fps=fps)
            assert len(clip.frames) == max(1, wanted)


def test_a_variable_frame_rate_is_sampled_evenly_in_time():
    """Ten frames in the first 0.4 s, then one a second: time decides, not the frame's number."""
    times = np.concatenate([np.arange(10) * 0.04, 1.0 + np.arange(4)])
    clip = load_video(write_video(grey_steps(14), times), CONFIG, num_frames=5)
    assert numbers(clip) == [0, 10, 11, 12, 13]
    np.testing.assert_allclose(clip.timestamps, [0, 1, 2, 3, 4], atol=2e-3)


def test_sound_changes_nothing():
    silent = load_video(write_video(grey_steps(30)), CONFIG, fps=4)
    sound = load_video(write_video(grey_steps(30), audio=True), CONFIG, fps=4)
    np.testing.assert_array_equal(silent.frames, sound.frames)
    np.testing.assert_array_equal(silent.timestamps, sound.timestamps)


def test_seeking_gives_the_same_frames_as_decoding_from_the_beginning(monkeypatch):
    rng = np.random.default_rng(0)
    data = write_video(rng.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8))
    decoded = []
    real = video._decode_all

    def count(file, config, index, start):
        for item in real(file, config, index, start):
            decoded.append(item[0])
            yield item

    monkeypatch.setattr(video, "_decode_all", count)
    everything = load_video(data, CONFIG, num_frames=60)
    decoded.clear()
    tail = load_video(data, CONFIG, start=2.2, end=2.32, fps=25)
    assert len(tail.frames) == 4 and len(decoded) < 20
    np.testing.assert_array_equal(tail.frames, everything.frames[55:59])


def test_every_kind_of_source_gives_the_same_clip(tmp_path):
    data = write_video(grey_steps(20))
    (tmp_path / "clip.mp4").write_bytes(data)
    base = load_video(data, CONFIG)
    uri = "data:video/mp4;base64," + base64.b64encode(data).decode()
    for source in (tmp_path / "clip.mp4", f"file://{tmp_path}/clip.mp4", uri):
        again = load_video(source, CONFIG)
        np.testing.assert_array_equal(again.frames, base.frames)


def test_lists_of_frames():
    frames = grey_steps(10, 20)
    pictures = [Image.fromarray(frame) for frame in frames]
    for source in (frames, list(frames), pictures):
        clip = load_video(source, CONFIG, fps=5)
        assert numbers(clip, 20) == list(range(10))
        np.testing.assert_allclose(clip.timestamps, np.arange(10) / 5)
    assert numbers(load_video(frames, CONFIG, num_frames=4), 20) == [0, 3, 6, 9]
    assert numbers(load_video(frames, CONFIG, start=1.0, end=2.0), 20) == [2, 3, 4]


def test_large_frames_are_scaled_within_the_limits():
    frames = grey_steps(12, 20, 480, 640)
    data = write_video(frames)
    config = VideoConfig(max_frame_pixels=10_000)
    for source in (data, frames):
        clip = load_video(source, config, fps=25)
        assert clip.frames.shape == (12, 3, 86, 115)
        assert numbers(clip, 20) == list(range(12))
    config = VideoConfig(max_bytes=12 * 3 * 4_000)
    assert load_video(data, config, fps=25).frames.nbytes <= config.max_bytes
    assert len(load_video(data, VideoConfig(max_frames=3), fps=25).frames) == 3


def test_a_turned_video_is_shown_upright(monkeypatch):
    frames = np.zeros((2, 32, 64, 3), dtype=np.uint8)
    frames[:, :, :32] = 255  # bright on the left: a quarter turn counter-clockwise puts it below

    # PyAV can't write a rotation into a file, so the decoder's answer is replaced.
    real = video._upright
    monkeypatch.setattr(video, "_upright", lambda image, rotation: real(image, 90))
    clip = load_video(write_video(frames), CONFIG, num_frames=2)
    assert clip.frames.shape == (2, 3, 64, 32)
    assert clip.frames[0, :, :28].max() < 30 and clip.frames[0, :, 36:].min() > 225


@pytest.fixture(scope="module")
def whole() -> bytes:
    """An mp4 of 40 noisy frames with its index at the front, so that its beginning is readable."""
    frames = np.random.default_rng(1).integers(0, 256, (40, 48, 48, 3), dtype=np.uint8)
    return write_video(frames, options={"movflags": "faststart"})


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 0.99))
def test_a_truncated_file_gives_what_is_left_or_a_clear_error(whole, share):
    try:
        clip = load_video(whole[: int(len(whole) * share)], CONFIG, fps=25)
    except KeyeError as error:
        assert "video (" in str(error)
        return
    assert 1 <= len(clip.frames) <= 40
    assert clip.complete == (len(clip.frames) == 40)
    plan = slow_fast.plan(clip.frames, clip.timestamps, total_tokens=500)
    assert plan.total_tokens <= 500


def test_a_truncated_file_keeps_its_beginning(whole):
    full = load_video(whole, CONFIG, fps=25)
    half = load_video(whole[: len(whole) // 2], CONFIG, fps=25)
    assert not half.complete and 10 < len(half.frames) < 30
    np.testing.assert_array_equal(half.frames[:10], full.frames[:10])


def bomb_gif() -> bytes:
    return b"GIF89a" + b"\xff\xff\xff\xff" + b"\x00\x00\x00," + b"\x00" * 64


def only_sound() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=44_100, layout="mono")
        output.mux(stream.encode(silence(4_410)))
        output.mux(stream.encode())
    return file.getvalue()


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "can't be read as a video"),
        (b"not a video" * 50, "can't be read as a video"),
        (PLAYLIST, "can't be read as a video"),
        (bomb_gif(), "can't be read as a video|no frame can be decoded"),
        (only_sound(), "no video stream"),
        (write_video(grey_steps(5)).replace(b"avc1", b"zzzz"), "no decoder.*H.264"),
        (write_video(grey_steps(5))[:400], "can't be read as a video|no frame"),
        ("nowhere/clip.mp4", "nowhere/clip.mp4: can't be opened"),
        ("https://example.org/clip.mp4", "nothing is downloaded"),
        ("data:video/mp4;base64,???", "not valid base64"),
        ([], "at least one frame"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)], "frame 1 has 5×4"),
        ([np.zeros((4, 4, 3), np.float32)], "must be uint8"),
    ],
)
def test_bad_videos_say_what_is_wrong(source, message):
    with pytest.raises(KeyeError, match=message):
        load_video(source, CONFIG)


def test_frames_that_are_too_large_are_refused_before_decoding(monkeypatch):
    data = write_video(grey_steps(3, height=256, width=256))
    monkeypatch.setattr(video, "_decode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(KeyeError, match=r"256×256.*max_source_pixels"):
        load_video(data, VideoConfig(max_source_pixels=30_000))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"fps": 0}, "positive"),
        ({"fps": float("inf")}, "positive"),
        ({"num_frames": 0}, "num_frames"),
        ({"start": 2.0, "end": 1.0}, "before its start"),
        ({"start": 9.0}, "no frame from 9 s.*last one is at 0.16 s"),
    ],
)
def test_impossible_requests_are_named(request_, message):
    with pytest.raises(KeyeError, match=message):
        load_video(write_video(grey_steps(5)), CONFIG, **request_)
