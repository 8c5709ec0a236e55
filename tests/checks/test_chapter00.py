"""Chapter 0: the solution of each exercise passes; typical wrong answers fail, each with the intended hint."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ddetr_lab.checks import chapter00
from tests.checks.contract import *  # noqa: F403 (the tests that every chapter's checks pass)

Answer = Callable[..., Any]


def columns(*values: Tensor) -> Tensor:
    return torch.stack(values, dim=1)


def good_corners(b: Tensor) -> Tensor:
    x, y, w, h = b.T
    return columns(x, y, x + w, y + h)


def good_centres(b: Tensor) -> Tensor:
    x0, y0, x1, y1 = b.T
    return columns((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)


def good_frame(points: Tensor, real: tuple[int, int], padded: tuple[int, int]) -> Tensor:
    return points * torch.tensor([real[1] / padded[1], real[0] / padded[0]])


def good_clip(b: Tensor, height: int, width: int) -> Tensor:
    limit = torch.tensor([width, height, width, height])
    return torch.minimum(b.clamp(min=0), limit)


def good_fool(b: Tensor) -> Tensor:
    return torch.cat((b[:, 2:] / 2, b[:, 2:]), dim=1)


def clip_in_place(b: Tensor, height: int, width: int) -> Tensor:
    b[:, 0::2] = b[:, 0::2].clamp(0, width)
    b[:, 1::2] = b[:, 1::2].clamp(0, height)
    return b


RIGHT: list[tuple[Answer, Answer]] = [
    (chapter00.xywh_to_xyxy, good_corners),
    (chapter00.xyxy_to_cxcywh, good_centres),
    (chapter00.norm_to_padnorm, good_frame),
    (chapter00.clip_boxes, good_clip),
    (chapter00.fools_one_example, good_fool),
]

WRONG: list[tuple[Answer, Answer, str]] = [
    (chapter00.xywh_to_xyxy, lambda b: good_corners(b[:, [0, 1, 3, 2]]), "width and height are exchanged"),
    (chapter00.xywh_to_xyxy, lambda b: b, "not yet a corner"),
    (chapter00.xywh_to_xyxy, lambda b: columns(*b[:, :2].T, *(b[:, :2] * b[:, 2:]).T), "a sum, not a product"),
    (
        chapter00.xywh_to_xyxy,
        lambda b: torch.cat((b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2), 1),
        "takes x and y for the centre",
    ),
    (chapter00.xywh_to_xyxy, lambda b: torch.stack(good_corners(b).unbind(1)), "another order"),
    (chapter00.xyxy_to_cxcywh, lambda b: torch.cat((b[:, :2], b[:, 2:] - b[:, :2]), 1), "COCO's xywh"),
    (chapter00.xyxy_to_cxcywh, lambda b: good_centres(b) * torch.tensor([1, 1, 0.5, 0.5]), "whole width and height"),
    (chapter00.xyxy_to_cxcywh, lambda b: good_centres(b)[:, [0, 1, 3, 2]], "order is cx, cy, w, h"),
    (
        chapter00.xyxy_to_cxcywh,
        lambda b: torch.cat(((b[:, 2:] - b[:, :2]) / 2, b[:, 2:] - b[:, :2]), 1),
        "a box that starts at 0",
    ),
    (chapter00.xyxy_to_cxcywh, lambda b: good_centres(b)[:, [1, 0, 3, 2]], "x and y are exchanged"),
    (chapter00.norm_to_padnorm, lambda p, real, padded: good_frame(p, real[::-1], padded[::-1]), "x met the heights"),
    (chapter00.norm_to_padnorm, lambda p, real, padded: good_frame(p, padded, real), "upside down"),
    (chapter00.norm_to_padnorm, lambda p, real, padded: good_frame(p, real, (1, 1)), "these are pixels"),
    (chapter00.norm_to_padnorm, lambda p, real, padded: p, "still in _norm"),
    (chapter00.clip_boxes, lambda b, h, w: good_clip(b, w, h), "nobody notices while pictures are square"),
    (chapter00.clip_boxes, lambda b, h, w: b.clamp(0, 1), "right for _norm"),
    (chapter00.clip_boxes, lambda b, h, w: torch.minimum(b, torch.tensor([w, h, w, h])), "negative coordinates"),
    (chapter00.clip_boxes, lambda b, h, w: b.clamp(min=0), "but not the far ones"),
    (chapter00.clip_boxes, lambda b, h, w: good_clip(b, h - 1, w - 1), "indices of pixels"),
    (chapter00.clip_boxes, lambda b, h, w: b.clamp(0, max(h, w)), "a limit of its own"),
    (chapter00.clip_boxes, clip_in_place, "write into the argument"),
    (chapter00.fools_one_example, good_centres, "For once a wrong one is wanted"),
    (chapter00.fools_one_example, lambda b: b, "special about a square"),
    (chapter00.fools_one_example, lambda b: good_centres(b)[:1], "one of numbers, not of shape"),
    (chapter00.fools_one_example, lambda b: good_centres(b).sum(), "special about a square"),
]

RIGHT += [
    (
        chapter00.xyxy_to_cxcywh,
        lambda b: b @ torch.tensor([[0.5, 0, -1, 0], [0, 0.5, 0, -1], [0.5, 0, 1, 0], [0, 0.5, 0, 1]]),
    ),
    (chapter00.norm_to_padnorm, lambda p, real, padded: p * torch.tensor(real).flip(0) / torch.tensor(padded).flip(0)),
    (chapter00.clip_boxes, lambda b, h, w: b.clamp(min=torch.zeros(4), max=torch.tensor([w, h, w, h]))),
    (chapter00.fools_one_example, lambda b: torch.tensor([[1.0, 1, 2, 2]]).expand(len(b), 4)),
]

WRONG += [
    (chapter00.xyxy_to_cxcywh, lambda b: torch.cat((good_centres(b)[:, :2], b[:, 2:]), 1), "still the far corner"),
    (chapter00.xyxy_to_cxcywh, lambda b: good_centres(b) * torch.tensor([2, 2, 1, 1]), "not halved"),
    (
        chapter00.xyxy_to_cxcywh,
        lambda b: torch.cat((b[:, :2] + b[:, 2:] / 2, b[:, 2:] - b[:, :2]), 1),
        "taken for the size",
    ),
    (chapter00.clip_boxes, lambda b, h, w: b.clamp(0, w), "a limit of its own"),
    (
        chapter00.clip_boxes,
        lambda b, h, w: torch.cat((b[:, :2].clamp(min=0), b[:, 2:].minimum(torch.tensor([w, h]))), 1),
        "wholly outside",
    ),
]
