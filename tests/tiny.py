"""Models small enough to build by the dozen, and inputs for them.

The network is the package's own ResNet with 8 to 32 channels, so that most tests need no timm: 60 thousand parameters
instead of 12 million.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ddetr_lab.config import DeformableDetrConfig
from tests.golden.generic_weights import fill_with_generic_weights

BACKBONE: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}
HEIGHT, WIDTH = 64, 96


def tiny_config(
    num_feature_levels: int = 4, backbone: dict[str, Any] | None = None, **fields: Any
) -> DeformableDetrConfig:
    """Return a small configuration without dropout; ``backbone`` changes fields of its ResNet."""
    maps = ["stage4"] if num_feature_levels == 1 else ["stage2", "stage3", "stage4"]
    settings: dict[str, Any] = {
        "use_timm_backbone": False,
        "backbone_config": BACKBONE | {"out_features": maps} | (backbone or {}),
        "num_feature_levels": num_feature_levels,
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "encoder_n_points": 3,
        "decoder_n_points": 2,
        "num_queries": 7,
        "two_stage_num_proposals": 6,
        "num_labels": 3,
        "dropout": 0.0,
    }
    return DeformableDetrConfig(**(settings | fields))


def generic(model: nn.Module) -> Any:
    """Fill a model with weights that hide nothing, and put it in evaluation mode."""
    fill_with_generic_weights(model)
    return model.eval()


def pictures(channels: int = 3) -> tuple[Tensor, Tensor]:
    """Return two pictures (2, channels, 64, 96) and their mask: the second is 48 x 64, padded right and bottom."""
    draw = torch.Generator().manual_seed(3)
    pixel_values = torch.randn(2, channels, HEIGHT, WIDTH, generator=draw)
    pixel_mask = torch.ones(2, HEIGHT, WIDTH, dtype=torch.long)
    pixel_mask[1, 48:] = 0
    pixel_mask[1, :, 64:] = 0
    return pixel_values * pixel_mask[:, None], pixel_mask


def labels() -> list[dict[str, Tensor]]:
    """Return labels for :func:`pictures`: two objects, and none."""
    boxes = torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.7, 0.5, 0.4, 0.5]])
    return [
        {"class_labels": torch.tensor([1, 2]), "boxes": boxes},
        {"class_labels": torch.zeros(0, dtype=torch.long), "boxes": torch.zeros(0, 4)},
    ]


def randomised(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """Give a batch norm numbers that show whether each is used, and put it into evaluation."""
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 1.5)
    return norm.eval()
