"""One rank of supervised fine-tuning: TRL's `SFTTrainer` in a process that the driver paces.

Invariant: what step k trains on is a pure function of k, so a resumed run needs no record of the
data it has seen, and nothing is seen twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pretrain.run.errors import KeyeError
from pretrain.training.ranks import Rank

if TYPE_CHECKING:
    import torch

    from pretrain.keye_vl.prompt import PromptEncoder
    from rl.sft.training import SftConfig
    from rollout.tools.traces import EncodedTrace
    from rollout.tools.turns import TurnWriter

Example = "list[dict[str, Any]] | tuple[EncodedPrompt, np.ndarray] | ToolTrace"
"""A conversation that ends with the assistant's reply, a prompt and reply as token ids, or a
conversation with tools, whose results are not learned."""


@dataclass(slots=True)
class SftJob:
    """What the driver hands to every rank."""

    source: Path
    """Checkpoint to start from."""
    state: Path
    """Folder of resume states, shared by all ranks."""
    examples: Callable[[int], Any]
    """Index → `Example`; called with every index from 0 to steps × batch_size once."""
    cfg: SftConfig
    snapshots: dict[int, Path] = field(default_factory=dict)
    """Step → folder of the checkpoint to write after it."""


class Collator:
    """Indices → a right-padded batch in which only the replies are labels."""

    def __init__(self, examples: Callable[[int], Any], encoder: PromptEncoder, pad_id: int) -> None:
        self.examples = examples
        self.encoder = encoder
        self.pad_id = pad_id
        self._writers: dict[int, TurnWriter] = {}

    def __call__(self, rows: Sequence[dict[str, int]]) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask`, `labels` int64 `[B, L]`, `prompt_lengths` `[B]` and, where
        there are media, `pixel_values` `[N, 3, 14, 14]` and `grid_thw` `[M, 3]`."""
        import torch

        traces = [self._encode(row["index"]) for row in rows]
        shape = (len(traces), max(len(trace.prompt.ids) + len(trace.ids) for trace in traces))
        ids, labels = np.full(shape, self.pad_id), np.full(shape, -100)
        mask = np.zeros(shape, np.int64)
        for row, trace in enumerate(traces):
            start, end = len(trace.prompt.ids), len(trace.prompt.ids) + len(trace.ids)
            ids[row, :start], ids[row, start:end] = trace.prompt.ids, trace.ids
            labels[row, start:end] = np.where(trace.sampled, trace.ids, -100)
            mask[row, :end] = 1
        # In a reply with images, placeholders stand for features as they do in a prompt.
        given = [len(t.prompt.ids) + (len(t.ids) if t.media else 0) for t in traces]
        batch = {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": labels,
            "prompt_lengths": np.array(given),
        }
        holders = [holder for trace in traces for holder in (trace.prompt, trace.media)]
        media = [m for m in holders if m is not None and m.pixel_values is not None]
        if media:
            batch["pixel_values"] = np.concatenate([m.pixel_values for m in media])
            batch["grid_thw"] = np.concatenate([m.grid_thw for m in media])
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _encode(self, index: int) -> EncodedTrace:
        from rollout.tools.traces import EncodedTrace, ToolTrace
        from rollout.tools.turns import TurnWriter

        example = self.examples(index)
        if isinstance(example, ToolTrace):
            limit = example.max_result_tokens
            if limit not in self._writers:
                self._writers[limit] = TurnWriter(self.encoder, limit)
            return example.encode(self.encoder, self._writers[limit])
        if isinstance(example, list):
            example = self.encoder.encode_example(example, f"{index} of the fine-tuning data")
        prompt, reply = example
        return EncodedTrace(prompt, reply, np.ones(len(reply), bool), None)


