"""The model without heads: backbone, feature levels, encoder, queries or proposals, decoder.

Built in chapter 12.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from ddetr_lab.backbone import FeatureEncoder, MapGroupNorm, downsample_mask
from ddetr_lab.boxes import at_least_float32
from ddetr_lab.checkpoints import PretrainedMixin
from ddetr_lab.config import DeformableDetrConfig
from ddetr_lab.decoder import Decoder
from ddetr_lab.encoder import Encoder, valid_ratios
from ddetr_lab.heads import build_heads
from ddetr_lab.outputs import DeformableDetrModelOutput, EncoderOutput
from ddetr_lab.proposals import grid_proposals, proposal_position_embedding, select_proposals

__all__ = ["DeformableDetrModel", "DeformableDetrPreTrainedModel"]

GROUPS = 32  # of the GroupNorm after each projection


class DeformableDetrPreTrainedModel(PretrainedMixin, nn.Module):
    """What both models share: a configuration, saving and loading, dtype and device."""

    config_class = DeformableDetrConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    framework = "pt"
    supports_gradient_checkpointing = is_gradient_checkpointing = False

    def __init__(self, config: DeformableDetrConfig) -> None:
        super().__init__()
        if not isinstance(config, DeformableDetrConfig):
            raise TypeError(
                f"config is a {type(config).__name__}, expected a DeformableDetrConfig; "
                "a folder or a hub name goes to .from_pretrained(...)"
            )
        config.validate()
        self.config = config

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters."""
        return next(self.parameters()).dtype

    @property
    def base_model(self) -> nn.Module:
        """The model without heads: itself, or what a detector is built around."""
        return getattr(self, self.base_model_prefix, self)

    @property
    def name_or_path(self) -> str:
        """Where the weights were loaded from, or an empty string."""
        return self.config.name_or_path

    @classmethod
    def can_generate(cls) -> bool:
        """Say that no text comes out; the reference's tools ask every model."""
        return False

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Count the numbers in all parameters, a shared one once.

        Args:
            only_trainable: leave out frozen ones.
            exclude_embeddings: leave out the tables of ``nn.Embedding``: queries and learned positions.
        """
        tables = {id(module.weight) for module in self.modules() if isinstance(module, nn.Embedding)}
        counted = [one for one in self.parameters() if not (exclude_embeddings and id(one) in tables)]
        return sum(one.numel() for one in counted if one.requires_grad or not only_trainable)

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Return how many bytes the parameters take, and the buffers if ``return_buffers``."""
        tensors = [*self.parameters(), *(self.buffers() if return_buffers else ())]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _projections(channels: Sequence[int], config: DeformableDetrConfig) -> nn.ModuleList:
    """Build the way from backbone maps to ``num_feature_levels`` maps of ``d_model`` channels.

    A 1x1 convolution for each backbone map, then 3x3 convolutions of stride 2: the first extra level from the raw last
    map, each further one from the projected level before it (paper, appendix A.2).
    """
    if len(channels) > config.num_feature_levels:
        raise ValueError(
            f"the backbone gives {len(channels)} feature maps, but num_feature_levels = {config.num_feature_levels}: "
            "ask for at least as many levels, or for fewer out_features in backbone_config"
        )
    convolutions = [nn.Conv2d(width, config.d_model, kernel_size=1) for width in channels]
    width = channels[-1]
    for _ in range(config.num_feature_levels - len(channels)):
        convolutions.append(nn.Conv2d(width, config.d_model, kernel_size=3, stride=2, padding=1))
        width = config.d_model
    for convolution in convolutions:
        nn.init.xavier_uniform_(convolution.weight)
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return nn.ModuleList(nn.Sequential(conv, MapGroupNorm(GROUPS, config.d_model)) for conv in convolutions)


