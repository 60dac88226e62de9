"""Log-probs of given response tokens under a model, at any vocabulary size.

Only the positions that predict a response token pass through the output layer, a chunk at a time;
full logits of a batch never exist. Numbers are fp32 or wider from the logits on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def token_logprobs(
    hidden: Float[Tensor, "R H"],
    lm_head: Callable[[Tensor], Tensor],
    targets: Int[Tensor, " R"],
    *,
    temperature: float = 1.0,
    forbidden: Int[Tensor, " F"] | None = None,
    parts: int = 1,
    entropy: bool = False,
) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"] | None]:
    """log softmax(lm_head(hidden) / temperature)[targets], and the distribution's entropy.

    Args:
        hidden: last hidden states at the positions that predict `targets`.
        lm_head: maps `[r, H]` to logits `[r, V]`.
        targets: the tokens that were sampled there.
        temperature: the sampling temperature, > 0.
        forbidden: ids that can't be sampled (visual tokens): they get probability 0, as they do
            in the engine, so that both log-probs are of the same distribution.
        parts: number of parts the positions are cut into; only one part's logits exist at a time,
            and the backward pass recomputes them instead of keeping them. Under ZeRO-3 every rank
            must use the same number, because each part gathers the output layer.
        entropy: also return −Σ p log p in nats, without gradient.
    """

    def one(hidden_part: Tensor, targets_part: Tensor) -> tuple[Tensor, Tensor]:
        logits = lm_head(hidden_part)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
        if forbidden is not None:  # not -inf: 0 · -inf would make the entropy NaN
            logits = logits.index_fill(-1, forbidden, torch.finfo(logits.dtype).min)
        log_total = logits.logsumexp(-1)
        chosen = logits.gather(-1, targets_part[:, None])[:, 0] - log_total
        if not entropy:
            return chosen, chosen.new_empty(0)
        with torch.no_grad():
            p = (logits - log_total[:, None]).exp()
            return chosen, log_total - (p * logits).sum(-1)

    if parts == 1:
        chosen, spread = one(hidden, targets)
        return chosen, spread.detach() if entropy else None
    pieces = zip(hidden.tensor_split(parts), targets.tensor_split(parts), strict=True)
    results = [checkpoint(one, *piece, use_reentrant=False) for piece in pieces]
    chosen = torch.cat([result[0] for result in results])
    return chosen, torch.cat([result[1] for result in results]).detach() if entropy else None


class ResponseLogprobs(nn.Module):
    """A causal language model seen as a function from packed sequences to token log-probs.

    A module of its own, so that DeepSpeed wraps backbone and output layer together (ZeRO-3 gathers
    weights as submodules are called).
    """

    def __init__(self, model: nn.Module, forbidden: list[int]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("forbidden", torch.tensor(forbidden, dtype=torch.long), False)

    def forward(
        self,
        model_inputs: dict[str, Any],
        targets: Int[Tensor, " R"],
        temperature: float,
        parts: int,
        entropy: bool,
    ) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"] | None]:
        """Log-probs (and entropies, if asked) of the response tokens `targets`.

        Args:
            model_inputs: `model_inputs()` of `PackedSequences` or `PaddedSequences`.
            targets: the response tokens, sequence after sequence.
            temperature: the sampling temperature.
            parts: see `token_logprobs`.
            entropy: whether to compute entropies.
        """
        backbone_inputs = dict(model_inputs)
        predicting = backbone_inputs.pop("logits_index")
        hidden = self.model.base_model(**backbone_inputs).last_hidden_state
        return token_logprobs(
            hidden.flatten(0, 1).index_select(0, predicting),
            self.model.get_output_embeddings(),
            targets,
            temperature=temperature,
            forbidden=self.forbidden,
            parts=parts,
            entropy=entropy,
        )

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """Hands the request to the model."""
        self.model.gradient_checkpointing_enable(**kwargs)
