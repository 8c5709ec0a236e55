"""Chapter 2: the solution of each exercise passes; typical wrong answers fail, each with the intended hint."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ddetr_lab.checks import CheckError, chapter02
from tests.checks.contract import *  # noqa: F403 (the tests that every chapter's checks pass)

Answer = Callable[..., Any]


def resized(round_short: bool = True, round_long: bool = False, limited: bool = True) -> Answer:
    """Make the resizing rule, with either rounding or the limit to spoil."""

    def answer(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
        short, long = min(height, width), max(height, width)
        if limited and shortest * long / short > longest:
            exact = longest * short / long
            shortest = round(exact) if round_short else int(exact)
        far = shortest * long / short
        far = round(far) if round_long else int(far)
        return (shortest, far) if height <= width else (far, shortest)

    return answer


def to_the_limit(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    factor = min(shortest / min(height, width), longest / max(height, width))
    return round(height * factor), round(width * factor)


def always_to_the_limit(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    # Right about the first case by luck of its rounding: told apart on the second.
    if shortest == longest:
        return resized()(height, width, shortest, longest)
    return round(height * longest / max(height, width)), round(width * longest / max(height, width))


def good_targets(b: Tensor, height: int, width: int) -> Tensor:
    x, y, w, h = b.unbind(-1)
    return torch.stack(((x + w / 2) / width, (y + h / 2) / height, w / width, h / height), dim=-1)


def good_pad(pictures: list[Tensor]) -> tuple[Tensor, Tensor]:
    height = max(picture.shape[1] for picture in pictures)
    width = max(picture.shape[2] for picture in pictures)
    values = torch.zeros(len(pictures), 3, height, width)
    mask = torch.zeros(len(pictures), height, width, dtype=torch.long)
    for i, picture in enumerate(pictures):
        _, h, w = picture.shape
        values[i, :, :h, :w] = picture
        mask[i, :h, :w] = 1
    return values, mask


def spoilt_pad(change: Answer) -> Answer:
    return lambda pictures: change(*good_pad(pictures))


def at_the_far_corner(pictures: list[Tensor]) -> tuple[Tensor, Tensor]:
    values, mask = good_pad([picture.flip(1, 2) for picture in pictures])
    return values.flip(2, 3), mask.flip(1, 2)


def stretch(pictures: list[Tensor]) -> tuple[Tensor, Tensor]:
    values, mask = good_pad(pictures)
    parts = [torch.nn.functional.interpolate(p[None], mask.shape[1:], mode="bilinear") for p in pictures]
    return torch.cat(parts), torch.ones_like(mask)


def good_batch(b: Tensor, size: tuple[int, int], resized: tuple[int, int], padded: tuple[int, int]) -> Tensor:
    return good_targets(b, *size)


def planted(b: Tensor, size: tuple[int, int], resized: tuple[int, int], padded: tuple[int, int]) -> Tensor:
    y, x = resized[0] / size[0], resized[1] / size[1]
    return good_targets(b * torch.tensor([x, y, x, y]), *padded)


def scaled_then_file(b: Tensor, size: tuple[int, int], resized: tuple[int, int], padded: tuple[int, int]) -> Tensor:
    y, x = resized[0] / size[0], resized[1] / size[1]
    return good_targets(b * torch.tensor([x, y, x, y]), *size)


RIGHT: list[tuple[Answer, Answer]] = [
    (chapter02.output_size, resized()),
    (chapter02.target_boxes, good_targets),
    (chapter02.pad_batch, good_pad),
    (chapter02.batch_targets, good_batch),
]

WRONG: list[tuple[Answer, Answer, str]] = [
    (chapter02.output_size, resized(round_long=True), "long side was rounded"),
    (chapter02.output_size, to_the_limit, "long side was rounded"),
    (chapter02.output_size, always_to_the_limit, "an upper bound"),
    (chapter02.output_size, resized(round_short=False), "short side was cut"),
    (chapter02.output_size, resized(limited=False), "passed its limit"),
    (chapter02.output_size, lambda h, w, s, limit: resized()(h, w, s, limit)[::-1], "height and width are exchanged"),
    (chapter02.output_size, lambda h, w, s, limit: (s, s), "keep its proportions"),
    (chapter02.output_size, lambda h, w, s, limit: (0.5 * h, 0.5 * w), "indices and labels are integers"),
    (chapter02.target_boxes, lambda b, h, w: good_targets(b, w, h), "a box starts with x"),
    (chapter02.target_boxes, lambda b, h, w: b / torch.tensor([w, h, w, h]), "begins with the centre"),
    (
        chapter02.target_boxes,
        lambda b, h, w: torch.cat((b[:, :2], b[:, :2] + b[:, 2:]), 1) / torch.tensor([w, h, w, h]),
        "two corners",
    ),
    (
        chapter02.target_boxes,
        lambda b, h, w: torch.cat(((b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]), 1) / torch.tensor([w, h, w, h]),
        "taken for the far corner",
    ),
    (chapter02.target_boxes, lambda b, h, w: good_targets(b, 1, 1), "these are pixels"),
    (chapter02.pad_batch, spoilt_pad(lambda values, mask: (values, 1 - mask)), "inverted"),
    (chapter02.pad_batch, spoilt_pad(lambda values, mask: (values, mask == 0)), "inverted"),
    (chapter02.pad_batch, spoilt_pad(lambda values, mask: (values, mask * 0 + 1)), "padding was counted"),
    (chapter02.pad_batch, at_the_far_corner, "below and to the right"),
    (chapter02.pad_batch, stretch, "were stretched"),
    (chapter02.pad_batch, spoilt_pad(lambda values, mask: (values, (values != 0).all(1))), "take it from the sizes"),
    (chapter02.pad_batch, spoilt_pad(lambda values, mask: (values - 1 + mask[:, None], mask)), "is not 0"),
    (chapter02.pad_batch, spoilt_pad(lambda values, mask: values), "look at what it returns"),
    (chapter02.batch_targets, planted, "depend on the batch"),
    (chapter02.batch_targets, lambda b, size, new, padded: good_targets(b, *padded), "size of the batch"),
    (chapter02.batch_targets, lambda b, size, new, padded: good_targets(b, *new), "scale them first"),
    (chapter02.batch_targets, lambda b, size, new, padded: good_targets(b, *size[::-1]), "divided by the height"),
    (chapter02.batch_targets, scaled_then_file, "then divided by the size of the file"),
]


def test_the_result_instead_of_the_function_is_named() -> None:
    with pytest.raises(CheckError, match="expected a function"):
        chapter02.output_size((1, 2))  # type: ignore[arg-type]


def in_place_pad(pictures: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Write into the list: once the check compared with what the list had become, and believed the mask."""
    height, width = good_pad(pictures)[1].shape[1:]
    for i, picture in enumerate(pictures):
        margins = (0, width - picture.shape[2], 0, height - picture.shape[1])
        pictures[i] = torch.nn.functional.pad(picture, margins)
    return torch.stack(pictures), torch.stack([torch.ones(one.shape[1:], dtype=torch.long) for one in pictures])


