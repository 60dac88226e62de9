"""One rank of mixed preference optimisation: TRL's `DPOTrainer` in a process that the driver paces.

Invariants: both responses of a pair see the same prompt and its media; the reference model is the
checkpoint the round began with, also after a resume.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rl.sft.rank import (
    SftRank,
    in_every_graph,
    indices_of,
    make_pacer,
    steps_of,
    trainer_settings,
)

if TYPE_CHECKING:
    import torch

    from pretrain.keye_vl.prompt import EncodedPrompt, PromptEncoder
    from rl.mpo.config import MpoTrainConfig


@dataclass(slots=True)
class MpoJob:
    """What the driver hands to every rank."""

    source: Path
    """Checkpoint to start from; also the reference model."""
    state: Path
    """Folder of resume states, shared by all ranks."""
    examples: Callable[[int], Any]
    """Index → (prompt messages, chosen, rejected), see `rl.mpo.pairs.PairExamples`."""
    cfg: MpoTrainConfig


class PairCollator:
    """Indices → a right-padded batch of 2B rows: the chosen responses, then the rejected ones."""

    def __init__(self, examples: Callable[[int], Any], encoder: PromptEncoder, pad_id: int) -> None:
        self.examples, self.encoder, self.pad_id = examples, encoder, pad_id

    def __call__(self, rows: Sequence[dict[str, int]]) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask`, `completion_mask` int64 `[2B, L]`, `prompt_lengths`
        `[2B]` and, where there are media, `pixel_values` `[N, 3, 14, 14]`, `grid_thw` `[M, 3]`."""
        import torch

        triples = [self._encode(row["index"]) for row in rows]
        pairs = [(p, chosen) for p, chosen, _ in triples] + [(p, r) for p, _, r in triples]
        shape = (len(pairs), max(len(prompt.ids) + len(reply) for prompt, reply in pairs))
        ids = np.full(shape, self.pad_id)
        mask, completion = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, (prompt, reply) in enumerate(pairs):
            start, end = len(prompt.ids), len(prompt.ids) + len(reply)
            ids[row, :start], ids[row, start:end] = prompt.ids, reply
            mask[row, :end] = completion[row, start:end] = 1
        batch = {
            "input_ids": ids,
            "attention_mask": mask,
            "completion_mask": completion,
            "prompt_lengths": np.array([len(prompt.ids) for prompt, _ in pairs]),
        }
        media = [prompt for prompt, _ in pairs if prompt.pixel_values is not None]
        if media:
            batch["pixel_values"] = np.concatenate([prompt.pixel_values for prompt in media])
            batch["grid_thw"] = np.concatenate([prompt.grid_thw for prompt in media])
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _encode(self, index: int) -> tuple[EncodedPrompt, np.ndarray, np.ndarray]:
        messages, chosen, rejected = self.examples(index)
        name = f"{index} of the pairs"
        prompt = self.encoder.encode(messages, name)
        replies = []
        for response in (chosen, rejected):
            if isinstance(response, str):
                turn = {"role": "assistant", "content": response}
                response = self.encoder.encode_example([*messages, turn], name)[1]
            replies.append(response)
        return prompt, replies[0], replies[1]


class MpoRank(SftRank):
    """Actor class of MPO; pacing, resuming and export are fine-tuning's."""

    def open(self, job: MpoJob) -> int:  # type: ignore[override]
        """Builds the trainer; returns the steps that an interrupted run has done."""
        self.job = job  # type: ignore[assignment]
        self.pacer = make_pacer(job.state)
        self.resume = self.pacer.latest()
        done = steps_of(self.resume)
        self.pacer.start(done)
        if self.resume and done >= job.cfg.steps:  # only the export was missing
            from pretrain.keye_vl.checkpoint import load_model

            self.model = load_model(self.resume)
            return done
        self.trainer = make_trainer(job, self.resume, self.pacer, self.world_size)
        self.model = self.trainer.model
        threading.Thread(target=self._train, daemon=True).start()
        return done


def _arguments(cfg: MpoTrainConfig, state: Path, world_size: int, cpu: bool) -> Any:
    from trl import DPOConfig

    losses = {name: weight for name, weight in cfg.loss_weights.items() if weight > 0}
    return DPOConfig(
        **trainer_settings(cfg, state, world_size, cpu),
        loss_type=list(losses),
        loss_weights=list(losses.values()),
        beta=cfg.beta,
    )


def make_trainer(job: MpoJob, resume: Path | None, pacer: Any, world_size: int) -> Any:
    """TRL's trainer over the indices that are left."""
    import torch
    from datasets import IterableDataset
    from transformers import GenerationConfig, PrinterCallback
    from trl import DPOTrainer

    from pretrain.keye_vl.checkpoint import load_model, load_processor
    from pretrain.keye_vl.prompt import PromptEncoder

    class Trainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset  # indices; the collator makes the batches

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            found = super().compute_loss(model, inputs, *args, **kwargs)
            return found if "pixel_values" in inputs else in_every_graph(found, model)

        def _load_from_checkpoint(self, path: str, model: Any = None) -> None:
            # transformers would look for the released names in memory, and load nothing.
            (model or self.model).load_state_dict(load_model(path).state_dict())

    cfg, cpu = job.cfg, not torch.cuda.is_available()
    model = load_model(job.source, torch.float32)
    for name, parameter in model.named_parameters():
        # In every checkpoint, but in no forward pass: data-parallel ranks would wait for it.
        parameter.requires_grad_("packing_position_embedding" not in name)
    model.generation_config = GenerationConfig()  # TRL notes the padding token there
    reference = load_model(job.source, torch.float32).requires_grad_(False)
    processor = load_processor(job.source)
    tokenizer = processor.tokenizer
    first, end = steps_of(resume) * cfg.batch_size, cfg.steps * cfg.batch_size
    trainer = Trainer(
        model=model,
        ref_model=reference,
        args=_arguments(cfg, job.state, world_size, cpu),
        train_dataset=IterableDataset.from_generator(
            indices_of, gen_kwargs={"first": first, "end": end}
        ),
        processing_class=tokenizer,
        data_collator=PairCollator(
            job.examples, PromptEncoder(processor, cfg.context), tokenizer.pad_token_id
        ),
        callbacks=[pacer],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