def _check_pictures(pixel_values: Tensor, pixel_mask: Tensor | None, channels: int) -> None:
    for name, given in (("pixel_values", pixel_values), ("pixel_mask", pixel_mask)):
        if not isinstance(given, Tensor) and (given is not None or name == "pixel_values"):
            raise TypeError(
                f"{name} is a {type(given).__name__}, expected a torch.Tensor: "
                'call the image processor with return_tensors="pt"'
            )
    if pixel_values.ndim != 4 or pixel_values.shape[1] != channels:
        raise ValueError(f"pixel_values has shape {tuple(pixel_values.shape)}, expected (B, {channels}, H, W)")
    if 0 in pixel_values.shape[2:]:
        raise ValueError(
            f"pixel_values has shape {tuple(pixel_values.shape)}, expected pictures of at least one pixel: "
            "(B, C, H, W) with H and W above 0"
        )
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"pixel_values has dtype {pixel_values.dtype}, expected a float tensor: run the pictures through "
            "DeformableDetrImageProcessor, which scales and normalises them"
        )
    if pixel_mask is None:
        return
    expected = (pixel_values.shape[0], *pixel_values.shape[2:])
    if pixel_mask.shape != expected:
        raise ValueError(f"pixel_mask has shape {tuple(pixel_mask.shape)}, expected {expected} (B, H, W)")
    # On a GPU the look would cost a wait, and a traced graph cannot branch on what it sees.
    if torch.compiler.is_compiling() or pixel_mask.device.type != "cpu":
        return
    if not pixel_mask[:, 0, 0].all():
        picture = int((pixel_mask[:, 0, 0] == 0).nonzero()[0])
        raise ValueError(
            f"pixel_mask[{picture}] is 0 at its top left: real pixels are 1, and padding lies right and bottom. "
            "An inverted mask (True on padding, as in DETR's own code) needs 1 - mask"
        )


