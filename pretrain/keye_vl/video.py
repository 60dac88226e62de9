"""Reading videos: files (mp4, webm, gif, …), bytes and lists of frames → sampled RGB frames.

Two passes with PyAV: the first reads packet times only (so constant, variable and wrong frame
rates, cuts by start/end and truncated files are one case), the second decodes once and converts
only the frames that were chosen.

Invariants: nothing is decoded before its frame size is known to be bounded; the returned frames
fit in `VideoConfig.max_bytes`; nothing but the given file is opened (no playlists, no network);
whatever can't be read is a KeyeError that names the video and the reason.
"""

import base64
import binascii
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from pretrain.keye_vl.image_processing import to_rgb
from pretrain.keye_vl.slow_fast import uniform_indices
from pretrain.run.errors import KeyeError

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,gif,avi,mpegts,mpeg,flv,ogg,asf,apng,webp_pipe"
"""Formats that hold their frames themselves. Playlists (hls, concat) can name other files."""

_THREADED_PIXELS = 512 * 512
"""Smaller frames are converted in one thread: starting more takes longer than the work."""

NO_DECODER = "there is no decoder for its codec; convert it to H.264"

Cut = tuple[float | None, float | None]
Frames = Sequence[np.ndarray | Image.Image] | np.ndarray
VideoSource = str | Path | bytes | Frames


@dataclass
class VideoConfig:
    """How videos are sampled and what bounds them."""

    fps: float = 2.0
    """Frames per second that are taken (never more than the video has); for a list of frames
    without its own rate, the rate it is taken to have."""

    max_frames: int = 1_562
    """Most frames of a video (as many as fit 75,000 tokens at 48 each)."""

    max_source_pixels: int = 40_000_000
    """Videos with larger frames are refused before decoding (8K has 33 million)."""

    max_frame_pixels: int = 1_204_224
    """Larger frames are scaled down while decoding: twice the area of the largest slow frame."""

    max_bytes: int = 2 << 30
    """Bound of one video's decoded frames; where they exceed it, frames are scaled down."""

    threads: int = 1
    """Decoder threads."""


@dataclass(frozen=True, eq=False, slots=True)
class VideoClip:
    """The sampled frames of one video."""

    frames: np.ndarray
    """uint8 RGB `[T, 3, H, W]`, a view of `[T, H, W, 3]` memory."""

    timestamps: np.ndarray
    """float32 `[T]`: seconds from the start of the video (not of the cut)."""

    complete: bool
    """False where the file ends or breaks before the last frame that was to be taken."""


def load_video(
    source: VideoSource,
    config: VideoConfig,
    *,
    fps: float | None = None,
    num_frames: int | None = None,
    start: float | None = None,
    end: float | None = None,
) -> VideoClip:
    """Sample frames of a video, evenly spaced, the first and the last of the cut included.

    Args:
        source: path, data URI or bytes of a video file; or frames as a `[T, H, W, 3]` array or a
            list of equally large pictures.
        fps: frames per second to take (default `config.fps`); the rate of a list of frames.
        num_frames: number of frames to take instead (all there are, if fewer).
        start: `end`: only frames within these seconds of the video.
    Raises:
        KeyeError: naming the video and what is wrong with it.
    """
    _check_request(fps, num_frames, start, end)
    name = _name(source)
    if isinstance(source, str | Path | bytes):
        with _open(source, name) as file:
            return _load_file(file, name, config, fps, num_frames, (start, end))
    return _load_frames(source, name, config, fps, num_frames, (start, end))


def _check_request(
    fps: float | None, num_frames: int | None, start: float | None, end: float | None
) -> None:
    if fps is not None and not 0 < fps < float("inf"):
        raise KeyeError(f"frames per second must be a positive number, got {fps}")
    if num_frames is not None and num_frames < 1:
        raise KeyeError(f"num_frames must be at least 1, got {num_frames}")
    if start is not None and end is not None and end < start:
        raise KeyeError(f"the video's end ({end} s) lies before its start ({start} s)")


def _name(source: VideoSource) -> str:
    if isinstance(source, bytes):
        return f"video ({len(source)} bytes)"
    if isinstance(source, str | Path):
        text = str(source)
        return f"video {text}" if not text.startswith("data:") else "video (data URI)"
    return f"video (list of {len(source)} frames)"


