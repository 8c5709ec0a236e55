"""Who is responsible for which object? The Hungarian matching between queries and targets.

Built in chapter 13.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ddetr_lab.boxes import at_least_float32, cxcywh_to_xyxy, generalized_box_iou

__all__ = ["CostError", "HungarianMatcher", "focal_class_cost"]

# Fixed in the matcher, also where config.focal_alpha changes the loss.
ALPHA, GAMMA = 0.25, 2.0


class CostError(ValueError):
    """A cost cannot be told: a number in it is NaN or infinite, mostly since training has diverged."""


def focal_class_cost(logits: Tensor, class_labels: Tensor) -> Tensor:
    """Price of giving each query each target's class: focal loss if it is right, less focal loss if it is not.

    Args:
        logits: (..., Q, K).
        class_labels: (..., N) int64, with the same leading axes.

    Returns:
        (..., Q, N); low where the query already believes in the class.
    """
    wanted = class_labels[..., None, :].expand(*logits.shape[:-1], class_labels.shape[-1])  # (..., Q, N)
    probability = logits.sigmoid().gather(-1, wanted)
    positive = ALPHA * (1 - probability) ** GAMMA * -(probability + 1e-8).log()
    negative = (1 - ALPHA) * probability**GAMMA * -(1 - probability + 1e-8).log()
    return positive - negative


class HungarianMatcher:
    """Assign each target of a picture to one query of its own at the least total cost (DETR, eq. 1 and 2).

    Args:
        class_cost: weight of the class cost.
        bbox_cost: weight of the L1 distance of cxcywh boxes.
        giou_cost: weight of the negative generalised IoU.

    Raises:
        ValueError: if all weights are 0, for then every matching is as good.
    """

    def __init__(self, class_cost: float = 1.0, bbox_cost: float = 5.0, giou_cost: float = 2.0) -> None:
        if class_cost == 0 and bbox_cost == 0 and giou_cost == 0:
            raise ValueError("class_cost, bbox_cost and giou_cost are all 0: give at least one of them a weight")
        self.class_cost, self.bbox_cost, self.giou_cost = class_cost, bbox_cost, giou_cost

    def cost_matrix(self, logits: Tensor, boxes_cxcywh: Tensor, target: Mapping[str, Tensor]) -> Tensor:
        """Compute the cost of every pair of a query and an object.

        Args:
            logits: (Q, K) of one picture, or (B, Q, K).
            boxes_cxcywh: (Q, 4) or (B, Q, 4) in _norm.
            target: ``class_labels`` (N,) or (B, N) int64 and ``boxes`` (N, 4) or (B, N, 4) cxcywh in _norm.

        Returns:
            (Q, N) or (B, Q, N).
        """
        target_boxes = target["boxes"].to(boxes_cxcywh)
        distance = torch.cdist(boxes_cxcywh, target_boxes, p=1)
        overlap = generalized_box_iou(cxcywh_to_xyxy(boxes_cxcywh), cxcywh_to_xyxy(target_boxes))
        classes = focal_class_cost(logits, target["class_labels"].to(logits.device))
        return self.bbox_cost * distance + self.class_cost * classes - self.giou_cost * overlap

    @torch.no_grad()
    def __call__(
        self, outputs: Mapping[str, Tensor], targets: Sequence[Mapping[str, Tensor]]
    ) -> list[tuple[Tensor, Tensor]]:
        """Match every picture of a batch.

        Args:
            outputs: ``logits`` (B, Q, K) and ``pred_boxes`` (B, Q, 4) cxcywh in _norm.
            targets: B dicts of ``class_labels`` (N,) int64 and ``boxes`` (N, 4) cxcywh in _norm.

        Returns:
            For each picture the queries (min(Q, N),) in rising order and the targets they get, int64 on the CPU. With
            more targets than queries the dearest targets stay without a query.

        Raises:
            CostError: if a logit, a predicted or a target box is NaN or infinite; the message says which, in which
                picture and at which query or object.
        """
        from scipy.optimize import linear_sum_assignment  # slow to import, and needed in training only

        logits, boxes = at_least_float32(outputs["logits"]), at_least_float32(outputs["pred_boxes"])
        remedy = "look for NaN in the pictures and in the weights, or lower the learning rate"
        _refuse_nan(logits, "logits", "query", remedy)
        _refuse_nan(boxes, "pred_boxes", "query", remedy)
        padded = _padded(targets, boxes)
        objects = sum(len(target["class_labels"]) for target in targets)  # the padding's rows are none of them
        _refuse_nan(padded["boxes"], "target boxes", "object", "correct the annotation", objects)
        # One computation and one transfer for the whole batch; the padding's columns are cut off.
        costs = self.cost_matrix(logits, boxes, padded).cpu().numpy()  # (B, Q, most N)
        pairs = []
        for cost, target in zip(costs, targets, strict=True):
            queries, chosen = linear_sum_assignment(cost[:, : len(target["class_labels"])])
            pairs.append((torch.as_tensor(queries, dtype=torch.int64), torch.as_tensor(chosen, dtype=torch.int64)))
        return pairs


def _padded(targets: Sequence[Mapping[str, Tensor]], like: Tensor) -> dict[str, Tensor]:
    """Stack targets of unequal length, zeros behind a picture's own: labels (B, most N) and boxes (B, most N, 4)."""
    labels = [target["class_labels"].to(like.device, torch.int64) for target in targets]
    boxes = [target["boxes"].to(like) for target in targets]
    if not targets:
        return {"class_labels": like.new_zeros((0, 0), dtype=torch.int64), "boxes": like.new_zeros((0, 0, 4))}
    return {"class_labels": pad_sequence(labels, batch_first=True), "boxes": pad_sequence(boxes, batch_first=True)}


def _refuse_nan(tensor: Tensor, name: str, row_name: str, remedy: str, rows: int | None = None) -> None:
    bad = ~torch.isfinite(tensor).all(-1)  # (B, rows)
    if bad.any():
        picture, row = (int(index) for index in bad.nonzero()[0])
        values = [round(value, 4) for value in tensor[picture, row].tolist()[:4]]
        raise CostError(
            f"the matcher cannot weigh {name} that are not finite: {int(bad.sum())} of "
            f"{bad.numel() if rows is None else rows} rows, "
            f"first picture {picture}, {row_name} {row}: {values}. To mend it, {remedy}"
        )
