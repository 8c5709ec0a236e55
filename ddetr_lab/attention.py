"""The two attentions of Deformable DETR: deformable over the maps, ordinary among the queries.

Built in chapter 6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddetr_lab.boxes import at_least_float32
from ddetr_lab.config import DeformableDetrConfig
from ddetr_lab.ops import ms_deform_attn, ms_deform_attn_fused
from ddetr_lab.ops.reference import sampling_locations

__all__ = ["MultiScaleDeformableAttention", "MultiheadAttention", "sampling_locations", "star_offsets"]


def star_offsets(heads: int, levels: int, points: int) -> Tensor:
    """Return the sampling offsets (M, L, P, 2) that a fresh layer starts from, in cells.

    Head m looks in direction 2 pi m / M, scaled to the square's rim, and its point k lies k + 1 cells out: together
    the heads look around in a star (paper, appendix A.4).
    """
    angle = torch.arange(heads, dtype=torch.float32) * (2 * math.pi / heads)
    direction = torch.stack((angle.cos(), angle.sin()), dim=-1)  # (M, 2)
    direction = direction / direction.abs().amax(-1, keepdim=True)
    distance = torch.arange(1, points + 1, dtype=torch.float32)
    star = direction[:, None, :] * distance[None, :, None]  # (M, P, 2)
    return star[:, None].expand(heads, levels, points, 2).contiguous()


class MultiScaleDeformableAttention(nn.Module):
    """Every query looks at a few points of every level, and both the points and their weights come from the query.

    Deformable DETR, eq. 3. Parameter names are the reference's: ``sampling_offsets``, ``attention_weights``,
    ``value_proj``, ``output_proj``.
    """

    def __init__(self, config: DeformableDetrConfig, num_heads: int, num_points: int) -> None:
        super().__init__()
        if config.d_model % num_heads:
            raise ValueError(f"d_model = {config.d_model} does not split into {num_heads} heads: it must be a multiple")
        self.num_heads, self.num_levels, self.num_points = num_heads, config.num_feature_levels, num_points
        samples = num_heads * self.num_levels * num_points
        self.sampling_offsets = nn.Linear(config.d_model, samples * 2)
        self.attention_weights = nn.Linear(config.d_model, samples)
        self.value_proj = nn.Linear(config.d_model, config.d_model)
        self.output_proj = nn.Linear(config.d_model, config.d_model)
        self.backend = "grid_sample" if config.disable_custom_kernels else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start from the star with equal weights: no query prefers a point before it has learned to."""
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(star_offsets(self.num_heads, self.num_levels, self.num_points).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        reference_points: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        level_start_index: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_embeddings: Tensor | None = None,
        output_attentions: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from queries to the flattened maps.

        Args:
            hidden_states: (B, Q, C), the queries' contents.
            encoder_hidden_states: (B, S, C), the flattened maps.
            reference_points: (B, Q, L, 2) or (B, Q, L, 4), in _padnorm of each level.
            spatial_shapes: L pairs (H, W) whose areas add up to S.
            level_start_index: (L,) integer, or None.
            attention_mask: (B, S) bool, True on real cells; padded cells read zero. None: all are real.
            position_embeddings: (B, Q, C), added to the queries before they choose points and weights.
            output_attentions: also return the weights; without them, the fused operator keeps neither weights nor
                locations.

        Returns:
            The result (B, Q, C) and the attention weights (B, Q, M, L, P), which add up to 1 over levels and points, or
            None.

        Raises:
            ValueError: if the shapes of maps and tokens disagree.
        """
        query = hidden_states if position_embeddings is None else hidden_states + position_embeddings
        batch, queries, _ = query.shape
        value = self.value_proj(encoder_hidden_states)  # (B, S, C)
        if attention_mask is not None:
            value = value.masked_fill(~attention_mask[..., None], 0.0)
        value = value.unflatten(-1, (self.num_heads, -1))  # (B, S, C) -> (B, S, M, D)
        grid = (batch, queries, self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(query).view(*grid, 2)  # (B, Q, M, L, P, 2)
        logits = self.attention_weights(query).view(grid)  # (B, Q, M, L, P)
        if not output_attentions:
            reference = at_least_float32(reference_points)
            sampled = ms_deform_attn_fused(value, spatial_shapes, reference, offsets, logits, backend=self.backend)
            return self.output_proj(sampled), None
        weights = logits.flatten(-2).softmax(-1).view(grid)  # over all levels and points together
        locations = sampling_locations(reference_points, offsets, spatial_shapes)
        sampled = ms_deform_attn(value, spatial_shapes, level_start_index, locations, weights, backend=self.backend)
        return self.output_proj(sampled), weights


class MultiheadAttention(nn.Module):
    """Ordinary attention among the queries; positions enter queries and keys, never values.

    Parameter names are the reference's: ``q_proj``, ``k_proj``, ``v_proj``, ``out_proj``.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0, init_std: float = 0.02) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim = {embed_dim} does not split into {num_heads} heads: it must be a multiple")
        self.num_heads, self.dropout = num_heads, dropout
        self.k_proj = nn.Linear(embed_dim, embed_dim)
        self.v_proj = nn.Linear(embed_dim, embed_dim)
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        for projection in (self.k_proj, self.v_proj, self.q_proj, self.out_proj):
            nn.init.normal_(projection.weight, std=init_std)
            nn.init.zeros_(projection.bias)

    def forward(
        self, hidden_states: Tensor, position_embeddings: Tensor | None = None, output_attentions: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Let every query look at every other.

        Args:
            hidden_states: (B, Q, C).
            position_embeddings: (B, Q, C), or None.
            output_attentions: also return the weights; the fused kernel that keeps none then gives way.

        Returns:
            The result (B, Q, C), and the weights (B, M, Q, Q) before dropout, or None.
        """
        placed = hidden_states if position_embeddings is None else hidden_states + position_embeddings
        query, key, value = (
            tensor.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, Q, C) -> (B, M, Q, D)
            for tensor in (self.q_proj(placed), self.k_proj(placed), self.v_proj(hidden_states))
        )
        dropout = self.dropout if self.training else 0.0
        if not output_attentions:
            mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)  # (B, M, Q, D)
            return self.out_proj(mixed.transpose(1, 2).flatten(2)), None  # (B, M, Q, D) -> (B, Q, C)
        weights = (query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(-1)  # (B, M, Q, Q)
        mixed = F.dropout(weights, dropout) @ value
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), weights
