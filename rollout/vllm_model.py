"""Keye-VL-1.5 for vLLM: vLLM's own model class and kernels with two mends in its media processing.

Both defects of the stock class (vLLM 0.32) hit reinforcement learning, where eight responses share
one video:

- a video whose features are already in the processor cache fails with "Number of frame_types=1
  doesn't equal to number of videos=0", because the per-video arguments of cached videos are still
  passed on;
- per-request arguments reach the constructor of the Hugging Face processor, which vLLM keeps in an
  `lru_cache`: lists are unhashable there, and tuples rebuild the processor at every request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm.model_executor.models.keye_vl1_5 import (
    KeyeVL1_5DummyInputsBuilder,
    KeyeVL1_5ForConditionalGeneration,
    KeyeVL1_5MultiModalProcessor,
    KeyeVL1_5ProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

PER_VIDEO = ("frame_types", "timestamps")
"""Arguments that hold one entry per video."""

CONSTRUCTOR = ("size", "min_pixels", "max_pixels")
"""The only arguments that may rebuild the Hugging Face processor."""


class KeyeProcessingInfo(KeyeVL1_5ProcessingInfo):
    """Keeps per-request arguments away from the processor's constructor."""

    def get_hf_processor(self, **kwargs: object) -> Any:
        return super().get_hf_processor(
            **{key: value for key, value in kwargs.items() if key in CONSTRUCTOR}
        )


class KeyeMediaProcessor(KeyeVL1_5MultiModalProcessor):
    """Passes on the per-video arguments of the videos that are really processed."""

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


@MULTIMODAL_REGISTRY.register_processor(
    KeyeMediaProcessor, info=KeyeProcessingInfo, dummy_inputs=KeyeVL1_5DummyInputsBuilder
)
class KeyeForRollout(KeyeVL1_5ForConditionalGeneration):
    """vLLM's `KeyeVL1_5ForConditionalGeneration` behind our media processor."""
