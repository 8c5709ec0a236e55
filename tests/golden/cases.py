"""The model configurations that are compared with the reference, and their inputs. Imports neither implementation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tests.golden.generic_weights import uniform

__all__ = ["MODEL_CASES", "ModelCase", "case_named", "make_encoder_state", "make_labels", "make_pictures"]

# Small, yet with every size different from every other: a swapped axis does not survive that.
SMALL: dict[str, Any] = {
    "backbone": "resnet18",
    "use_pretrained_backbone": False,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 80,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 8,
    "encoder_n_points": 3,
    "decoder_n_points": 4,
    "num_queries": 9,
    "two_stage_num_proposals": 10,
    "num_labels": 5,
}

TINY_RESNET: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 24, 32, 40],
    "depths": [1, 2, 1, 2],
    "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}

RAGGED = ((72, 100), (57, 71))  # the second picture is padded on both sides
ALL_PADDED = ((72, 61), (43, 100), (50, 50))  # no picture fills the canvas


@dataclass(frozen=True)
class ModelCase:
    """One configuration with one batch.

    Attributes:
        name: also the name of its golden files.
        config: constructor arguments on top of ``SMALL``.
        canvas: height and width of the padded batch.
        sizes: height and width of each picture; None passes no pixel mask for ``batch`` full pictures.
        targets: how many boxes each picture has, or None for no labels.
        bare: use the model without heads.
        own_encoder_state: pass ``encoder_outputs`` instead of running the encoder.
        training: run in train mode (the configuration must have no dropout).
        float64: also compare in double precision.
        float64_tolerance: what may remain there. Sine positions are computed in single precision by the reference, and
            single-precision sines differ by one unit in the last place between processors.
        saved: also compare the names inside the written safetensors file.
        seed: of weights; pictures and labels depend on the name. Chosen so that no result hangs on rounding.
    """

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    canvas: tuple[int, int] = (72, 100)
    sizes: tuple[tuple[int, int], ...] | None = None
    batch: int = 2
    targets: tuple[int, ...] | None = (3, 2)
    bare: bool = False
    own_encoder_state: bool = False
    training: bool = False
    float64: bool = False
    float64_tolerance: float = 1e-10
    saved: bool = False
    seed: int = 0

    @property
    def full_config(self) -> dict[str, Any]:
        """Return all constructor arguments of the configuration."""
        merged = {**SMALL, **self.config}
        if merged.get("backbone_config") is not None:
            merged["use_timm_backbone"] = False
        return merged

    @property
    def batch_size(self) -> int:
        """Return the number of pictures."""
        return self.batch if self.sizes is None else len(self.sizes)


def _tiny(**changes: Any) -> dict[str, Any]:
    return {**TINY_RESNET, **changes}


_REFINE: dict[str, Any] = {"with_box_refine": True}
_TWO_STAGE: dict[str, Any] = {"with_box_refine": True, "two_stage": True}
_AUX: dict[str, Any] = {"auxiliary_loss": True}
_WIDE: dict[str, Any] = {"d_model": 128}
_LEARNED: dict[str, Any] = {"position_embedding_type": "learned"}

MODEL_CASES: tuple[ModelCase, ...] = (
    # Four levels, the default.
    ModelCase("levels4", saved=True, seed=1),
    ModelCase("levels4_mask", sizes=RAGGED, float64=True, float64_tolerance=1e-6, seed=2),
    ModelCase("levels4_refine_mask", _REFINE, sizes=RAGGED, saved=True),
    ModelCase("levels4_refine_aux_allpadded", {**_REFINE, **_AUX, "decoder_layers": 3}, sizes=ALL_PADDED,
              targets=(2, 0, 4)),
    ModelCase("levels4_twostage_aux_mask", {**_TWO_STAGE, **_AUX}, sizes=RAGGED, saved=True, float64=True,
              float64_tolerance=1e-6),
    ModelCase("levels4_twostage", _TWO_STAGE),
    ModelCase("levels4_learned_refine_mask", {**_LEARNED, **_REFINE, **_AUX}, sizes=RAGGED, float64=True),
    # One level: another backbone output, another projection.
    ModelCase("levels1_mask", {"num_feature_levels": 1}, sizes=RAGGED, seed=1),
    ModelCase("levels1_learned_refine_aux", {**_REFINE, **_AUX, **_LEARNED, "num_feature_levels": 1}, float64=True),
    ModelCase("levels1_twostage_mask", {**_TWO_STAGE, "num_feature_levels": 1, "two_stage_num_proposals": 5},
              canvas=(104, 128), sizes=((104, 128), (100, 90)), seed=1),
    # Three levels: no extra convolution.
    ModelCase("levels3_learned_mask", {**_LEARNED, "num_feature_levels": 3}, sizes=RAGGED),
    ModelCase("levels3_refine_aux_mask", {**_REFINE, **_AUX, "num_feature_levels": 3}, sizes=RAGGED),
    ModelCase("levels3_twostage_learned", {**_TWO_STAGE, **_LEARNED, "num_feature_levels": 3}),
    # Five and six levels: convolutions on top of convolutions. Larger pictures and more channels than elsewhere: a
    # GroupNorm over two numbers, of a single cell, has a gradient that is all rounding.
    ModelCase("levels5_aux_mask", {**_AUX, **_WIDE, "num_feature_levels": 5}, canvas=(136, 120),
              sizes=((136, 90), (100, 120)), seed=1),
    ModelCase("levels5_twostage_aux_mask", {**_TWO_STAGE, **_AUX, **_WIDE, "num_feature_levels": 5}, canvas=(72, 136),
              sizes=((50, 136), (72, 101))),
    ModelCase("levels6_refine_aux_mask", {**_REFINE, **_AUX, **_WIDE, "num_feature_levels": 6}, canvas=(136, 72),
              sizes=((136, 60), (100, 72)), float64=True, float64_tolerance=1e-6),
    ModelCase("levels6_gelu", {"activation_function": "gelu", "num_feature_levels": 6}, canvas=(72, 136), seed=2),
    # Dilation, points, labels, channels.
    ModelCase("dilation_refine_mask", {**_REFINE, "dilation": True}, sizes=RAGGED),
    ModelCase("dilation_levels1", {"dilation": True, "num_feature_levels": 1}),
    ModelCase("points_1_5_one_label", {**_REFINE, **_AUX, "encoder_n_points": 1, "decoder_n_points": 5,
                                       "num_labels": 1}, sizes=RAGGED),
    ModelCase("labels91_gelu_one_picture", {**_AUX, "num_labels": 91, "activation_function": "gelu"}, batch=1,
              targets=(6,)),
    ModelCase("gray_pictures", {"num_channels": 1, "num_feature_levels": 3}, sizes=RAGGED),
    # The reference's own ResNet.
    ModelCase("resnet_refine_mask", {**_REFINE, **_AUX, "backbone_config": _tiny()}, sizes=RAGGED, saved=True,
              float64=True, float64_tolerance=1e-6),
    ModelCase("resnet_bottleneck_twostage_levels3", {
        **_TWO_STAGE, **_AUX, **_WIDE, "num_feature_levels": 3, "two_stage_num_proposals": 4,
        "backbone_config": _tiny(layer_type="bottleneck", out_features=["stage4"], downsample_in_first_stage=False)},
        canvas=(128, 120), sizes=((128, 120), (110, 77)), float64=True, float64_tolerance=1e-6),
    ModelCase("resnet_levels1_gelu", {
        "num_feature_levels": 1,
        "backbone_config": _tiny(out_features=["stage3"], hidden_act="gelu", downsample_in_first_stage=True)}),
    # Losses.
    ModelCase("loss_weights", {
        **_TWO_STAGE, **_AUX, "class_cost": 2, "bbox_cost": 3, "giou_cost": 1, "bbox_loss_coefficient": 2.5,
        "giou_loss_coefficient": 1.5, "focal_alpha": 0.4, "backbone_config": _tiny()},
        float64=True, float64_tolerance=1e-6),
    ModelCase("no_targets_at_all", {**_REFINE, **_AUX, "backbone_config": _tiny()}, targets=(0, 0), seed=1),
    ModelCase("no_labels", {**_TWO_STAGE, "backbone_config": _tiny()}, sizes=RAGGED, targets=None),
    ModelCase("train_mode", {
        **_REFINE, **_AUX, "dropout": 0.0, "disable_custom_kernels": True, "backbone_config": _tiny()},
        sizes=RAGGED, training=True),
    # Other ways in and out.
    ModelCase("encoder_outputs_given", {**_REFINE, "backbone_config": _tiny()}, sizes=RAGGED, own_encoder_state=True),
    ModelCase("bare_levels4_mask", {}, sizes=RAGGED, targets=None, bare=True),
    ModelCase("bare_resnet_learned_levels5", {**_LEARNED, "num_feature_levels": 5, "backbone_config": _tiny()},
              targets=None, bare=True),
)  # fmt: skip


def case_named(name: str) -> ModelCase:
    """Return the case of that name."""
    return next(case for case in MODEL_CASES if case.name == name)


def make_pictures(case: ModelCase) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return pixel values (B, C, H, W) float32 and the mask (B, H, W) int64, or None for it.

    Blocks of 8 pixels plus noise: after the strides, maps still differ from cell to cell. The padding holds noise as
    well, so that it matters where the mask is used.
    """
    height, width = case.canvas
    shape = (case.batch_size, case.full_config.get("num_channels", 3))
    coarse = uniform(f"blocks of {case.name}", (*shape, -(-height // 8), -(-width // 8)), -1.5, 1.5)
    blocks = np.kron(coarse, np.ones((8, 8), np.float32))[..., :height, :width]
    pixels = blocks + uniform(f"noise of {case.name}", (*shape, height, width), -0.7, 0.7)
    if case.sizes is None:
        return torch.from_numpy(pixels), None
    mask = torch.zeros(case.batch_size, height, width, dtype=torch.int64)
    for index, (real_height, real_width) in enumerate(case.sizes):
        mask[index, :real_height, :real_width] = 1
    return torch.from_numpy(pixels), mask


def make_labels(case: ModelCase, dtype: torch.dtype) -> list[dict[str, torch.Tensor]] | None:
    """Return class labels (N,) int64 and boxes (N, 4) cxcywh, in 0-1, for each picture."""
    if case.targets is None:
        return None
    labels = []
    for index, count in enumerate(case.targets):
        key = f"picture {index} of {case.name}"
        classes = np.floor(uniform(f"classes of {key}", (count,), 0, case.full_config["num_labels"] - 1e-3))
        sizes = uniform(f"sizes of {key}", (count, 2), 0.08, 0.5)
        centres = sizes / 2 + (1 - sizes) * uniform(f"centres of {key}", (count, 2), 0, 1)
        boxes = torch.from_numpy(np.concatenate((centres, sizes), axis=1)).to(dtype)
        labels.append({"class_labels": torch.from_numpy(classes.astype(np.int64)), "boxes": boxes})
    return labels


def make_encoder_state(case: ModelCase, shape: tuple[int, ...]) -> torch.Tensor:
    """Return an encoder result (B, S, C) float32 that no encoder has made."""
    return torch.from_numpy(uniform(f"encoder state of {case.name}", tuple(shape), -1.5, 1.5))
