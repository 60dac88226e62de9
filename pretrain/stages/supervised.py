"""Next-token training on answers: what text, align, multitask and anneal have in common.

The loss of a step is the weighted sum over all answer tokens of the batch divided by the sum of
their weights — over all ranks and micro-batches — so neither the number of ranks nor the
micro-batching changes it. A token's weight depends on its answer's length only (`length_power`).
"""

from __future__ import annotations

import time

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pretrain.data.render import conversation
from pretrain.data.sample import Sample
from pretrain.data.stream import WorldStream
from pretrain.keye_vl.checkpoint import load_model, load_processor
from pretrain.keye_vl.prompt import EncodedPrompt, PromptEncoder, pack
from pretrain.stages.accuracy import Outcome
from pretrain.stages.config import HeldOutConfig
from pretrain.stages.heldout import evaluate_heldout, heldout_samples
from pretrain.stages.stage import Stage, StageJob
from pretrain.training.balancing import assign
from pretrain.training.engine import TrainingEngine

Example = tuple[EncodedPrompt, np.ndarray]


def answer_loss(
    logits: Float[Tensor, "R V"], targets: Int[Tensor, " R"], weights: Float[Tensor, " R"]
) -> Float[Tensor, ""]:
    """Weighted cross-entropy summed over the R answer tokens, in fp32 (nats)."""
    return (F.cross_entropy(logits.float(), targets, reduction="none") * weights).sum()


def token_weights(lengths: Int[Tensor, " B"], power: float) -> Float[Tensor, " R"]:
    """Each answer token's weight: its answer's length to the power of −`power`."""
    return lengths.float().pow(-power).repeat_interleave(lengths)


class SupervisedStage(Stage):
    """Trains on the streamed world; subclasses say which weights move and what a sample becomes."""

    def __init__(self, job: StageJob, rank: int, world_size: int) -> None:
        super().__init__(job, rank, world_size)
        self.model = load_model(job.source, torch.float32)
        self.encoder = PromptEncoder(load_processor(job.source), self.context())
        self.stream = WorldStream(job.cfg.mix, seed=job.seed, split="train", modes=self.modes())

    def context(self) -> int:
        """Longest example in tokens."""
        return self.job.cfg.context

    def transform(self, sample: Sample) -> Sample:
        """What the stage makes of a world sample."""
        return sample

    def modes(self) -> dict[str, float]:
        """Shares of direct and of reasoned answers."""
        share = self.job.cfg.think_share
        return {"no_think": 1.0 - share, "think": share}

    def example(self, index: int) -> Example:
        """The encoded example number `index` of the stage's stream."""
        sample = self.transform(self.stream[index])
        return self.encoder.encode_example(conversation(sample), sample.id)

    def accumulate(self, engine: TrainingEngine, step: int) -> dict[str, float]:
        """See `Stage.accumulate`."""
        started = time.perf_counter()
        examples = [self.example(i) for i in self.indices(step)]
        lengths = [len(prompt.ids) + len(reply) for prompt, reply in examples]
        power = self.job.cfg.length_power
        weight = sum(len(reply) ** (1.0 - power) for _, reply in examples)
        budget = self.job.cfg.train.micro_batch_tokens
        wanted = -(-sum(lengths) // budget)
        global_weight, micro_batches = agree(weight, wanted, engine.device)
        costs = [float(n) for n in lengths]
        parts = assign(costs, min(micro_batches, len(examples)), min_per_bin=1)
        data_s = time.perf_counter() - started
        total = 0.0
        for number, part in enumerate(parts):
            started = time.perf_counter()
            prompts, replies = zip(*(examples[i] for i in part), strict=True)
            packed = pack(list(prompts), list(replies), self.model.config)
            packed = packed.to(engine.device)
            data_s += time.perf_counter() - started
            logits = engine(**packed.model_inputs()).logits
            weights = token_weights(packed.response_lengths, power)
            loss = answer_loss(logits, packed.targets, weights) / global_weight
            engine.backward(loss, last=number == len(parts) - 1)
            total += loss.item()
        return {
            "loss": total,
            "tokens": float(sum(lengths)),
            "samples": float(len(examples)),
            "data_s": data_s,
        }

    def evaluation(self) -> HeldOutConfig:
        """What is measured after the stage."""
        return self.job.evaluation

    def evaluate(self) -> list[Outcome]:
        """See `Stage.evaluate`."""
        cfg = self.evaluation()
        samples = list(heldout_samples(cfg, think=self.job.cfg.think_share > 0))
        mine = [(kind, self.transform(s)) for kind, s in samples[self.rank :: self.world_size]]
        return evaluate_heldout(self.model, self.encoder, mine, cfg.batch_size)


def agree(weight: float, micro_batches: int, device: torch.device) -> tuple[float, int]:
    """Sum of the ranks' answer weights, and the largest number of micro-batches any of them wants.

    All ranks must run the same number: the gradient reduction after each is collective.
    """
    mine = torch.tensor([weight, micro_batches], dtype=torch.float64, device=device)
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    table = torch.stack(everyone)
    return float(table[:, 0].sum()), int(table[:, 1].max())
