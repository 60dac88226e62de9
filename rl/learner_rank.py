"""One rank of the learner: a process that holds the policy under DeepSpeed and updates it.

Invariant: the old log-probs of an update are this learner's own, computed on the very micro-batches
that are learned from afterwards. The first mini-batch is therefore exactly on-policy, and the rank
refuses to go on if it isn't.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pretrain.run.errors import KeyeError
from pretrain.training.ranks import Rank

if TYPE_CHECKING:
    import torch

    from rl.gspo import PolicyLoss
    from rl.learner import LearnerConfig
    from rl.sequences import TrainingSequence


@dataclass(slots=True)
class MiniBatchPlan:
    """One optimiser step's work for one rank."""

    micro_batches: list[list[TrainingSequence]]
    """This rank's sequences; every rank has the same number of micro-batches."""
    logit_parts: list[int]
    """Parts each micro-batch's logits are computed in, the same on every rank."""
    num_sequences: int
    """Sequences of the mini-batch over all ranks."""


@dataclass(slots=True)
class MiniBatchStats:
    """One optimiser step as one rank saw it; shares of the mini-batch add up over ranks."""

    loss: float = 0.0
    clip_fraction_low: float = 0.0
    clip_fraction_high: float = 0.0
    grad_norm: float = 0.0
    lr: float = 0.0


@dataclass(slots=True)
class RankUpdate:
    """What one rank reports of an update; sums add up over ranks."""

    mini_batches: list[MiniBatchStats] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    """Importance ratio of each of the rank's sequences, in the order they were given."""
    entropy_sum: float = 0.0
    mismatch_sum: float = 0.0
    """Σ |log p_learner − log p_engine| over response tokens."""
    mismatch_max: float = 0.0
    kl_sum: float = 0.0
    """Σ r − 1 − log r with r = p_learner / p_engine (the k3 estimate of KL(engine ‖ learner))."""
    response_tokens: int = 0


@dataclass(slots=True)
class MicroBatch:
    """A packed micro-batch on the device, with its targets and (later) its old log-probs."""

    num_sequences: int
    """Sequences of the mini-batch over all micro-batches and ranks."""
    logit_parts: int
    """See `token_logprobs`."""
    inputs: dict[str, torch.Tensor | None]
    """`PackedSequences.model_inputs()`."""
    targets: torch.Tensor
    """int64 `[R]`: response tokens, sequence after sequence."""
    mask: torch.Tensor
    """bool `[B, T]`: where a response token stands once padded."""
    advantages: torch.Tensor
    """float32 `[B]`."""
    engine_logprobs: torch.Tensor
    """float32 `[R]`."""
    old_logprobs: torch.Tensor | None = None
    """float32 `[R]`."""

    def padded(self, values: torch.Tensor) -> torch.Tensor:
        """`[R]` → `[B, T]` with zeros in the padding; differentiable."""
        return values.new_zeros(self.mask.shape).masked_scatter(self.mask, values)


