"""Configuration of Keye-VL-1.5, in the released checkpoint's flat form.

The text model's fields (Qwen3's names) stand at the top level, the vision encoder's in a nested
`vision_config`. vLLM builds its own model from the very same object, so every value that shapes
the forward pass is a field here and nowhere else.
"""

from __future__ import annotations

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig

MODEL_TYPE = "KeyeVL1_5"
ARCHITECTURE = "KeyeVL1_5ForConditionalGeneration"


@strict
class KeyeVL1_5VisionConfig(SiglipVisionConfig):
    """The native-resolution SigLIP encoder (SigLIP's fields plus those below).

    Attributes:
        image_size: side in pixels of the square for which the position table was learned.
        spatial_merge_size: side, in patches, of the square that becomes one visual token.
        use_2d_rope: rotate queries and keys by row and column. vLLM always does, so False
            is for comparing with plain SigLIP only.
    """

    model_type = MODEL_TYPE
    base_config_key = "vision_config"

    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_hidden_layers: int = 27
    num_attention_heads: int = 16
    image_size: int = 384
    patch_size: int = 14
    spatial_merge_size: int = 2
    temporal_patch_size: int = 1
    tokens_per_second: int = 2
    use_2d_rope: bool = True


@strict
class KeyeVL1_5Config(Qwen3Config):
    """Keye-VL-1.5: Qwen3's fields at the top level, a `vision_config`, and the media token ids.

    `rope_parameters["mrope_section"]` shares the head's rotary frequencies among the temporal,
    height and width axes; its entries sum to `head_dim // 2`.
    """

    model_type = MODEL_TYPE
    sub_configs: ClassVar[dict[str, type]] = {"vision_config": KeyeVL1_5VisionConfig}
    ignore_keys_at_rope_validation: ClassVar[set[str]] = {"mrope_section"}

    hidden_size: int = 4096
    intermediate_size: int = 12288
    num_hidden_layers: int = 36
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 8
    # A dictionary only while loading; a `KeyeVL1_5VisionConfig` from `__post_init__` on.
    vision_config: Any = None
    image_token_id: int | None = None
    video_token_id: int | None = None
    vision_start_token_id: int | None = None
    vision_end_token_id: int | None = None
    fast_start_token_id: int | None = None
    fast_end_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.vision_config is None:
            self.vision_config = KeyeVL1_5VisionConfig()
        elif isinstance(self.vision_config, dict):
            self.vision_config = KeyeVL1_5VisionConfig(**self.vision_config)
        super().__post_init__(**kwargs)

    @property
    def mrope_section(self) -> list[int]:
        """Rotary frequencies of the temporal, height and width axes."""
        return list(self.rope_parameters["mrope_section"])

    @property
    def visual_token_ids(self) -> tuple[int, ...]:
        """Ids that stand for a visual feature when they occur inside a prompt."""
        ids = (self.image_token_id, self.video_token_id)
        return tuple(i for i in ids if i is not None)


def full_size_config() -> KeyeVL1_5Config:
    """Configuration of the released Keye-VL-1.5-8B (SigLIP-so400m + Qwen3-8B, 128K context)."""
    return KeyeVL1_5Config(
        architectures=[ARCHITECTURE],
        vocab_size=151936,
        head_dim=128,
        max_position_embeddings=131072,
        max_window_layers=36,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 8_000_000.0,
            "mrope_section": [16, 24, 24],
        },
        bos_token_id=151643,
        eos_token_id=151645,
        pad_token_id=151643,
        vision_start_token_id=151652,
        vision_end_token_id=151653,
        image_token_id=151655,
        video_token_id=151656,
        vision_config={},
        dtype="bfloat16",
    )
