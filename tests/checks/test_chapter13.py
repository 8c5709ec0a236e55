"""Chapter 13: the solution of each exercise passes; typical wrong answers fail, each with the intended hint."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ddetr_lab.boxes import box_iou, cxcywh_to_xyxy, generalized_box_iou
from ddetr_lab.checks import CheckError, chapter13
from tests.checks.contract import *  # noqa: F403 (the tests that every chapter's checks pass)

Answer = Callable[..., Any]


def focal(p: Tensor, alpha: float = 0.25, gamma: float = 2.0, sign: float = -1.0) -> Tensor:
    taken = -alpha * (1 - p) ** gamma * torch.log(p)
    left = -(1 - alpha) * p**gamma * torch.log(1 - p)
    return taken + sign * left


def good_class(logits: Tensor, class_labels: Tensor) -> Tensor:
    return focal(torch.sigmoid(logits))[:, class_labels]


def total(l1: float = 5.0, giou: float = -2.0, c: float = 1.0, distance: Answer | None = None) -> Answer:
    """Make a cost matrix with other weights, or another distance."""

    def answer(logits: Tensor, pred: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
        difference = pred[:, None] - boxes[None]
        far = difference.abs().sum(-1) if distance is None else distance(pred, boxes, difference)
        overlap = generalized_box_iou(cxcywh_to_xyxy(pred), cxcywh_to_xyxy(boxes))
        return c * good_class(logits, labels) + l1 * far + giou * overlap

    return answer


def with_iou(logits: Tensor, pred: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
    iou, _ = box_iou(cxcywh_to_xyxy(pred), cxcywh_to_xyxy(boxes))
    value: Tensor = total(giou=0.0)(logits, pred, labels, boxes) - 2 * iou
    return value


def good_match(cost: Tensor) -> tuple[Any, Any]:
    queries, targets = linear_sum_assignment(cost)
    return queries, targets


def greedy(cost: Tensor) -> tuple[list[int], list[int]]:
    pairs: list[tuple[int, int]] = []
    for entry in cost.flatten().argsort().tolist():
        query, target = divmod(entry, cost.shape[1])
        if all(query != q and target != t for q, t in pairs):
            pairs.append((query, target))
    return [q for q, _ in sorted(pairs)], [t for _, t in sorted(pairs)]


def of_transposed(cost: Tensor) -> tuple[Any, Any]:
    targets, queries = linear_sum_assignment(cost.T)
    return queries, targets


RIGHT: list[tuple[Answer, Answer]] = [
    (chapter13.class_cost, good_class),
    (chapter13.cost_matrix, total()),
    (chapter13.match, good_match),
]

WRONG: list[tuple[Answer, Answer, str]] = [
    (chapter13.class_cost, lambda z, c: focal(z.softmax(-1))[:, c], "softmax"),
    (chapter13.class_cost, lambda z, c: focal(z.sigmoid(), sign=0.0)[:, c], "to be subtracted"),
    (chapter13.class_cost, lambda z, c: focal(z.sigmoid(), sign=1.0)[:, c], "were added"),
    (chapter13.class_cost, lambda z, c: -good_class(z, c), "sign is turned"),
    (chapter13.class_cost, lambda z, c: -z.sigmoid()[:, c], "first DETR"),
    (chapter13.class_cost, lambda z, c: focal(z.sigmoid(), alpha=0.75)[:, c], "exchanged"),
    (chapter13.class_cost, lambda z, c: 2 * focal(z.sigmoid(), alpha=0.5)[:, c], "alpha is missing"),
    (chapter13.class_cost, lambda z, c: focal(z.sigmoid(), gamma=0.0)[:, c], "exponent gamma"),
    (chapter13.class_cost, lambda z, c: good_class(z, c).T, "another order"),
    (chapter13.cost_matrix, total(giou=2.0), "overlap was added"),
    (chapter13.cost_matrix, with_iou, "plain IoU"),
    (chapter13.cost_matrix, total(distance=lambda p, b, d: d.abs().mean(-1)), "not their mean"),
    (
        chapter13.cost_matrix,
        total(distance=lambda p, b, d: torch.cdist(cxcywh_to_xyxy(p), cxcywh_to_xyxy(b), p=1)),
        "between centre boxes",
    ),
    (chapter13.cost_matrix, total(distance=lambda p, b, d: d.square().sum(-1).sqrt()), "Euclidean"),
    (chapter13.cost_matrix, total(l1=1.0, giou=-1.0), "weights 1, 5 and 2"),
    (chapter13.cost_matrix, total(l1=2.0, giou=-5.0), "5 belongs to the L1"),
    (chapter13.cost_matrix, total(c=0.0), "classes do not count"),
    (chapter13.cost_matrix, lambda *a: total()(*a) + 2, "without it"),
    (chapter13.match, lambda cost: (cost.argmin(0), torch.arange(cost.shape[1])), "serves two targets"),
    (chapter13.match, lambda cost: tuple(cost.argmin(0).sort(stable=True)), "serves two targets"),
    (chapter13.match, lambda cost: (torch.arange(cost.shape[0]), cost.argmin(1)), "most queries must stay"),
    (chapter13.match, greedy, "this is greedy"),
    (chapter13.match, lambda cost: good_match(-cost), "dearest assignment"),
    (chapter13.match, lambda cost: good_match(cost)[::-1], "rows are queries"),
    (chapter13.match, of_transposed, "sort them by query"),
    (chapter13.match, lambda cost: good_match(cost)[0], "look at what it returns"),
]


def test_a_result_instead_of_a_function_is_named() -> None:
    with pytest.raises(CheckError, match="expected a function"):
        chapter13.match(torch.zeros(2, 2))  # type: ignore[arg-type]
