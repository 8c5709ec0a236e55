"""Run this package on the golden cases."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ddetr_lab import (
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    DeformableDetrImageProcessor,
    DeformableDetrModel,
)
from ddetr_lab.losses import DetectionLoss
from ddetr_lab.matcher import HungarianMatcher
from ddetr_lab.outputs import DeformableDetrObjectDetectionOutput
from tests.golden.cases import ModelCase, case_named
from tests.golden.loss_cases import LossCase, make_predictions, make_targets
from tests.golden.processor_cases import (
    PostProcessCase,
    ProcessorCase,
    make_raw_outputs,
    make_target_sizes,
    record_processor,
)
from tests.golden.recording import Recording, record

__all__ = ["build", "run_losses", "run_model", "run_post_processing", "run_processor"]


def build(case: ModelCase) -> nn.Module:
    """Construct this package's model of a case."""
    config = DeformableDetrConfig(**case.full_config)
    return DeformableDetrModel(config) if case.bare else DeformableDetrForObjectDetection(config)


@cache
def run_model(name: str, dtype: torch.dtype = torch.float32) -> Recording:
    """Run a case once in a process, whoever asks."""
    case = case_named(name)
    return record(build(case), case, dtype)


def run_losses(case: LossCase) -> dict[str, np.ndarray]:
    """Match made-up predictions and compute their losses and gradients, named as in the golden file."""
    config = DeformableDetrConfig(
        num_labels=case.labels,
        class_cost=case.class_cost,
        bbox_cost=case.bbox_cost,
        giou_cost=case.giou_cost,
        focal_alpha=case.focal_alpha,
    )
    logits, boxes = make_predictions(case)
    targets = make_targets(case)
    predictions = {"logits": logits, "pred_boxes": boxes}
    found: dict[str, torch.Tensor] = {}
    matcher = HungarianMatcher(case.class_cost, case.bbox_cost, case.giou_cost)
    for index, (queries, wanted) in enumerate(matcher(predictions, targets)):
        found[f"queries.{index}"], found[f"targets.{index}"] = queries, wanted
    total, losses = DetectionLoss(config)(predictions, targets)
    total.backward()
    found |= losses | {"gradient of logits": logits.grad, "gradient of boxes": boxes.grad}
    return {key: value.detach().numpy() for key, value in found.items()}


def run_processor(case: ProcessorCase, masks_path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Process a case's pictures."""
    return record_processor(DeformableDetrImageProcessor(**case.init), case, masks_path)


def run_post_processing(case: PostProcessCase) -> dict[str, np.ndarray]:
    """Turn made-up outputs into detections, named as in the golden file."""
    outputs = DeformableDetrObjectDetectionOutput(**make_raw_outputs(case))
    method = getattr(DeformableDetrImageProcessor(), case.method)
    results = method(outputs, **case.call, target_sizes=make_target_sizes(case))
    return {f"{index}.{key}": value.numpy() for index, result in enumerate(results) for key, value in result.items()}
