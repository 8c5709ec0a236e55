"""The checks of chapter 19: corners read as sizes, the first class loss, shifted names, what to freeze, padding.

Built in chapter 19.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ddetr_lab.boxes import box_iou, xywh_to_xyxy
from ddetr_lab.checks.chapter12 import require_mask
from ddetr_lab.checks.core import Answer, Mistake, Passed, check_function, generator, random_integer, random_size
from ddetr_lab.losses import sigmoid_focal_loss

__all__ = ["blank_padding", "first_class_loss", "frozen_names", "misread_iou", "names_shift"]

_ALPHA, _GAMMA = 0.25, 2
_BACKBONE = "model.backbone."


def misread_iou(answer: Answer) -> Passed:
    """Check a function from corners (N, 4) and a picture's size to the IoU with the boxes they are misread as."""

    def parts(boxes: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
        wrong = xywh_to_xyxy(boxes)
        return boxes, torch.minimum(wrong, torch.tensor([width, height, width, height], dtype=boxes.dtype))

    def reference(boxes: Tensor, width: int, height: int) -> Tensor:
        return box_iou(*parts(boxes, width, height))[0].diagonal()

    def area(boxes: Tensor) -> Tensor:
        return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)

    def uncut(boxes: Tensor, width: int, height: int) -> Tensor:
        return box_iou(boxes, xywh_to_xyxy(boxes))[0].diagonal()

    def exchanged(boxes: Tensor, width: int, height: int) -> Tensor:
        return reference(boxes, height, width)

    def sum_of_areas(boxes: Tensor, width: int, height: int) -> Tensor:
        right, wrong = parts(boxes, width, height)
        return area(right) / (area(right) + area(wrong))

    def other_way(boxes: Tensor, width: int, height: int) -> Tensor:
        sizes = torch.cat((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), dim=1)
        both = torch.cat((boxes[:, :2], torch.minimum(boxes[:, 2:], sizes[:, 2:])), dim=1)
        return area(both) / (area(boxes) + area(sizes) - area(both))

    def from_the_corner(boxes: Tensor, width: int, height: int) -> Tensor:
        _, wrong = parts(boxes, width, height)
        return area(boxes) / (wrong[:, 2] * wrong[:, 3])

    def of_the_right_box(boxes: Tensor, width: int, height: int) -> Tensor:
        return torch.ones(len(boxes), dtype=boxes.dtype)

    mistakes = [
        Mistake(uncut, "the misread box reaches beyond the picture: cut it at the right and the lower edge first."),
        Mistake(exchanged, "x is cut at the width and y at the height: here it is the other way round."),
        Mistake(sum_of_areas, "the common part stands in both areas: the union is their sum less the common part."),
        Mistake(other_way, "this reads sizes as corners. Here corners are read as sizes: the box ends at x0 + x1."),
        Mistake(
            from_the_corner,
            "the misread box was taken to begin in the picture's corner: it begins where the right one does.",
        ),
        Mistake(of_the_right_box, "the right box lies inside the wrong one: divide by the union of both."),
    ]
    return check_function(answer, reference, _corner_cases(), mistakes, name="misread_iou")


def _corner_cases() -> Iterator[tuple[Tensor, int, int]]:
    """Yield boxes of which some, misread, stay inside the picture, some leave it below, some at the right."""
    rng = generator(191)
    for _ in range(3):
        height, width = random_size(rng, 60, 200)
        count = random_integer(rng, 4, 7)
        size = 5 + 15 * torch.rand(count, 2, generator=rng, dtype=torch.float64)
        room = torch.tensor([width, height], dtype=torch.float64) - size
        corner = torch.rand(count, 2, generator=rng, dtype=torch.float64) * room
        corner[0], corner[1] = torch.tensor([2.0, 3.0]), room[1]
        yield torch.cat((corner, corner + size), dim=1), width, height


