"""Keye-VL-1.5 for vLLM: vLLM's own model class and kernels behind our media processor.

Two defects of the stock class (vLLM 0.32) hit reinforcement learning, where eight responses share
one video, and are mended here:

- a video whose features are already in the processor cache fails with "Number of frame_types=1
  doesn't equal to number of videos=0", because the per-video arguments of cached videos are still
  passed on;
- per-request arguments reach the constructor of the Hugging Face processor, which vLLM keeps in an
  `lru_cache`: lists are unhashable there, and tuples rebuild the processor at every request.

And one thing is added: a video that comes without a frame plan (as from the OpenAI server) is read
and planned by the checkpoint's own processor, so served videos go through Slow-Fast exactly as
those of the Python path do. The plan travels with the processed video through vLLM's caches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature
from vllm.model_executor.models.keye_vl1_5 import (
    KeyeVL1_5DummyInputsBuilder,
    KeyeVL1_5ForConditionalGeneration,
    KeyeVL1_5MultiModalDataParser,
    KeyeVL1_5MultiModalProcessor,
    KeyeVL1_5ProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.video import VIDEO_LOADER_REGISTRY, VideoLoader

from pretrain.run.errors import KeyeError
from rollout.vllm_plugin import VIDEO_BACKEND

PER_VIDEO = ("frame_types", "timestamps")
"""Arguments that hold one entry per video."""

CONSTRUCTOR = ("size", "min_pixels", "max_pixels")
"""The only arguments that may rebuild the Hugging Face processor."""

ENCODED = "encoded"
"""In a video's metadata: its `frames` are the bytes of a file, still to be read."""

VISUAL_IDS = (
    "image_token_id",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
    "fast_start_token_id",
    "fast_end_token_id",
)
"""Configuration fields that name the visual tokens."""

NEVER = -1e4
"""Logit of a token that can't be sampled; finite, so that prompt log-probs stay numbers in JSON."""


@VIDEO_LOADER_REGISTRY.register(VIDEO_BACKEND)
class EncodedVideoLoader(VideoLoader):
    """Leaves a served video encoded: its reading belongs to the processor's settings."""

    @classmethod
    def load_bytes(
        cls, data: bytes, num_frames: int = -1, **kwargs: Any
    ) -> tuple[np.ndarray, dict[str, Any]]:
        request: dict[str, Any] = {k: v for k, v in kwargs.items() if k in ("fps", "start", "end")}
        if num_frames > 0:
            request["num_frames"] = num_frames
        return np.frombuffer(data, np.uint8), {ENCODED: True, **request}


class KeyeDataParser(KeyeVL1_5MultiModalDataParser):
    """Keeps a video's metadata where there is any, and doesn't ask for it."""

    def _get_video_with_metadata(self, video: Any) -> tuple[Any, dict[str, Any]]:
        frames, metadata = super()._get_video_with_metadata(video)
        return frames, metadata or {}


class KeyeProcessingInfo(KeyeVL1_5ProcessingInfo):
    """Keeps per-request arguments away from the processor's constructor."""

    def get_hf_processor(self, **kwargs: object) -> Any:
        return super().get_hf_processor(
            **{key: value for key, value in kwargs.items() if key in CONSTRUCTOR}
        )

    def get_data_parser(self) -> KeyeDataParser:
        return KeyeDataParser(
            expected_hidden_size=self._get_expected_hidden_size(),
            allow_missing_mm_embeddings=self.allow_missing_mm_embeddings,
            video_needs_metadata=True,
        )


