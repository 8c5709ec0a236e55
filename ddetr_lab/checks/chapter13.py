"""The checks of chapter 13: the class cost, the whole cost matrix, and the matching itself.

Built in chapter 13.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
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
    same,
)
from ddetr_lab.matcher import HungarianMatcher, focal_class_cost

__all__ = ["class_cost", "cost_matrix", "match"]


def class_cost(answer: Answer) -> Passed:
    """Check a function from logits (Q, K) and class labels (N,) to the focal class cost (Q, N)."""

    def reference(logits: Tensor, class_labels: Tensor) -> Tensor:
        return focal_class_cost(logits, class_labels)

    def parts(probability: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> tuple[Tensor, Tensor]:
        positive = alpha * (1 - probability) ** gamma * -(probability + 1e-8).log()
        negative = (1 - alpha) * probability**gamma * -(1 - probability + 1e-8).log()
        return positive, negative

    def difference(probability: Tensor, **weights: float) -> Tensor:
        positive, negative = parts(probability, **weights)
        return positive - negative

    def one_weight(probability: Tensor) -> Tensor:
        positive, negative = parts(probability)
        return positive - negative / 3

    def swapped(probability: Tensor) -> Tensor:
        positive, negative = parts(probability, gamma=0.0)
        return probability**2 * positive - (1 - probability) ** 2 * negative

    mistakes = [
        Mistake(
            lambda logits, labels: difference(logits.softmax(-1)[:, labels]),
            "these are the probabilities of a softmax: each label has a sigmoid of its own.",
        ),
        Mistake(
            lambda logits, labels: parts(logits.sigmoid()[:, labels])[0],
            "this is the loss if the query takes the target. What it would have cost not to take it is to be "
            "subtracted: the price is the difference of the two.",
        ),
        Mistake(
            lambda logits, labels: sum(parts(logits.sigmoid()[:, labels])),
            "the two losses were added: what taking the target saves has to be subtracted.",
        ),
        Mistake(
            lambda logits, labels: -difference(logits.sigmoid()[:, labels]),
            "the sign is turned: a query that believes in the class must be cheap, so it gets a negative cost.",
        ),
        Mistake(
            lambda logits, labels: -logits.sigmoid()[:, labels],
            "this is minus the probability, the class cost of the first DETR. Here it is a difference of focal losses.",
        ),
        Mistake(
            lambda logits, labels: difference(logits.sigmoid()[:, labels], alpha=0.75),
            "alpha and 1 - alpha are exchanged: alpha = 0.25 belongs to the positive part.",
        ),
        Mistake(
            lambda logits, labels: difference(logits.sigmoid()[:, labels], alpha=0.5) * 2,
            "alpha is missing: 0.25 weighs the positive part, 0.75 the negative one.",
        ),
        Mistake(
            lambda logits, labels: one_weight(logits.sigmoid()[:, labels]),
            "both parts have the weight 0.25: the negative one has 1 - alpha, 0.75.",
        ),
        Mistake(
            lambda logits, labels: swapped(logits.sigmoid()[:, labels]),
            "the factors are exchanged: log p goes with (1 - p)^2, and log(1 - p) with p^2.",
        ),
        Mistake(
            lambda logits, labels: difference(logits.sigmoid()[:, labels], gamma=0.0),
            "the factor with the exponent gamma = 2 is missing: this is weighted cross-entropy, not focal.",
        ),
    ]
    rng = generator(131)
    cases = []
    for count in (3, 1, 5, 0):
        queries, labels = random_integer(rng, 6, 9), random_integer(rng, 2, 5)
        logits = torch.randn(queries, labels, generator=rng) * 2 - 1
        cases.append((logits, torch.randint(labels, (count,), generator=rng)))
    return check_function(answer, reference, cases, mistakes, name="class_cost")


def cost_matrix(answer: Answer) -> Passed:
    """Check a function from predictions and targets of one picture to the weighted cost (Q, N)."""

    def reference(logits: Tensor, pred_boxes: Tensor, class_labels: Tensor, boxes: Tensor) -> Tensor:
        return HungarianMatcher().cost_matrix(logits, pred_boxes, {"class_labels": class_labels, "boxes": boxes})

    def terms(logits: Tensor, pred: Tensor, labels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        distance = (pred[:, None] - boxes[None]).abs().sum(-1)
        overlap = generalized_box_iou(cxcywh_to_xyxy(pred), cxcywh_to_xyxy(boxes))
        return focal_class_cost(logits, labels), distance, overlap

    def weighted(*arguments: Tensor, c: float = 1.0, l1: float = 5.0, giou: float = -2.0) -> Tensor:
        classes, distance, overlap = terms(*arguments)
        return c * classes + l1 * distance + giou * overlap

    def with_iou(logits: Tensor, pred: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
        iou = box_iou(cxcywh_to_xyxy(pred), cxcywh_to_xyxy(boxes))[0]
        return weighted(logits, pred, labels, boxes, giou=0.0) - 2 * iou

    def corner_distance(logits: Tensor, pred: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
        corners = torch.cdist(cxcywh_to_xyxy(pred), cxcywh_to_xyxy(boxes), p=1)
        return weighted(logits, pred, labels, boxes, l1=0.0) + 5 * corners

    def euclidean(logits: Tensor, pred: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
        return weighted(logits, pred, labels, boxes, l1=0.0) + 5 * (pred[:, None] - boxes[None]).norm(dim=-1)

    def signed(logits: Tensor, pred: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
        return weighted(logits, pred, labels, boxes, l1=0.0) + 5 * (pred[:, None] - boxes[None]).sum(-1)

    mistakes = [
        Mistake(
            lambda *a: weighted(*a, giou=2.0),
            "the overlap was added: more overlap must be cheaper, so it counts negatively.",
        ),
        Mistake(with_iou, "this is the plain IoU: the generalised one also tells apart boxes that do not touch."),
        Mistake(
            lambda *a: weighted(*a, l1=1.25),
            "the L1 distance is the sum over the four numbers of a box, not their mean.",
        ),
        Mistake(corner_distance, "the L1 distance is taken between centre boxes; only the overlap needs corners."),
        Mistake(euclidean, "this is the Euclidean distance: L1 sums the absolute differences."),
        Mistake(lambda *a: weighted(*a, l1=1.0, giou=-1.0), "the weights 1, 5 and 2 are missing."),
        Mistake(
            lambda *a: weighted(*a, l1=2.0, giou=-5.0),
            "the weights are exchanged: 5 belongs to the L1 distance, 2 to the overlap.",
        ),
        Mistake(lambda *a: weighted(*a, c=0.0), "the classes do not count: add the class cost."),
        Mistake(lambda *a: weighted(*a, c=2.0), "the class cost was doubled, as in the paper: here its weight is 1."),
        Mistake(lambda *a: weighted(*a, l1=0.0), "the L1 distance is missing."),
        Mistake(lambda *a: weighted(*a, giou=0.0), "the overlap is missing: subtract twice the generalised IoU."),
        Mistake(signed, "the differences were summed with their signs, and cancel: take their absolute values."),
        Mistake(
            lambda *a: weighted(*a) + 2.0,
            "2 · (1 - GIoU) instead of -2 · GIoU: the matching would be the same, since every pair costs the same 2 "
            "more, but the matrix is asked for without it.",
        ),
    ]
    rng = generator(132)
    cases = []
    for count in (4, 1, 7, 0):
        queries, labels = random_integer(rng, 5, 6), random_integer(rng, 2, 4)
        logits = torch.randn(queries, labels, generator=rng) * 2 - 1
        classes = torch.randint(labels, (count,), generator=rng)
        cases.append((logits, random_boxes_cxcywh(rng, queries), classes, random_boxes_cxcywh(rng, count)))
    return check_function(answer, reference, cases, mistakes, name="cost_matrix")


def _assign(cost: Tensor, maximize: bool = False) -> tuple[Tensor, Tensor]:
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(cost.numpy(), maximize=maximize)
    return torch.as_tensor(rows, dtype=torch.int64), torch.as_tensor(columns, dtype=torch.int64)


def _greedy(cost: Tensor) -> tuple[Tensor, Tensor]:
    """Take the cheapest pair that is still free, again and again; sorted by query."""
    free, pairs = cost.clone(), []
    for _ in range(min(cost.shape)):
        query, target = divmod(int(free.argmin()), cost.shape[1])
        pairs.append((query, target))
        free[query], free[:, target] = float("inf"), float("inf")
    ordered = torch.tensor(sorted(pairs), dtype=torch.int64).reshape(-1, 2)
    return ordered[:, 0], ordered[:, 1]


def _by_turn(cost: Tensor) -> tuple[Tensor, Tensor]:
    """Let each target in turn take the cheapest query that is still free; sorted by query."""
    free, chosen = cost.clone(), []
    for target in range(min(cost.shape)):
        chosen.append(int(free[:, target].argmin()))
        free[chosen[-1]] = float("inf")
    queries, targets = torch.tensor(chosen, dtype=torch.int64).sort()
    return queries, targets


def _as_tensors(answer: Answer) -> Answer:
    """Take arrays and lists of indices too, or both in one: scipy returns arrays, and the exercise is not about types.

    An empty list becomes integers, which its missing entries cannot tell.
    """
    if not callable(answer):
        return answer

    def converted(cost: Tensor) -> Any:
        got = answer(cost)
        if isinstance(got, (tuple, list)) or getattr(got, "ndim", 0) == 2:
            return tuple(
                torch.tensor([], dtype=torch.int64) if isinstance(part, list) and not part else torch.as_tensor(part)
                for part in got
            )
        return got

    return converted


def match(answer: Answer) -> Passed:
    """Check a function from a cost (Q, N) to the matched queries, in rising order, and their targets."""

    def reference(cost: Tensor) -> tuple[Tensor, Tensor]:
        return _assign(cost)

    def best_query(cost: Tensor) -> tuple[Tensor, Tensor]:
        return cost.argmin(0), torch.arange(cost.shape[1])

    def best_query_sorted(cost: Tensor) -> tuple[Tensor, Tensor]:
        queries, order = cost.argmin(0).sort(stable=True)
        return queries, order

    def best_target(cost: Tensor) -> tuple[Tensor, Tensor]:
        return torch.arange(cost.shape[0]), cost.argmin(1)

    def by_target(cost: Tensor) -> tuple[Tensor, Tensor]:
        targets, queries = _assign(cost.T)
        return queries, targets

    twice = "one query serves two targets: each target picked its cheapest query without asking whether it is taken."
    mistakes = [
        Mistake(
            reference,
            "the pairs are right, but indices are integers. torch.tensor([]) is float: give it dtype=torch.int64.",
        ),
        Mistake(best_query, twice),
        Mistake(best_query_sorted, twice),
        Mistake(
            best_target,
            "every query took its cheapest target: most queries must stay without one, and none may share.",
        ),
        Mistake(
            _greedy,
            "this is greedy: the cheapest pair first, and the rest makes do. The least total may need a pair that is "
            "not the cheapest.",
        ),
        Mistake(
            _by_turn,
            "each target in turn took the cheapest query that was free: an early one may take what a later one needs "
            "more, so look at all of them together.",
        ),
        Mistake(
            lambda cost: _assign(cost, maximize=True),
            "this is the dearest assignment: the costs are to be made small, so do not turn their sign.",
        ),
        Mistake(
            lambda cost: reference(cost)[::-1],
            "queries and targets are exchanged: rows are queries, and they come first.",
        ),
        Mistake(by_target, "the right pairs in the order of the targets: sort them by query."),
    ]
    return check_function(
        _as_tensors(answer), reference, _costs(), mistakes, name="match", parts=("queries", "targets")
    )


def _costs() -> Iterator[tuple[Tensor]]:
    """Yield costs on which greedy answers are dearer than the best: tall, square, wide, and without targets."""
    rng = generator(133)
    for rows, columns in ((7, 4), (5, 5), (3, 6), (1, 3), (6, 0)):
        while True:
            cost = torch.randn(rows, columns, generator=rng)
            queries, targets = _assign(cost)
            in_order = bool((targets.diff() > 0).all())  # then pairs sorted by target would be sorted by query
            shared = cost.argmin(0).unique().numel() < columns
            dearer = min(float(cost[other(cost)].sum() - cost[queries, targets].sum()) for other in (_greedy, _by_turn))
            told_apart = not same(_greedy(cost), _by_turn(cost))
            if min(rows, columns) < 2 or (dearer > 0.1 and told_apart and shared and not in_order):
                break
        yield (cost,)
