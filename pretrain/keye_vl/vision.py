"""Native-resolution SigLIP: images of any patch grid, packed, each attending only to itself.

Two changes to plain SigLIP (report §2.1): the learned square position table is interpolated
bilinearly to each image's h×w grid, and queries and keys are rotated by row and column (2D RoPE).
Patches of all images stand in one packed sequence for the linear layers; images of equal grid
share one attention call, so a batch costs as many calls per layer as it has distinct grids.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from pretrain.keye_vl.configuration import KeyeVL1_5Config, KeyeVL1_5VisionConfig

Grid = tuple[int, int]
"""Rows and columns of patches of one image or video frame."""

_ROPE_BASE = 10000.0
# Rows of the released checkpoint's `packing_position_embedding`, which no forward pass reads.
_PACKING_POSITIONS = 32768


@dataclass(slots=True)
class _GridGroup:
    """Images of one grid, adjacent in the grouped order."""

    grid: Grid
    images: int
    rope: tuple[Tensor, Tensor] | None

    @property
    def patches(self) -> int:
        return self.images * self.grid[0] * self.grid[1]


@dataclass(slots=True)
class VisionLayout:
    """Order of the packed patches inside the encoder: images of equal grid side by side."""

    groups: list[_GridGroup]
    order: Tensor | None
    """`[N]` packed patch for each place of the grouped order; None when they are the same."""
    restore: Tensor | None
    """`[N]` inverse of `order`."""

    @classmethod
    def build(
        cls, grids: list[Grid], head_dim: int, rope: bool, device: torch.device
    ) -> VisionLayout:
        """Lay out one image (or frame) per entry of `grids`."""
        kinds = list(dict.fromkeys(grids))
        members = {kind: [i for i, grid in enumerate(grids) if grid == kind] for kind in kinds}
        groups = [
            _GridGroup(
                kind, len(members[kind]), rope_table(*kind, head_dim, device) if rope else None
            )
            for kind in kinds
        ]
        sequence = [i for kind in kinds for i in members[kind]]
        if sequence == sorted(sequence):
            return cls(groups, None, None)
        starts = [0]
        for h, w in grids:
            starts.append(starts[-1] + h * w)
        order = torch.cat([torch.arange(starts[i], starts[i + 1]) for i in sequence]).to(device)
        return cls(groups, order, torch.argsort(order))


@lru_cache(maxsize=256)
def rope_table(
    rows: int, columns: int, head_dim: int, device: torch.device
) -> tuple[Float[Tensor, "patches 1 dim"], Float[Tensor, "patches 1 dim"]]:
    """Cosines and sines of 2D RoPE: a quarter of the head turns by row, a quarter by column.

    The other half repeats the first, as the rotate-half form of RoPE wants it.
    """
    quarter = torch.arange(0, head_dim // 2, 2, dtype=torch.float32) / (head_dim // 2)
    frequency = 1.0 / _ROPE_BASE**quarter
    row = torch.arange(rows).repeat_interleave(columns)[:, None] * frequency
    column = torch.arange(columns).repeat(rows)[:, None] * frequency
    angle = torch.cat([row, column, row, column], dim=-1)[:, None].to(device)
    return angle.cos(), angle.sin()


def _rotate(x: Float[Tensor, "images patches heads dim"], rope: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rope
    # In float32 whatever the model's dtype, as vLLM rotates.
    wide = x.float()
    first, second = wide.chunk(2, dim=-1)
    return (wide * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


class _PatchEmbedding(nn.Conv2d):
    """SigLIP's patch convolution on patches that are already cut: one matrix product."""

    def forward(self, pixel_values: Float[Tensor, "patches 3 size size"]) -> Tensor:
        return F.linear(pixel_values.flatten(1), self.weight.flatten(1), self.bias)