class KeyeMediaProcessor(KeyeVL1_5MultiModalProcessor):
    """Plans videos that come without a plan, and keeps each video's plan beside its pixels."""

    def _get_cache_missing_processor_kwargs(
        self, inputs: Any, mm_is_cached: Mapping[str, list[bool]]
    ) -> Mapping[str, object]:
        kwargs = dict(inputs.hf_processor_mm_kwargs)
        cached = mm_is_cached.get("video", [])
        for key in PER_VIDEO:
            values = kwargs.get(key)
            if values is not None:
                kwargs[key] = [v for v, hit in zip(values, cached, strict=True) if not hit]
        return kwargs

    def _call_hf_processor(
        self, hf_data: Mapping[str, object], hf_kwargs: Mapping[str, object]
    ) -> BatchFeature:
        try:
            return self._processed(dict(hf_data), dict(hf_kwargs))
        except KeyeError as error:  # vLLM's server answers a ValueError with 400, others with 500
            raise ValueError(str(error)) from error

    def _processed(self, data: dict[str, Any], kwargs: dict[str, Any]) -> BatchFeature:
        videos: Sequence[tuple[np.ndarray, dict]] = data.get("videos") or []  # type: ignore[assignment]
        if not videos:
            return super()._call_hf_processor(data, kwargs)
        data["videos"] = [frames for frames, _ in videos]
        if kwargs.get("frame_types") is None:
            data["videos"], plan = self._plan(videos)
            kwargs |= plan
        processed = super()._call_hf_processor(data, kwargs)
        return BatchFeature(processed.data | _plan_fields(kwargs, processed["num_frames"]))

    def _plan(
        self, videos: Sequence[tuple[np.ndarray, dict[str, Any]]]
    ) -> tuple[list[np.ndarray], dict[str, Any]]:
        """The kept frames of every video, and their plans as the processor's arguments."""
        processor = self.info.get_hf_processor()
        kept, plans = [], []
        for frames, metadata in videos:
            request = {
                k: v for k, v in metadata.items() if k in ("fps", "num_frames", "start", "end")
            }
            if metadata.get(ENCODED):
                chosen, plan = processor.plan_video(frames.tobytes(), **request)
            else:
                chosen, plan = processor.plan_video(list(np.asarray(frames)))
            kept.append(chosen)
            plans.append(plan.processor_kwargs())
        # vLLM's class takes one video per prompt, so the sizes are that video's.
        arguments: dict[str, Any] = {key: plans[0][key] for key in ("slow_size", "fast_size")}
        return kept, arguments | {key: [plan[key] for plan in plans] for key in PER_VIDEO}

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        config = dict(super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs))
        frames = hf_inputs.get("num_frames", torch.zeros(0, dtype=torch.int64))
        for key in PER_VIDEO:
            config[key] = MultiModalFieldConfig.flat_from_sizes("video", frames, keep_on_cpu=True)
        return config

    def _get_prompt_updates(
        self,
        mm_items: Any,
        hf_processor_mm_kwargs: Mapping[str, Any],
        out_mm_kwargs: Any,
    ) -> Sequence[Any]:
        kwargs = {k: v for k, v in hf_processor_mm_kwargs.items() if k not in PER_VIDEO}
        items = out_mm_kwargs.get("video") or []
        if items:
            kwargs["frame_types"] = [item["frame_types"].data.tolist() for item in items]
            times = [item["timestamps"].data.tolist() for item in items]
            kwargs["timestamps"] = [None if math.isnan(t[0]) else t for t in times]
        return super()._get_prompt_updates(mm_items, kwargs, out_mm_kwargs)


def _plan_fields(kwargs: Mapping[str, Any], num_frames: torch.Tensor) -> dict[str, torch.Tensor]:
    """Type (int64) and time (float64, NaN: none) of all videos' frames, one after the other."""
    total = int(num_frames.sum())
    types = kwargs.get("frame_types")
    times = kwargs.get("timestamps")
    return {
        "frame_types": torch.tensor([int(t) for video in types for t in video])
        if types is not None
        else torch.zeros(total, dtype=torch.int64),
        "timestamps": torch.tensor([float(t) for v in times for t in v], dtype=torch.float64)
        if times is not None
        else torch.full((total,), math.nan, dtype=torch.float64),
    }


@MULTIMODAL_REGISTRY.register_processor(
    KeyeMediaProcessor, info=KeyeProcessingInfo, dummy_inputs=KeyeVL1_5DummyInputsBuilder
)
class KeyeForRollout(KeyeVL1_5ForConditionalGeneration):
    """vLLM's `KeyeVL1_5ForConditionalGeneration` behind our media processor.

    It never generates a visual token, whoever asks (engine or server).
    """

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """Logits `[B, V]` with the visual tokens' at a value that no softmax sees."""
        logits = super().compute_logits(hidden_states)
        if logits is not None:
            if self._visual_ids is None or self._visual_ids.device != logits.device:
                ids = [getattr(self.config, name, None) for name in VISUAL_IDS]
                known = [id_ for id_ in ids if id_ is not None]
                self._visual_ids = torch.tensor(known, device=logits.device)
            logits.index_fill_(-1, self._visual_ids, NEVER)
        return logits

    _visual_ids: torch.Tensor | None = None
