"""Makes transformers' Auto classes know Keye-VL-1.5 (idempotent; done by `import pretrain`)."""

from __future__ import annotations

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
)

from pretrain.keye_vl.configuration import MODEL_TYPE, KeyeVL1_5Config
from pretrain.keye_vl.image_processing import KeyeVL1_5ImageProcessor
from pretrain.keye_vl.modeling import KeyeVL1_5ForConditionalGeneration
from pretrain.keye_vl.processing import KeyeVL1_5Processor


def register() -> None:
    """Register configuration, image processor, processor and model."""
    AutoConfig.register(MODEL_TYPE, KeyeVL1_5Config, exist_ok=True)
    AutoImageProcessor.register(
        KeyeVL1_5Config, image_processor_classes={"pil": KeyeVL1_5ImageProcessor}, exist_ok=True
    )
    AutoProcessor.register(KeyeVL1_5Config, KeyeVL1_5Processor, exist_ok=True)
    AutoModelForImageTextToText.register(
        KeyeVL1_5Config, KeyeVL1_5ForConditionalGeneration, exist_ok=True
    )
