"""The losses: focal for classes, L1 and generalised IoU for boxes, at every decoder layer and at the proposals.

Built in chapter 14.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor

from ddetr_lab.boxes import (
    at_least_float32,
    check_boxes_cxcywh,
    cxcywh_to_xyxy,
    elementwise_generalized_box_iou,
)
from ddetr_lab.config import DeformableDetrConfig
from ddetr_lab.matcher import HungarianMatcher

__all__ = ["DetectionLoss", "box_losses", "cardinality_error", "check_labels", "sigmoid_focal_loss"]

Targets = Sequence[Mapping[str, Tensor]]
Matches = Sequence[tuple[Tensor, Tensor]]


def sigmoid_focal_loss(
    logits: Tensor, targets: Tensor, num_boxes: float | Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Sum the focal loss (Lin et al., 2017, eq. 5) over queries and classes, divided by the number of boxes.

    Args:
        logits: (B, Q, K).
        targets: (B, Q, K), 1 at a query's class and 0 elsewhere.
        num_boxes: what to divide by: objects in the batch, at least 1.
        alpha: weight of the positive entries, the negative ones get 1 - alpha; below 0 both get 1.
        gamma: how strongly entries that are right already are played down.

    Returns:
        A scalar.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probability = logits.sigmoid()
    right = probability * targets + (1 - probability) * (1 - targets)
    loss = entropy * (1 - right) ** gamma
    if alpha >= 0:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    return loss.sum() / num_boxes


def _matched(tensors: Sequence[Tensor], matches: Matches, side: int) -> Tensor:
    """Gather the rows of each picture that take part in the matching, in matching order: (sum of matches, ...)."""
    return torch.cat([rows[pair[side].to(rows.device)] for rows, pair in zip(tensors, matches, strict=True)])


def _class_targets(logits: Tensor, targets: Targets, matches: Matches) -> Tensor:
    """Write (B, Q, K): 1 where a matched query should say its object's class, else 0."""
    onehot = torch.zeros_like(logits)
    for picture, (target, (queries, objects)) in enumerate(zip(targets, matches, strict=True)):
        onehot[picture, queries, target["class_labels"].cpu()[objects]] = 1.0
    return onehot


