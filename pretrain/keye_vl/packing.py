"""Right-padded batches as one row of packed tokens, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(slots=True)
class PackedBatch:
    """A batch as one row of tokens, and the way back to the caller's shape."""

    ids: Tensor
    """`[1, T]`"""
    cu_seqlens: np.ndarray
    """`[B + 1]` int64 boundaries"""
    padded: tuple[int, int] | None
    """(B, L) of a padded batch"""
    index: Tensor | None
    """`[T]` place of each packed token in the flattened padded batch"""

    @classmethod
    def of(
        cls,
        ids: Tensor,
        attention_mask: Tensor | None,
        cu_seqlens: Tensor | None,
        token_rows: Tensor | None = None,
    ) -> PackedBatch:
        """From packed ids `[1, T]` with boundaries, or padded ids `[B, L]` with their mask.

        With `token_rows` (`[V]`) the boundaries are those of the V tokens it stands for.
        """
        if cu_seqlens is not None:
            bounds = to_host(cu_seqlens).astype(np.int64)
            laid_out = ids.shape[1] if token_rows is None else len(token_rows)
            if ids.shape[0] != 1 or bounds[-1] != laid_out:
                raise ValueError(f"cu_seqlens {bounds.tolist()} don't fit ids {tuple(ids.shape)}")
            return cls(ids, bounds, None, None)
        rows, length = ids.shape
        if attention_mask is None or bool(attention_mask.all()):
            bounds = np.arange(rows + 1, dtype=np.int64) * length
            return cls(ids.reshape(1, -1), bounds, (rows, length), None)
        index = attention_mask.flatten().nonzero()[:, 0]
        lengths = to_host(attention_mask.sum(1))
        bounds = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        return cls(ids.flatten()[index][None], bounds, (rows, length), index)

    def ids_on_host(self) -> np.ndarray:
        """`[T]` ids as a NumPy array."""
        return to_host(self.ids[0])

    def unpack(self, hidden: Float[Tensor, "1 tokens width"]) -> Tensor:
        """Back to `[B, L, d]`; zeros where the caller padded."""
        if self.padded is None:
            return hidden
        rows, length = self.padded
        if self.index is not None:
            empty = hidden.new_zeros(rows * length, hidden.shape[-1])
            hidden = empty.index_copy(0, self.index, hidden[0])
        return hidden.reshape(rows, length, -1)


def next_token_targets(labels: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """Labels moved one place to the left: `out[t]` is what position t must predict."""
    targets = torch.full_like(labels, -100)
    targets[:, :-1] = labels[:, 1:]
    if cu_seqlens is not None:
        targets[:, cu_seqlens[1:-1].long() - 1] = -100
    return targets


def to_host(x: Tensor | np.ndarray) -> np.ndarray:
    """The values of a tensor (or an array) as a NumPy array."""
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