def _open(source: str | Path | bytes, name: str) -> io.BufferedIOBase:
    """A readable, seekable file; ffmpeg is never given a name that it could take for a protocol."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    text = str(source)
    if text.startswith("data:"):
        try:
            return io.BytesIO(base64.b64decode(text.partition(",")[2], validate=True))
        except binascii.Error as error:
            raise KeyeError(f"{name}: not valid base64: {error}") from None
    text = text.removeprefix("file://")
    if "://" in text:
        raise KeyeError(f"{name}: a URL, and nothing is downloaded; use a local file")
    try:
        return open(text, "rb")
    except OSError as error:
        raise KeyeError(f"{name}: can't be opened: {error.strerror}") from None


def _load_file(
    file: io.BufferedIOBase,
    name: str,
    config: VideoConfig,
    fps: float | None,
    num_frames: int | None,
    cut: Cut,
) -> VideoClip:
    try:
        index = _read_index(file, name, config)
        seconds = (index.ticks - index.ticks[0]) * index.base
        kept = _choose(seconds, name, config, fps, num_frames, cut)
        images, ticks = _decode(file, config, index, index.ticks[kept])
    except av.error.DecoderNotFoundError:
        raise KeyeError(f"{name}: {NO_DECODER}") from None
    except (av.error.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise KeyeError(f"{name}: can't be read as a video: {reason}") from None
    if not len(images):
        raise KeyeError(
            f"{name}: no frame can be decoded: the file is damaged, truncated, or its frames are "
            f"larger than max_source_pixels={config.max_source_pixels}"
        )
    times = ((ticks - index.ticks[0]) * index.base).astype(np.float32)
    return VideoClip(images.transpose(0, 3, 1, 2), times, len(images) == len(kept))


class _Index(NamedTuple):
    """When the frames of a file are shown, in ticks of `base` seconds."""

    ticks: np.ndarray
    """int64, ascending and distinct."""
    keys: np.ndarray
    """int64, ascending: those from which decoding can start; none if the file tells no times."""
    base: float
    """Seconds per tick."""
    step: float
    """Ticks per frame at the stream's own rate, where frames have no time."""


@contextmanager
def _container(file: io.BufferedIOBase, config: VideoConfig):
    """The rewound container and its first video stream, with the decoder bounded."""
    file.seek(0)
    # The decoder itself, also the one that probes the streams, refuses frames that turn out larger
    # than the header says.
    bound = {"max_pixels": str(config.max_source_pixels)}
    container_options = {"format_whitelist": CONTAINERS}
    with av.open(file, options=bound, container_options=container_options) as container:
        if not container.streams.video:
            raise ValueError("it has no video stream")
        stream = container.streams.video[0]
        codec = stream.codec_context
        if codec is None:
            raise ValueError(NO_DECODER)
        codec.options = bound
        codec.thread_count = config.threads
        yield container, stream


def _read_index(file: io.BufferedIOBase, name: str, config: VideoConfig) -> _Index:
    """First pass: sizes from the header and times from the packets; nothing is decoded."""
    ticks: list[int] = []
    keys: list[int] = []
    timed = True
    with _container(file, config) as (container, stream):
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > config.max_source_pixels:
            raise KeyeError(
                f"{name}: frames of {width}×{height} pixels are larger than "
                f"max_source_pixels={config.max_source_pixels}; shrink it or raise the limit"
            )
        base = float(stream.time_base or Fraction(1, 25))
        step = 1 / (base * float(stream.average_rate or 25))
        try:
            for packet in container.demux(stream):
                if packet.size == 0 or packet.is_discard:
                    continue
                timed &= packet.pts is not None
                ticks.append(round(len(ticks) * step) if packet.pts is None else packet.pts)
                if packet.is_keyframe:
                    keys.append(ticks[-1])
        except av.error.FFmpegError:
            pass  # a truncated file: what was listed so far can be decoded
    if not ticks:
        raise ValueError("it holds no frames")
    return _Index(np.unique(ticks), np.unique(keys) if timed else np.empty(0), base, step)


def _choose(
    seconds: np.ndarray,
    name: str,
    config: VideoConfig,
    fps: float | None,
    num_frames: int | None,
    cut: Cut,
) -> np.ndarray:
    """Indices into `seconds` (ascending) of the frames to take, ascending and distinct."""
    start = 0.0 if cut[0] is None else cut[0]
    end = np.inf if cut[1] is None else cut[1]
    inside = np.flatnonzero((seconds >= start - 1e-6) & (seconds <= end + 1e-6))
    if not inside.size:
        raise KeyeError(
            f"{name}: no frame from {start:g} s to {end:g} s; the last one is at {seconds[-1]:g} s"
        )
    times = seconds[inside]
    count, span = len(times), times[-1] - times[0]
    if num_frames is None:
        num_frames = count
        if span > 0:
            rate = (count - 1) / span
            # keye-vl-utils' count; the last term absorbs times rounded to milliseconds.
            num_frames = max(1, int(count / rate * min(fps or config.fps, rate) + 0.01))
    keep = min(num_frames, count, config.max_frames)
    gaps = np.diff(times)
    if keep == count or np.ptp(gaps) < 0.5 * gaps.mean():
        return inside[uniform_indices(count, keep)]
    # A variable frame rate: evenly spaced in time, which may name a long-lasting frame repeatedly.
    targets = np.linspace(times[0], times[-1], keep)
    after = np.searchsorted(times, targets).clip(1, count - 1)
    nearer_before = targets - times[after - 1] < times[after] - targets
    return inside[np.unique(after - nearer_before)]


