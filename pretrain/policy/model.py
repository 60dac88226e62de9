"""Batches and weights of a policy of any family.

Keye-VL-1.5 packs (`pretrain.keye_vl.prompt.pack`). Other families get right-padded rows without a
mask: under causal attention no token attends to a later one, so padding on the right changes
nothing that is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from pretrain.keye_vl import checkpoint as keye
from pretrain.keye_vl.configuration import KeyeVL1_5Config
from pretrain.keye_vl.prompt import EncodedPrompt, PackedSequences, ReplyMedia, pack
from pretrain.run.errors import KeyeError

NOT_TRAINED = "packing_position_embedding"
"""In the name of a table that the released checkpoint has and no forward pass reads."""


@dataclass(slots=True)
class PaddedSequences:
    """A batch of prompts with their replies in right-padded rows, as torch tensors."""

    input_ids: Tensor
    """int64 `[B, L]`; a row ends with repetitions of its last token."""
    response_index: Tensor
    """int64 `[K]` which of the B·L tokens predict the response tokens, in order"""
    response_lengths: Tensor
    """int64 `[B]`, summing to K"""
    targets: Tensor
    """int64 `[K]`: the response tokens that `response_index` predicts"""
    pixel_values: Tensor | None
    """float32 `[M, 3, H, W]`, the images of all rows in order"""

    def model_inputs(self) -> dict[str, Tensor | bool | None]:
        """Arguments of the backbone's forward, and `logits_index`."""
        media = {} if self.pixel_values is None else {"pixel_values": self.pixel_values}
        return {
            "input_ids": self.input_ids,
            "logits_index": self.response_index,
            "use_cache": False,
            **media,
        }

    def to(self, device: torch.device | str) -> PaddedSequences:
        """The same batch on another device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return PaddedSequences(
            **{k: None if v is None else v.to(device) for k, v in values.items()}
        )


def lay_out(
    prompts: Sequence[EncodedPrompt],
    replies: Sequence[np.ndarray],
    config: PretrainedConfig,
    reply_media: Sequence[ReplyMedia | None] | None = None,
) -> PackedSequences | PaddedSequences:
    """A batch of prompt i followed by reply i (int `[R_i]`, R_i ≥ 1), as the family takes it.

    `reply_media`: images inside the replies, which only Keye-VL-1.5 can have.
    """
    if isinstance(config, KeyeVL1_5Config):
        return pack(prompts, replies, config, reply_media=reply_media)
    if reply_media is not None and any(media is not None for media in reply_media):
        raise KeyeError(f"a {config.model_type} policy can't be given images inside a reply")
    rows = [np.concatenate((p.ids, r)) for p, r in zip(prompts, replies, strict=True)]
    longest = max(len(row) for row in rows)
    padded = np.stack([np.pad(row, (0, longest - len(row)), mode="edge") for row in rows])
    predicting = [
        i * longest + len(prompt.ids) - 1 + np.arange(len(reply))
        for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True))
    ]
    pixels = [p.pixel_values for p in prompts if p.pixel_values is not None]
    return PaddedSequences(
        input_ids=torch.from_numpy(padded.astype(np.int64)),
        response_index=torch.from_numpy(np.concatenate(predicting)),
        response_lengths=torch.tensor([len(reply) for reply in replies]),
        targets=torch.from_numpy(np.concatenate(replies).astype(np.int64)),
        pixel_values=torch.from_numpy(np.concatenate(pixels)) if pixels else None,
    )


def checkpoint_tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Checkpoint name and tensor of everything `save_pretrained` would write.

    These are the names that vLLM loads. Under ZeRO-3 the caller has gathered the weights.
    """
    if isinstance(model.config, KeyeVL1_5Config):
        yield from keye.checkpoint_tensors(model)
        return
    tied = model.all_tied_weights_keys  # target → source; empty where nothing is shared
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    yield from revert_weight_conversion(model, state).items()


def parameter_count(checkpoint: Path) -> int:
    """Weights in a checkpoint's safetensors files, without the table that is never trained."""
    total = 0
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                if NOT_TRAINED not in name:
                    total += math.prod(tensors.get_slice(name).get_shape())
    return total


@torch.no_grad()
def check_output_layer(model: PreTrainedModel) -> None:
    """Raise `KeyeError` unless logits are what the output layer makes of the hidden states.

    The learner puts only response positions through the output layer. A family that scales or caps
    its logits besides would be trained on another distribution than the one sampled.
    """
    if isinstance(model.config, KeyeVL1_5Config):
        return  # ours, and small ids may be visual tokens, which need pixels
    ids = torch.arange(8, device=model.device)[None] % model.get_input_embeddings().weight.shape[0]
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    ours = model.get_output_embeddings()(hidden).float()
    logits = model(input_ids=ids, use_cache=False).logits.float()
    if not torch.allclose(ours, logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max())):
        raise KeyeError(
            f"{type(model).__name__} does more than a linear layer between hidden states and "
            "logits (scaling, capping); the learner doesn't know this step, so its log-probs would "
            "be wrong. Such a family can't be trained here yet"
        )
