"""Sampling noise that depends on the request alone.

Invariant: the noise behind a sampled token is a pure function of (request seed, index of the token
in its response, token id). It doesn't depend on the batch the request shared, on the number of
engines, on preemption, or on an interruption: a response aborted after k tokens and resubmitted
with them continues exactly as it would have (up to rounding in the logits).

vLLM's V2 model runner (GPU) draws its noise this way from `SamplingParams.seed`. Its CPU runner
keeps one `torch.Generator` per seeded request instead: a Python loop over the batch at every step,
and a crash as soon as a seeded prompt is prefilled in pieces. `RequestNoise` gives the CPU runner
the same counter-based scheme at the cost of one vectorised hash per step. It is installed in an
engine by `install`; requests without our arguments are served by vLLM's own random numbers.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

if TYPE_CHECKING:
    from vllm.config import VllmConfig

SEED_KEY, START_KEY = "keye_seed", "keye_start"
"""Keys of `SamplingParams.extra_args`: the request's seed, the index of its first new token."""


def splitmix64(x: np.ndarray) -> np.ndarray:
    """SplitMix64's output function (Steele, Lea & Flood 2014) on uint64 `[N]`, wrapping."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class RequestNoise(LogitsProcessor):
    """Keeps each batch row's seed and response, and turns them into one noise seed per row.

    A logits processor because that is vLLM's interface for state that follows the rows of its
    persistent batch; it leaves the logits alone.
    """

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        rows = vllm_config.scheduler_config.max_num_seqs
        self.seeds = np.zeros(rows, np.uint64)
        self.starts = np.full(rows, -1, np.int64)  # -1: not one of our requests
        self.outputs: list[list[int]] = [[] for _ in range(rows)]

    def is_argmax_invariant(self) -> bool:
        return True

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        for row, params, _, output_ids in batch_update.added:
            arguments = params.extra_args or {}
            self.seeds[row] = arguments.get(SEED_KEY, 0)
            self.starts[row] = arguments.get(START_KEY, -1)
            self.outputs[row] = output_ids
        for source, target, direction in batch_update.moved:
            for state in (self.seeds, self.starts, self.outputs):
                if direction == MoveDirectionality.SWAP:
                    state[source], state[target] = state[target], state[source]  # type: ignore[index]
                else:
                    state[target] = state[source]  # type: ignore[index]

    def row_seeds(self, rows: int) -> torch.Tensor:
        """int64 `[rows]`, each in [0, 2^31): the noise seed of every row's next token."""
        starts = self.starts[:rows]
        sampled = np.fromiter((len(ids) for ids in self.outputs[:rows]), np.int64, rows)
        index = (np.maximum(starts, 0) + sampled).astype(np.uint64)
        mixed = splitmix64(self.seeds[:rows] ^ splitmix64(index))
        seeds = torch.from_numpy((mixed >> np.uint64(33)).astype(np.int64))
        foreign = torch.from_numpy(starts < 0)
        if foreign.any():
            seeds = torch.where(foreign, torch.randint(0, 2**31, (rows,)), seeds)
        return seeds


def _sample(
    noise: RequestNoise,
    logprobs_mode: str,
    logits: torch.Tensor,
    generators: dict[int, torch.Generator],
    k: torch.Tensor | None,
    p: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Gumbel-max sampling of logits `[B, V]`; the signature is vLLM's `TopKTopPSampler.forward`."""
    logits = apply_top_k_top_p(logits, k, p)
    returned = None
    if logprobs_mode == "processed_logits":
        returned = logits
    elif logprobs_mode == "processed_logprobs":
        returned = logits.log_softmax(dim=-1, dtype=torch.float32)
    seeds = noise.row_seeds(logits.shape[0])
    for row, generator in generators.items():  # a served request that brought its own seed
        seeds[row] = torch.randint(0, 2**31, (1,), generator=generator)[0]
    return torch.ops._C.fused_gumbel_argmax(logits.float(), seeds), returned


def install(worker: Any) -> None:
    """Make a CPU worker sample with the `RequestNoise` among its logits processors."""
    runner = worker.model_runner
    noise = next(
        state
        for state in runner.input_batch.logitsprocs.argmax_invariant
        if isinstance(state, RequestNoise)
    )
    sampler = runner.sampler.topk_topp_sampler
    sampler.forward = functools.partial(_sample, noise, sampler.logprobs_mode)