def box_losses(
    pred_boxes: Tensor, targets: Targets, matches: Matches, num_boxes: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Sum L1 distance and 1 - GIoU over matched pairs, divided by the number of boxes.

    Args:
        pred_boxes: (B, Q, 4) cxcywh in _norm.
        targets: B dicts with ``boxes`` (N, 4) cxcywh in _norm.
        matches: B pairs (queries, objects), from the matcher.
        num_boxes: what to divide by: objects in the batch, at least 1.

    Returns:
        Two scalars: the L1 loss and the GIoU loss. Without any object both are 0, with a gradient of 0.
    """
    predicted = _matched(list(pred_boxes), matches, side=0)  # (T, 4)
    wanted = _matched([target["boxes"].to(predicted) for target in targets], matches, side=1)  # (T, 4)
    l1 = F.l1_loss(predicted, wanted, reduction="sum") / num_boxes
    giou = elementwise_generalized_box_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
    return l1, (1 - giou).sum() / num_boxes


@torch.no_grad()
def cardinality_error(logits: Tensor, targets: Targets) -> Tensor:
    """Count objects badly: the mean over pictures of |queries whose best class is not the last one - objects|.

    Kept because the reference logs it. It was meant for a model with a "no object" class at the end, which this one
    does not have, so it says little; it has no gradient.
    """
    predicted = (logits.argmax(-1) != logits.shape[-1] - 1).sum(1)  # (B,)
    wanted = torch.tensor([len(target["class_labels"]) for target in targets], device=logits.device)
    return F.l1_loss(predicted.float(), wanted.float())


def check_labels(labels: Any, batch: int, num_labels: int) -> list[dict[str, Tensor]]:
    """Refuse labels that would train the model to something wrong, naming the picture and the object.

    Args:
        labels: B dicts of ``class_labels`` (N,) integer and ``boxes`` (N, 4) cxcywh in _norm; other keys are left out.
        batch: B.
        num_labels: K.

    Returns:
        The same as a list of dicts with int64 class labels.

    Raises:
        TypeError: if labels is no sequence of dicts of tensors.
        ValueError: if counts, shapes, class ids or boxes are off.
        KeyError: if a dict lacks a key.
    """
    if not isinstance(labels, (list, tuple)):
        raise TypeError(f"labels is a {type(labels).__name__}, expected a list with one dict a picture")
    if batch == 0:
        raise ValueError("labels and pixel_values hold no picture: there is no loss of an empty batch, leave it out")
    if len(labels) != batch:
        raise ValueError(f"labels has {len(labels)} entries, but the batch has {batch} pictures: one dict a picture")
    checked = []
    for picture, label in enumerate(labels):
        if not isinstance(label, Mapping):
            raise TypeError(
                f"labels[{picture}] is a {type(label).__name__}, expected a dict of class_labels and boxes "
                "(a picture without objects has one too, of 0 rows)"
            )
        missing = [key for key in ("class_labels", "boxes") if key not in label]
        if missing:
            raise KeyError(
                f"labels[{picture}] lacks {' and '.join(missing)}; it has {', '.join(map(str, label)) or 'nothing'}"
            )
        classes, boxes = label["class_labels"], label["boxes"]
        for name, tensor in (("class_labels", classes), ("boxes", boxes)):
            if not isinstance(tensor, Tensor):
                raise TypeError(f"labels[{picture}][{name!r}] is a {type(tensor).__name__}, expected a torch.Tensor")
        _check_classes(classes, picture, num_labels)
        check_boxes_cxcywh(boxes, f'labels[{picture}]["boxes"]')
        if len(classes) != len(boxes):
            raise ValueError(
                f"labels[{picture}] has {len(classes)} class_labels and {len(boxes)} boxes: an object needs one of each"
            )
        checked.append({"class_labels": classes.long(), "boxes": boxes})
    return checked


def _check_classes(classes: Tensor, picture: int, num_labels: int) -> None:
    if classes.ndim != 1:
        raise ValueError(f'labels[{picture}]["class_labels"] has shape {tuple(classes.shape)}, expected (N,)')
    if classes.is_floating_point() and len(classes):
        raise ValueError(f'labels[{picture}]["class_labels"] has dtype {classes.dtype}, expected torch.int64')
    outside = (classes < 0) | (classes >= num_labels)
    if outside.any():
        row = int(outside.nonzero()[0])
        raise ValueError(
            f"class_labels[{row}] = {int(classes[row])} in image {picture}, but the config has {num_labels} labels "
            f"(0 to {num_labels - 1}). COCO ids start at 1 and have holes: map them to 0, 1, 2 ... first, "
            "or raise num_labels"
        )


class DetectionLoss:
    """Match and compare at every decoder layer (and at the proposals), as ``config`` weighs it.

    The total holds ``loss_ce + bbox_loss_coefficient * loss_bbox + giou_loss_coefficient * loss_giou`` of the last
    layer, the same of each earlier layer under ``auxiliary_loss``, and the same of the proposals with two stages.
    (The reference reports the proposals' losses and leaves them out of the total: its first stage never learns.)
    """

    def __init__(self, config: DeformableDetrConfig) -> None:
        self.num_labels, self.alpha = config.num_labels, config.focal_alpha
        self.matcher = HungarianMatcher(config.class_cost, config.bbox_cost, config.giou_cost)
        self.weights = {
            "loss_ce": 1.0,
            "loss_bbox": config.bbox_loss_coefficient,
            "loss_giou": config.giou_loss_coefficient,
        }

    def of_layer(self, outputs: Mapping[str, Tensor], targets: Targets, num_boxes: float | Tensor) -> dict[str, Tensor]:
        """Match one layer's ``logits`` (B, Q, K) and ``pred_boxes`` (B, Q, 4) and return its losses by name."""
        logits, boxes = at_least_float32(outputs["logits"]), at_least_float32(outputs["pred_boxes"])
        matches = self.matcher({"logits": logits, "pred_boxes": boxes}, targets)
        onehot = _class_targets(logits, targets, matches)
        l1, giou = box_losses(boxes, targets, matches, num_boxes)
        return {
            "loss_ce": sigmoid_focal_loss(logits, onehot, num_boxes, self.alpha),
            "loss_bbox": l1,
            "loss_giou": giou,
            "cardinality_error": cardinality_error(logits, targets),
        }

    def __call__(
        self,
        outputs: Mapping[str, Tensor],
        labels: Any,
        auxiliary_outputs: Sequence[Mapping[str, Tensor]] = (),
        encoder_outputs: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the total and the single losses.

        Args:
            outputs: the last layer's ``logits`` (B, Q, K) and ``pred_boxes`` (B, Q, 4).
            labels: see :func:`check_labels`.
            auxiliary_outputs: the same two of each earlier layer.
            encoder_outputs: the same two of every cell, with two stages; there class 0 means "object".

        Returns:
            The total, and the single losses unweighted: ``loss_ce``, ``loss_bbox``, ``loss_giou`` and
            ``cardinality_error``, with ``_0``, ``_1`` ... for earlier layers and ``_enc`` for the proposals.

        Raises:
            ValueError, TypeError, KeyError: from :func:`check_labels` and the matcher.
        """
        targets = check_labels(labels, len(outputs["logits"]), self.num_labels)
        num_boxes = _boxes_per_process(targets, outputs["logits"].device)
        parts = [("", outputs, targets)]
        parts += [(f"_{index}", layer, targets) for index, layer in enumerate(auxiliary_outputs)]
        if encoder_outputs is not None:
            objects = [{**target, "class_labels": torch.zeros_like(target["class_labels"])} for target in targets]
            parts.append(("_enc", encoder_outputs, objects))
        losses: dict[str, Tensor] = {}
        total = outputs["logits"].new_zeros((), dtype=at_least_float32(outputs["logits"]).dtype)
        for suffix, layer, layer_targets in parts:
            of_layer = self.of_layer(layer, layer_targets, num_boxes)
            losses.update({name + suffix: loss for name, loss in of_layer.items()})
            total = total + sum(weight * of_layer[name] for name, weight in self.weights.items())
        return total, losses


def _boxes_per_process(targets: Targets, device: torch.device) -> float | Tensor:
    """Count the objects of the batch, averaged over processes, at least 1: the divisor that every loss shares."""
    count = float(sum(len(target["class_labels"]) for target in targets))
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return max(count, 1.0)
    everywhere = torch.tensor(count, device=device)
    torch.distributed.all_reduce(everywhere)
    return (everywhere / torch.distributed.get_world_size()).clamp(min=1.0)
