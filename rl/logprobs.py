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
    chunk: int = 4096,
    entropy: bool = False,
) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"] | None]:
    """log softmax(lm_head(hidden) / temperature)[targets], and the distribution's entropy.

    Args:
        hidden: last hidden states at the positions that predict `targets`.
        lm_head: maps `[r, H]` to logits `[r, V]`.
        targets: the tokens that were sampled there.
        temperature: the sampling temperature, > 0.
        chunk: positions whose logits exist at once. Where there are more, the backward pass
            recomputes each chunk's logits instead of keeping them.
        entropy: also return −Σ p log p in nats, without gradient.
    """

    def one(hidden_part: Tensor, targets_part: Tensor) -> tuple[Tensor, Tensor]:
        logits = lm_head(hidden_part)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
        log_total = logits.logsumexp(-1)
        chosen = logits.gather(-1, targets_part[:, None])[:, 0] - log_total
        if not entropy:
            return chosen, chosen.new_empty(0)
        with torch.no_grad():
            p = (logits - log_total[:, None]).exp()
            return chosen, log_total - (p * logits).sum(-1)

    if len(targets) <= chunk:
        chosen, spread = one(hidden, targets)
        return chosen, spread.detach() if entropy else None
    parts = [
        checkpoint(one, h, t, use_reentrant=False)
        for h, t in zip(hidden.split(chunk), targets.split(chunk), strict=True)
    ]
    chosen = torch.cat([part[0] for part in parts])
    return chosen, torch.cat([part[1] for part in parts]).detach() if entropy else None


class ResponseLogprobs(nn.Module):
    """A causal language model seen as a function from packed sequences to token log-probs.

    A module of its own, so that DeepSpeed wraps backbone and output layer together (ZeRO-3 gathers
    weights as submodules are called).
    """

    def __init__(self, model: nn.Module, chunk: int) -> None:
        super().__init__()
        self.model = model
        self.chunk = chunk

    def forward(
        self,
        model_inputs: dict[str, Any],
        response_index: Int[Tensor, " R"],
        targets: Int[Tensor, " R"],
        temperature: float,
        entropy: bool,
    ) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"] | None]:
        """Log-probs (and entropies, if asked) of `targets`, predicted at `response_index`.

        Args:
            model_inputs: keyword arguments of the backbone, a packed batch of T tokens.
            response_index: positions in 0…T−1 whose logits predict the response tokens.
            targets: the response tokens, sequence after sequence.
            temperature: the sampling temperature.
            entropy: whether to compute entropies.
        """
        hidden = self.model.base_model(**model_inputs).last_hidden_state
        return token_logprobs(
            hidden.flatten(0, 1)[response_index],
            self.model.get_output_embeddings(),
            targets,
            temperature=temperature,
            chunk=self.chunk,
            entropy=entropy,
        )

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """Hands the request to the model."""
        self.model.gradient_checkpointing_enable(**kwargs)