def _decode(
    file: io.BufferedIOBase, config: VideoConfig, index: _Index, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Second pass: RGB frames `[T, H, W, 3]` at the ticks `wanted`, and their ticks `[T]`.

    A frame that can't be decoded is replaced by the next one; at the end of a truncated file there
    are fewer frames than wanted.
    """
    images: np.ndarray | None = None
    scaler = VideoReformatter()  # set up once for all frames, which share their size and format
    size = (0, 0)
    ticks: list[int] = []
    for tick, frame in _frames_from(file, config, index, int(wanted[0])):
        position = int(np.searchsorted(wanted, ticks[-1], side="right")) if ticks else 0
        if position == len(wanted):
            break
        if tick < wanted[position]:
            continue
        if images is None:
            size = _bounded(frame.height, frame.width, len(wanted), config)
        image = _upright(_to_rgb(frame, size, scaler), frame.rotation)
        if images is None:
            images = np.empty((len(wanted), *image.shape), dtype=np.uint8)
        images[len(ticks)] = image
        ticks.append(tick)
    if images is None:
        return np.empty((0, 1, 1, 3), dtype=np.uint8), np.empty(0)
    return images[: len(ticks)], np.array(ticks)


def _frames_from(
    file: io.BufferedIOBase, config: VideoConfig, index: _Index, first: int
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(tick, frame) in order, from the last key frame before `first` on or from the beginning."""
    earlier = index.keys[index.keys <= first]
    starts = [int(earlier[-1])] if len(earlier) > 1 else []
    for start in (*starts, None):
        frames = _decode_all(file, config, index, start)
        head = next(frames, None)
        # Some containers can't seek and land too late: then begin again from the beginning.
        if head is not None and (start is None or head[0] <= first):
            yield head
            yield from frames
            return


def _decode_all(
    file: io.BufferedIOBase, config: VideoConfig, index: _Index, start: int | None
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(tick, frame) of every frame that can be decoded, after seeking to tick `start`."""
    number = 0
    with _container(file, config) as (container, stream), suppress(av.error.FFmpegError):
        if start is not None:
            container.seek(start, stream=stream)
        for packet in container.demux(stream):
            try:
                decoded = packet.decode()
            except av.error.InvalidDataError:
                continue
            for frame in decoded:
                yield round(number * index.step) if frame.pts is None else frame.pts, frame
                number += 1


def _bounded(height: int, width: int, frames: int, config: VideoConfig) -> tuple[int, int]:
    """The size within the limits, of which `frames` frames are kept; the shape is kept."""
    limit = min(config.max_frame_pixels, config.max_bytes // (3 * frames))
    scale = min(1.0, (limit / (height * width)) ** 0.5)
    return max(1, int(height * scale)), max(1, int(width * scale))


def _to_rgb(frame: av.VideoFrame, size: tuple[int, int], scaler: VideoReformatter) -> np.ndarray:
    """uint8 `[H, W, 3]` at `size`."""
    scaled = size != (frame.height, frame.width)
    small = frame.height * frame.width < _THREADED_PIXELS
    return scaler.reformat(
        frame,
        width=size[1],
        height=size[0],
        format="rgb24",
        interpolation="AREA" if scaled else "BILINEAR",
        threads=1 if small else 0,
    ).to_ndarray()


def _upright(image: np.ndarray, rotation: float) -> np.ndarray:
    """`[H, W, 3]` turned as the file says it is to be shown (degrees, counter-clockwise)."""
    return np.rot90(image, k=round(rotation / 90)) if rotation else image


def _load_frames(
    source: Frames,
    name: str,
    config: VideoConfig,
    fps: float | None,
    num_frames: int | None,
    cut: Cut,
) -> VideoClip:
    if not len(source):
        raise KeyeError(f"{name}: a video needs at least one frame")
    rate = fps or config.fps
    seconds = np.arange(len(source)) / rate
    kept = _choose(seconds, name, config, rate, num_frames, cut)
    try:
        pictures = [to_rgb(source[index]) for index in kept]  # type: ignore[index]
    except KeyeError as error:
        raise KeyeError(f"{name}: {error}") from None
    height, width, _ = pictures[0].shape
    for index, picture in zip(kept, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            raise KeyeError(
                f"{name}: frame {index} has {picture.shape[1]}×{picture.shape[0]} pixels, the "
                f"first one {width}×{height}; all frames must be equally large"
            )
    size = _bounded(height, width, len(kept), config)
    if size != (height, width):
        shape = size[::-1]
        pictures = [cv2.resize(p, shape, interpolation=cv2.INTER_AREA) for p in pictures]
    stacked = np.stack(pictures).transpose(0, 3, 1, 2)
    return VideoClip(stacked, seconds[kept].astype(np.float32), complete=True)
