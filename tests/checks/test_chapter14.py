"""Chapter 14: the solution of each exercise passes; typical wrong answers fail, each with the intended hint."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ddetr_lab.boxes import box_iou, cxcywh_to_xyxy, elementwise_generalized_box_iou, generalized_box_iou
from ddetr_lab.checks import chapter14
from tests.checks.contract import *  # noqa: F403 (the tests that every chapter's checks pass)

Answer = Callable[..., Any]


def focal(
    alpha: float = 0.25, gamma: float = 2.0, score: Answer = torch.sigmoid, power: Answer | None = None
) -> Answer:
    """Make the sum of a focal loss over all entries, with another score or another modulating factor."""

    def answer(logits: Tensor, targets: Tensor) -> Tensor:
        p = score(logits)
        entropy = -targets * torch.log(p.clamp(1e-30)) - (1 - targets) * torch.log((1 - p).clamp(1e-30))
        wrong = targets * (1 - p) + (1 - targets) * p
        factor = wrong**gamma if power is None else power(p, wrong)
        value: Tensor = ((alpha * targets + (1 - alpha) * (1 - targets)) * factor * entropy).sum()
        return value

    return answer


def over(loss: Answer) -> Answer:
    """Divide by the number of boxes."""
    return lambda logits, targets, num_boxes: loss(logits, targets) / num_boxes


def good_loss(logits: Tensor, targets: Tensor, num_boxes: float) -> Tensor:
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p = logits.sigmoid()
    wrong = targets * (1 - p) + (1 - targets) * p
    return ((0.25 * targets + 0.75 * (1 - targets)) * wrong**2 * entropy).sum() / num_boxes


def unstable(logits: Tensor, targets: Tensor, num_boxes: float) -> Tensor:
    p = logits.sigmoid()
    right = targets * p + (1 - targets) * (1 - p)
    return (-(0.25 * targets + 0.75 * (1 - targets)) * (1 - right) ** 2 * right.log()).sum() / num_boxes


def good_slope(logits: Tensor, targets: Tensor, product_rule: float = 1.0) -> Tensor:
    p = logits.sigmoid()
    up = 0.25 * (1 - p) ** 2 * (product_rule * 2 * p * p.log() + p - 1)
    down = 0.75 * p**2 * (p - product_rule * 2 * (1 - p) * (1 - p).log())
    return targets * up + (1 - targets) * down


def pairs(
    take: Answer | None = None, l1: Answer | None = None, overlap: Answer | None = None, divide: bool = True
) -> Answer:
    """Make box losses that may take other rows, another distance, another overlap or another divisor."""

    def answer(pred: Tensor, boxes: Tensor, queries: Tensor, objects: Tensor, num_boxes: float) -> tuple[Any, Any]:
        one, two = take(pred, boxes, queries, objects) if take else (pred[queries], boxes[objects])
        corners = cxcywh_to_xyxy(one), cxcywh_to_xyxy(two)
        far = l1(one, two) if l1 else (one - two).abs().sum()
        apart = overlap(*corners) if overlap else (1 - elementwise_generalized_box_iou(*corners)).sum()
        count = num_boxes if divide else max(len(queries), 1)
        return far / count, apart / count

    return answer


def mean_reduction(pred: Tensor, boxes: Tensor, queries: Tensor, objects: Tensor, num_boxes: float) -> Any:
    one, two = pred[queries], boxes[objects]
    giou = elementwise_generalized_box_iou(cxcywh_to_xyxy(one), cxcywh_to_xyxy(two))
    return F.l1_loss(one, two), (1 - giou).mean()


RIGHT: list[tuple[Answer, Answer]] = [
    (chapter14.focal_loss, good_loss),
    (chapter14.focal_gradient, good_slope),
    (chapter14.matched_box_losses, pairs()),
]

WRONG: list[tuple[Answer, Answer, str]] = [
    (chapter14.focal_loss, over(focal(score=lambda z: z.softmax(-1))), "softmax"),
    (chapter14.focal_loss, over(focal(power=lambda p, wrong: (1 - p) ** 2)), "every entry got the factor"),
    (chapter14.focal_loss, over(focal(power=lambda p, wrong: (1 - wrong) ** 2)), "plays down the hard"),
    (chapter14.focal_loss, over(focal(alpha=0.75)), "exchanged"),
    (chapter14.focal_loss, lambda z, t, n: 2 * focal(alpha=0.5)(z, t) / n, "alpha is missing"),
    (chapter14.focal_loss, over(focal(gamma=0.0)), "weighted cross-entropy"),
    (chapter14.focal_loss, lambda z, t, n: focal()(z, t) / z.numel(), "mean over all entries"),
    (chapter14.focal_loss, lambda z, t, n: focal()(z, t), "not divided"),
    (chapter14.focal_loss, unstable, "logits of 200"),
    (chapter14.focal_gradient, lambda z, t: good_slope(z, t, product_rule=0.0), "product rule"),
    (chapter14.focal_gradient, lambda z, t: z.sigmoid() - t, "plain cross-entropy"),
    (chapter14.focal_gradient, lambda z, t: good_slope(z, t) * (2 * t - 1), "wrong sign"),
    (chapter14.focal_gradient, lambda z, t: -good_slope(z, t), "sign is turned"),
    (
        chapter14.focal_gradient,
        lambda z, t: good_slope(z, t) / (z.sigmoid() * (1 - z.sigmoid())),
        "with respect to the probability",
    ),
    (chapter14.focal_gradient, lambda z, t: good_slope(z, t) / (0.75 - 0.5 * t), "alpha is missing"),
    (chapter14.focal_gradient, lambda z, t: good_slope(z, t) / z.numel(), "gradient of the mean"),
    (chapter14.matched_box_losses, pairs(lambda p, b, q, o: (p[q], b[: len(q)])), "order of the annotation"),
    (chapter14.matched_box_losses, pairs(lambda p, b, q, o: (p[: len(q)], b[o])), "the first queries"),
    (
        chapter14.matched_box_losses,
        pairs(overlap=lambda a, b: (1 - generalized_box_iou(a, b)).sum()),
        "only matched pairs count",
    ),
    (
        chapter14.matched_box_losses,
        pairs(overlap=lambda a, b: (1 - box_iou(a, b)[0].diagonal()).sum()),
        "plain IoU",
    ),
    (
        chapter14.matched_box_losses,
        pairs(overlap=lambda a, b: elementwise_generalized_box_iou(a, b).sum()),
        "sums the overlap",
    ),
    (chapter14.matched_box_losses, mean_reduction, "mean by default"),
    (chapter14.matched_box_losses, pairs(divide=False), "the whole batch"),
    (
        chapter14.matched_box_losses,
        pairs(l1=lambda a, b: (cxcywh_to_xyxy(a) - cxcywh_to_xyxy(b)).abs().sum()),
        "centre and size",
    ),
]
