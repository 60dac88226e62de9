"""vLLM inside TRL (`vllm_mode="colocate"`) on a CPU: settings, forced lengths, weight sync."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pretrain.keye_vl.checkpoint import checkpoint_tensors
from rollout.reload import refresh_tied_output
from scripts.bench.gspo_bench.trl_models import ForcedKeye

if TYPE_CHECKING:
    from scripts.bench.gspo_bench.trl_trainer import TimedTrainer

_engines: dict[str, Any] = {}
"""Running engines by checkpoint: trainers of one process share them, as they sync their weights."""


def arguments(forbidden: list[int]) -> dict[str, Any]:
    """What `GRPOConfig` is told; `forbidden`: tokens that are never sampled, as in our engines."""
    import trl.generation.vllm_generation as vllm_generation

    if not isinstance(vllm_generation.LLM, _Colocated):
        vllm_generation.LLM = _Colocated(vllm_generation.LLM)
    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_max_model_length": 640,
        "vllm_importance_sampling_correction": False,
        "generation_kwargs": {
            "ignore_eos": True,
            "detokenize": False,
            "logit_bias": dict.fromkeys(forbidden, -100.0),
        },
    }


class _Colocated:
    """TRL's call of `vllm.LLM`, with what a CPU needs (FP32, a bounded KV cache, eager mode)."""

    def __init__(self, engine: type) -> None:
        self.engine = engine

    def __call__(self, model: str, **kwargs: Any) -> Any:
        if model not in _engines:
            kwargs.pop("distributed_executor_backend")
            kwargs.pop("gpu_memory_utilization")
            _engines[model] = self.engine(
                model=model,
                **kwargs,
                dtype="float32",
                enforce_eager=True,
                kv_cache_memory_bytes=384 << 20,
                block_size=32,
                disable_log_stats=True,
            )
        return _engines[model]


def collapsed(ids: list[int], token: int) -> list[int]:
    """`ids` with each run of `token` as one: TRL hands vLLM prompts whose images are expanded,
    and vLLM expands them itself."""
    return [id_ for i, id_ in enumerate(ids) if id_ != token or i == 0 or ids[i - 1] != token]


def patch(trainer: TimedTrainer) -> None:
    """Forced lengths, and a weight sync that works on a CPU (TRL's own `load_weights` fails)."""
    from scripts.bench.gspo_bench.trl_trainer import unwrapped

    backend = trainer.vllm_generation
    llm = backend.llm
    generate = type(llm).generate

    def forced(prompts: list, sampling_params: Any, **kwargs: Any) -> Any:
        each = []
        image = getattr(unwrapped(trainer).config, "image_token_id", -1)
        rows = [p | {"prompt_token_ids": collapsed(p["prompt_token_ids"], image)} for p in prompts]
        for length in unwrapped(trainer).forced_lengths.tolist():
            params = sampling_params.clone()
            params.max_tokens = length
            each.append(params)
        outputs = generate(llm, rows, sampling_params=each, **kwargs)
        if [list(o.prompt_token_ids) for o in outputs] != [p["prompt_token_ids"] for p in prompts]:
            raise RuntimeError("vLLM and the trainer see different prompts")
        return outputs

    def sync() -> None:
        with trainer.phases("sync"):
            model = unwrapped(trainer)
            tied = "lm_head.weight" if model.config.tie_word_embeddings else ""
            named = (
                checkpoint_tensors(model)
                if isinstance(model, ForcedKeye)
                else ((k, v) for k, v in model.state_dict().items() if k != tied)
            )
            llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(list(named))})
            llm.collective_rpc(refresh_tied_output)
            llm.reset_prefix_cache()
            llm.reset_mm_cache()
            llm.llm_engine.reset_encoder_cache()

    llm.generate = forced
    backend.sync_weights = sync