class UnusedPositions(nn.Module):
    """A table of the released checkpoint that no forward pass reads, kept to match it.

    A buffer, not a parameter: optimisers, ZeRO and parameter counts must not see it.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(_PACKING_POSITIONS, hidden_size))


class _Embeddings(nn.Module):
    def __init__(self, config: KeyeVL1_5VisionConfig) -> None:
        super().__init__()
        self.side = config.image_size // config.patch_size
        self.patch_embedding = _PatchEmbedding(
            config.num_channels, config.hidden_size, config.patch_size, config.patch_size
        )
        self.position_embedding = nn.Embedding(self.side**2, config.hidden_size)
        self.packing_position_embedding = UnusedPositions(config.hidden_size)

    def forward(self, pixel_values: Tensor, layout: VisionLayout) -> Float[Tensor, "patches dim"]:
        x = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))
        if layout.order is not None:
            x = x.index_select(0, layout.order)
        # Through the module, so that ZeRO-3 gathers the table before it is read.
        table = self.position_embedding(torch.arange(self.side**2, device=x.device))
        parts = x.split([group.patches for group in layout.groups])
        out = [
            (part.view(group.images, -1, x.shape[1]) + self._positions(table, group.grid)).view(
                part.shape
            )
            for part, group in zip(parts, layout.groups, strict=True)
        ]
        return out[0] if len(out) == 1 else torch.cat(out)

    def _positions(self, table: Tensor, grid: Grid) -> Float[Tensor, "grid_patches dim"]:
        if grid == (self.side, self.side):
            return table
        square = table.T.reshape(1, -1, self.side, self.side)
        resized = F.interpolate(square, size=grid, mode="bilinear", align_corners=False)
        return resized.flatten(2)[0].T


class _Attention(nn.Module):
    def __init__(self, config: KeyeVL1_5VisionConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        size = config.hidden_size
        self.q_proj = nn.Linear(size, size)
        self.k_proj = nn.Linear(size, size)
        self.v_proj = nn.Linear(size, size)
        self.out_proj = nn.Linear(size, size)

    def forward(self, x: Float[Tensor, "patches dim"], layout: VisionLayout) -> Tensor:
        sizes = [group.patches for group in layout.groups]
        q, k, v = (proj(x).split(sizes) for proj in (self.q_proj, self.k_proj, self.v_proj))
        out = [
            self._attend(q_part, k_part, v_part, group)
            for q_part, k_part, v_part, group in zip(q, k, v, layout.groups, strict=True)
        ]
        return self.out_proj(out[0] if len(out) == 1 else torch.cat(out))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, group: _GridGroup) -> Tensor:
        shape = (group.images, group.grid[0] * group.grid[1], self.heads, -1)
        q, k, v = q.view(shape), k.view(shape), v.view(shape)
        if group.rope is not None:
            q, k = _rotate(q, group.rope), _rotate(k, group.rope)
        out = F.scaled_dot_product_attention(*(y.transpose(1, 2) for y in (q, k, v)))
        return out.transpose(1, 2).reshape(group.patches, -1)


class _Mlp(nn.Module):
    def __init__(self, config: KeyeVL1_5VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.act = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class VisionLayer(GradientCheckpointingLayer):
    """One pre-norm transformer layer of the encoder."""

    def __init__(self, config: KeyeVL1_5VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.self_attn = _Attention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.mlp = _Mlp(config)

    def forward(self, x: Float[Tensor, "patches dim"], layout: VisionLayout) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x), layout)
        return x + self.mlp(self.layer_norm2(x))


class _Encoder(nn.Module):
    def __init__(self, config: KeyeVL1_5VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.num_hidden_layers))


class _VisionTransformer(nn.Module):
    def __init__(self, config: KeyeVL1_5VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, pixel_values: Tensor, grids: list[Grid]) -> Float[Tensor, "patches dim"]:
        config = self.config
        layout = VisionLayout.build(
            grids,
            config.hidden_size // config.num_attention_heads,
            config.use_2d_rope,
            pixel_values.device,
        )
        x = self.embeddings(pixel_values, layout)
        for layer in self.encoder.layers:
            x = layer(x, layout)
        x = self.post_layernorm(x)
        return x if layout.restore is None else x.index_select(0, layout.restore)


class VisionTower(nn.Module):
    """The encoder under the name that the released checkpoint gives it (`visual.vision_model`)."""

    def __init__(self, config: KeyeVL1_5VisionConfig) -> None:
        super().__init__()
        self.vision_model = _VisionTransformer(config)

    def forward(
        self, pixel_values: Float[Tensor, "patches 3 size size"], grids: list[Grid]
    ) -> Float[Tensor, "patches dim"]:
        """Features of every patch, in the order of `pixel_values` (row-major within an image).

        Args:
            pixel_values: normalised patches of all images and frames, packed.
            grids: patch rows and columns of each image or frame, in the same order.
        """
        return self.vision_model(pixel_values, grids)


class Projector(nn.Module):
    """Merges 2×2 patches and maps them to the text model's width (`mlp_AR` in checkpoints)."""

    def __init__(self, config: KeyeVL1_5Config) -> None:
        super().__init__()
        vision = config.vision_config
        self.merge = vision.spatial_merge_size
        size = vision.hidden_size * self.merge**2
        self.pre_norm = nn.LayerNorm(size, eps=1e-5)
        self.linear_1 = nn.Linear(size, size)
        self.linear_2 = nn.Linear(size, config.hidden_size)

    def forward(
        self, features: Float[Tensor, "patches dim"], grids: list[Grid]
    ) -> Float[Tensor, "tokens width"]:
        """Visual tokens of every image, in order, row-major within an image."""
        merged = self._merge(features, grids)
        return self.linear_2(F.gelu(self.linear_1(self.pre_norm(merged))))

    def _merge(self, features: Tensor, grids: list[Grid]) -> Float[Tensor, "tokens merged_dim"]:
        m, dim = self.merge, features.shape[1]
        # Neighbours of equal grid are merged in one go.
        runs: list[tuple[Grid, int]] = []
        for grid in grids:
            if runs and runs[-1][0] == grid:
                runs[-1] = (grid, runs[-1][1] + 1)
            else:
                runs.append((grid, 1))
        parts = features.split([h * w * count for (h, w), count in runs])
        merged = [
            part.view(count, h // m, m, w // m, m, dim)
            .transpose(2, 3)
            .reshape(count * (h // m) * (w // m), m * m * dim)
            for part, ((h, w), count) in zip(parts, runs, strict=True)
        ]
        return merged[0] if len(merged) == 1 else torch.cat(merged)
