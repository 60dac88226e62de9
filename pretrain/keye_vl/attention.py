"""Causal attention over packed sequences, as an attention function of transformers.

Linear layers see the packed tokens; only attention knows where sequences begin. On a GPU with
FlashAttention the packed tensors go to its variable-length kernel. Elsewhere sequences of similar
length are gathered into right-padded rows for one causal SDPA call each: right padding needs no
mask, since no token attends to a later one, and the padded rows are never read back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.utils import is_flash_attn_2_available

PACKED_ATTENTION = "keye_packed"
# A row shorter than this share of its bucket's longest one opens a new bucket: below it the
# padded products cost more than one more kernel call (measured at the tiny size).
_SHORTEST_SHARE = 0.7


@dataclass(slots=True)
class _Bucket:
    """Sequences that share one SDPA call."""

    gather: Tensor | None
    """`[rows * length]` packed index of each padded token; None when the rows are the packing."""
    rows: int
    length: int


@dataclass(slots=True)
class PackedLayout:
    """Where the sequences of a packed batch lie, computed once per forward pass."""

    cu_seqlens: Tensor
    """`[B + 1]` int32, sequence boundaries."""
    max_length: int
    """Length of the longest sequence."""
    buckets: list[_Bucket]
    """SDPA calls to make; empty when FlashAttention runs."""
    scatter: Tensor | None
    """`[T]` row of each packed token in the concatenated bucket outputs."""
    rows: Tensor | None = None
    """`[V]` packed token of each token of the sequences, for FlashAttention when prompts are
    shared; the buckets' gathers contain it already."""

    @classmethod
    def build(
        cls,
        cu_seqlens: np.ndarray,
        device: torch.device,
        dtype: torch.dtype,
        token_rows: np.ndarray | None = None,
    ) -> PackedLayout:
        """Lay out sequences with boundaries `cu_seqlens` (`[B + 1]`, from 0).

        With `token_rows` (`[V]`) token v of the sequences is packed token `token_rows[v]`: several
        sequences attend to the one copy of a prompt that they share.
        """
        if token_rows is not None:
            return cls._build_shared(cu_seqlens, device, dtype, token_rows)
        boundaries = torch.as_tensor(cu_seqlens, dtype=torch.int32, device=device)
        lengths = np.diff(cu_seqlens)
        longest = int(lengths.max())
        if _uses_flash(device, dtype):
            return cls(boundaries, longest, [], None)
        if (lengths == longest).all():
            return cls(boundaries, longest, [_Bucket(None, len(lengths), longest)], None)
        return cls(boundaries, longest, *_bucketed(cu_seqlens, lengths, device))

    @classmethod
    def _build_shared(
        cls,
        cu_seqlens: np.ndarray,
        device: torch.device,
        dtype: torch.dtype,
        token_rows: np.ndarray,
    ) -> PackedLayout:
        plain = cls.build(cu_seqlens, device, dtype)
        rows = torch.from_numpy(token_rows).to(device)
        # A shared token's output is read where it first stands: the others are equal.
        first = torch.from_numpy(np.unique(token_rows, return_index=True)[1]).to(device)
        scatter = first if plain.scatter is None else plain.scatter.index_select(0, first)
        buckets = [
            _Bucket(rows if b.gather is None else rows.index_select(0, b.gather), b.rows, b.length)
            for b in plain.buckets
        ]
        return cls(plain.cu_seqlens, plain.max_length, buckets, scatter, rows)


def _uses_flash(device: torch.device, dtype: torch.dtype) -> bool:
    half = dtype in (torch.float16, torch.bfloat16)
    return device.type == "cuda" and half and is_flash_attn_2_available()


def _bucketed(
    cu_seqlens: np.ndarray, lengths: np.ndarray, device: torch.device
) -> tuple[list[_Bucket], Tensor]:
    """Sort sequences by length, cut where padding would waste too much."""
    order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
    scatter = np.empty(int(cu_seqlens[-1]), dtype=np.int64)
    buckets: list[_Bucket] = []
    first, base = 0, 0
    while first < len(order):
        longest = int(lengths[order[first]])
        rest = lengths[order[first:]]
        rows = int(np.count_nonzero(rest >= _SHORTEST_SHARE * longest))
        chosen = order[first : first + rows]
        column = np.arange(longest)[None, :]
        valid = column < lengths[chosen][:, None]
        # A padded slot repeats its sequence's last token: any index that exists will do.
        packed = cu_seqlens[chosen][:, None] + np.minimum(column, lengths[chosen][:, None] - 1)
        slots = base + np.arange(rows * longest).reshape(rows, longest)
        scatter[packed[valid]] = slots[valid]
        gather = torch.from_numpy(packed.astype(np.int64).ravel()).to(device)
        buckets.append(_Bucket(gather, rows, longest))
        first += rows
        base += rows * longest
    return buckets, torch.from_numpy(scatter).to(device)


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "1 heads tokens dim"],
    key: Float[Tensor, "1 kv_heads tokens dim"],
    value: Float[Tensor, "1 kv_heads tokens dim"],
    attention_mask: Tensor | None,
    *,
    scaling: float,
    layout: PackedLayout,
    **_: object,
) -> tuple[Float[Tensor, "1 tokens heads dim"], None]:
    """Causal attention inside each packed sequence (signature of transformers' interface)."""
    del attention_mask
    q, k, v = (x.transpose(1, 2)[0] for x in (query, key, value))
    if not layout.buckets:
        if layout.rows is None:
            return _flash(q, k, v, layout, scaling)[None], None
        q, k, v = (x.index_select(0, layout.rows) for x in (q, k, v))
        return _flash(q, k, v, layout, scaling).index_select(0, layout.scatter)[None], None
    outputs = [
        _causal_rows(q, k, v, bucket.gather, bucket.rows, bucket.length, scaling)
        for bucket in layout.buckets
    ]
    merged = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    if layout.scatter is not None:
        merged = merged.index_select(0, layout.scatter)
    return merged[None], None


def _causal_rows(
    q: Float[Tensor, "tokens heads dim"],
    k: Float[Tensor, "tokens kv_heads dim"],
    v: Float[Tensor, "tokens kv_heads dim"],
    gather: Int[Tensor, " slots"] | None,
    rows: int,
    length: int,
    scaling: float,
) -> Float[Tensor, "slots heads dim"]:
    def padded(x: Tensor) -> Tensor:
        x = x if gather is None else x.index_select(0, gather)
        return x.reshape(rows, length, x.shape[1], x.shape[2]).transpose(1, 2)

    out = F.scaled_dot_product_attention(
        padded(q),
        padded(k),
        padded(v),
        is_causal=True,
        scale=scaling,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out.transpose(1, 2).reshape(rows * length, q.shape[1], q.shape[2])


def _flash(q: Tensor, k: Tensor, v: Tensor, layout: PackedLayout, scaling: float) -> Tensor:
    from flash_attn import flash_attn_varlen_func

    bounds, longest = layout.cu_seqlens, layout.max_length
    return flash_attn_varlen_func(
        q, k, v, bounds, bounds, longest, longest, softmax_scale=scaling, causal=True
    )


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