class DeformableDetrModel(DeformableDetrPreTrainedModel):
    """Backbone, encoder and decoder without the heads: from pictures to query states.

    Without heads a model with ``with_box_refine`` does not refine (its files keep the refinement heads with the
    detector); with ``two_stage`` it has heads of its own, for proposals cannot be made without.

    Args:
        config: what to build.
        class_embed: the detector's class heads, if a detector builds this model.
        bbox_embed: the detector's box heads.
    """

    def __init__(
        self,
        config: DeformableDetrConfig,
        *,
        class_embed: nn.ModuleList | None = None,
        bbox_embed: nn.ModuleList | None = None,
    ) -> None:
        super().__init__(config)
        if config.two_stage and (class_embed is None or bbox_embed is None):
            class_embed, bbox_embed = build_heads(config)
        self.backbone = FeatureEncoder(config)
        self.input_proj = _projections(self.backbone.conv_encoder.channels, config)
        self.level_embed = nn.Parameter(torch.randn(config.num_feature_levels, config.d_model))
        if not config.two_stage:
            # Queries start spread out, N(0, 1), as in the paper's code: with the 0.02 of other layers, every reference
            # point would start in the picture's middle.
            self.query_position_embeddings = nn.Embedding(config.num_queries, 2 * config.d_model)
        self.encoder = Encoder(config)
        self.decoder = Decoder(
            config,
            class_embed if config.two_stage else None,
            bbox_embed if config.with_box_refine else None,
        )
        if config.two_stage:
            self.enc_output = nn.Linear(config.d_model, config.d_model)
            self.enc_output_norm = nn.LayerNorm(config.d_model)
            self.pos_trans = nn.Linear(2 * config.d_model, 2 * config.d_model)
            self.pos_trans_norm = nn.LayerNorm(2 * config.d_model)
            linears = [self.enc_output, self.pos_trans]
        else:
            self.reference_points = nn.Linear(config.d_model, 2)
            linears = [self.reference_points]
        for linear in linears:
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def get_encoder(self) -> Encoder:
        """Return the encoder."""
        return self.encoder

    def get_decoder(self) -> Decoder:
        """Return the decoder."""
        return self.decoder

    def freeze_backbone(self) -> None:
        """Stop training the backbone's parameters."""
        self.backbone.conv_encoder.model.requires_grad_(False)

    def unfreeze_backbone(self) -> None:
        """Train all of the backbone's parameters, the stem included; its batch norms are buffers and stay frozen."""
        self.backbone.conv_encoder.model.requires_grad_(True)

    def feature_levels(self, pixel_values: Tensor, pixel_mask: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return L projected maps (B, C, H, W), finest first, and their masks (B, H, W), True on real cells."""
        features = self.backbone(pixel_values, pixel_mask)
        sources = [project(feature) for project, (feature, _) in zip(self.input_proj, features, strict=False)]
        masks = [mask for _, mask in features]
        below = features[-1][0]
        for project in self.input_proj[len(features) :]:
            below = project(below)
            sources.append(below)
            masks.append(downsample_mask(pixel_mask, below.shape[-2:]))
        return sources, masks

    def initial_queries(
        self, memory: Tensor, masks: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return what the decoder starts from.

        Args:
            memory: (B, S, C), the encoder's result.
            masks: L masks (B, H, W).

        Returns:
            Contents (B, Q, C), positions (B, Q, C), reference points (B, Q, 2 or 4) in _norm, and with two stages the
            class logits (B, S, K) and box logits (B, S, 4) of all cells, else None twice.
        """
        if not self.config.two_stage:
            both = self.query_position_embeddings.weight.expand(len(memory), -1, -1)  # (B, Q, 2C)
            position, content = both.chunk(2, dim=-1)
            return content, position, at_least_float32(self.reference_points(position)).sigmoid(), None, None
        class_embed, bbox_embed = self.decoder.class_embed, self.decoder.bbox_embed
        if class_embed is None or bbox_embed is None:
            raise ValueError("two_stage needs with_box_refine=True: the proposals come from the last box head")
        proposals, proposed = grid_proposals(masks)
        cells = self.enc_output_norm(self.enc_output(memory.masked_fill(~proposed[..., None], 0.0)))  # (B, S, C)
        class_logits = class_embed[-1](cells)
        box_logits = bbox_embed[-1](cells) + proposals
        best = select_proposals(class_logits, box_logits, self.config.two_stage_num_proposals)
        embedded = proposal_position_embedding(best, self.config.d_model).to(memory.dtype)
        position, content = self.pos_trans_norm(self.pos_trans(embedded)).chunk(2, dim=-1)
        return content, position, best.sigmoid(), class_logits, box_logits

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: EncoderOutput | tuple[Any, ...] | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> DeformableDetrModelOutput | tuple[Any, ...]:
        """Run the model.

        Args:
            pixel_values: (B, 3, H, W) float, normalised and padded right and bottom.
            pixel_mask: (B, H, W), 1 on real pixels; None means no padding.
            decoder_attention_mask: accepted for the reference's sake; changes nothing there or here.
            encoder_outputs: a finished encoder result (last_hidden_state (B, S, C), hidden_states, attentions), to run
                the decoder alone.
            inputs_embeds: accepted for the reference's sake; changes nothing there or here.
            decoder_inputs_embeds: accepted for the reference's sake; changes nothing there or here.
            output_attentions: return attention weights; None takes ``config.output_attentions``.
            output_hidden_states: return each layer's states; None takes ``config.output_hidden_states``.
            return_dict: False gives the record's set fields as a tuple; None takes ``config.use_return_dict``.

        Returns:
            A :class:`~ddetr_lab.outputs.DeformableDetrModelOutput`, or its tuple.

        Raises:
            TypeError: if pictures or mask are no tensors.
            ValueError: if pictures, mask or encoder outputs have the wrong shape.
        """
        _warn_of_unused(
            decoder_attention_mask=decoder_attention_mask,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
        )
        config = self.config
        attentions = config.output_attentions if output_attentions is None else output_attentions
        states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        _check_pictures(pixel_values, pixel_mask, (config.backbone_config or config).num_channels)
        if pixel_mask is None:
            pixel_mask = pixel_values.new_ones(pixel_values.shape[0], *pixel_values.shape[2:], dtype=torch.long)
        sources, masks = self.feature_levels(pixel_values.to(self.dtype), pixel_mask)
        spatial_shapes = [(source.shape[2], source.shape[3]) for source in sources]
        ratios = valid_ratios(masks)  # (B, L, 2)
        mask = _padding_mask(masks)
        if encoder_outputs is None:
            encoder_outputs = self._encode(sources, masks, mask, spatial_shapes, ratios, attentions, states)
        encoder_outputs = _as_encoder_output(encoder_outputs)
        memory = encoder_outputs.last_hidden_state
        tokens = sum(height * width for height, width in spatial_shapes)
        expected = (len(pixel_values), tokens, config.d_model)
        if memory is None or memory.shape != expected:
            shape = None if memory is None else tuple(memory.shape)
            raise ValueError(
                f"encoder_outputs has a last_hidden_state of shape {shape}, but "
                f"these pictures need {expected} (B, S, C): pass the pictures that the outputs came from"
            )
        content, position, reference, class_logits, box_logits = self.initial_queries(memory, masks)
        decoded = self.decoder(
            content, position, reference, spatial_shapes, None, ratios, memory, mask, attentions, states
        )
        result = DeformableDetrModelOutput(
            init_reference_points=reference,
            last_hidden_state=decoded.last_hidden_state,
            intermediate_hidden_states=decoded.intermediate_hidden_states,
            intermediate_reference_points=decoded.intermediate_reference_points,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
            encoder_last_hidden_state=memory,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
            enc_outputs_class=class_logits,
            enc_outputs_coord_logits=box_logits,
        )
        as_record = config.use_return_dict if return_dict is None else return_dict
        return result if as_record else result.to_tuple()

    def _encode(
        self,
        sources: Sequence[Tensor],
        masks: Sequence[Tensor],
        mask: Tensor | None,
        spatial_shapes: Sequence[tuple[int, int]],
        ratios: Tensor,
        output_attentions: bool,
        output_hidden_states: bool,
    ) -> EncoderOutput:
        """Flatten maps and positions, add each level's own vector to its positions, and run the encoder."""
        tokens = torch.cat([source.flatten(2).transpose(1, 2) for source in sources], dim=1)  # (B, S, C)
        positions = torch.cat(
            [
                self.backbone.position_embedding(source, level_mask).flatten(2).transpose(1, 2)
                + self.level_embed[level]
                for level, (source, level_mask) in enumerate(zip(sources, masks, strict=True))
            ],
            dim=1,
        )  # (B, S, C)
        return self.encoder(
            tokens, mask, positions, spatial_shapes, None, ratios, output_attentions, output_hidden_states
        )


def _padding_mask(masks: Sequence[Tensor]) -> Tensor | None:
    """Return (B, S) bool, True on real cells, or None where all are and a look at them costs nothing.

    A look would make a GPU wait, and a traced graph cannot branch on what it sees.
    """
    mask = torch.cat([level_mask.flatten(1) for level_mask in masks], dim=1)
    if torch.compiler.is_compiling() or mask.device.type != "cpu":
        return mask
    return None if bool(mask.all()) else mask


def _as_encoder_output(outputs: EncoderOutput | Mapping[str, Any] | Sequence[Any]) -> EncoderOutput:
    """Read an encoder's result by name where it has names (the reference's records do), else by position."""
    if isinstance(outputs, EncoderOutput):
        return outputs
    if isinstance(outputs, Mapping):
        return EncoderOutput(*(outputs.get(field.name) for field in fields(EncoderOutput)))
    return EncoderOutput(*outputs[:3])


def _warn_of_unused(**arguments: Tensor | None) -> None:
    for name, value in arguments.items():
        if value is not None:
            warnings.warn(f"{name} changes nothing in this model (nor in the reference): leave it out", stacklevel=3)
