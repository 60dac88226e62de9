"""Makes vLLM load Keye-VL-1.5: registers config, processor and the mended model class.

vLLM calls `register` in each of its processes through the entry point `vllm.general_plugins`; every
engine calls it as well and refuses to start when another class holds the architecture's name.
"""

from __future__ import annotations

from pretrain.run.errors import KeyeError

ARCHITECTURE = "KeyeVL1_5ForConditionalGeneration"
MODEL_CLASS = "rollout.vllm_model:KeyeForRollout"
VIDEO_BACKEND = "keye"
"""Name of our video loader among vLLM's (`rollout.vllm_model`)."""


def register() -> None:
    """Register everything; idempotent, and light (vLLM imports the class when it needs it)."""
    from vllm import ModelRegistry

    import pretrain  # noqa: F401  registers config and processor with transformers

    ModelRegistry.register_model(ARCHITECTURE, MODEL_CLASS)


def check_registered() -> None:
    """Raise `KeyeError` unless vLLM would build our class for the Keye architecture."""
    from vllm import ModelRegistry

    entry = ModelRegistry.models.get(ARCHITECTURE)
    found = f"{getattr(entry, 'module_name', '?')}:{getattr(entry, 'class_name', '?')}"
    if found != MODEL_CLASS:
        raise KeyeError(
            f"vLLM would build {found} for {ARCHITECTURE}, which fails on repeated videos; "
            f"expected {MODEL_CLASS}. Install the project (./scripts/setup) so that vLLM finds its "
            "plugin, leave VLLM_PLUGINS unset, and remove other packages that register this name."
        )
