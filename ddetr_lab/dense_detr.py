"""The baseline: a plain DETR of the same size, whose queries look at every cell instead of at a few points.

Equal to :class:`~ddetr_lab.detector.DeformableDetrForObjectDetection`: backbone and its frozen part, projections, sine
positions with their mask, number of layers, widths and heads, queries (content and position, both learned), class and
box heads with their priors, matching, losses (focal, as in the paper's DETR-DC5+), auxiliary losses.

Different, and this is the comparison of the paper's table 1:

* attention to the maps is dense (DETR, section 3.2): every query and every cell weighs all S cells, S^2 weights a layer
  in the encoder. The cells' positions enter their keys; deformable attention has no keys;
* no reference points: all stand at the picture's centre, so that a box is the sigmoid of what its head says;
* no refinement, so all layers share one pair of heads, as in DETR.

The configuration says which maps: ``num_feature_levels=1`` is DETR proper (the last map, stride 32), with ``dilation``
DETR-DC5 (stride 16); 4 levels give dense attention the very cells that deformable attention has. On a 160-pixel scene
that is 25, 100 or 534 cells; on the paper's 800 x 1066 pixels 850, 3,350 or 17,821, whose square no longer fits.

Built in chapter 17.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ddetr_lab.config import DeformableDetrConfig
from ddetr_lab.decoder import Decoder
from ddetr_lab.detector import DeformableDetrForObjectDetection
from ddetr_lab.encoder import Encoder
from ddetr_lab.heads import build_heads
from ddetr_lab.model import DeformableDetrModel, DeformableDetrPreTrainedModel
from ddetr_lab.outputs import DecoderOutput
from ddetr_lab.position_encoding import LearnedPositionEmbedding, SinePositionEmbedding

__all__ = ["DenseAttention", "DenseDecoder", "DenseDetrForObjectDetection", "DenseDetrModel", "DenseEncoder"]


class DenseAttention(nn.Module):
    """Every query looks at every cell; called like ``MultiScaleDeformableAttention``, whose place it takes.

    Built in chapter 17.
    """

    def __init__(self, config: DeformableDetrConfig, num_heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(config.d_model, num_heads, config.attention_dropout, batch_first=True)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        reference_points: Tensor | None = None,
        spatial_shapes: Sequence[tuple[int, int]] | None = None,
        level_start_index: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_embeddings: Tensor | None = None,
        output_attentions: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from queries to cells.

        Args:
            hidden_states: (B, Q, C), the queries' contents.
            encoder_hidden_states: the cells: the queries themselves, as in the encoder, or (B, S, 2C), each cell's
                content and beside it its position.
            reference_points: plays no part, nor do ``spatial_shapes`` and ``level_start_index``.
            attention_mask: (B, S) bool, True on real cells; padded cells get no weight. None: all are real.
            position_embeddings: (B, Q, C), added to the queries, or None.
            output_attentions: also return the weights.

        Returns:
            The result (B, Q, C) and the weights (B, M, Q, S), or None.
        """
        query = hidden_states if position_embeddings is None else hidden_states + position_embeddings
        if encoder_hidden_states is hidden_states:
            key, value = query, hidden_states
        else:
            value, places = encoder_hidden_states.chunk(2, dim=-1)  # (B, S, 2C) -> twice (B, S, C)
            key = value + places
        return self.attention(
            query,
            key,
            value,
            key_padding_mask=None if attention_mask is None else ~attention_mask,
            need_weights=output_attentions,
            average_attn_weights=False,
        )


class DenseEncoder(Encoder):
    """The encoder with dense attention among all cells: S^2 weights a head and layer.

    Built in chapter 17.
    """

    def __init__(self, config: DeformableDetrConfig) -> None:
        super().__init__(config)
        for layer in self.layers:
            layer.self_attn = DenseAttention(config, config.encoder_attention_heads)


class DenseDecoder(Decoder):
    """The decoder with dense attention from queries to cells, and no refinement.

    Args:
        config: how many layers, and how wide.
        position_embedding: the model's own, for the keys of the cells.

    Built in chapter 17.
    """

    def __init__(
        self, config: DeformableDetrConfig, position_embedding: SinePositionEmbedding | LearnedPositionEmbedding
    ) -> None:
        super().__init__(config)
        for layer in self.layers:
            layer.encoder_attn = DenseAttention(config, config.decoder_attention_heads)
        self.position_embedding = position_embedding
        self.level_embed = nn.Parameter(torch.randn(config.num_feature_levels, config.d_model))

    def cell_positions(
        self, cells: Tensor, spatial_shapes: Sequence[tuple[int, int]], attention_mask: Tensor | None
    ) -> Tensor:
        """Return the position (B, S, C) of each of the cells (B, S, C), from their mask (B, S): sine plus level."""
        real = cells.new_ones(cells.shape[:2], dtype=torch.bool) if attention_mask is None else attention_mask
        levels = real.split([height * width for height, width in spatial_shapes], dim=1)
        return torch.cat(
            [
                self.position_embedding(cells, mask.unflatten(1, shape)).flatten(2).transpose(1, 2) + own
                for mask, shape, own in zip(levels, spatial_shapes, self.level_embed, strict=True)
            ],
            dim=1,
        )

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
        """Run all layers; the arguments are those of :class:`~ddetr_lab.decoder.Decoder`.

        Returns:
            A :class:`~ddetr_lab.outputs.DecoderOutput`, whose cross attentions are (B, M, Q, S).
        """
        places = self.cell_positions(encoder_hidden_states, spatial_shapes, encoder_attention_mask)
        return super().forward(
            inputs_embeds,
            position_embeddings,
            reference_points,
            spatial_shapes,
            level_start_index,
            valid_ratios,
            torch.cat((encoder_hidden_states, places), dim=-1),  # (B, S, 2C)
            encoder_attention_mask,
            output_attentions,
            output_hidden_states,
        )


class DenseDetrModel(DeformableDetrModel):
    """Backbone, dense encoder and dense decoder, without the heads.

    Built in chapter 17.
    """

    def __init__(self, config: DeformableDetrConfig) -> None:
        super().__init__(config)
        self.encoder = DenseEncoder(config)
        self.decoder = DenseDecoder(config, self.backbone.position_embedding)
        del self.reference_points  # nothing looks from them

    def initial_queries(
        self, memory: Tensor, masks: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return contents and positions (B, Q, C) of the queries, the picture's centre (B, Q, 2), and None twice."""
        position, content = self.query_position_embeddings.weight.expand(len(memory), -1, -1).chunk(2, dim=-1)
        centre = torch.full((*position.shape[:2], 2), 0.5, device=memory.device)
        return content, position, centre, None, None


class DenseDetrForObjectDetection(DeformableDetrForObjectDetection):
    """The plain DETR: same configuration, inputs, outputs, losses and files as the deformable detector.

    Args:
        config: what to build; ``with_box_refine`` is switched off in a copy of it, and numbers of points play no part.

    Raises:
        ValueError: with ``two_stage``, since proposals need a map for every size of object.

    Built in chapter 17.
    """

    def __init__(self, config: DeformableDetrConfig) -> None:
        if isinstance(config, DeformableDetrConfig):  # the base refuses all else
            if config.two_stage:
                raise ValueError("two_stage = True, but a plain DETR proposes nothing: pass two_stage=False")
            config = DeformableDetrConfig.from_dict(config.to_dict(), with_box_refine=False)
        DeformableDetrPreTrainedModel.__init__(self, config)  # the detector's own would build deformable attention
        self.model = DenseDetrModel(config)
        self.class_embed, self.bbox_embed = build_heads(config)
