"""One vLLM engine in this process: generate, pause, continue, take new weights.

Invariants: what the engine returns was sampled with the weights of `version`; the prompt ids that
vLLM built are compared with the ids the learner will see, so both always agree; after a weight
update no cache holds anything computed with earlier weights.

vLLM is imported inside the engine only: it takes 12 s and turns `torch.set_num_threads` into a
no-op in its process.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pretrain.run.errors import KeyeError
from rollout.config import EngineConfig, SamplingConfig
from rollout.reload import refresh_tied_output
from rollout.seeds import stable_seed
from rollout.tokens import forbidden_ids, stop_ids

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.engine.llm_engine import LLMEngine

    from pretrain.keye_vl.prompt import EncodedPrompt

FORBIDDEN_BIAS = -100.0
"""Added to the logits of forbidden tokens. `logit_bias` costs nothing measurable here, where
`allowed_token_ids` costs 0.1 s per 512 responses, and every runner and the server know it."""


@dataclass(slots=True)
class PromptRequest:
    """What an engine needs of one prompt (the learner's pixels stay behind)."""

    sample_id: str
    ids: np.ndarray
    """int32 `[P]`, expanded: checked against vLLM's own expansion."""
    engine_ids: list[int]
    media: dict[str, list]
    media_kwargs: dict[str, Any]
    seeds: list[int]
    """One per response."""
    prefixes: list[np.ndarray] = field(default_factory=list)
    """int32 `[K]` per response: tokens it has already; empty for fresh ones."""
    starts: list[int] = field(default_factory=list)
    """Index of each response's next token in its noise; by default the length of its prefix."""
    limits: list[int] = field(default_factory=list)
    """Most new tokens of each response; by default what its prefix leaves of the sampling's."""

    @classmethod
    def of(cls, prompt: EncodedPrompt, sample_id: str, seed: int, n: int) -> PromptRequest:
        """A request for `n` responses whose noise follows from `seed` and their indices."""
        return cls(
            sample_id=sample_id,
            ids=prompt.ids,
            engine_ids=list(prompt.engine_ids),
            media=prompt.engine_media,
            media_kwargs=prompt.engine_kwargs,
            seeds=[stable_seed(seed, k) for k in range(n)],
        )


@dataclass(slots=True)
class Response:
    """Newly sampled tokens of one response (without the prefix it continued)."""

    ids: np.ndarray
    """int32 `[R]`."""
    logprobs: np.ndarray
    """float32 `[R]` or `[0]`."""
    finish_reason: str
    """`stop`, `length` or `paused`."""


def engine_environment(config: EngineConfig) -> dict[str, str]:
    """Environment variables of an engine's process, to be set before torch and vLLM load."""
    variables = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if not config.gpus:
        variables |= {
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(config.threads),
        }
    return variables


class Engine:
    """vLLM's synchronous engine, in process. `generate` runs in one thread; `pause`, `progress`
    and `stacks` may be called from another one."""

    def __init__(self, config: EngineConfig, checkpoint: str, name: str = "engine 0") -> None:
        """Load `checkpoint` (a Hugging Face directory); `KeyeError` when that can't work."""
        if not (Path(checkpoint) / "config.json").is_file():
            raise KeyeError(
                f"{name}: no checkpoint at {checkpoint} (no config.json there). Give the directory "
                "that a stage wrote, e.g. runs/NAME/STAGE/checkpoint."
            )
        for key, value in engine_environment(config).items():
            os.environ.setdefault(key, value)
        from rollout import vllm_plugin

        vllm_plugin.register()
        vllm_plugin.check_registered()
        self.name, self.config = name, config
        self.version = 0
        self._requests = 0
        self._pausing = threading.Event()
        self._generating = False
        self._ticks = 0
        self._own_noise = not config.gpus  # GPU runners draw counter-based noise from `seed`
        self._llm = self._load(checkpoint)
        tokenizer = self._llm.get_tokenizer()
        model = self._llm.vllm_config.model_config.hf_config
        self._forbidden = dict.fromkeys(forbidden_ids(tokenizer, model), FORBIDDEN_BIAS)
        self._stop = stop_ids(tokenizer)
        self._warm_up()

    def _load(self, checkpoint: str) -> LLMEngine:
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        from rollout import noise

        config = self.config
        arguments: dict[str, Any] = {
            "model": checkpoint,
            "model_impl": config.model_class,
            "dtype": config.dtype,
            "enforce_eager": not config.cuda_graphs,
            "max_model_len": config.max_length,
            "max_num_seqs": config.max_sequences,
            "max_num_batched_tokens": max(config.max_batched_tokens, config.max_length),
            "kv_cache_memory_bytes": config.kv_cache_mb << 20,
            "block_size": config.block_size,
            "enable_prefix_caching": config.prefix_caching,
            "logprobs_mode": "processed_logprobs",
            "limit_mm_per_prompt": {"image": config.max_images, "video": 1},
            "logits_processors": [noise.RequestNoise] if self._own_noise else [],
            "disable_log_stats": True,
            "seed": 0,
        }
        try:
            llm = LLMEngine.from_engine_args(EngineArgs(**arguments))
        except ValueError as error:
            raise KeyeError(f"{self.name}: vLLM can't serve {checkpoint}: {error}") from error
        if self._own_noise:
            llm.collective_rpc(noise.install)
        return llm

    def _warm_up(self) -> None:
        """Two tokens after one: what vLLM compiles in its first step belongs to the start. On busy
        cores that, or waiting for another engine's compiler, takes longer than `hang_seconds`."""
        ids = self._stop[:1] or [0]
        request = PromptRequest("warm-up", np.asarray(ids, np.int32), ids, {}, {}, seeds=[0])
        self.generate([request], SamplingConfig(max_tokens=2, ignore_eos=True))

    # ------------------------------------------------------------------------------ generation

    def generate(
        self, requests: list[PromptRequest], sampling: SamplingConfig
    ) -> list[list[Response]]:
        """Responses of every request, in order; `paused` ones are what `pause` cut short.

        Raises `KeyeError` naming the sample when a prompt can't be served (too long, media that
        can't be read, ids that differ from the learner's).
        """
        self._generating = True
        try:
            return self._generate(requests, sampling)
        finally:
            self._generating = False

    def _generate(
        self, requests: list[PromptRequest], sampling: SamplingConfig
    ) -> list[list[Response]]:
        owners: dict[str, tuple[int, int]] = {}
        results: list[list[Response | None]] = [[None] * len(r.seeds) for r in requests]
        try:
            for index, request in enumerate(requests):
                for k, request_id in enumerate(self._add(request, sampling)):
                    owners[request_id] = (index, k)
            while self._llm.has_unfinished_requests() and not self._pausing.is_set():
                for output in self._llm.step():
                    index, k = owners[output.request_id]
                    results[index][k] = _response(output.outputs[0])
                self._ticks += 1
        except BaseException:
            self._abort(list(owners))
            raise
        for request_id, response in self._abort(list(owners)).items():
            index, k = owners[request_id]
            results[index][k] = response
        return results  # type: ignore[return-value]

    def stream(self, request: PromptRequest, sampling: SamplingConfig) -> Iterator[np.ndarray]:
        """The one response of `request` as it grows: int32 ids `[1…R]` after every step."""
        owners = list(self._add(request, sampling, cumulative=True))
        try:
            while self._llm.has_unfinished_requests():
                for output in self._llm.step():
                    yield np.asarray(output.outputs[0].token_ids, np.int32)
        finally:  # the reader may stop early
            self._abort(owners)

    def _add(
        self, request: PromptRequest, sampling: SamplingConfig, cumulative: bool = False
    ) -> Iterator[str]:
        """Queue all responses of one request and yield their ids; the media are read once."""
        processed = self._process(request, sampling)
        prefixes = request.prefixes or [_NO_TOKENS] * len(request.seeds)
        limits = _limits(request, sampling)
        starts = request.starts or [len(prefix) for prefix in prefixes]
        for seed, prefix, start, limit in zip(request.seeds, prefixes, starts, limits, strict=True):
            single = copy(processed)
            self._requests += 1
            single.request_id = single.external_req_id = str(self._requests)
            single.sampling_params = self._params(sampling, seed, start, limit, cumulative)
            single.prompt_token_ids = processed.prompt_token_ids + prefix.tolist()
            self._llm.output_processor.add_request(single, None, None, 0)
            self._llm.engine_core.add_request(single)
            self._ticks += 1  # thousands of responses to one prompt take seconds to queue
            yield single.request_id

    def _process(self, request: PromptRequest, sampling: SamplingConfig) -> Any:
        """vLLM's own request for one prompt, its ids checked against the learner's."""
        prefixes = request.prefixes or [_NO_TOKENS] * len(request.seeds)
        limits = _limits(request, sampling)
        longest = max(len(p) + limit for p, limit in zip(prefixes, limits, strict=True))
        if len(request.ids) + longest > self.config.max_length:
            raise KeyeError(
                f"{self.name}: the prompt of sample {request.sample_id} has {len(request.ids)} "
                f"tokens and its response up to {longest}, above engine.max_length = "
                f"{self.config.max_length}. Raise engine.max_length, lower sampling.max_tokens (a "
                "reward model's: reward_model.engine.max_length and reward_model.max_tokens), or "
                "drop the sample (media are never truncated)."
            )
        prompt: dict[str, Any] = {"prompt_token_ids": request.engine_ids}
        if request.media:
            prompt["multi_modal_data"] = request.media
            prompt["mm_processor_kwargs"] = request.media_kwargs
        try:
            processed = self._llm.input_processor.process_inputs(
                "0",
                prompt,
                self._params(sampling, 0, 0, max(limits)),
                supported_tasks=self._llm.get_supported_tasks(),
            )
        except (ValueError, AssertionError, RuntimeError) as error:
            raise KeyeError(
                f"{self.name}: vLLM refuses the prompt of sample {request.sample_id}: {error}"
            ) from error
        if not np.array_equal(processed.prompt_token_ids, request.ids):
            raise KeyeError(
                f"{self.name}: engine and learner see different prompts for sample "
                f"{request.sample_id}: {len(processed.prompt_token_ids)} ids in the engine, "
                f"{len(request.ids)} in the learner. The checkpoint's processor and the prompt "
                "encoder must be of the same version."
            )
        return processed

    def _params(
        self, sampling: SamplingConfig, seed: int, start: int, limit: int, cumulative: bool = False
    ) -> SamplingParams:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        from rollout.noise import SEED_KEY, START_KEY

        kind = RequestOutputKind.CUMULATIVE if cumulative else RequestOutputKind.FINAL_ONLY
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=limit,
            ignore_eos=sampling.ignore_eos,
            stop_token_ids=[] if sampling.ignore_eos else self._stop,
            logit_bias=self._forbidden,
            logprobs=0 if sampling.logprobs else None,
            flat_logprobs=True,
            detokenize=False,
            output_kind=kind,
            seed=None if self._own_noise else seed,
            extra_args={SEED_KEY: seed, START_KEY: start} if self._own_noise else None,
        )

    def _abort(self, request_ids: list[str]) -> dict[str, Response]:
        """Drop the unfinished ones among the requests; their tokens so far, as `paused`."""
        from vllm.v1.engine import FinishReason

        states = self._llm.output_processor.request_states
        running = [id_ for id_ in request_ids if id_ in states]
        partial = {}
        for request_id in running:
            output = states[request_id].make_request_output(
                new_token_ids=[],
                pooling_output=None,
                finish_reason=FinishReason.ABORT,
                stop_reason=None,
                kv_transfer_params=None,
                ec_transfer_params=None,
            )
            partial[request_id] = _response(output.outputs[0])
        self._llm.abort_request(running, internal=True)
        return partial

    # -------------------------------------------------------------------- pausing and watching

    def pause(self) -> None:
        """A running `generate` returns after its current step, and later ones at once."""
        self._pausing.set()

    def resume(self) -> None:
        """Allow generation again."""
        self._pausing.clear()

    def progress(self) -> tuple[int, int]:
        """Process id, and a count that grows with every response queued and every step made."""
        return os.getpid(), self._ticks

    def stacks(self) -> str:
        """What every thread of this process is doing (for the message about a hung engine)."""
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        return "\n".join(
            f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame)[-8:])}"
            for ident, frame in sys._current_frames().items()
            if ident != threading.get_ident()
        )

    # ------------------------------------------------------------------------- weight updates

    def update_weights(self, weights: Mapping[str, Any], version: int) -> float:
        """Replace all weights in place and empty every cache; returns the seconds it took.

        `weights`: checkpoint names (as `save_pretrained` writes them) → numpy arrays or tensors.
        Running requests must have been paused: one that hit the prefix cache would die (vLLM 0.32).
        """
        import torch

        if self._generating:
            raise RuntimeError(f"{self.name}: weight update during a generation; pause it first")
        start = time.perf_counter()

        def tensors() -> Iterator[tuple[str, torch.Tensor]]:
            for weight_name, array in weights.items():
                if not isinstance(array, torch.Tensor):
                    with warnings.catch_warnings():  # the object store's arrays are read-only
                        warnings.simplefilter("ignore")
                        array = torch.from_numpy(array)
                yield weight_name, array

        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": tensors()})
        self._llm.collective_rpc(refresh_tied_output)
        self._llm.reset_prefix_cache(reset_running_requests=True)  # else: outputs of old weights
        self._llm.reset_mm_cache()
        self._llm.reset_encoder_cache()  # else: "Encoder cache miss" at the next image
        self.version = version
        return time.perf_counter() - start

    def close(self) -> None:
        """Free the engine's memory."""
        self._llm.engine_core.shutdown()


_NO_TOKENS = np.zeros(0, np.int32)


def _limits(request: PromptRequest, sampling: SamplingConfig) -> list[int]:
    """Most new tokens of each response."""
    prefixes = request.prefixes or [_NO_TOKENS] * len(request.seeds)
    return request.limits or [sampling.max_tokens - len(prefix) for prefix in prefixes]


def _response(output: Any) -> Response:
    """From vLLM's completion output (flat log-probs: one entry per sampled token)."""
    logprobs = output.logprobs
    if logprobs is None:
        values: list[float] = []
    else:
        values = [logprobs.logprobs[start] for start in logprobs.start_indices]
    reason = "paused" if output.finish_reason == "abort" else output.finish_reason
    return Response(np.asarray(output.token_ids, np.int32), np.asarray(values, np.float32), reason)
