"""The processor: text with placeholders + media → token ids, patches and grids.

vLLM's Keye-VL-1.5 class drives this same object inside the engine, through the attributes and
output names below. A video is written as its frames, each preceded by a frame token and its time
in seconds; fast frames are wrapped in fast-start/fast-end tokens (report §2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin

from pretrain.keye_vl.image_processing import ImageLike, KeyeVL1_5ImageProcessor, resize, to_rgb
from pretrain.keye_vl.slow_fast import FramePlan, SlowFastConfig, plan_frames
from pretrain.keye_vl.tokenizer import (
    FAST_END,
    FAST_START,
    FRAME_TOKEN,
    IMAGE_TOKEN,
    VIDEO_TOKEN,
)
from pretrain.keye_vl.video import VideoConfig, VideoSource, load_video
from pretrain.run.errors import KeyeError

FAST = 1
"""Frame type of a fast frame; 0 is a slow one."""
# Stands for a visual token while placeholders are being replaced, so that none is replaced twice.
_EXPANDED = "\0"

Size = tuple[int, int]


class KeyeVL1_5Processor(ProcessorMixin):
    """Tokenizer and image processor in one, with the names vLLM's class reads."""

    attributes = ["image_processor", "tokenizer"]  # noqa: RUF012 (read by transformers)

    def __init__(
        self,
        image_processor: KeyeVL1_5ImageProcessor | None = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        slow_fast: dict[str, Any] | None = None,
        video_loading: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """`slow_fast`, `video_loading`: fields of `SlowFastConfig` and of `VideoConfig`, saved with
        the checkpoint, so that everybody who loads it plans a video alike."""
        del kwargs
        self.slow_fast = dict(slow_fast or {})
        self.video_loading = dict(video_loading or {})
        self.image_token = IMAGE_TOKEN
        self.video_token = VIDEO_TOKEN
        self.frame_token = FRAME_TOKEN
        self.fast_start = FAST_START
        self.fast_end = FAST_END
        chat_template = chat_template or getattr(tokenizer, "chat_template", None)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    @property
    def model_input_names(self) -> list[str]:
        """Names of everything a call may return."""
        media = ["pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw"]
        return [*self.tokenizer.model_input_names, *media, "num_frames"]

    def __call__(
        self,
        images: ImageLike | Sequence[ImageLike] | None = None,
        text: str | Sequence[str] | None = None,
        videos: Sequence[Any] | None = None,
        frame_types: Sequence[Sequence[int]] | None = None,
        timestamps: Sequence[Sequence[float]] | None = None,
        slow_size: Size | None = None,
        fast_size: Size | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Tokenise `text` with its placeholders expanded, and encode the media.

        Args:
            images: for the `<|image_pad|>` placeholders, in order over all texts.
            text: one or several prompts, one placeholder per medium.
            videos: one per `<|video_pad|>`; frames as a `[T, H, W, 3]` uint8 array or a list.
            frame_types: per video, 0 (slow) or 1 (fast) for each frame; all slow when absent.
            timestamps: per video, seconds of each frame; none are written when absent.
            slow_size: pixels (height, width) of slow frames; by default like an image's.
            fast_size: pixels (height, width) of fast frames; by default `slow_size`.
            return_tensors: "pt" for torch tensors.
            kwargs: passed to the tokenizer (`padding`, …).
        """
        texts = [text] if isinstance(text, str) else list(text or [])
        data: dict[str, Any] = {}
        if images is not None and (not isinstance(images, list | tuple) or len(images)):
            data.update(self.image_processor.preprocess(images))
            grids = data["image_grid_thw"]
            spans = [
                _EXPANDED * int(n) for n in grids.prod(1) // self.image_processor.merge_size**2
            ]
            texts = _replace(texts, self.image_token, spans)
        if videos is not None and len(videos):
            data_video, spans = self._encode_videos(
                videos, frame_types, timestamps, slow_size, fast_size
            )
            data.update(data_video)
            texts = _replace(texts, self.video_token, spans)
        tokens = dict(self.tokenizer(texts, **_tokenizer_kwargs(kwargs))) if texts else {}
        if return_tensors == "pt":
            data = {k: torch.as_tensor(v) for k, v in {**tokens, **data}.items()}
            return BatchFeature(data)
        return BatchFeature({**tokens, **data}, tensor_type=return_tensors)

    def _encode_videos(
        self,
        videos: Sequence[Any],
        frame_types: Sequence[Sequence[int]] | None,
        timestamps: Sequence[Sequence[float]] | None,
        slow_size: Size | None,
        fast_size: Size | None,
    ) -> tuple[dict[str, np.ndarray], list[str]]:
        patches, grids, counts, spans = [], [], [], []
        for i, video in enumerate(videos):
            types = None if frame_types is None else [int(x) for x in frame_types[i]]
            times = None if timestamps is None else [float(x) for x in timestamps[i]]
            values, rows = self.encode_frames(video, types, slow_size, fast_size)
            patches.append(values)
            grids.extend(_merge_equal(rows))
            counts.append(len(rows))
            spans.append(self.video_text(rows, types, times).replace(VIDEO_TOKEN, _EXPANDED))
        data = {
            "pixel_values_videos": np.concatenate(patches),
            "video_grid_thw": np.array(grids, dtype=np.int64),
            "num_frames": np.array(counts, dtype=np.int64),
        }
        return data, spans

    def plan_video(self, source: VideoSource, **request: Any) -> tuple[np.ndarray, FramePlan]:
        """Read a video and plan its tokens: the frames `[T, H, W, 3]` that are kept, and the plan.

        `request`: `fps`, `num_frames`, `start`, `end` of `load_video`. Raises KeyeError.
        """
        clip = load_video(source, VideoConfig(**self.video_loading), **request)
        plan = plan_frames(clip.frames, clip.timestamps, SlowFastConfig(**self.slow_fast))
        return clip.frames[plan.frame_indices].transpose(0, 2, 3, 1), plan

    def encode_frames(
        self,
        video: Sequence[ImageLike] | np.ndarray,
        frame_types: Sequence[int] | None = None,
        slow_size: Size | None = None,
        fast_size: Size | None = None,
    ) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
        """Patches of a video's frames `[N, 3, 14, 14]`, and one (1, rows, columns) per frame."""
        frames = [to_rgb(frame) for frame in video]
        if not frames:
            raise KeyeError("a video without frames")
        types = [0] * len(frames) if frame_types is None else list(frame_types)
        if len(types) != len(frames):
            raise KeyeError(f"{len(types)} frame types for a video of {len(frames)} frames")
        slow = slow_size or self.image_processor.target_size(*frames[0].shape[:2])
        fast = fast_size or slow
        sized = [
            resize(frame, fast if kind == FAST else slow)
            for frame, kind in zip(frames, types, strict=True)
        ]
        encoded = [self.image_processor.patchify(frame[None]) for frame in sized]
        return np.concatenate([p for p, _ in encoded]), [grid[0] for _, grid in encoded]

    def video_text(
        self,
        rows: Sequence[tuple[int, int, int]],
        frame_types: Sequence[int] | None,
        timestamps: Sequence[float] | None,
    ) -> str:
        """What a video's placeholder becomes: frame token, time and visual tokens of each frame."""
        if timestamps is not None and len(timestamps) != len(rows):
            raise KeyeError(f"{len(timestamps)} timestamps for a video of {len(rows)} frames")
        merged = self.image_processor.merge_size**2
        parts = []
        for i, (_, height, width) in enumerate(rows):
            pads = VIDEO_TOKEN * (height * width // merged)
            if frame_types is not None and frame_types[i] == FAST:
                pads = FAST_START + pads + FAST_END
            time = "" if timestamps is None else format(timestamps[i], ".1f")
            parts.append(FRAME_TOKEN + time + pads)
        return "".join(parts)


def _replace(texts: list[str], placeholder: str, spans: list[str]) -> list[str]:
    """Replace the n-th placeholder over all texts by the n-th span."""
    pieces = [text.split(placeholder) for text in texts]
    found = sum(len(p) - 1 for p in pieces)
    if texts and found != len(spans):
        raise KeyeError(f"{found} {placeholder} placeholders in the text for {len(spans)} media")
    remaining = iter(spans)
    joined = (p[0] + "".join(next(remaining) + rest for rest in p[1:]) for p in pieces)
    return [text.replace(_EXPANDED, placeholder) for text in joined]


def _merge_equal(rows: list[tuple[int, int, int]]) -> list[list[int]]:
    """Consecutive frames of equal grid as one row (t, h, w), as vLLM's class wants them."""
    merged: list[list[int]] = []
    for _, height, width in rows:
        if merged and merged[-1][1:] == [height, width]:
            merged[-1][0] += 1
        else:
            merged.append([1, height, width])
    return merged


def _tokenizer_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    known = ("padding", "truncation", "max_length", "add_special_tokens", "return_offsets_mapping")
    return {key: kwargs[key] for key in known if key in kwargs}
