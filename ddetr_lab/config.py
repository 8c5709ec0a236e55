"""The configuration: one object that says everything about a model, checked field by field.

Built in chapter 12.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ddetr_lab.config_base import ConfigBase
from ddetr_lab.config_fields import check_field
from ddetr_lab.config_resnet import ResNetConfig

__all__ = ["PRESETS", "DeformableDetrConfig", "ResNetConfig", "preset"]


class DeformableDetrConfig(ConfigBase):
    """Everything that defines a Deformable DETR (transformers 4.34, ``DeformableDetrConfig``; arXiv:2010.04159).

    The defaults are the paper's ResNet-50 model without refinement. A field that changes nothing, here as in the
    reference, says so; it is kept so that a ``config.json`` goes back and forth unchanged. Fields may be set after
    construction; each is checked then, and ``validate`` (which building a model calls) checks how they fit together.

    Args:
        use_timm_backbone: take the backbone from timm; otherwise build the ResNet of ``backbone_config``.
        backbone_config: a ``ResNetConfig``, a dict of its fields (``model_type`` "resnet"), or None for ResNet-50 with
            its last map. Only without ``use_timm_backbone``.
        num_channels: channels of the picture, for a timm backbone; a ``ResNetConfig`` has its own.
        num_queries: object queries Q, the most objects that one picture can have; not used with ``two_stage``.
        max_position_embeddings: changes nothing.
        encoder_layers: layers of the encoder; 0 hands the projected maps straight on.
        encoder_ffn_dim: inner width of an encoder layer's feed-forward part.
        encoder_attention_heads: heads M in the encoder; ``num_attention_heads`` is another name for it.
        decoder_layers: layers of the decoder.
        decoder_ffn_dim: inner width of a decoder layer's feed-forward part.
        decoder_attention_heads: heads M in the decoder, of both attentions.
        encoder_layerdrop: changes nothing (0 to 1).
        is_encoder_decoder: changes nothing; True.
        activation_function: of the feed-forward parts, a name in ``ddetr_lab.activations.ACTIVATIONS``.
        d_model: channels C of every token; ``hidden_size`` is another name for it. A multiple of 32 (GroupNorm has 32
            groups) and of both numbers of heads.
        dropout: after attentions and feed-forward parts, 0 to 1.
        attention_dropout: on the weights of the decoder's self-attention, 0 to 1; deformable attention has none.
        activation_dropout: inside the feed-forward parts, 0 to 1.
        init_std: standard deviation of fresh weights.
        init_xavier_std: changes nothing.
        return_intermediate: changes nothing, and is not written: every decoder layer's output is always returned.
        auxiliary_loss: add the loss of every decoder layer, and return their predictions.
        position_embedding_type: ``"sine"`` or ``"learned"`` (maps of at most 50 x 50 cells).
        backbone: name of a timm model; not used with ``backbone_config``.
        use_pretrained_backbone: load timm's ImageNet weights when a new model is built; needs a network once.
        dilation: keep the last stage at stride 16 by dilation (timm only).
        num_feature_levels: levels L. With timm 1 (its last map) or 3 and more (its last three maps, then stride-2
            convolutions); with ``backbone_config`` at least as many as it has ``out_features``.
        encoder_n_points: sampling points P a level and head in the encoder.
        decoder_n_points: sampling points P a level and head in the decoder.
        two_stage: let the encoder propose the queries; needs ``with_box_refine``.
        two_stage_num_proposals: proposals kept with ``two_stage``, which are the queries then.
        with_box_refine: let each decoder layer refine the boxes of the one before.
        class_cost: weight of the class in the matching.
        bbox_cost: weight of the L1 distance in the matching.
        giou_cost: weight of the generalised IoU in the matching.
        mask_loss_coefficient: changes nothing: there is no mask head.
        dice_loss_coefficient: changes nothing: there is no mask head.
        bbox_loss_coefficient: weight of the L1 loss.
        giou_loss_coefficient: weight of the generalised-IoU loss.
        eos_coefficient: changes nothing: the focal loss has no "no object" class.
        focal_alpha: weight of the positive class in the focal loss, 0 to 1; below 0 switches it off.
        disable_custom_kernels: use the vectorised operator instead of a compiled one.
        **kwargs: ``num_labels`` (2), ``id2label``, ``label2id``, ``output_attentions``, ``output_hidden_states``,
            ``return_dict``, ``torch_dtype`` and the rest of ``config_fields.BASE_FIELDS``; others are kept.

    Raises:
        TypeError: for a field of the wrong type.
        ValueError: for one out of its range, or two that contradict each other.

    Built in chapter 12.
    """

    model_type = "deformable_detr"
    attribute_map = {"hidden_size": "d_model", "num_attention_heads": "encoder_attention_heads"}

    def __init__(
        self,
        use_timm_backbone: bool = True,
        backbone_config: ResNetConfig | Mapping[str, Any] | None = None,
        num_channels: int = 3,
        num_queries: int = 300,
        max_position_embeddings: int = 1024,
        encoder_layers: int = 6,
        encoder_ffn_dim: int = 1024,
        encoder_attention_heads: int = 8,
        decoder_layers: int = 6,
        decoder_ffn_dim: int = 1024,
        decoder_attention_heads: int = 8,
        encoder_layerdrop: float = 0.0,
        is_encoder_decoder: bool = True,
        activation_function: str = "relu",
        d_model: int = 256,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        init_std: float = 0.02,
        init_xavier_std: float = 1.0,
        return_intermediate: bool = True,
        auxiliary_loss: bool = False,
        position_embedding_type: str = "sine",
        backbone: str = "resnet50",
        use_pretrained_backbone: bool = True,
        dilation: bool = False,
        num_feature_levels: int = 4,
        encoder_n_points: int = 4,
        decoder_n_points: int = 4,
        two_stage: bool = False,
        two_stage_num_proposals: int = 300,
        with_box_refine: bool = False,
        class_cost: float = 1,
        bbox_cost: float = 5,
        giou_cost: float = 2,
        mask_loss_coefficient: float = 1,
        dice_loss_coefficient: float = 1,
        bbox_loss_coefficient: float = 5,
        giou_loss_coefficient: float = 2,
        eos_coefficient: float = 0.1,
        focal_alpha: float = 0.25,
        disable_custom_kernels: bool = False,
        **kwargs: Any,
    ) -> None:
        self.use_timm_backbone = use_timm_backbone
        self.backbone_config: ResNetConfig | None = backbone_config  # type: ignore[assignment]  # see __setattr__
        self.num_channels = num_channels
        self.num_queries = num_queries
        self.max_position_embeddings = max_position_embeddings
        self.encoder_layers = encoder_layers
        self.encoder_ffn_dim = encoder_ffn_dim
        self.encoder_attention_heads = encoder_attention_heads
        self.decoder_layers = decoder_layers
        self.decoder_ffn_dim = decoder_ffn_dim
        self.decoder_attention_heads = decoder_attention_heads
        self.encoder_layerdrop = encoder_layerdrop
        self.activation_function = activation_function
        self.d_model = d_model
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.activation_dropout = activation_dropout
        self.init_std = init_std
        self.init_xavier_std = init_xavier_std
        self.auxiliary_loss = auxiliary_loss
        self.position_embedding_type = position_embedding_type
        self.backbone = backbone
        self.use_pretrained_backbone = use_pretrained_backbone
        self.dilation = dilation
        self.num_feature_levels = num_feature_levels
        self.encoder_n_points = encoder_n_points
        self.decoder_n_points = decoder_n_points
        self.two_stage = two_stage
        self.two_stage_num_proposals = two_stage_num_proposals
        self.with_box_refine = with_box_refine
        self.class_cost = class_cost
        self.bbox_cost = bbox_cost
        self.giou_cost = giou_cost
        self.mask_loss_coefficient = mask_loss_coefficient
        self.dice_loss_coefficient = dice_loss_coefficient
        self.bbox_loss_coefficient = bbox_loss_coefficient
        self.giou_loss_coefficient = giou_loss_coefficient
        self.eos_coefficient = eos_coefficient
        self.focal_alpha = focal_alpha
        self.disable_custom_kernels = disable_custom_kernels
        check_field("return_intermediate", return_intermediate)
        super().__init__(is_encoder_decoder=is_encoder_decoder, **kwargs)
        if not self.use_timm_backbone and self.backbone_config is None:
            self.backbone_config = ResNetConfig(out_features=["stage4"])
        self.validate()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "backbone_config":
            value = _as_backbone_config(value)
        super().__setattr__(name, check_field(name, value))

    def validate(self) -> None:
        """Check how the fields fit together; the constructor and the models call it.

        Raises:
            ValueError: for the first contradiction; the message has the fields, their values and the remedy.
        """
        if self.use_timm_backbone and self.backbone_config is not None:
            raise ValueError(
                "use_timm_backbone = True and backbone_config contradict each other: "
                "pass use_timm_backbone=False to use backbone_config, or leave it out to use timm"
            )
        if self.use_timm_backbone and (not isinstance(self.backbone, str) or not self.backbone):
            raise ValueError(f"backbone = {self.backbone!r}, expected the name of a timm model such as 'resnet50'")
        if self.two_stage and not self.with_box_refine:
            raise ValueError("two_stage = True needs with_box_refine = True: the decoder refines the proposed boxes")
        if self.class_cost == self.bbox_cost == self.giou_cost == 0:
            raise ValueError("class_cost, bbox_cost and giou_cost are all 0, so nothing would match: raise one of them")
        self._check_width()
        self._check_levels()

    def _check_width(self) -> None:
        if self.d_model % 32:
            raise ValueError(f"d_model = {self.d_model}, expected a multiple of 32: GroupNorm splits it in 32 groups")
        for name in ("encoder_attention_heads", "decoder_attention_heads"):
            heads = getattr(self, name)
            if self.d_model % heads:
                raise ValueError(f"d_model = {self.d_model} does not split into {name} = {heads}: make it a multiple")

    def _check_levels(self) -> None:
        levels = self.num_feature_levels
        if self.use_timm_backbone:
            if levels == 2:
                raise ValueError(
                    "num_feature_levels = 2, expected 1 or at least 3: timm gives its last map, or the last three"
                )
            return
        maps = len(self.backbone_config.out_features) if self.backbone_config is not None else 1
        if levels < maps:
            raise ValueError(
                f"num_feature_levels = {levels}, but backbone_config.out_features names {maps} maps: "
                f"raise num_feature_levels to {maps} or more, or name fewer maps"
            )

    @property
    def hidden_size(self) -> int:
        """Another name for ``d_model``."""
        return self.d_model

    @hidden_size.setter
    def hidden_size(self, value: int) -> None:
        self.d_model = value

    @property
    def num_attention_heads(self) -> int:
        """Another name for ``encoder_attention_heads``."""
        return self.encoder_attention_heads

    @num_attention_heads.setter
    def num_attention_heads(self, value: int) -> None:
        self.encoder_attention_heads = value


def _as_backbone_config(value: Any) -> ResNetConfig | None:
    if value is None or isinstance(value, ResNetConfig):
        return value
    fields = value.to_dict() if hasattr(value, "to_dict") else value
    if not isinstance(fields, Mapping):
        raise TypeError(f"backbone_config is a {type(value).__name__}, expected a ResNetConfig, a dict or None")
    if fields.get("model_type", "resnet") != "resnet":
        raise ValueError(
            f"backbone_config has model_type {fields['model_type']!r}, expected 'resnet'; "
            "for another backbone use timm: use_timm_backbone=True, backbone=NAME"
        )
    return ResNetConfig.from_dict(fields)


# Class, L1 and overlap weigh 2 : 5 : 2 in the authors' code, in the matching and in the loss. The class loss itself
# always counts 1 here, so the others are halved: AdamW sees ratios only.
_AUTHORS_BALANCE = {"class_cost": 2, "bbox_loss_coefficient": 2.5, "giou_loss_coefficient": 1}

_DIGITS = {
    "backbone": "tf_efficientnet_lite0",
    "use_pretrained_backbone": False,  # the trainer takes the ImageNet weights from a package: no network
    "d_model": 128,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_ffn_dim": 512,
    "decoder_ffn_dim": 512,
    "num_queries": 50,
    "dropout": 0.0,
    "with_box_refine": True,
    "auxiliary_loss": True,
    **_AUTHORS_BALANCE,
    "id2label": {digit: str(digit) for digit in range(10)},
}

# Name -> the fields in which it differs from the defaults.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": _AUTHORS_BALANCE,
    "paper-refine": {**_AUTHORS_BALANCE, "with_box_refine": True},
    "paper-two-stage": {**_AUTHORS_BALANCE, "with_box_refine": True, "two_stage": True},
    "digits": _DIGITS,
}


def preset(name: str, **overrides: Any) -> DeformableDetrConfig:
    """Return a fresh configuration by name: ``"digits"`` (small, ten classes) or one of the paper's three.

    Args:
        name: a key of ``PRESETS``.
        **overrides: fields to change.

    Raises:
        KeyError: for an unknown name; the message lists those there are.
    """
    if name not in PRESETS:
        raise KeyError(f"preset({name!r}): unknown, expected one of {', '.join(PRESETS)}")
    config: DeformableDetrConfig = DeformableDetrConfig.from_dict(PRESETS[name], **overrides)
    return config