def first_class_loss(answer: Answer) -> Passed:
    """Check a function from numbers of queries, classes and objects, and scores (P,), to class losses (P,)."""

    def reference(queries: int, classes: int, objects: int, scores: Tensor) -> Tensor:
        targets = torch.zeros(queries * classes, dtype=scores.dtype)
        targets[:objects] = 1
        losses = [sigmoid_focal_loss(torch.logit(score).expand(len(targets)), targets, 1) for score in scores]
        return torch.stack(losses) / max(objects, 1)

    def build(
        queries: int, classes: int, objects: int, scores: Tensor, alpha: float = _ALPHA, gamma: int = _GAMMA
    ) -> Tensor:
        yes = alpha * (1 - scores) ** gamma * -torch.log(scores)
        no = (1 - alpha) * scores**gamma * -torch.log1p(-scores)
        return (objects * yes + (queries * classes - objects) * no) / max(objects, 1)

    def over_entries(queries: int, classes: int, objects: int, scores: Tensor) -> Tensor:
        return build(queries, classes, objects, scores) * max(objects, 1) / (queries * classes)

    def one_a_query(queries: int, classes: int, objects: int, scores: Tensor) -> Tensor:
        return build(queries, 1, objects, scores)

    def one_object_at_least(queries: int, classes: int, objects: int, scores: Tensor) -> Tensor:
        yes = _ALPHA * (1 - scores) ** _GAMMA * -torch.log(scores)
        return build(queries, classes, objects, scores) + (0 if objects else yes)

    def all_negative(queries: int, classes: int, objects: int, scores: Tensor) -> Tensor:
        no = (1 - _ALPHA) * scores**_GAMMA * -torch.log1p(-scores)
        return build(queries, classes, objects, scores) + objects * no / max(objects, 1)

    mistakes = [
        Mistake(over_entries, "this is the mean over all entries: the loss is divided by the objects."),
        Mistake(
            lambda q, k, n, p: build(q, k, n, p) * max(n, 1),
            "this is the sum: divide by the number of objects, or by 1 if there is none.",
        ),
        Mistake(one_a_query, "each query answers for every class: there are queries times classes entries."),
        Mistake(
            lambda q, k, n, p: build(q, k, n, p, alpha=1 - _ALPHA),
            "alpha is exchanged: 0.25 weighs the entries that should be 1, and 0.75 the others.",
        ),
        Mistake(
            lambda q, k, n, p: build(q, k, n, p, gamma=0),
            "the focal factor is missing: how far the score is off, squared.",
        ),
        Mistake(
            one_object_at_least,
            "a batch without objects has no entry that should be 1: the first term is n / max(n, 1), which is 0 then.",
        ),
        Mistake(
            lambda q, k, n, p: build(q, k, max(n, 1), p),
            "a batch without objects was counted as if it had one: only the divisor is at least 1, not the objects.",
        ),
        Mistake(
            lambda q, k, n, p: build(q, k, n, p, gamma=1),
            "how far the score is off must be squared: gamma is 2.",
        ),
        Mistake(all_negative, "the objects' own entries were counted as negatives too: take them off."),
    ]
    rng = generator(192)
    cases = []
    for objects in (23, 3, 0, 7):
        scores = 0.01 + 0.6 * torch.rand(random_integer(rng, 2, 4), generator=rng, dtype=torch.float64)
        cases.append((random_integer(rng, 40, 90), random_integer(rng, 2, 12), objects, scores))
    return check_function(answer, reference, cases, mistakes, name="first_class_loss")


def names_shift(answer: Answer) -> Passed:
    """Check a function from confusion counts (K + 1, K + 1), the last for background, to the shift that fits best."""

    def sums(counts: Tensor, around: bool = False) -> dict[int, int]:
        classes = len(counts)
        found = {}
        for shift in range(1 - classes, classes):
            pairs = [(row, row + shift) for row in range(classes) if around or 0 <= row + shift < classes]
            found[shift] = sum(int(counts[row, said % classes]) for row, said in pairs)
        return found

    def best(counts: Tensor, around: bool = False) -> Tensor:
        found = sums(counts, around)
        return torch.tensor(max(found, key=lambda shift: (found[shift], -abs(shift))))

    def reference(counts: Tensor) -> Tensor:
        return best(counts[:-1, :-1])

    def by_majority(counts: Tensor) -> Tensor:
        names = counts[:-1, :-1]
        return (names.argmax(dim=1) - torch.arange(len(names))).mode().values

    def by_mean(counts: Tensor) -> Tensor:
        names = counts[:-1, :-1].double()
        return torch.tensor(max(range(1 - len(names), len(names)), key=lambda s: float(names.diagonal(s).mean())))

    def among(counts: Tensor, shifts: Iterable[int]) -> Tensor:
        return torch.tensor(max(shifts, key=lambda shift: int(counts[:-1, :-1].diagonal(shift).sum())))

    not_all = (
        "look at all shifts, from 1 - K to K - 1: the fullest diagonal may lie far off the main one, on both sides."
    )
    mistakes = [
        Mistake(
            reference, "the shift is right, but a float: a shift of names is a whole number, so return an integer."
        ),
        Mistake(by_mean, "the fullest cell, or the greatest mean, is not it: sum each diagonal, since objects count."),
        Mistake(lambda counts: among(counts, range(len(counts) - 1)), not_all),
        Mistake(lambda counts: among(counts, (-1, 0, 1)), not_all),
        Mistake(
            lambda counts: -reference(counts),
            "the sign is reversed: rows are what is there, columns what was said; the shift is said less true.",
        ),
        Mistake(best, "background has no name that could be shifted: leave the last row and column out."),
        Mistake(
            lambda counts: best(counts[:-1, :-1], around=True),
            "labels do not go round in a circle: the class after the last one is none.",
        ),
        Mistake(
            lambda counts: reference(counts) + len(counts) - 2,
            "this is the place in a list of shifts, not the shift itself: the list begins at 1 - K.",
        ),
        Mistake(by_majority, "each class has one vote here, however many objects it has: count objects."),
        Mistake(
            lambda counts: torch.tensor(0),
            "the diagonal is not the fullest: look at those beside it too.",
        ),
    ]
    return check_function(answer, reference, _confusions(), mistakes, name="names_shift")


