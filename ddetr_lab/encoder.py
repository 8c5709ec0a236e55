"""The encoder: every cell of every level looks at a few points on all levels, layer after layer.

Built in chapter 10.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddetr_lab.activations import activation_function
from ddetr_lab.attention import MultiScaleDeformableAttention
from ddetr_lab.config import DeformableDetrConfig
from ddetr_lab.outputs import EncoderOutput

__all__ = ["Encoder", "EncoderLayer", "FeedForward", "encoder_reference_points", "valid_ratios"]


def valid_ratios(masks: Sequence[Tensor]) -> Tensor:
    """Return which share of each level's width and height is picture, the rest being padding.

    Args:
        masks: L tensors (B, H, W) bool, True on real cells. Padding is right and bottom, so that the first row and the
            first column tell all.

    Returns:
        (B, L, 2) float32, (width share, height share).
    """
    return torch.stack(
        [torch.stack((mask[:, 0, :].float().mean(1), mask[:, :, 0].float().mean(1)), dim=-1) for mask in masks], dim=1
    )


def encoder_reference_points(spatial_shapes: Sequence[tuple[int, int]], ratios: Tensor) -> Tensor:
    """Return the place of every cell, as every level sees it.

    A cell's centre is divided by its own level's valid ratio, which makes it a position in the unpadded picture
    (_norm), and multiplied by each level's, which makes it a position in that level's padded map (_padnorm). The ratios
    of two levels differ by rounding: 17 of 20 cells is 0.85, 9 of 10 is 0.9.

    Args:
        spatial_shapes: L pairs (H, W).
        ratios: (B, L, 2), from :func:`valid_ratios`.

    Returns:
        (B, S, L, 2) float32, (x, y).
    """
    points = []
    for level, (height, width) in enumerate(spatial_shapes):
        y, x = torch.meshgrid(
            torch.arange(height, dtype=ratios.dtype, device=ratios.device) + 0.5,
            torch.arange(width, dtype=ratios.dtype, device=ratios.device) + 0.5,
            indexing="ij",
        )
        cells_xy = torch.stack((x.flatten(), y.flatten()), dim=-1)  # (H*W, 2)
        size_wh = torch.tensor((width, height), dtype=ratios.dtype, device=ratios.device)
        points.append(cells_xy / (ratios[:, None, level] * size_wh))  # (B, H*W, 2)
    return torch.cat(points, dim=1)[:, :, None] * ratios[:, None]  # (B, S, 1, 2) * (B, 1, L, 2)


class FeedForward(nn.Module):
    """Base of encoder and decoder layers: the two linear layers and norm that end both, under the reference's names."""

    def __init__(self, config: DeformableDetrConfig) -> None:
        super().__init__()
        self.dropout, self.activation_dropout = config.dropout, config.activation_dropout
        self.activation = activation_function(config.activation_function, in_place=True)

    def add_feed_forward(self, config: DeformableDetrConfig, ffn_dim: int) -> None:
        """Create the parameters; a layer calls this last, since optimisers' files know parameters by their order."""
        self.fc1 = nn.Linear(config.d_model, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, config.d_model)
        for linear in (self.fc1, self.fc2):
            nn.init.normal_(linear.weight, std=config.init_std)
            nn.init.zeros_(linear.bias)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def drop(self, x: Tensor) -> Tensor:
        """Apply dropout in training."""
        return F.dropout(x, self.dropout, self.training)

    def add_and_norm(self, norm: nn.LayerNorm, hidden_states: Tensor, update: Tensor) -> Tensor:
        """Add a sublayer's result (..., C) to its input, and normalise; without gradients in the result's memory."""
        update = self.drop(update)
        return norm(hidden_states + update if torch.is_grad_enabled() else update.add_(hidden_states))

    def feed_forward(self, hidden_states: Tensor) -> Tensor:
        """Transform each token (..., C) by itself, add it to its input, and normalise."""
        rows = hidden_states.flatten(0, -2)  # (tokens, C)
        if torch.is_grad_enabled() or rows.device.type != "cpu" or torch.compiler.is_compiling():
            return self._transform(rows).view_as(hidden_states)
        # Without gradients to keep anything for, a thousand tokens at a time stay in the cache between the two layers.
        return torch.cat([self._transform(some) for some in rows.split(1024)]).view_as(hidden_states)

    def _transform(self, rows: Tensor) -> Tensor:
        inner = F.dropout(self.activation(self.fc1(rows)), self.activation_dropout, self.training)
        result = self.add_and_norm(self.final_layer_norm, rows, self.fc2(inner))
        if self.training and result.dtype == torch.float16:  # an overflow to infinity would end the run
            limit = torch.finfo(result.dtype).max - 1000
            result = result.clamp(-limit, limit)
        return result


class EncoderLayer(FeedForward):
    """Deformable self-attention over the maps, then a feed-forward network, each with residual and norm."""

    def __init__(self, config: DeformableDetrConfig) -> None:
        super().__init__(config)
        self.self_attn = MultiScaleDeformableAttention(config, config.encoder_attention_heads, config.encoder_n_points)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.add_feed_forward(config, config.encoder_ffn_dim)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: Tensor,
        reference_points: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        level_start_index: Tensor | None = None,
        attention_mask: Tensor | None = None,
        output_attentions: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Update all tokens once.

        Args:
            hidden_states: (B, S, C).
            position_embeddings: (B, S, C), sine plus level.
            reference_points: (B, S, L, 2) in _padnorm.
            spatial_shapes: L pairs (H, W).
            level_start_index: (L,) integer, or None.
            attention_mask: (B, S) bool, True on real cells.
            output_attentions: also return the weights.

        Returns:
            The tokens (B, S, C) and the attention weights (B, S, M, L, P), or None.
        """
        attended, weights = self.self_attn(
            hidden_states,
            hidden_states,
            reference_points,
            spatial_shapes,
            level_start_index,
            attention_mask,
            position_embeddings,
            output_attentions=output_attentions,
        )
        hidden_states = self.add_and_norm(self.self_attn_layer_norm, hidden_states, attended)
        return self.feed_forward(hidden_states), weights


class Encoder(nn.Module):
    """``config.encoder_layers`` layers over the flattened maps."""

    def __init__(self, config: DeformableDetrConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None,
        position_embeddings: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        level_start_index: Tensor | None,
        valid_ratios: Tensor,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> EncoderOutput:
        """Run all layers.

        Args:
            inputs_embeds: (B, S, C), the projected maps, flattened.
            attention_mask: (B, S) bool, True on real cells; None where all are.
            position_embeddings: (B, S, C).
            spatial_shapes: L pairs (H, W).
            level_start_index: (L,) integer, or None.
            valid_ratios: (B, L, 2).
            output_attentions: also return each layer's attention weights.
            output_hidden_states: also return each layer's input, and the last output.

        Returns:
            An :class:`~ddetr_lab.outputs.EncoderOutput`.
        """
        reference_points = encoder_reference_points(spatial_shapes, valid_ratios)
        hidden_states = F.dropout(inputs_embeds, self.dropout, self.training)
        states, attentions = [hidden_states], []
        for layer in self.layers:
            hidden_states, weights = layer(
                hidden_states,
                position_embeddings,
                reference_points,
                spatial_shapes,
                level_start_index,
                attention_mask,
                output_attentions=output_attentions,
            )
            if output_hidden_states:
                states.append(hidden_states)
            if output_attentions:
                attentions.append(weights)
        return EncoderOutput(
            last_hidden_state=hidden_states,
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )
