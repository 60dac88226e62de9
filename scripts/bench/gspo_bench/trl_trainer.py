"""`GRPOTrainer` set up for the same work as ours, with its phases timed and its steps paced."""

from __future__ import annotations

from functools import lru_cache, partial
from multiprocessing.connection import Connection
from typing import Any

import torch
import trl.generation.vllm_generation as vllm_generation
from datasets import Dataset
from PIL import Image
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from pretrain.data.render import render
from pretrain.keye_vl.checkpoint import checkpoint_tensors, load_processor
from rollout.reload import refresh_tied_output
from rollout.tokens import forbidden_ids
from scripts.bench.gspo_bench.reward import checksum
from scripts.bench.gspo_bench.timing import Phases
from scripts.bench.gspo_bench.trl_models import ForcedKeye, ForcedQwen3
from scripts.bench.gspo_bench.trl_side import TrlJob
from scripts.bench.gspo_bench.workloads import Workload

STEPS = 100
"""More rollout batches than are ever asked for: the trainer is stopped, it doesn't end."""


class TimedTrainer(GRPOTrainer):
    """GRPOTrainer with a stop-watch."""

    phases: Phases
    sampled = 0

    def _generate(self, prompts: list) -> Any:
        with self.phases("generate"):
            result = super()._generate(prompts)
        self.sampled += sum(map(len, result[1]))
        return result

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        with self.phases("reward"):
            return super()._calculate_rewards(*args, **kwargs)


class Pacer(TrainerCallback):
    """Waits for the driver before each rollout batch and reports after it."""

    def __init__(self, job: TrlJob, pipe: Connection) -> None:
        self.job, self.pipe = job, pipe
        self.trainer: TimedTrainer

    def _between_batches(self, state: Any) -> bool:
        return state.global_step % self.job.workload.mini_batches == 0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.pipe.send(None)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._between_batches(state):
            return
        step = self.pipe.recv()
        if step != state.global_step // self.job.workload.mini_batches:
            raise RuntimeError(f"asked for step {step} at optimiser step {state.global_step}")
        lengths = torch.from_numpy(self.job.workload.response_lengths(step))
        mine = lengths.chunk(self.job.mode.ranks)[self.job.rank]
        self.trainer.model.forced_lengths = mine
        self.trainer.phases.take()
        self.trainer.sampled = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._between_batches(state):
            phases = self.trainer.phases.take()
            self.pipe.send({"phases": phases, "tokens": self.trainer.sampled})


def build_trainer(job: TrlJob, pipe: Connection) -> TimedTrainer:
    """The trainer of one rank."""
    processor = load_processor(job.keye)
    tokenizer = processor.tokenizer
    if job.workload.images:
        model = ForcedKeye.from_pretrained(job.keye, dtype=torch.float32)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("packing_position_embedding" not in name)
    else:
        model = ForcedQwen3.from_pretrained(job.qwen3, dtype=torch.float32)
    if job.mode.generation == "vllm":
        vllm_generation.LLM = partial(_colocated, vllm_generation.LLM)
    pacer = Pacer(job, pipe)
    trainer = TimedTrainer(
        model=model,
        reward_funcs=checksum,
        args=arguments(job, forbidden_ids(tokenizer)),
        train_dataset=dataset(job.workload, tokenizer),
        processing_class=processor if job.workload.images else tokenizer,
        callbacks=[pacer],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.phases = Phases()
    model.end_ids = trainer.eos_token_ids
    pacer.trainer = trainer
    if job.mode.generation == "vllm":
        _patch_vllm(trainer)
    return trainer


def arguments(job: TrlJob, forbidden: list[int]) -> GRPOConfig:
    """The optimisation of `ours.TRAIN` and `rl.learner.LearnerConfig` in TRL's words."""
    workload, ranks = job.workload, job.mode.ranks
    per_update = workload.responses // workload.mini_batches // ranks
    micro = min(workload.trl_micro_batch // ranks, per_update)
    vllm: dict[str, Any] = {}
    if job.mode.generation == "vllm":
        vllm = {
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
    return GRPOConfig(
        output_dir=str(job.output),
        importance_sampling_level="sequence",
        loss_type="grpo",
        beta=0.0,
        epsilon=3e-3,
        epsilon_high=4e-3,
        num_generations=workload.group_size,
        num_iterations=1,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=per_update // micro,
        steps_per_generation=workload.mini_batches * per_update // micro,
        max_completion_length=workload.lengths[1],
        max_steps=STEPS * workload.mini_batches,
        learning_rate=3e-5,
        lr_scheduler_type="constant",
        adam_beta1=0.9,
        adam_beta2=0.99,
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=False,
        gradient_checkpointing=False,
        shuffle_dataset=False,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
        logging_steps=10**6,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **vllm,
    )


def dataset(workload: Workload, tokenizer: Any) -> Dataset:
    """The prompts of all steps in order, made when they are read."""
    rows = [(step, i) for step in range(STEPS) for i in range(workload.prompts)]

    @lru_cache(maxsize=3)  # TRL reads each row once a response, in every micro-batch
    def step_rows(step: int) -> list[dict[str, Any]]:
        return [_row(render(sample), tokenizer) for sample in workload.samples(step)]

    def read(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        chosen = [step_rows(step)[i] for step, i in zip(*batch.values(), strict=True)]
        return {key: [row[key] for row in chosen] for key in chosen[0]}

    table = Dataset.from_dict({"step": [r[0] for r in rows], "index": [r[1] for r in rows]})
    table.set_transform(read)
    return table


def _row(messages: list[dict[str, Any]], tokenizer: Any) -> dict[str, Any]:
    """What TRL is given of a prompt: its text or, with an image, the conversation."""
    parts = [part for message in messages for part in message["content"]]
    images = [Image.fromarray(part["image"]) for part in parts if part["type"] == "image"]
    if not images:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return {"prompt": text}
    text = "".join(part["text"] for part in parts if part["type"] == "text")
    return {"prompt": [{"role": "user", "content": text}], "images": images}


def _colocated(engine: type, **kwargs: Any) -> Any:
    """TRL's call of `vllm.LLM`, with what a CPU needs (FP32, a bounded KV cache, eager mode)."""
    kwargs.pop("distributed_executor_backend")
    kwargs.pop("gpu_memory_utilization")
    return engine(
        **kwargs,
        dtype="float32",
        enforce_eager=True,
        kv_cache_memory_bytes=384 << 20,
        block_size=32,
        disable_log_stats=True,
    )


def _patch_vllm(trainer: TimedTrainer) -> None:
    """Forced lengths, and a weight sync that works on a CPU (TRL's own `load_weights` fails)."""
    backend = trainer.vllm_generation
    generate, llm = backend.llm.generate, backend.llm

    def forced(prompts: list, sampling_params: Any, **kwargs: Any) -> Any:
        each = []
        for length in trainer.model.forced_lengths.tolist():
            params = sampling_params.clone()
            params.max_tokens = length
            each.append(params)
        return generate(prompts, sampling_params=each, **kwargs)

    def sync() -> None:
        with trainer.phases("sync"):
            model = trainer.model
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