def _confusions() -> Iterator[tuple[Tensor]]:
    """Yield a shift up, a table whose corner tempts to go round, a shift down, and one of few classes but many objects.

    In all but the last the background is crowded.
    """
    rng = generator(193)
    for shift in (1, 0, -2):
        classes = random_integer(rng, 5, 8)
        counts = torch.randint(0, 3, (classes + 1, classes + 1), generator=rng)
        for row in range(max(0, -shift), classes - max(0, shift)):
            counts[row, row + shift] += 20
        if shift == 0:  # with the corner opposite to it, the diagonal below the main one would win in a circle
            for row in range(1, classes):
                counts[row, row - 1] += 10
            counts[0, classes - 1] += 18 * classes - 10
        counts[:classes, classes] += 30
        counts[classes, :classes] += 30
        counts[classes - 1, classes] += 300
        yield (counts,)
    counts = torch.diag(torch.full((7,), 20))
    counts[:2, :3] = torch.tensor([[0, 90, 0], [0, 0, 90]])  # of seven names two are shifted, those of most objects
    yield (counts,)


def frozen_names(answer: Answer) -> Passed:
    """Check a function from parameters' names to a mask (N,), True where the name belongs to the backbone."""

    def reference(names: tuple[str, ...]) -> Tensor:
        return torch.tensor([name.startswith(_BACKBONE) for name in names])

    mistakes = [
        Mistake(
            lambda names: torch.ones(len(names), dtype=torch.bool),
            "everything is frozen: every number but 0 counts as true, also the -1 of a text that was not found.",
        ),
        Mistake(lambda names: ~reference(names), "the backbone learns and the rest is frozen: turn the mask round."),
        Mistake(
            lambda names: torch.tensor([name.startswith("backbone") for name in names]),
            "nothing is frozen: names begin with the part that holds the backbone. Print a few.",
        ),
        Mistake(
            lambda names: torch.tensor(["backbone" in name for name in names]),
            "a name that only mentions the word is frozen too: the backbone is what begins with model.backbone.",
        ),
        Mistake(
            lambda names: torch.tensor([name.startswith("model.") for name in names]),
            "encoder and decoder begin with model. too: they should go on learning.",
        ),
    ]
    stems = ("body.0.weight", "body.1.bias", "norm.weight")
    rest = (
        "model.encoder.layers.0.linear1.weight",
        "model.backbone_projection.0.bias",
        "class_embed.0.bias",
        "model.level_embed",
        "bbox_embed.2.layers.1.weight",
    )
    rng = generator(194)
    cases = []
    for _ in range(3):
        names = [_BACKBONE + stem for stem in stems] + list(rest)
        order = torch.randperm(len(names), generator=rng).tolist()
        cases.append((tuple(names[place] for place in order),))
    passed = check_function(answer, reference, cases, mistakes, name="frozen_names")
    require_mask(answer(*cases[0]), "frozen_names: the mask")
    return passed


def blank_padding(answer: Answer) -> Passed:
    """Check a function from values (B, S, C) and a mask (B, S), True where real, to values without padding."""

    def reference(values: Tensor, real: Tensor) -> Tensor:
        return values * real[..., None]

    mistakes = [
        Mistake(
            lambda values, real: values * ~real[..., None],
            "the real cells are gone and padding is left: True means real here.",
        ),
        Mistake(
            lambda values, real: values.masked_fill(~real[..., None], float("-inf")),
            "minus infinity is for logits before a softmax. A value that should not count is 0.",
        ),
        Mistake(lambda values, real: values, "nothing was blanked: padded cells still speak."),
        Mistake(
            lambda values, real: values.masked_fill(~real.any(dim=0)[None, :, None], 0.0),
            "each picture has padding of its own: do not join the masks of the batch.",
        ),
        Mistake(
            lambda values, real: values * real.all(dim=0)[None, :, None],
            "cells that are padding in any picture were blanked in all: each has padding of its own.",
        ),
    ]
    rng = generator(195)
    cases = []
    for _ in range(3):
        batch, cells, channels = 3, random_integer(rng, 6, 9), random_integer(rng, 2, 5)
        lengths = torch.tensor([cells - 1, cells - 3, cells - 4])
        real = torch.arange(cells) < lengths[:, None]
        cases.append((torch.randn(batch, cells, channels, generator=rng), real))
    return check_function(answer, reference, cases, mistakes, name="blank_padding")
