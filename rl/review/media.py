"""The pictures and videos of an item, as a browser can show them.

Invariant: only what the item names and the media settings allow is opened, and images are decoded
and written anew, so that no foreign bytes but those of videos reach the browser.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from pretrain.data.media import MediaConfig, load_media
from pretrain.data.sample import VIDEO_OPTIONS, Sample
from pretrain.keye_vl.video import VideoClip, VideoConfig, load_video
from pretrain.run.errors import KeyeError

STILLS = 12
"""Most frames shown of a video."""
PLAYABLE = {"h264": "video/mp4", "vp8": "video/webm", "vp9": "video/webm", "av1": "video/webm"}
"""Codecs that browsers play; of other videos only stills are shown."""


@dataclass(frozen=True, slots=True)
class Medium:
    """One thing to show."""

    kind: str
    """`image` (PNG) or `video`."""
    caption: str
    mime: str
    content: bytes | Path
    """The bytes, or the file that holds them."""

    def data(self) -> bytes:
        """The bytes."""
        return self.content.read_bytes() if isinstance(self.content, Path) else self.content


def item_media(sample: Sample, base: Path, config: MediaConfig) -> list[Medium]:
    """Everything to show of a sample in order: images, and of each video its stills and itself.

    `base` is the folder that relative paths start from. Raises `KeyeError` naming the sample and
    the medium.
    """
    shown: list[Medium] = []
    for number, part in enumerate(load_media(sample, base, config).media(), start=1):
        if part["type"] == "image":
            shown.append(_picture(part["image"], f"image {number}"))
            continue
        try:
            shown += _video(part, f"video {number}")
        except KeyeError as error:
            raise KeyeError(f"sample {sample.id!r}: {error}") from None
    return shown


def _picture(image: np.ndarray, caption: str) -> Medium:
    """A uint8 `[H, W, 3]` image as PNG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return Medium("image", caption, "image/png", file.getvalue())


def _video(part: dict[str, Any], caption: str) -> list[Medium]:
    source = part["video"]
    options = {key: part[key] for key in VIDEO_OPTIONS if key in part}
    clip: VideoClip = load_video(source, VideoConfig(), **options)
    frames = clip.frames.transpose(0, 2, 3, 1)
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(STILLS, len(frames))).astype(int))
    shown = [
        _picture(np.ascontiguousarray(frames[k]), f"{caption}, {clip.timestamps[k]:.1f} s")
        for k in chosen
    ]
    if isinstance(source, str | bytes):
        content = Path(source) if isinstance(source, str) else source
        mime = PLAYABLE.get(_codec(source))
        if mime:
            shown.append(Medium("video", caption, mime, content))
    return shown


def _codec(source: str | bytes) -> str:
    with av.open(source if isinstance(source, str) else io.BytesIO(source)) as container:
        return container.streams.video[0].codec_context.name
