"""Settings of the rollout engines and of sampling.

No `from __future__ import annotations` here: OmegaConf reads the field types at run time.
"""

from dataclasses import dataclass, field

from pretrain.run.errors import ConfigError

_RUN = {"identity": False}  # how to run, not what comes out


@dataclass
class EngineConfig:
    """One vLLM engine, and how many of them."""

    count: int = field(default=1, metadata=_RUN)
    """Engines (one Ray actor each). Responses don't depend on it: see `rollout.noise`."""
    model_class: str = "auto"
    """`auto`: vLLM's own class for the policy's family. `transformers`: vLLM's wrapper around the
    Hugging Face model, for families whose class vLLM hasn't got or can't load here (that of LLaVA
    needs torchvision)."""
    dtype: str = "float32"
    """Weights and activations: `float32` (parity with an fp32 learner to 1e-5) or `bfloat16`."""
    max_length: int = 1024
    """Longest prompt + response in tokens, visual tokens included."""
    max_sequences: int = field(default=512, metadata=_RUN)
    """Sequences decoded together. The Python work per step costs more than the arithmetic at the
    tiny size: 512 gives about 1.4× the tokens/s of 64."""
    max_batched_tokens: int = field(default=8192, metadata=_RUN)
    """Tokens in one engine step (prefill is cut into pieces of this size)."""
    kv_cache_mb: int = field(default=512, metadata=_RUN)
    """Memory of the KV cache in MiB; given outright, since vLLM's own default claims 92 % of the
    machine. One token of the tiny model takes 2 KiB."""
    block_size: int = field(default=32, metadata=_RUN)
    """Tokens per KV-cache block."""
    prefix_caching: bool = field(default=True, metadata=_RUN)
    """Share the KV cache of equal prompt beginnings."""
    cuda_graphs: bool = field(default=False, metadata=_RUN)
    """Capture CUDA graphs and compile (GPU; no gain on a CPU at the tiny size)."""
    max_images: int = 8
    """Images in one prompt at most. (vLLM's Keye class takes one video per prompt.)"""
    threads: int = field(default=1, metadata=_RUN)
    """OpenMP threads of an engine on CPU. Two on contended cores can cost 10×."""
    cpus: float = field(default=0.5, metadata=_RUN)
    """CPUs that Ray reserves for an engine."""
    gpus: float = field(default=0.0, metadata=_RUN)
    """GPUs that Ray reserves for an engine; 0 runs it on the CPU."""
    start_seconds: float = field(default=300.0, metadata=_RUN)
    """Deadline for an engine's start (the very first one also inspects the model class: 30 s)."""
    deadline_seconds: float = field(default=1800.0, metadata=_RUN)
    """Deadline for one call to the engines."""
    hang_seconds: float = field(default=25.0, metadata=_RUN)
    """An engine that finishes no step for this long during generation is taken for hung."""
    restarts: int = field(default=2, metadata=_RUN)
    """Fresh engines that may replace dead or hung ones in one call before the job stops."""


@dataclass
class SamplingConfig:
    """How response tokens are drawn."""

    temperature: float = 1.0
    """0 is greedy. The learner divides its logits by the same number."""
    top_p: float = 1.0
    """Nucleus share; 1 switches it off (a truncated policy has other log-probs than the
    learner's)."""
    top_k: int = 0
    """Largest number of candidate tokens; 0 switches it off."""
    max_tokens: int = 256
    """Longest response, its end token included."""
    ignore_eos: bool = False
    """Always sample `max_tokens` tokens (benchmarks with equal lengths)."""
    logprobs: bool = True
    """Return the log-probability of every sampled token (about 5 % of the time at the tiny
    size). The learner recomputes its own: these feed the mismatch metric."""


@dataclass
class HintConfig:
    """Progressive hints for prompts that no response solves."""

    max_level: int = 0
    """Highest hint level that is tried, 1…5; 0 switches hints off."""
    remember: bool = True
    """Start a prompt that comes again from the level that it needed last time."""
    decay: float = 1.0
    """Levels by which a remembered level falls at each visit for which it was enough; 0 never
    weans a prompt off its hint."""
    memory_size: int = 100_000
    """Prompts that are remembered; those not seen longest are forgotten."""
    check_leaks: bool = True
    """Refuse hints that say more than their level allows (see `rollout.hint_leaks`)."""
    reroll: bool = False
    """A control: the same retries, but no hint is shown. Says what asking again does by itself;
    `hints/L<k>` then counts the k-th retry, and nothing is remembered."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_level <= 5:
            raise ConfigError(f"hints.max_level={self.max_level} is not in 0…5")
        if self.reroll and not self.max_level:
            raise ConfigError("hints.reroll=true retries as hints.max_level=… says, which is 0")
        if not 0 <= self.decay <= 5:
            raise ConfigError(f"hints.decay={self.decay} is not in 0…5 (levels a visit)")
        if self.memory_size < 1:
            raise ConfigError(
                f"hints.memory_size={self.memory_size} must be at least 1; to remember nothing set "
                "hints.remember=false"
            )
