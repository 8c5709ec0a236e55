"""The decoder: queries talk to each other, look at the maps, and move their boxes.

Built in chapter 11.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ddetr_lab.attention import MultiheadAttention, MultiScaleDeformableAttention
from ddetr_lab.config import DeformableDetrConfig
from ddetr_lab.encoder import FeedForward
from ddetr_lab.heads import refine_boxes
from ddetr_lab.outputs import DecoderOutput

__all__ = ["Decoder", "DecoderLayer"]


class DecoderLayer(FeedForward):
    """Self-attention among queries, deformable attention to the maps, and a feed-forward network."""

    def __init__(self, config: DeformableDetrConfig) -> None:
        super().__init__(config)
        heads = config.decoder_attention_heads
        self.self_attn = MultiheadAttention(config.d_model, heads, config.attention_dropout, config.init_std)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.encoder_attn = MultiScaleDeformableAttention(config, heads, config.decoder_n_points)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.add_feed_forward(config, config.decoder_ffn_dim)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: Tensor,
        reference_points: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        level_start_index: Tensor | None,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Update all queries once.

        Args:
            hidden_states: (B, Q, C), the queries' contents.
            position_embeddings: (B, Q, C), the queries' positions.
            reference_points: (B, Q, L, 2 or 4) in _padnorm.
            spatial_shapes: L pairs (H, W).
            level_start_index: (L,) integer, or None.
            encoder_hidden_states: (B, S, C).
            encoder_attention_mask: (B, S) bool, True on real cells.
            output_attentions: also return both kinds of weights.

        Returns:
            The queries (B, Q, C), the weights among them (B, M, Q, Q) and those over points (B, Q, M, L, P), or None
            twice.
        """
        attended, self_weights = self.self_attn(hidden_states, position_embeddings, output_attentions)
        hidden_states = self.add_and_norm(self.self_attn_layer_norm, hidden_states, attended)
        attended, cross_weights = self.encoder_attn(
            hidden_states,
            encoder_hidden_states,
            reference_points,
            spatial_shapes,
            level_start_index,
            encoder_attention_mask,
            position_embeddings,
            output_attentions=output_attentions,
        )
        hidden_states = self.add_and_norm(self.encoder_attn_layer_norm, hidden_states, attended)
        return self.feed_forward(hidden_states), self_weights, cross_weights


class Decoder(nn.Module):
    """``config.decoder_layers`` layers; with box heads, each layer refines the boxes that the next one looks from.

    The heads belong to the detector and are handed in: under refinement and two stages published files name them
    ``model.decoder.bbox_embed`` and ``model.decoder.class_embed`` as well.
    """

    def __init__(
        self,
        config: DeformableDetrConfig,
        class_embed: nn.ModuleList | None = None,
        bbox_embed: nn.ModuleList | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.bbox_embed = bbox_embed
        self.class_embed = class_embed

    def forward(
        self,
        inputs_embeds: Tensor,
        position_embeddings: Tensor,
        reference_points: Tensor,
        spatial_shapes: Sequence[tuple[int, int]],
        level_start_index: Tensor | None,
        valid_ratios: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> DecoderOutput:
        """Run all layers.

        Args:
            inputs_embeds: (B, Q, C), the queries' contents.
            position_embeddings: (B, Q, C), the queries' positions.
            reference_points: (B, Q, 2) or (B, Q, 4) in _norm.
            spatial_shapes: L pairs (H, W).
            level_start_index: (L,) integer, or None.
            valid_ratios: (B, L, 2), which turn _norm into each level's _padnorm.
            encoder_hidden_states: (B, S, C).
            encoder_attention_mask: (B, S) bool, True on real cells.
            output_attentions: also return both kinds of attention weights of each layer.
            output_hidden_states: also return each layer's input, and the last output.

        Returns:
            A :class:`~ddetr_lab.outputs.DecoderOutput`.
        """
        hidden_states = inputs_embeds
        states, references, self_weights, cross_weights = [hidden_states], [], [], []
        for index, layer in enumerate(self.layers):
            ratios = valid_ratios.repeat(1, 1, reference_points.shape[-1] // 2)  # (B, L, 2 or 4)
            hidden_states, among_queries, over_points = layer(
                hidden_states,
                position_embeddings,
                reference_points[:, :, None] * ratios[:, None],  # (B, Q, 1, 2 or 4) * (B, 1, L, 2 or 4)
                spatial_shapes,
                level_start_index,
                encoder_hidden_states,
                encoder_attention_mask,
                output_attentions,
            )
            if self.bbox_embed is not None:
                # Each layer learns from its own loss only: no gradient runs back through the chain of boxes.
                with torch.no_grad():
                    reference_points = refine_boxes(self.bbox_embed[index](hidden_states), reference_points)
            states.append(hidden_states)
            references.append(reference_points)
            if output_attentions:
                self_weights.append(among_queries)
                cross_weights.append(over_points)
        return DecoderOutput(
            last_hidden_state=hidden_states,
            intermediate_hidden_states=torch.stack(states[1:], dim=1),  # (B, NL, Q, C)
            intermediate_reference_points=torch.stack(references, dim=1),  # (B, NL, Q, 2 or 4)
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(self_weights) if output_attentions else None,
            cross_attentions=tuple(cross_weights) if output_attentions else None,
        )
