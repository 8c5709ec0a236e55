"""Chapter 19: the solution of each exercise passes; typical wrong answers fail, each with the intended hint."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ddetr_lab.checks import chapter19
from tests.checks.contract import *  # noqa: F403 (the tests that every chapter's checks pass)

Answer = Callable[..., Any]


def misread(
    union: Callable[[Tensor, Tensor], Tensor] = lambda right, wrong: wrong, cut: bool = True, flip: bool = False
) -> Answer:
    """Make an IoU of corners with what they are misread as, right by default."""

    def answer(boxes: Tensor, width: int, height: int) -> Tensor:
        x0, y0, x1, y1 = boxes.unbind(1)
        right, low = (height, width) if flip else (width, height)
        end_x, end_y = x0 + x1, y0 + y1
        if cut:
            end_x, end_y = end_x.clamp(max=right), end_y.clamp(max=low)
        inner = (x1 - x0) * (y1 - y0)
        return (
            (torch.minimum(x1, end_x) - x0).clamp(min=0)
            * (torch.minimum(y1, end_y) - y0).clamp(min=0)
            / union(inner, (end_x - x0) * (end_y - y0))
        )

    return answer


def flipped(boxes: Tensor, width: int, height: int) -> Tensor:
    wrong = torch.minimum(
        torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), 1), torch.tensor([height, width, height, width])
    )
    both = (torch.minimum(boxes[:, 2:], wrong[:, 2:]) - torch.maximum(boxes[:, :2], wrong[:, :2])).clamp(min=0).prod(1)
    areas = [(each[:, 2:] - each[:, :2]).clamp(min=0).prod(1) for each in (boxes, wrong)]
    return both / (areas[0] + areas[1] - both)


def focal(
    alpha: float = 0.25,
    gamma: float = 2.0,
    entries: Callable[[int, int, int], int] = lambda queries, classes, objects: queries * classes - objects,
    over: Callable[[int, int, int], int] = lambda queries, classes, objects: max(objects, 1),
) -> Answer:
    """Make a class loss of equal scores, right by default."""

    def answer(queries: int, classes: int, objects: int, scores: Tensor) -> Tensor:
        positive = objects * alpha * (1 - scores) ** gamma * scores.log()
        negative = entries(queries, classes, objects) * (1 - alpha) * scores**gamma * (1 - scores).log()
        return -(positive + negative) / over(queries, classes, objects)

    return answer


def shift(inner: slice = slice(None, -1), sign: int = 1, place: bool = False) -> Answer:
    """Make the search for the fullest diagonal, right by default."""

    def answer(counts: Tensor) -> Tensor:
        table = counts[inner, inner]
        shifts = list(range(1 - len(table), len(table)))
        found = torch.tensor([int(table.diagonal(each).sum()) for each in shifts]).argmax()
        return found if place else torch.tensor(sign * shifts[int(found)])

    return answer


def in_a_circle(counts: Tensor) -> Tensor:
    table = counts[:-1, :-1]
    size = len(table)
    shifts = sorted(range(1 - size, size), key=abs)
    sums = [sum(int(table[row, (row + each) % size]) for row in range(size)) for each in shifts]
    return torch.tensor(shifts[sums.index(max(sums))])


def by_classes(counts: Tensor) -> Tensor:
    votes = [int(row.argmax()) - place for place, row in enumerate(counts[:-1, :-1])]
    return torch.tensor(max(sorted(set(votes)), key=votes.count))


def by_name(test: Callable[[str], object]) -> Answer:
    return lambda names: torch.tensor([bool(test(name)) for name in names])


RIGHT = [
    (chapter19.misread_iou, misread()),
    (chapter19.first_class_loss, focal()),
    (chapter19.names_shift, shift()),
    (chapter19.frozen_names, by_name(lambda name: name.startswith("model.backbone."))),
    (chapter19.blank_padding, lambda values, real: values.masked_fill(~real[..., None], 0.0)),
]

WRONG = [
    (chapter19.misread_iou, misread(cut=False), "beyond the picture"),
    (chapter19.misread_iou, flipped, "at the width"),
    (chapter19.misread_iou, misread(union=lambda right, wrong: right + wrong), "less the common part"),
    (chapter19.misread_iou, misread(union=lambda right, wrong: right), "divide by the union"),
    (chapter19.first_class_loss, focal(over=lambda q, k, n: q * k), "mean over all entries"),
    (chapter19.first_class_loss, focal(over=lambda q, k, n: 1), "this is the sum"),
    (chapter19.first_class_loss, focal(entries=lambda q, k, n: q - n), "every class"),
    (chapter19.first_class_loss, focal(alpha=0.75), "alpha is exchanged"),
    (chapter19.first_class_loss, focal(gamma=0.0), "focal factor"),
    (chapter19.first_class_loss, focal(entries=lambda q, k, n: q * k), "take them off"),
    (chapter19.names_shift, shift(sign=-1), "sign is reversed"),
    (chapter19.names_shift, shift(inner=slice(None)), "background has no name"),
    (chapter19.names_shift, in_a_circle, "in a circle"),
    (chapter19.names_shift, by_classes, "one vote"),
    (chapter19.names_shift, shift(place=True), "not the shift itself"),
    (chapter19.names_shift, lambda counts: torch.tensor(0), "look at those beside it"),
    (chapter19.frozen_names, by_name(lambda name: name.find("backbone")), "counts as true"),
    (chapter19.frozen_names, by_name(lambda name: not name.startswith("model.backbone.")), "mask round"),
    (chapter19.frozen_names, by_name(lambda name: name.startswith("backbone")), "nothing is frozen"),
    (chapter19.frozen_names, by_name(lambda name: "backbone" in name), "only mentions"),
    (chapter19.frozen_names, by_name(lambda name: name.startswith("model.")), "go on learning"),
    (chapter19.blank_padding, lambda values, real: values.masked_fill(real[..., None], 0.0), "True means real"),
    (
        chapter19.blank_padding,
        lambda values, real: torch.where(real[..., None], values, torch.tensor(-torch.inf)),
        "before a softmax",
    ),
    (chapter19.blank_padding, lambda values, real: values * real.any(0)[:, None], "padding of its own"),
    (chapter19.blank_padding, lambda values, real: values * 1.0, "nothing was blanked"),
]
