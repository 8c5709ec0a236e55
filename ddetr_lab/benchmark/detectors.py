"""The detector that is timed, its pictures and its labels: ResNet-50 with weights from a seed.

Used in chapter 9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ddetr_lab.attention import MultiScaleDeformableAttention
from ddetr_lab.backbone import FrozenBatchNorm2d
from ddetr_lab.config import DeformableDetrConfig
from ddetr_lab.detector import DeformableDetrForObjectDetection

__all__ = ["FULL", "QUICK", "DetectorSizes", "build_detector", "make_labels", "make_pictures"]

SEED = 20201004
OFFSET_STD = 0.1  # times a query of 256 entries about 1.2 large: offsets move by about two cells
LOGIT_STD = 0.05  # likewise: attention weights between a hundredth and a half


@dataclass(frozen=True)
class DetectorSizes:
    """Which network, on how large pictures (height, width), with how many labelled objects in each."""

    fields: tuple[tuple[str, Any], ...]
    picture: tuple[int, int] = (800, 1066)
    training_picture: tuple[int, int] = (480, 640)
    objects: int = 10


FULL = DetectorSizes(fields=(("backbone", "resnet50"), ("num_labels", 91)))
QUICK = DetectorSizes(
    fields=(
        ("backbone", "resnet18"),
        ("num_labels", 91),
        ("d_model", 64),
        ("encoder_layers", 1),
        ("decoder_layers", 2),
        ("encoder_ffn_dim", 64),
        ("decoder_ffn_dim", 64),
        ("num_queries", 30),
    ),
    picture=(96, 128),
    training_picture=(64, 96),
    objects=3,
)


def build_detector(sizes: DetectorSizes, **fields: Any) -> DeformableDetrForObjectDetection:
    """Build a detector with weights from a seed, none of which is idle.

    A fresh detector has zeros where training soon has none: the last norm of every residual branch, the weights of
    sampling offsets and attention logits. They are filled, so that every branch carries numbers, samples lie where a
    trained layer's lie, and two implementations that agree on the result agree on all of it.
    """
    torch.manual_seed(SEED)
    config = DeformableDetrConfig(use_pretrained_backbone=False, **dict(sizes.fields) | fields)
    model = DeformableDetrForObjectDetection(config)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.weight.uniform_(0.5, 0.9)
                module.bias.normal_(std=0.1)
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.8, 1.2)
            elif isinstance(module, MultiScaleDeformableAttention):
                nn.init.normal_(module.sampling_offsets.weight, std=OFFSET_STD)
                nn.init.normal_(module.attention_weights.weight, std=LOGIT_STD)
    return model


def make_pictures(count: int, height: int, width: int) -> dict[str, Tensor]:
    """Return normalised noise (count, 3, H, W) and a mask of real pixels, as the processor would."""
    generator = torch.Generator().manual_seed(SEED)
    return {
        "pixel_values": torch.randn(count, 3, height, width, generator=generator),
        "pixel_mask": torch.ones(count, height, width, dtype=torch.long),
    }


def make_labels(count: int, objects: int, labels: int) -> list[dict[str, Tensor]]:
    """Return for each picture ``class_labels`` (N,) and ``boxes`` (N, 4) cxcywh in _norm, wholly inside."""
    generator = torch.Generator().manual_seed(SEED)
    made = []
    for _ in range(count):
        sides = 0.05 + 0.3 * torch.rand(objects, 2, generator=generator)
        centres = sides / 2 + (1 - sides) * torch.rand(objects, 2, generator=generator)
        kinds = torch.randint(labels, (objects,), generator=generator)
        made.append({"class_labels": kinds, "boxes": torch.cat((centres, sides), 1)})
    return made