class SftRank(Rank):
    """Actor class of fine-tuning. TRL owns the training loop; it runs in a thread that waits at
    each step until the driver has asked for it, so deadlines and progress are the driver's."""

    def open(self, job: SftJob) -> int:
        """Builds the trainer; returns the steps that an interrupted run has done."""
        self.job = job
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

    def _train(self) -> None:
        import torch

        torch.set_num_threads(self.threads)  # both settings belong to a thread, not to the process
        torch.set_flush_denormal(True)
        error: BaseException | None = None
        try:
            self.trainer.train(resume_from_checkpoint=str(self.resume) if self.resume else None)
        except BaseException as caught:  # handed to the driver by `advance`
            error = caught
        self.pacer.end(error)

    def advance(self, steps: int) -> list[dict[str, float]]:
        """Lets the trainer do `steps` more steps; returns what it logged, the same on all ranks."""
        return self.pacer.advance(steps)

    def export(self, path: Path) -> None:
        """Writes the checkpoint; rank 0 only."""
        from pretrain.training.checkpoint import write_checkpoint

        if self.rank == 0:
            write_checkpoint(self.model, path, self.job.source)


def make_pacer(state: Path) -> Any:
    """The callback through which driver and trainer meet (a function: transformers loads late)."""
    from transformers import TrainerCallback

    from pretrain.run.directory import atomic_write

    class Pacer(TrainerCallback):
        """Holds the trainer at the start of each step until the driver has asked for it."""

        def __init__(self) -> None:
            self.moved = threading.Condition()
            self.done = self.allowed = 0
            self.ended = False
            self.error: BaseException | None = None
            self.rows: list[dict[str, float]] = []

        def start(self, done: int) -> None:
            self.done = self.allowed = done

        def latest(self) -> Path | None:
            """The last complete resume state."""
            pointer = state / "latest"
            return state / pointer.read_text() if pointer.exists() else None

        def advance(self, steps: int) -> list[dict[str, float]]:
            with self.moved:
                self.allowed += steps
                self.moved.notify_all()
                self.moved.wait_for(lambda: self.ended or self.done >= self.allowed)
                if self.error is not None:
                    raise self.error
                rows, self.rows = self.rows, []
                return rows

        def end(self, error: BaseException | None) -> None:
            with self.moved:
                self.ended, self.error = True, error
                self.moved.notify_all()

        def on_step_begin(self, args: Any, trainer_state: Any, control: Any, **_: Any) -> None:
            # Only here is the step before wholly done, its log and resume state included.
            with self.moved:
                self.done = trainer_state.global_step
                self.moved.notify_all()
                self.moved.wait_for(lambda: self.allowed > self.done)

        def on_log(
            self, args: Any, trainer_state: Any, control: Any, logs: dict[str, float], **_: Any
        ) -> None:
            if "loss" in logs:
                self.rows.append({"step": trainer_state.global_step, **logs})

        def on_save(self, args: Any, trainer_state: Any, control: Any, **_: Any) -> None:
            if trainer_state.is_world_process_zero:
                atomic_write(state / "latest", f"checkpoint-{trainer_state.global_step}")

    return Pacer()


def make_snapshots(snapshots: Mapping[int, Path], source: Path) -> Any:
    """The callback that writes checkpoints along the steps (processor files as in `source`)."""
    from transformers import TrainerCallback

    from pretrain.training.checkpoint import write_checkpoint

    class Snapshots(TrainerCallback):
        """Writes at a step's end, before its resume state: what is resumed from has them all."""

        def on_step_end(
            self, args: Any, trainer_state: Any, control: Any, model: Any = None, **_: Any
        ) -> None:
            folder = snapshots.get(trainer_state.global_step)
            if folder is not None and trainer_state.is_world_process_zero:
                write_checkpoint(model, folder, source)

    return Snapshots()


def trainer_settings(cfg: SftConfig, state: Path, world_size: int, cpu: bool) -> dict[str, Any]:
    """What any of TRL's trainers is told of one rank out of `world_size`."""
    return {
        "output_dir": str(state),
        "max_steps": cfg.steps,
        "per_device_train_batch_size": cfg.batch_size // world_size // cfg.accumulation,
        "gradient_accumulation_steps": cfg.accumulation,
        "learning_rate": cfg.lr,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": cfg.end_factor},
        "warmup_steps": cfg.warmup_steps,
        "adam_beta1": cfg.betas[0],
        "adam_beta2": cfg.betas[1],
        "adam_epsilon": cfg.eps,
        "weight_decay": cfg.weight_decay,
        "max_grad_norm": cfg.grad_clip,
        "bf16": cfg.dtype == "bf16",
        "gradient_checkpointing": cfg.gradient_checkpointing,
        "max_length": None,
        "logging_steps": 1,
        "save_steps": cfg.save_every,
        "save_total_limit": 2,
        "ignore_data_skip": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": not cpu,
        "ddp_find_unused_parameters": False,
        "use_cpu": cpu,
        "report_to": [],
        "disable_tqdm": True,
    }


