"""The checks of chapter 0: box formats, frames, and a wrong answer on purpose.

Built in chapter 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ddetr_lab import boxes
from ddetr_lab.checks.core import (
    Answer,
    CheckError,
    Mistake,
    Passed,
    call,
    check_function,
    compare,
    generator,
    random_boxes_cxcywh,
    random_integer,
    random_size,
    same,
)

__all__ = ["ONE_EXAMPLE", "clip_boxes", "fools_one_example", "norm_to_padnorm", "xywh_to_xyxy", "xyxy_to_cxcywh"]

# A corner box (0, 0, 2, 2): square, and in the picture's corner, so that it forgives a lot.
ONE_EXAMPLE = ((0.0, 0.0, 2.0, 2.0),)


def _pixel_boxes(seed: int, cases: int = 6) -> Iterator[tuple[Tensor, int, int]]:
    """Yield (N, 4) corner boxes in _px with the height and width of their picture."""
    rng = generator(seed)
    for _ in range(cases):
        height, width = random_size(rng)
        norm = random_boxes_cxcywh(rng, random_integer(rng, 2, 7))
        yield boxes.cxcywh_to_xyxy(norm) * torch.tensor([width, height, width, height]), height, width


def _of_columns(*columns: Tensor) -> Tensor:
    return torch.stack(columns, dim=-1)


def xywh_to_xyxy(answer: Answer) -> Passed:
    """Check a function from COCO boxes (N, 4), xywh, to corner boxes (N, 4), xyxy."""
    mistakes = [
        Mistake(
            lambda b: _of_columns(b[:, 0], b[:, 1], b[:, 0] + b[:, 3], b[:, 1] + b[:, 2]),
            "width and height are exchanged: the width is added to x, the height to y.",
        ),
        Mistake(lambda b: b, "the numbers came back as they went in: the last two are sizes, not yet a corner."),
        Mistake(
            boxes.cxcywh_to_xyxy,
            "this takes x and y for the centre: in a COCO box they are the top left corner.",
        ),
        Mistake(
            lambda b: _of_columns(b[:, 0], b[:, 1], b[:, 0] * b[:, 2], b[:, 1] * b[:, 3]),
            "the right edge is the left edge plus the width: a sum, not a product.",
        ),
    ]
    cases = [(boxes.xyxy_to_xywh(pixels),) for pixels, _, _ in _pixel_boxes(seed=1)]
    return check_function(answer, boxes.xywh_to_xyxy, cases, mistakes)


def xyxy_to_cxcywh(answer: Answer) -> Passed:
    """Check a function from corner boxes (N, 4), xyxy, to centre boxes (N, 4), cxcywh."""

    def mixed(b: Tensor, *columns: str) -> Tensor:
        x0, y0, x1, y1 = b.unbind(-1)
        parts = {
            "cx": (x0 + x1) / 2,
            "cy": (y0 + y1) / 2,
            "w": x1 - x0,
            "h": y1 - y0,
            "x0": x0,
            "y0": y0,
            "half w": (x1 - x0) / 2,
            "half h": (y1 - y0) / 2,
            "x1": x1,
            "y1": y1,
            "sum x": x0 + x1,
            "sum y": y0 + y1,
            "x0 + half x1": x0 + x1 / 2,
            "y0 + half y1": y0 + y1 / 2,
        }
        return _of_columns(*(parts[column] for column in columns))

    mistakes = [
        Mistake(
            lambda b: mixed(b, "x0", "y0", "w", "h"),
            "the first two numbers are still the top left corner (that is COCO's xywh): the centre lies midway "
            "between the corners.",
        ),
        Mistake(
            lambda b: mixed(b, "half w", "half h", "w", "h"),
            "half the size is the way from the corner to the centre: it is the centre only of a box that starts at 0.",
        ),
        Mistake(
            lambda b: mixed(b, "cx", "cy", "half w", "half h"),
            "the last two numbers are the whole width and height, not the way from the centre to the rim.",
        ),
        Mistake(lambda b: mixed(b, "cx", "cy", "h", "w"), "width and height are exchanged: the order is cx, cy, w, h."),
        Mistake(
            lambda b: mixed(b, "cx", "cy", "x1", "y1"),
            "the last two numbers are still the far corner: a size is the far edge minus the near one.",
        ),
        Mistake(
            lambda b: mixed(b, "sum x", "sum y", "w", "h"),
            "the corners were added, but not halved: the centre lies midway between them.",
        ),
        Mistake(
            lambda b: mixed(b, "x0 + half x1", "y0 + half y1", "w", "h"),
            "x1 and y1 were taken for the size: in a corner box they are the far corner, and the width is x1 - x0.",
        ),
    ]
    cases = [(pixels,) for pixels, _, _ in _pixel_boxes(seed=2)]
    return check_function(answer, boxes.xyxy_to_cxcywh, cases, mistakes)


def norm_to_padnorm(answer: Answer) -> Passed:
    """Check a function from points (N, 2) in _norm to _padnorm, given two sizes (height, width)."""

    def reference(points_norm: Tensor, real_size: tuple[int, int], padded_size: tuple[int, int]) -> Tensor:
        (height, width), (padded_height, padded_width) = real_size, padded_size
        return points_norm * torch.tensor([width / padded_width, height / padded_height])

    def swapped(points: Tensor, real: tuple[int, int], padded: tuple[int, int]) -> Tensor:
        return points * torch.tensor([real[0] / padded[0], real[1] / padded[1]])

    def inverted(points: Tensor, real: tuple[int, int], padded: tuple[int, int]) -> Tensor:
        return points * torch.tensor([padded[1] / real[1], padded[0] / real[0]])

    def in_pixels(points: Tensor, real: tuple[int, int], padded: tuple[int, int]) -> Tensor:
        return points * torch.tensor([real[1], real[0]])

    mistakes = [
        Mistake(
            swapped,
            "x met the heights and y the widths: a point is (x, y), a size is (height, width), so the ratio of x is "
            "made of the second numbers.",
        ),
        Mistake(
            inverted,
            "the ratio is upside down: padding makes the frame larger, so the same place becomes a smaller fraction.",
        ),
        Mistake(in_pixels, "these are pixels: divide by the padded size to make them fractions again."),
        Mistake(lambda points, real, padded: points, "the points came back as they went in, still in _norm."),
    ]
    rng = generator(3)
    cases = []
    for _ in range(6):
        real = random_size(rng)
        padded = (real[0] + random_integer(rng, 5, 60), real[1] + random_integer(rng, 5, 60))
        cases.append((torch.rand(random_integer(rng, 2, 7), 2, generator=rng), real, padded))
    return check_function(answer, reference, cases, mistakes, name="norm_to_padnorm")


def clip_boxes(answer: Answer) -> Passed:
    """Check a function that cuts corner boxes (N, 4) in _px to a picture of a given height and width."""

    def reference(boxes_xyxy: Tensor, height: int, width: int) -> Tensor:
        x0, y0, x1, y1 = boxes_xyxy.unbind(-1)
        return _of_columns(x0.clamp(0, width), y0.clamp(0, height), x1.clamp(0, width), y1.clamp(0, height))

    mistakes = [
        Mistake(
            lambda b, height, width: reference(b, width, height),
            "x was cut at the height and y at the width: nobody notices while pictures are square.",
        ),
        Mistake(
            lambda b, height, width: torch.minimum(b, torch.tensor([width, height, width, height])),
            "the right and the lower side are cut, but negative coordinates are still there.",
        ),
        Mistake(lambda b, height, width: b.clamp(min=0), "the upper and the left side are cut, but not the far ones."),
        Mistake(
            lambda b, height, width: reference(b, height - 1, width - 1),
            "boxes are cut at width - 1 and height - 1: those are indices of pixels, but an edge may lie on the outer "
            "rim, at width and height.",
        ),
        Mistake(
            lambda b, height, width: b.clamp(0, 1),
            "everything was cut to 0-1: that is right for _norm, but these boxes are in _px.",
        ),
        *(
            Mistake(same_limit, "x and y are cut at the same number: each has a limit of its own.")
            for same_limit in (
                lambda b, height, width: b.clamp(0, max(height, width)),
                lambda b, height, width: b.clamp(0, height),
                lambda b, height, width: b.clamp(0, width),
            )
        ),
        Mistake(
            lambda b, height, width: torch.cat(
                (b[:, :2].clamp(min=0), torch.minimum(b[:, 2:], torch.tensor([width, height]))), dim=1
            ),
            "the near corner is cut at 0 only and the far one at the size only: a box that lies wholly outside has "
            "both on one side, so each number needs both limits.",
        ),
    ]
    rng = generator(4)
    cases = []
    for pixels, height, width in _pixel_boxes(seed=4):
        # Pushed outwards from the middle, so that some boxes hang over each of the four sides.
        centre = torch.tensor([width, height, width, height]) / 2
        cases.append(((pixels - centre) * (2.5 + torch.rand((), generator=rng)) + centre, height, width))
    return check_function(answer, reference, cases, mistakes, name="clip_boxes")


def fools_one_example(answer: Answer) -> Passed:
    """Check a function that is wrong on purpose: right about ``ONE_EXAMPLE``, wrong about boxes in general.

    Raises:
        CheckError: if the function is right everywhere, or gives itself away on the example or by its shape.
    """
    name, reference = "fools_one_example", boxes.xyxy_to_cxcywh
    example = torch.tensor(ONE_EXAMPLE)
    got = call(answer, (example,), name, reference)
    try:
        compare(got, reference(example), name)
    except CheckError as error:
        raise CheckError(
            error.problem.replace(f"{name}", "The one example already catches this function", 1),
            "write something that turns the box (0, 0, 2, 2) into (1, 1, 2, 2), but for a reason that does not hold "
            "for other boxes. What is special about a square, and about a corner at 0?",
        ) from None
    for pixels, _, _ in _pixel_boxes(seed=5):
        got = call(answer, (pixels,), name, reference)
        if not isinstance(got, Tensor) or got.shape != pixels.shape:
            raise CheckError(
                f"For boxes of shape {tuple(pixels.shape)} the result has another type or shape.",
                "a mistake of that kind shows itself at once; let yours be one of numbers, not of shape.",
            )
        if not same(got, reference(pixels)):
            return Passed("fools_one_example: the example believes it, random boxes do not.")
    raise CheckError(
        "The function is right about every box that was tried.",
        "you have written the conversion correctly. For once a wrong one is wanted.",
    )