class LearnerRank(Rank):
    """Actor class of the learner's `RankGroup`."""

    def build(self, cfg: LearnerConfig, checkpoint: str, total_steps: int) -> None:
        """Loads the policy and wraps it; all ranks together."""
        import torch
        from transformers import AutoTokenizer

        from pretrain.keye_vl.checkpoint import load_model
        from pretrain.policy.model import NOT_TRAINED, check_output_layer
        from pretrain.training.engine import build_engine
        from rl.logprobs import ResponseLogprobs
        from rollout.tokens import forbidden_ids

        torch.manual_seed(cfg.seed)
        self.cfg = cfg
        self.checkpoint = Path(checkpoint)
        self.model = load_model(self.checkpoint, torch.float32)
        check_output_layer(self.model)
        tokenizer = AutoTokenizer.from_pretrained(self.checkpoint)
        policy = ResponseLogprobs(self.model, forbidden_ids(tokenizer, self.model.config))
        self.engine = build_engine(
            policy,
            cfg.train,
            total_steps=total_steps,
            # In every checkpoint, but in no forward pass.
            trainable=lambda name: NOT_TRAINED not in name,
        )

    def update(self, plan: list[MiniBatchPlan]) -> RankUpdate:
        """Learns from one batch of trajectories, a mini-batch at a time; all ranks together.

        Raises:
            KeyeError: the first mini-batch isn't on-policy.
        """
        import torch

        work = [
            [
                self._micro_batch(sequences, parts, mini.num_sequences)
                for sequences, parts in zip(mini.micro_batches, mini.logit_parts, strict=True)
            ]
            for mini in plan
        ]
        result = RankUpdate()
        if len(work) > 1:
            with torch.no_grad():
                for micro in (micro for micros in work for micro in micros):
                    logprobs, entropy = self._forward(micro, entropy=True)
                    self._set_old(micro, logprobs, entropy, result)
        for index, micros in enumerate(work):
            stats = MiniBatchStats()
            for micro in micros:
                loss = self._loss(micro, result, on_policy=index == 0)
                self.engine.backward(loss.loss, last=micro is micros[-1])
                stats.loss += loss.loss.item()
                stats.clip_fraction_low += loss.clip_fraction_low.item()
                stats.clip_fraction_high += loss.clip_fraction_high.item()
                result.ratios += loss.ratio.tolist()
            step = self.engine.step()
            stats.grad_norm, stats.lr = step.grad_norm, step.lr
            result.mini_batches.append(stats)
        return result

    def _micro_batch(
        self, sequences: list[TrainingSequence], logit_parts: int, num_sequences: int
    ) -> MicroBatch:
        import torch

        from pretrain.policy.model import lay_out

        prompts = [sequence.prompt for sequence in sequences]
        replies = [sequence.response_ids for sequence in sequences]
        media = [sequence.media for sequence in sequences]
        packed = lay_out(prompts, replies, self.model.config, media)
        kept = _sampled(sequences)
        if not kept.all():  # the rest is read, and in neither the sum nor |y|
            packed = replace(
                packed,
                response_index=packed.response_index[kept],
                targets=packed.targets[kept],
                response_lengths=torch.tensor([sequence.num_sampled for sequence in sequences]),
            )
        packed = packed.to(self.engine.device)
        lengths = packed.response_lengths
        columns = torch.arange(int(lengths.max()), device=lengths.device)
        engine_logprobs = np.concatenate([sequence.engine_logprobs for sequence in sequences])[kept]
        advantages = [sequence.advantage for sequence in sequences]
        return MicroBatch(
            num_sequences=num_sequences,
            logit_parts=logit_parts,
            inputs=packed.model_inputs(),
            targets=packed.targets,
            mask=columns[None] < lengths[:, None],
            advantages=torch.tensor(advantages, device=lengths.device),
            engine_logprobs=torch.from_numpy(engine_logprobs).to(lengths.device),
        )

    def _forward(
        self, micro: MicroBatch, *, entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.engine(
            micro.inputs, micro.targets, self.cfg.temperature, micro.logit_parts, entropy
        )

    def _set_old(
        self,
        micro: MicroBatch,
        logprobs: torch.Tensor,
        entropy: torch.Tensor | None,
        result: RankUpdate,
    ) -> None:
        """Fixes the old log-probs and compares them with the engine's."""
        micro.old_logprobs = logprobs.detach()
        difference = micro.old_logprobs - micro.engine_logprobs
        result.mismatch_sum += difference.abs().sum().item()
        result.mismatch_max = max(result.mismatch_max, difference.abs().max().item())
        result.kl_sum += (difference.expm1() - difference).sum().item()
        result.entropy_sum += entropy.sum().item() if entropy is not None else 0.0
        result.response_tokens += len(micro.targets)

    def _loss(self, micro: MicroBatch, result: RankUpdate, *, on_policy: bool) -> PolicyLoss:
        """Forward pass and loss of one micro-batch."""
        from rl.gspo import ALGORITHMS

        first_pass = micro.old_logprobs is None
        logprobs, entropy = self._forward(micro, entropy=first_pass)
        if first_pass:  # a single mini-batch: the current log-probs are the old ones
            self._set_old(micro, logprobs, entropy, result)
        if on_policy:
            self._check_on_policy(logprobs.detach(), micro)
        return ALGORITHMS[self.cfg.algorithm](
            micro.padded(logprobs),
            micro.padded(micro.old_logprobs),
            micro.advantages,
            micro.mask,
            clip_low=self.cfg.clip_low,
            clip_high=self.cfg.clip_high,
            num_sequences=micro.num_sequences,
        )

    def _check_on_policy(self, logprobs: torch.Tensor, micro: MicroBatch) -> None:
        difference = (logprobs - micro.old_logprobs).abs().max().item()
        if not difference <= self.cfg.on_policy_tolerance:  # catches NaN too
            raise KeyeError(
                f"learner rank {self.rank}: log-probs of the first mini-batch differ by "
                f"{difference:.2e} from the old ones though no weight has changed "
                f"(on_policy_tolerance={self.cfg.on_policy_tolerance:g}). The forward pass isn't "
                "repeatable or its weights aren't finite: check for NaN in the rewards or an lr "
                "that is too high; on a GPU with non-deterministic kernels raise "
                "learner.on_policy_tolerance"
            )

    def weights(self) -> Any:
        """The policy's weights by checkpoint name, in the object store; all ranks together.

        Returns:
            Rank 0: ObjectRef of a dict of numpy arrays (fp32) or, where numpy has no such type
            (bf16), CPU tensors. Other ranks: None.
        """
        import ray
        import torch

        from pretrain.policy.model import checkpoint_tensors

        with self.engine.gathered():
            if self.rank != 0:
                return None
            named = {}
            for name, tensor in checkpoint_tensors(self.model):
                value = tensor.detach().cpu()
                named[name] = value if value.dtype == torch.bfloat16 else value.numpy()
            return ray.put(named)

    def export(self, path: str) -> None:
        """Writes a Hugging Face checkpoint; all ranks together."""
        import torch.distributed as dist

        from pretrain.training.checkpoint import write_checkpoint

        with self.engine.gathered():
            if self.rank == 0:
                write_checkpoint(self.model, Path(path), self.checkpoint)
        dist.barrier()

    def save(self, directory: str, step: int, progress: dict[str, Any]) -> None:
        """Saves the resume state; all ranks together."""
        from pretrain.training.checkpoint import save_state

        state = {"optimizer_steps": self.engine.steps_done, "progress": progress}
        save_state(self.engine, Path(directory), step, state)

    def load(self, directory: str) -> tuple[int, dict[str, Any]] | None:
        """Restores the last complete state; all ranks together."""
        from pretrain.training.checkpoint import load_state

        loaded = load_state(self.engine, Path(directory))
        if loaded is None:
            return None
        step, state = loaded
        self.engine.steps_done = state["optimizer_steps"]
        return step, state["progress"]


def _sampled(sequences: list[TrainingSequence]) -> np.ndarray:
    """bool `[R]`: which of all response tokens, sequence after sequence, the policy sampled."""
    return np.concatenate(
        [np.ones(len(s.response_ids), bool) if s.sampled is None else s.sampled for s in sequences]
    )
