"""The checks of chapter 2: the size after resizing, targets from annotations, padding and mask.

Built in chapter 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ddetr_lab import boxes, image_transforms
from ddetr_lab.checks.core import (
    Answer,
    Mistake,
    Passed,
    check_function,
    generator,
    random_boxes_cxcywh,
    random_integer,
    random_size,
)

__all__ = ["batch_targets", "output_size", "pad_batch", "target_boxes"]

# The first one tells all known mistakes but one apart; the others are wide, high, square, and limited or not.
_SIZES = ((653, 958, 640, 640), (480, 640, 800, 1333), (97, 61, 96, 128), (50, 50, 64, 80), (301, 451, 96, 128))


def _whole_numbers(answer: Answer) -> Answer:
    """Make a function that returns a pair of numbers return a tensor, which the comparison can show."""

    def wrapped(height: int, width: int, shortest: int, longest: int) -> Any:
        got = answer(height, width, shortest, longest)
        return torch.tensor(got) if isinstance(got, (tuple, list)) else got

    return wrapped if callable(answer) else answer


def output_size(answer: Answer) -> Passed:
    """Check a function from (height, width, shortest, longest) to the pair (height, width) after resizing."""

    def reference(height: int, width: int, shortest: int, longest: int) -> Tensor:
        edges = {"shortest_edge": shortest, "longest_edge": longest}
        return torch.tensor(image_transforms.output_size(height, width, edges))

    def variant(finish_short: Any, finish_long: Any, limited: bool = True) -> Answer:
        def wrong(height: int, width: int, shortest: int, longest: int) -> Tensor:
            short, long = min(height, width), max(height, width)
            new = shortest
            if limited and long / short * shortest > longest:
                new = finish_short(longest * short / long)
            far = finish_long(new * long / short)
            return torch.tensor((new, far) if height <= width else (far, new))

        return wrong

    mistakes = [
        Mistake(reference, "the numbers are right, but they are floats: a size is two whole numbers, so use int()."),
        Mistake(
            variant(round, round),
            "the long side was rounded, or set to the limit: it is computed from the short one, which is a whole "
            "number already, and then cut with int().",
        ),
        Mistake(
            lambda h, w, s, limit: torch.tensor((round(h * limit / max(h, w)), round(w * limit / max(h, w)))),
            "here the long side always becomes the limit: but that is an upper bound, and a short side of "
            "shortest may be reached before it.",
        ),
        Mistake(variant(int, int), "the shortened short side was cut: that one is rounded to the nearest."),
        Mistake(
            variant(round, int, limited=False),
            "the long side passed its limit: where it would, the short side has to give way.",
        ),
        Mistake(
            lambda h, w, s, limit: reference(h, w, s, limit).flip(0),
            "height and width are exchanged: the result is (height, width), as the arguments are.",
        ),
        Mistake(
            lambda h, w, s, limit: torch.tensor((s, s)),
            "both sides became the shortest edge: the picture has to keep its proportions.",
        ),
    ]
    rng = generator(21)
    cases = list(_SIZES)
    for _ in range(15):
        shortest = random_integer(rng, 40, 300)
        cases.append((*random_size(rng), shortest, shortest + random_integer(rng, 0, 100)))
    return check_function(_whole_numbers(answer), reference, cases, mistakes, name="output_size")


def _target_cases(seed: int) -> list[tuple[Tensor, int, int]]:
    """Draw COCO boxes (N, 4) with the height and width of their picture; the last picture has no object."""
    rng = generator(seed)
    cases = []
    for count in (3, 1, 5, 2, 0):
        height, width = random_size(rng)
        norm = random_boxes_cxcywh(rng, count)
        pixels = boxes.cxcywh_to_xyxy(norm) * torch.tensor([width, height, width, height])
        cases.append((boxes.xyxy_to_xywh(pixels), height, width))
    return cases


def _relative(boxes_xywh: Tensor, height: int, width: int) -> Tensor:
    centres = boxes.xyxy_to_cxcywh(boxes.xywh_to_xyxy(boxes_xywh))
    return centres / torch.tensor([width, height, width, height])


def target_boxes(answer: Answer) -> Passed:
    """Check a function from COCO boxes (N, 4), xywh in _px, to targets (N, 4), cxcywh in _norm."""

    def reference(boxes_xywh: Tensor, height: int, width: int) -> Tensor:
        return _relative(boxes_xywh, height, width)

    mistakes = [
        Mistake(
            lambda b, height, width: _relative(b, width, height),
            "x was divided by the height and y by the width: a box starts with x, a size with the height.",
        ),
        Mistake(
            lambda b, height, width: b / torch.tensor([width, height, width, height]),
            "the first two numbers are still the top left corner: a target begins with the centre.",
        ),
        Mistake(
            lambda b, height, width: _relative(b - torch.cat((b[:, 2:], 0 * b[:, 2:]), 1), height, width),
            "half the size was subtracted: from the left edge to the centre it is added.",
        ),
        Mistake(
            lambda b, height, width: _relative(b - torch.cat((b[:, :2] / 2, 0 * b[:, 2:]), 1), height, width),
            "the left edge was halved as well: the centre is x + w / 2, and (x + w) / 2 is something else.",
        ),
        Mistake(
            lambda b, height, width: _relative(b, height, width) if len(b) else torch.zeros(0),
            "a picture without objects has targets of shape (0, 4): an empty list makes a tensor of shape (0,).",
        ),
        Mistake(
            lambda b, height, width: boxes.xywh_to_xyxy(b) / torch.tensor([width, height, width, height]),
            "these are two corners: a target is centre and size.",
        ),
        Mistake(
            lambda b, height, width: boxes.xyxy_to_cxcywh(b) / torch.tensor([width, height, width, height]),
            "the last two numbers were taken for the far corner: in a COCO box they are a width and a height.",
        ),
        Mistake(
            lambda b, height, width: _relative(b, 1, 1),
            "these are pixels: a target is a fraction of the picture, whatever its size.",
        ),
    ]
    return check_function(answer, reference, _target_cases(22), mistakes, name="target_boxes")


def pad_batch(answer: Answer) -> Passed:
    """Check a function from a list of (3, h, w) tensors to pixel_values (B, 3, H, W) and pixel_mask (B, H, W)."""

    def place(pictures: list[Tensor], far: bool = False) -> tuple[Tensor, Tensor]:
        height, width = (max(picture.shape[axis] for picture in pictures) for axis in (1, 2))
        values, masks = [], []
        for picture in pictures:
            down, right = height - picture.shape[1], width - picture.shape[2]
            margins = (right, 0, down, 0) if far else (0, right, 0, down)
            values.append(F.pad(picture, margins))
            masks.append(F.pad(torch.ones(picture.shape[1:], dtype=torch.long), margins))
        return torch.stack(values), torch.stack(masks)

    def reference(pictures: list[Tensor]) -> tuple[Tensor, Tensor]:
        return place(pictures)

    def stretched(pictures: list[Tensor]) -> tuple[Tensor, Tensor]:
        values, mask = place(pictures)
        size = values.shape[-2:]
        enlarged = [F.interpolate(picture[None], size=size, mode="bilinear")[0] for picture in pictures]
        return torch.stack(enlarged), torch.ones_like(mask)

    def guessed(real: Callable[[Tensor], Tensor]) -> Answer:
        def wrong(pictures: list[Tensor]) -> tuple[Tensor, Tensor]:
            values = place(pictures)[0]
            return values, real(values).long()

        return wrong

    def square(pictures: list[Tensor]) -> tuple[Tensor, Tensor]:
        side = max(max(picture.shape[1:]) for picture in pictures)
        values, mask = place([*pictures, torch.zeros(3, side, side)])
        return values[:-1], mask[:-1]

    def black(pictures: list[Tensor]) -> tuple[Tensor, Tensor]:
        values, mask = place(pictures)
        return torch.where(mask[:, None] == 1, values, torch.tensor(-1.0)), mask

    mistakes = [
        Mistake(reference, "the mask is right, but made of floats: whole numbers are wanted, dtype=torch.long."),
        Mistake(
            lambda pictures: (place(pictures)[0], 1 - place(pictures)[1]),
            "the mask is inverted: here 1 stands for a real pixel, and 0 for padding.",
        ),
        Mistake(
            lambda pictures: (place(pictures)[0], torch.ones_like(place(pictures)[1])),
            "the padding was counted as picture: the mask is 1 everywhere.",
        ),
        Mistake(
            lambda pictures: place(pictures, far=True),
            "the pictures lie at the bottom right: padding goes below and to the right of them.",
        ),
        Mistake(stretched, "the smaller pictures were stretched: they keep their pixels, and zeros fill the rest."),
        *(
            Mistake(
                guessed(real),
                "the mask was read off the values: a real pixel may be 0 too, the mean colour. Take it from the sizes.",
            )
            for real in (
                lambda values: (values != 0).all(1),
                lambda values: (values != 0).any(1),
                lambda values: values[:, 0] != 0,
                lambda values: values.sum(1) != 0,
            )
        ),
        Mistake(
            square, "the frame is square: its height is the highest picture's, its width the widest's, each by itself."
        ),
        Mistake(black, "the padding is not 0: fill with zeros, which after normalising is the mean colour."),
    ]
    rng = generator(23)
    cases = []
    for count in (2, 3, 1, 4):
        pictures = [torch.randn(3, *random_size(rng, 5, 40), generator=rng).round(decimals=1) for _ in range(count)]
        for picture in pictures:
            picture[:, 1, 2] = 0.0  # a real pixel of the mean colour
        cases.append((pictures,))
    return check_function(answer, reference, cases, mistakes, name="pad_batch", parts=("pixel_values", "pixel_mask"))


def batch_targets(answer: Answer) -> Passed:
    """Check a function that carries COCO boxes (N, 4) of a picture through resizing and padding to _norm targets.

    The answer is called with the boxes and three sizes (height, width): of the file, resized, and of the batch.
    """

    def reference(
        boxes_xywh: Tensor, size: tuple[int, int], resized: tuple[int, int], padded: tuple[int, int]
    ) -> Tensor:
        return _relative(boxes_xywh, *size)

    mistakes = [
        Mistake(
            lambda b, size, resized, padded: (
                _relative(b, *size) * torch.tensor([resized[1] / padded[1], resized[0] / padded[0]] * 2)
            ),
            "the boxes were divided by the padded size, so they depend on the batch: _norm is a fraction of the "
            "picture without its padding.",
        ),
        Mistake(
            lambda b, size, resized, padded: _relative(b, *padded),
            "boxes in pixels of the file were divided by the size of the batch: two frames, one of them resized.",
        ),
        Mistake(
            lambda b, size, resized, padded: _relative(b, *resized),
            "boxes in pixels of the file were divided by the resized size: scale them first, or divide by the size "
            "that they belong to.",
        ),
        *(
            Mistake(
                same_factor,
                "both axes were scaled by the same factor: width and height were rounded separately, so each has a "
                "ratio of its own.",
            )
            for same_factor in (
                lambda b, size, resized, padded: _relative(b * (resized[0] / size[0]), *resized),
                lambda b, size, resized, padded: _relative(b * (resized[1] / size[1]), *resized),
            )
        ),
        Mistake(
            lambda b, size, resized, padded: _relative(
                b * torch.tensor([resized[0] / size[0], resized[1] / size[1]] * 2), *resized
            ),
            "x was scaled by the ratio of the heights and y by that of the widths: sizes are (height, width).",
        ),
        Mistake(
            lambda b, size, resized, padded: _relative(b, size[1], size[0]),
            "x was divided by the height and y by the width: sizes are (height, width).",
        ),
        Mistake(
            lambda b, size, resized, padded: (
                _relative(b, *size) * torch.tensor([resized[1] / size[1], resized[0] / size[0]] * 2)
            ),
            "the boxes were scaled to the resized picture, and then divided by the size of the file: divide by the "
            "size that they now belong to.",
        ),
    ]
    rng = generator(24)
    cases = []
    for boxes_xywh, height, width in _target_cases(24):
        resized = (random_integer(rng, 30, 60), random_integer(rng, 70, 90))
        padded = (resized[0] + random_integer(rng, 5, 30), resized[1] + random_integer(rng, 5, 30))
        cases.append((boxes_xywh, (height, width), resized, padded))
    return check_function(answer, reference, cases, mistakes, name="batch_targets")
