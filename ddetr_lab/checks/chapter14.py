"""The checks of chapter 14: the focal loss, its gradient, and the losses of matched boxes.

Built in chapter 14.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ddetr_lab.boxes import box_iou, cxcywh_to_xyxy, generalized_box_iou
from ddetr_lab.checks.core import (
    Answer,
    Mistake,
    Passed,
    check_function,
    generator,
    random_boxes_cxcywh,
    random_integer,
)
from ddetr_lab.losses import box_losses, sigmoid_focal_loss

__all__ = ["focal_gradient", "focal_loss", "matched_box_losses"]

_ALPHA, _GAMMA = 0.25, 2.0


def _entries(logits: Tensor, targets: Tensor, alpha: float = _ALPHA, gamma: float = _GAMMA) -> Tensor:
    """Return the focal loss of every entry, before any sum."""
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    right = torch.where(targets == 1, logits.sigmoid(), (-logits).sigmoid())
    return torch.where(targets == 1, alpha, 1 - alpha) * (1 - right) ** gamma * entropy


def focal_loss(answer: Answer) -> Passed:
    """Check a function from logits and targets (B, Q, K) and a number of boxes to the focal loss, a scalar."""

    def reference(logits: Tensor, targets: Tensor, num_boxes: float) -> Tensor:
        return sigmoid_focal_loss(logits, targets, num_boxes)

    def softmax(logits: Tensor, targets: Tensor, num_boxes: float) -> Tensor:
        p = logits.softmax(-1)
        right = torch.where(targets == 1, p, 1 - p)
        weight = torch.where(targets == 1, _ALPHA, 1 - _ALPHA)
        return -(weight * (1 - right) ** _GAMMA * right.log()).sum() / num_boxes

    def one_sided(logits: Tensor, targets: Tensor, num_boxes: float) -> Tensor:
        entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        weight = torch.where(targets == 1, _ALPHA, 1 - _ALPHA)
        return (weight * (1 - logits.sigmoid()) ** _GAMMA * entropy).sum() / num_boxes

    def turned(logits: Tensor, targets: Tensor, num_boxes: float) -> Tensor:
        entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        right = torch.where(targets == 1, logits.sigmoid(), (-logits).sigmoid())
        weight = torch.where(targets == 1, _ALPHA, 1 - _ALPHA)
        return (weight * right**_GAMMA * entropy).sum() / num_boxes

    def unstable(logits: Tensor, targets: Tensor, num_boxes: float) -> Tensor:
        p = logits.sigmoid()
        right = p * targets + (1 - p) * (1 - targets)
        weight = _ALPHA * targets + (1 - _ALPHA) * (1 - targets)
        return -(weight * (1 - right) ** _GAMMA * right.log()).sum() / num_boxes

    def cut_off(eps: float) -> Answer:
        def wrong(logits: Tensor, targets: Tensor, num_boxes: float) -> Tensor:
            p = logits.sigmoid()
            right = torch.where(targets == 1, p, 1 - p).clamp(min=eps)
            weight = torch.where(targets == 1, _ALPHA, 1 - _ALPHA)
            return -(weight * (1 - right) ** _GAMMA * right.log()).sum() / num_boxes

        return wrong

    def of_the_mean(logits: Tensor, targets: Tensor, num_boxes: float) -> Tensor:
        entropy = F.binary_cross_entropy_with_logits(logits, targets)
        right = torch.where(targets == 1, logits.sigmoid(), (-logits).sigmoid())
        return (torch.where(targets == 1, _ALPHA, 1 - _ALPHA) * (1 - right) ** _GAMMA * entropy).sum() / num_boxes

    too_small = (
        "right for moderate logits, but the last input holds logits of 200, and a logarithm that is kept finite by a "
        "small number stops growing there. F.binary_cross_entropy_with_logits takes the logit itself, and goes on."
    )
    mistakes = [
        *(
            Mistake(cut_off(eps), too_small)
            for eps in (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12, 1.1920929e-07)
        ),
        Mistake(of_the_mean, 'binary cross-entropy takes the mean by default: reduction="none" keeps the entries.'),
        Mistake(
            unstable,
            "right for moderate logits, but the last input holds logits of 200, where the score rounds to 1 and its "
            "logarithm to minus infinity. F.binary_cross_entropy_with_logits stays finite.",
        ),
        Mistake(softmax, "these are the probabilities of a softmax: every entry is a yes-or-no question of its own."),
        Mistake(
            one_sided,
            "every entry got the factor (1 - p)^2: p is the score, but the factor asks for the probability of the "
            "right answer, which is 1 - p where the target is 0.",
        ),
        Mistake(turned, "the factor is p_t^2, so it plays down the hard entries: it should be (1 - p_t)^2."),
        Mistake(
            lambda z, t, n: _entries(z, t, alpha=1 - _ALPHA).sum() / n,
            "alpha and 1 - alpha are exchanged: 0.25 weighs the positive entries, 0.75 the negative ones.",
        ),
        Mistake(
            lambda z, t, n: _entries(z, t, alpha=0.5).sum() * 2 / n,
            "alpha is missing: 0.25 weighs the positive entries, 0.75 the negative ones.",
        ),
        Mistake(
            lambda z, t, n: (_entries(z, t) / torch.where(t == 1, 1, 3)).sum() / n,
            "all entries have the weight 0.25: alpha_t is 1 - alpha, 0.75, where the target is 0.",
        ),
        Mistake(
            lambda z, t, n: _entries(z, t, gamma=1.0).sum() / n,
            "the factor (1 - p_t) has the exponent 1: gamma is 2.",
        ),
        Mistake(
            lambda z, t, n: _entries(z, t).sum() / t.sum().clamp(min=1),
            "divided by the positive entries of this input: the number of boxes is handed in.",
        ),
        Mistake(lambda z, t, n: -_entries(z, t).sum() / n, "the sign is turned: a logarithm of p_t is negative."),
        Mistake(
            lambda z, t, n: _entries(z, t, gamma=0.0).sum() / n,
            "this is weighted cross-entropy: the factor (1 - p_t)^2 is missing.",
        ),
        Mistake(
            lambda z, t, n: _entries(z, t).mean(),
            "this is the mean over all entries: divide the sum by the number of boxes, or the few positives drown.",
        ),
        Mistake(lambda z, t, n: _entries(z, t).sum(), "the sum is right, but not divided by the number of boxes."),
    ]
    return check_function(answer, reference, _class_cases(), mistakes, name="focal_loss")


def _class_cases() -> Iterator[tuple[Tensor, Tensor, float]]:
    """Yield logits and one-hot targets (B, Q, K): a few positives, none at all, and logits that overflow."""
    rng = generator(141)
    for positives in (4, 1, 0, 3):
        batch, queries, labels = random_integer(rng, 1, 3), random_integer(rng, 5, 9), random_integer(rng, 2, 6)
        logits = torch.randn(batch, queries, labels, generator=rng) * 2 - 1
        targets = torch.zeros_like(logits)
        targets.view(-1)[torch.randperm(targets.numel(), generator=rng)[:positives]] = 1.0
        yield logits, targets, float(max(positives, 1) + 1)
    logits, targets = torch.tensor([[[200.0, -200.0, 0.3]]]), torch.tensor([[[0.0, 1.0, 1.0]]])
    yield logits, targets, 2.0


def focal_gradient(answer: Answer) -> Passed:
    """Check a function from logits and targets of one shape to the derivative of each entry's focal loss."""

    def reference(logits: Tensor, targets: Tensor) -> Tensor:
        z = logits.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(_entries(z, targets).sum(), z)
        return slope

    def parts(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return sign, probability of the right answer, and weight: in these one formula holds for both targets."""
        sign = 2 * targets - 1
        return sign, (sign * logits).sigmoid(), torch.where(targets == 1, _ALPHA, 1 - _ALPHA)

    def slope(logits: Tensor, targets: Tensor, gamma_term: float = 1.0, signed: bool = True) -> Tensor:
        sign, right, weight = parts(logits, targets)
        bracket = gamma_term * _GAMMA * right * F.logsigmoid((2 * targets - 1) * logits) + right - 1
        return (sign if signed else 1) * weight * (1 - right) ** _GAMMA * bracket

    def by_probability(logits: Tensor, targets: Tensor) -> Tensor:
        p = logits.sigmoid()
        return slope(logits, targets) / (p * (1 - p))

    def unweighted(logits: Tensor, targets: Tensor) -> Tensor:
        return slope(logits, targets) / parts(logits, targets)[2]

    mistakes = [
        Mistake(
            lambda z, t: slope(z, t, gamma_term=0.0),
            "the factor (1 - p_t)^2 was held fixed: it depends on z as well, so the product rule gives a second term.",
        ),
        Mistake(lambda z, t: z.sigmoid() - t, "this is the gradient of plain cross-entropy, p - y."),
        Mistake(
            lambda z, t: slope(z, t, signed=False),
            "the entries with target 0 have the wrong sign: there a larger logit makes the loss larger.",
        ),
        Mistake(
            lambda z, t: slope(z, torch.ones_like(t)),
            "every entry got the slope for target 1: where the target is 0 there is another one.",
        ),
        Mistake(
            lambda z, t: slope(z, t) / torch.where(t == 1, 1, 3),
            "all entries have the weight 0.25: where the target is 0 it is 1 - alpha, 0.75.",
        ),
        Mistake(lambda z, t: -slope(z, t), "the sign is turned: this is the way down, the gradient points up."),
        Mistake(
            by_probability,
            "this is the derivative with respect to the probability: times p (1 - p) it is the one for the logit.",
        ),
        Mistake(unweighted, "alpha is missing: 0.25 for target 1, 0.75 for target 0."),
        Mistake(
            lambda z, t: slope(z, t) / z.numel(),
            "this is the gradient of the mean: every entry's own derivative is asked for.",
        ),
    ]
    rng = generator(142)
    cases = []
    for shape in ((4, 5), (1, 3), (2, 3, 4), (0, 3)):
        logits = torch.randn(shape, generator=rng, dtype=torch.float64) * 3
        cases.append((logits, (torch.rand(shape, generator=rng) < 0.4).double()))
    return check_function(answer, reference, cases, mistakes, name="focal_gradient")


def matched_box_losses(answer: Answer) -> Passed:
    """Check a function from boxes and matched pairs of one picture to the two box losses, scalars."""

    def reference(
        pred_boxes: Tensor, boxes: Tensor, queries: Tensor, objects: Tensor, num_boxes: float
    ) -> tuple[Tensor, Tensor]:
        return box_losses(pred_boxes[None], [{"boxes": boxes}], [(queries, objects)], num_boxes)

    def losses(predicted: Tensor, wanted: Tensor, num_boxes: float) -> tuple[Tensor, Tensor]:
        giou = generalized_box_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted)).diagonal()
        return (predicted - wanted).abs().sum() / num_boxes, (1 - giou).sum() / num_boxes

    def unordered(p: Tensor, b: Tensor, q: Tensor, o: Tensor, n: float) -> tuple[Tensor, Tensor]:
        return losses(p[q], b[: len(q)], n)

    def first_queries(p: Tensor, b: Tensor, q: Tensor, o: Tensor, n: float) -> tuple[Tensor, Tensor]:
        return losses(p[: len(q)], b[o], n)

    def all_pairs(p: Tensor, b: Tensor, q: Tensor, o: Tensor, n: float) -> tuple[Tensor, Tensor]:
        overlap = generalized_box_iou(cxcywh_to_xyxy(p[q]), cxcywh_to_xyxy(b[o]))
        return losses(p[q], b[o], n)[0], (1 - overlap).sum() / n

    def plain_iou(p: Tensor, b: Tensor, q: Tensor, o: Tensor, n: float) -> tuple[Tensor, Tensor]:
        overlap = box_iou(cxcywh_to_xyxy(p[q]), cxcywh_to_xyxy(b[o]))[0].diagonal()
        return losses(p[q], b[o], n)[0], (1 - overlap).sum() / n

    def overlap_itself(p: Tensor, b: Tensor, q: Tensor, o: Tensor, n: float) -> tuple[Tensor, Tensor]:
        l1, giou = losses(p[q], b[o], n)
        return l1, len(q) / n - giou

    def means(p: Tensor, b: Tensor, q: Tensor, o: Tensor, n: float) -> tuple[Tensor, Tensor]:
        l1, giou = losses(p[q], b[o], max(len(q), 1))
        return l1 / 4, giou

    def by_matches(p: Tensor, b: Tensor, q: Tensor, o: Tensor, n: float) -> tuple[Tensor, Tensor]:
        return losses(p[q], b[o], max(len(q), 1))

    def corners(p: Tensor, b: Tensor, q: Tensor, o: Tensor, n: float) -> tuple[Tensor, Tensor]:
        l1, giou = losses(p[q], b[o], n)
        return (cxcywh_to_xyxy(p[q]) - cxcywh_to_xyxy(b[o])).abs().sum() / n, giou

    def planted(p: Tensor, b: Tensor, q: Tensor, o: Tensor, n: float) -> tuple[Tensor, Tensor]:
        return all_pairs(p, b, q, torch.arange(len(q)), n)

    def exchanged(*arguments: Any) -> tuple[Tensor, Tensor]:
        l1, giou = reference(*arguments)
        return giou, l1

    mistakes = [
        Mistake(
            planted,
            "both faults are still there: the objects come in the order of the annotation, and the overlap is summed "
            "over every query with every object.",
        ),
        Mistake(exchanged, "the two are exchanged: first the L1 loss, then the GIoU loss."),
        Mistake(
            unordered,
            "the objects were taken in the order of the annotation: the matching says which object belongs to which "
            "query, so take boxes[objects].",
        ),
        Mistake(first_queries, "the first queries were taken, not the matched ones: pred_boxes[queries]."),
        Mistake(
            all_pairs,
            "the overlap of every query with every object was summed: only matched pairs count, the diagonal.",
        ),
        Mistake(plain_iou, "this is the plain IoU, whose gradient is 0 as soon as the boxes part."),
        Mistake(overlap_itself, "this sums the overlap: a loss has to fall as the overlap grows, 1 - GIoU."),
        Mistake(means, "F.l1_loss takes the mean by default: sum, and divide by num_boxes."),
        Mistake(
            lambda *arguments: (reference(*arguments)[0] / 4, reference(*arguments)[1]),
            "the L1 loss sums the four differences of a box: this is their mean.",
        ),
        Mistake(
            by_matches,
            "divided by the pairs of this picture: num_boxes counts the whole batch, so that every object weighs the "
            "same.",
        ),
        Mistake(corners, "the L1 loss compares centre and size; only the overlap needs corners."),
    ]
    return check_function(
        _zero_as_tensor(answer),
        reference,
        _box_cases(),
        mistakes,
        name="matched_box_losses",
        parts=("the L1 loss", "the GIoU loss"),
    )


def _zero_as_tensor(answer: Answer) -> Answer:
    """Take the number 0 where no pair was summed: a loop that begins with 0 returns it."""
    if not callable(answer):
        return answer

    def converted(pred_boxes: Tensor, boxes: Tensor, queries: Tensor, objects: Tensor, num_boxes: float) -> Any:
        got = answer(pred_boxes, boxes, queries, objects, num_boxes)
        if isinstance(got, (tuple, list)) and len(queries) == 0:
            return tuple(torch.tensor(float(part)) if isinstance(part, (int, float)) else part for part in got)
        return got

    return converted


def _box_cases() -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, float]]:
    """Yield one picture's boxes with pairs in which neither side is in order: many, one, more objects, none."""
    rng = generator(143)
    for count, objects in ((4, 4), (3, 3), (2, 5), (1, 1), (0, 0)):
        total = count + random_integer(rng, 1, 4)
        queries = torch.randperm(total - 1, generator=rng)[:count].sort().values + 1  # query 0 stays free
        order = torch.randperm(objects, generator=rng)[:count]
        if count > 1 and bool((order.diff() > 0).all()):
            order = order.flip(0)
        boxes = random_boxes_cxcywh(rng, objects)
        yield random_boxes_cxcywh(rng, total), boxes, queries, order, float(max(count, 1) + 2)