def in_every_graph(found: Any, model: Any) -> Any:
    """A loss, or a tuple that begins with it, plus 0 times every parameter.

    A batch without media leaves the vision tower out of the graph, and data-parallel training
    waits for the gradients of all parameters.
    """
    nothing = 0.0 * sum(p.sum() for p in model.parameters() if p.requires_grad)
    return (found[0] + nothing, *found[1:]) if isinstance(found, tuple) else found + nothing


def score_replies_only() -> None:
    """Lets TRL put only the replies' positions through the output layer on a CPU, too.

    It does so where Triton runs and scores every position elsewhere, for the sake of devices that
    compile a kernel for each shape. The results are the same but for rounding; a step of the
    tiny model takes about a third less time.
    """
    from trl.kernels.chunked_logprob import _use_triton
    from trl.trainer import utils

    utils._use_triton = lambda device: device.type == "cpu" or _use_triton(device)


def _arguments(cfg: SftConfig, state: Path, world_size: int, cpu: bool) -> Any:
    from trl import SFTConfig

    settings = trainer_settings(cfg, state, world_size, cpu)
    return SFTConfig(**settings, dataset_kwargs={"skip_prepare_dataset": True})


def make_trainer(job: SftJob, resume: Path | None, pacer: Any, world_size: int) -> Any:
    """TRL's trainer over the indices that are left."""
    import torch
    from datasets import IterableDataset
    from transformers import PrinterCallback
    from trl import SFTTrainer

    from pretrain.keye_vl.checkpoint import load_model, load_processor
    from pretrain.keye_vl.configuration import KeyeVL1_5Config
    from pretrain.keye_vl.prompt import PromptEncoder

    class Trainer(SFTTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            found = super().compute_loss(model, inputs, *args, **kwargs)
            return found if "pixel_values" in inputs else in_every_graph(found, model)

        def _load_from_checkpoint(self, path: str, model: Any = None) -> None:
            # transformers would look for the released names in memory, and load nothing.
            (model or self.model).load_state_dict(load_model(path).state_dict())

    score_replies_only()
    cfg, cpu = job.cfg, not torch.cuda.is_available()
    model = load_model(job.source, torch.float32)
    if not isinstance(model.config, KeyeVL1_5Config):
        raise KeyeError(
            f"{job.source} holds a {type(model).__name__}: fine-tuning here knows Keye-VL-1.5 only "
            "(GSPO takes any family). Fine-tune it elsewhere, or leave the stage out of `stages`."
        )
    for name, parameter in model.named_parameters():
        # In every checkpoint, but in no forward pass: data-parallel ranks would wait for it.
        parameter.requires_grad_("packing_position_embedding" not in name)
    processor = load_processor(job.source)
    tokenizer = processor.tokenizer
    first = steps_of(resume) * cfg.batch_size
    trainer = Trainer(
        model=model,
        args=_arguments(cfg, job.state, world_size, cpu),
        train_dataset=IterableDataset.from_generator(
            indices_of, gen_kwargs={"first": first, "end": cfg.steps * cfg.batch_size}
        ),
        processing_class=tokenizer,
        data_collator=Collator(
            job.examples, PromptEncoder(processor, cfg.context), tokenizer.pad_token_id
        ),
        callbacks=[pacer, make_snapshots(job.snapshots, job.source)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def steps_of(state: Path | None) -> int:
    """Steps done at a resume state (`checkpoint-50` → 50)."""
    return int(state.name.rpartition("-")[2]) if state else 0


def indices_of(first: int, end: int) -> Iterator[dict[str, int]]:
    for index in range(first, end):
        yield {"index": index}


def check_rows(rows: list[dict[str, float]]) -> None:
    """Raises `KeyeError` when the loss is no longer a number."""
    for row in rows:
        if not np.isfinite(row["loss"]):
            raise KeyeError(f"fine-tuning step {row['step']}: loss {row['loss']}; lower lr")
