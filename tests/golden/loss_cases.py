"""Matching and losses on predictions made up for the purpose, and the files whose text is compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tests.golden.cases import TINY_RESNET
from tests.golden.generic_weights import uniform

__all__ = ["CONFIG_FILES", "LOSS_CASES", "LossCase", "PROCESSOR_FILES", "make_predictions", "make_targets"]


@dataclass(frozen=True)
class LossCase:
    """Predictions of ``queries`` boxes with ``labels`` classes, and ``targets`` boxes in each picture."""

    name: str
    queries: int
    labels: int
    targets: tuple[int, ...]
    class_cost: float = 1
    bbox_cost: float = 5
    giou_cost: float = 2
    focal_alpha: float = 0.25


LOSS_CASES: tuple[LossCase, ...] = (
    LossCase("three_pictures", 12, 7, (4, 0, 9)),
    LossCase("more_targets_than_queries", 5, 4, (8, 3)),
    LossCase("no_targets", 6, 3, (0, 0)),
    LossCase("one_label", 10, 1, (3, 5), class_cost=2),
    LossCase("class_cost_only", 10, 6, (4, 2), class_cost=1, bbox_cost=0, giou_cost=0),
    LossCase("other_alpha", 10, 6, (4, 2), class_cost=0.5, bbox_cost=1, giou_cost=3, focal_alpha=0.6),
)


def _boxes(key: str, *shape: int) -> np.ndarray:
    sizes = uniform(f"sizes {key}", (*shape, 2), 0.05, 0.6)
    centres = uniform(f"centres {key}", (*shape, 2), 0.1, 0.9)  # some reach over the picture's rim
    return np.concatenate((centres, sizes), axis=-1)


def make_predictions(case: LossCase) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (B, Q, K) and cxcywh boxes (B, Q, 4), leaves that want gradients."""
    batch = len(case.targets)
    logits = torch.from_numpy(uniform(f"logits of {case.name}", (batch, case.queries, case.labels), -4, 3))
    boxes = torch.from_numpy(_boxes(f"predicted for {case.name}", batch, case.queries))
    return logits.requires_grad_(), boxes.requires_grad_()


def make_targets(case: LossCase) -> list[dict[str, torch.Tensor]]:
    """Return the labels of each picture."""
    targets = []
    for index, count in enumerate(case.targets):
        classes = np.floor(uniform(f"classes {index} of {case.name}", (count,), 0, case.labels - 1e-3))
        boxes = _boxes(f"wanted {index} of {case.name}", count)
        targets.append({"class_labels": torch.from_numpy(classes.astype(np.int64)), "boxes": torch.from_numpy(boxes)})
    return targets


# Constructor arguments; the golden file has the text of the config.json that they lead to.
CONFIG_FILES: dict[str, dict[str, Any]] = {
    "default": {},
    "ninety_one_labels": {"num_labels": 91},
    "named_labels": {"id2label": {0: "one", 1: "two", 2: "three"}, "label2id": {"one": 0, "two": 1, "three": 2}},
    "two_stage": {"two_stage": True, "with_box_refine": True, "auxiliary_loss": True, "two_stage_num_proposals": 50},
    "other_numbers": {
        "d_model": 128, "encoder_layers": 2, "decoder_layers": 3, "num_feature_levels": 5, "dropout": 0.0,
        "position_embedding_type": "learned", "backbone": "resnet18", "use_pretrained_backbone": False,
        "dilation": True, "class_cost": 2.5, "focal_alpha": 0.4, "init_std": 0.01,
        "activation_function": "gelu", "num_queries": 7,
    },
    "backbone_dict": {"use_timm_backbone": False, "backbone_config": TINY_RESNET},
    "backbone_default": {"use_timm_backbone": False},
    "base_fields": {
        "output_attentions": True, "return_dict": False, "torch_dtype": "float16", "architectures": ["Some"],
        "my_own_field": [1, {"a": None}], "is_encoder_decoder": False,
    },
}  # fmt: skip

PROCESSOR_FILES: dict[str, dict[str, Any]] = {
    "default": {},
    "int_size": {"size": 480},
    "int_size_and_max": {"size": 480, "max_size": 600},
    "edges": {"size": {"shortest_edge": 320, "longest_edge": 512}},
    "height_and_width": {"size": {"height": 320, "width": 512}, "resample": 3},
    "panoptic": {"format": "coco_panoptic", "do_normalize": False},
    "numbers": {
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.1, 0.2, 0.3],
        "rescale_factor": 0.5,
        "do_rescale": False,
    },
    "pad_alias": {"pad_and_return_pixel_mask": False, "do_resize": False},
    "own_field": {"my_own_field": "kept"},
}