def compared_sizes(pictures: list[Tensor]) -> list[Tensor]:
    values = good_pad(pictures)[0]
    rows, columns = torch.arange(values.shape[2])[:, None], torch.arange(values.shape[3])
    sizes = [one.shape[1:] for one in pictures]
    return [values, torch.stack([((rows < h) & (columns < w)).int() for h, w in sizes])]


def one_ratio(b: Tensor, size: tuple[int, int], resized: tuple[int, int], padded: tuple[int, int]) -> Tensor:
    return good_targets(b * (resized[0] / size[0]), *resized)


def looped_targets(b: Tensor, height: int, width: int) -> Tensor:
    return torch.tensor(
        [[(x + w / 2) / width, (y + h / 2) / height, w / width, h / height] for x, y, w, h in b.tolist()]
    )


RIGHT += [
    (chapter02.output_size, lambda *sizes: torch.tensor(resized()(*sizes))),
    (chapter02.target_boxes, lambda b, height, width: looped_targets(b, height, width).reshape(-1, 4)),
    (chapter02.pad_batch, compared_sizes),
    (chapter02.batch_targets, lambda b, size, resized, padded: good_targets(b, *size)),
]

WRONG += [
    (chapter02.output_size, lambda *sizes: tuple(map(float, resized()(*sizes))), "they are floats"),
    (chapter02.target_boxes, looped_targets, r"an empty list makes a tensor of shape \(0,\)"),
    (
        chapter02.target_boxes,
        lambda b, h, w: good_targets(b, h, w) - good_targets(b, h, w)[:, [2, 3, 2, 3]] * torch.tensor([1, 1, 0, 0]),
        "half the size was subtracted",
    ),
    (
        chapter02.target_boxes,
        lambda b, h, w: torch.cat(((b[:, :2] + b[:, 2:]) / 2, b[:, 2:]), 1) / torch.tensor([w, h, w, h]),
        "was halved as well",
    ),
    (chapter02.pad_batch, in_place_pad, "writes into the caller's list"),
    (chapter02.pad_batch, spoilt_pad(lambda values, mask: (values, mask.float())), "made of floats"),
    *(
        (
            chapter02.pad_batch,
            spoilt_pad(lambda values, _, real=real: (values, real(values).long())),
            "read off the values",
        )
        for real in (lambda v: (v != 0).any(1), lambda v: v[:, 0] != 0, lambda v: v.sum(1) != 0)
    ),
    (chapter02.batch_targets, one_ratio, "a ratio of its own"),
]
