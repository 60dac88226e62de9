"""`GRPOTrainer` set up for the same work as ours, with its phases timed and its steps paced."""

from __future__ import annotations

import gc
from functools import lru_cache
from multiprocessing.connection import Connection
from statistics import mean
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer

from pretrain.data.render import render
from pretrain.keye_vl.checkpoint import load_processor
from rollout.tokens import forbidden_ids
from scripts.bench.gspo_bench import trl_vllm
from scripts.bench.gspo_bench.reward import checksum
from scripts.bench.gspo_bench.timing import Phases
from scripts.bench.gspo_bench.trl_models import FlatImageProcessor, ForcedKeye, ForcedQwen3
from scripts.bench.gspo_bench.trl_side import TrlJob
from scripts.bench.gspo_bench.workloads import Workload

STEPS = 100
"""More rollout batches than are ever asked for: the trainer is stopped, it doesn't end."""
PAGED = {"page_size": 32, "num_blocks": 4096, "max_batch_tokens": 4096}
"""Settings of transformers' continuous batching. Its own choice claims 90 % of the memory, and
writing to that takes half a minute a step; this is 256 MiB, enough for every workload."""


class NextJob(Exception):
    """The driver wants another trainer."""

    def __init__(self, job: TrlJob) -> None:
        self.job = job


def train_jobs(pipe: Connection) -> None:
    """A trainer for each job that arrives, until the pipe closes (`EOFError`)."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    job = pipe.recv()
    while True:
        trainer = build_trainer(job, pipe)
        try:
            trainer.train()
            raise RuntimeError(f"{STEPS} rollout batches are done: raise STEPS")
        except NextJob as following:
            job = following.job
        del trainer
        gc.collect()


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
        self.logs: list[dict[str, float]] = []

    def _between_batches(self, state: Any) -> bool:
        return state.global_step % self.job.workload.mini_batches == 0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.pipe.send(None)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._between_batches(state):
            return
        wanted = self.pipe.recv()
        if isinstance(wanted, TrlJob):
            raise NextJob(wanted)
        if wanted != state.global_step // self.job.workload.mini_batches:
            raise RuntimeError(f"asked for step {wanted} at optimiser step {state.global_step}")
        lengths = torch.from_numpy(self.job.workload.response_lengths(wanted))
        mine = lengths.chunk(self.job.mode.ranks)[self.job.rank]
        unwrapped(self.trainer).forced_lengths = mine
        self.trainer.phases.take()
        self.trainer.sampled = 0
        self.logs.clear()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
        """After each optimiser step, with its numbers."""
        self.logs.append(logs)
        if not self._between_batches(state):
            return
        advantages = torch.tensor(list(self.trainer._logs["advantages"]))
        self.pipe.send(
            {
                "phases": self.trainer.phases.take(),
                "tokens": self.trainer.sampled,
                "numbers": {
                    "reward": self.logs[0]["reward"],
                    "advantage rms": float(advantages.square().mean().sqrt()),
                    "gradient norm": mean(log["grad_norm"] for log in self.logs),
                    "clip fraction": mean(log["clip_ratio/region_mean"] for log in self.logs),
                    "entropy": mean(log["entropy"] for log in self.logs),
                },
            }
        )


def unwrapped(trainer: GRPOTrainer) -> Any:
    """The policy without its DDP wrapper."""
    return trainer.accelerator.unwrap_model(trainer.model)


def build_trainer(job: TrlJob, pipe: Connection) -> TimedTrainer:
    """The trainer of one rank."""
    processor = load_processor(job.checkpoints.keye)
    tokenizer = processor.tokenizer
    forbidden = forbidden_ids(tokenizer)
    if job.workload.images:
        processor.image_processor.__class__ = FlatImageProcessor
        model = ForcedKeye.from_pretrained(job.checkpoints.keye, dtype=torch.float32)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("packing_position_embedding" not in name)
    else:
        model = ForcedQwen3.from_pretrained(job.checkpoints.qwen3, dtype=torch.float32)
    pacer = Pacer(job, pipe)
    trainer = TimedTrainer(
        model=model,
        reward_funcs=checksum,
        args=arguments(job, forbidden),
        train_dataset=dataset(job.workload, tokenizer),
        processing_class=processor if job.workload.images else tokenizer,
        callbacks=[pacer],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.phases = Phases()
    model.end_ids, model.forbidden_ids = trainer.eos_token_ids, forbidden
    pacer.trainer = trainer
    if job.mode.generation == "vllm":
        trl_vllm.patch(trainer)
    return trainer


def arguments(job: TrlJob, forbidden: list[int]) -> GRPOConfig:
    """The optimisation of `ours.TRAIN` and `rl.learner.LearnerConfig` in TRL's words."""
    workload, micro = job.workload, job.rank_micro_batch
    generation: dict[str, Any] = {}
    if job.mode.generation == "vllm":
        generation = trl_vllm.arguments(forbidden)
    elif job.mode.generation == "paged":
        generation = {
            "use_transformers_continuous_batching": True,
            "transformers_continuous_batching_config": PAGED,
        }
    return GRPOConfig(
        output_dir=str(job.output),
        importance_sampling_level="sequence",
        loss_type="grpo",
        scale_rewards="group",
        beta=0.0,
        epsilon=3e-3,
        epsilon_high=4e-3,
        num_generations=workload.group_size,
        num_iterations=1,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=job.per_update // micro,
        steps_per_generation=workload.mini_batches * job.per_update // micro,
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
        ddp_backend="gloo" if job.mode.ranks > 1 else None,
        logging_steps=1,  # the numbers that the sides are compared by
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **generation,
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
