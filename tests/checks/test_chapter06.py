"""Chapter 6: the solution of each exercise passes; typical wrong answers fail, each with the intended hint."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ddetr_lab.checks import chapter06
from tests.checks.contract import *  # noqa: F403 (the tests that every chapter's checks pass)

Answer = Callable[..., Any]
Shapes = Sequence[tuple[int, int]]


def good_places(references: Tensor, offsets: Tensor, shapes: Shapes) -> Tensor:
    result = torch.empty_like(offsets)
    points = offsets.shape[-2]
    for level, (height, width) in enumerate(shapes):
        step = torch.tensor([1 / width, 1 / height])
        for query in range(len(references)):
            reference = references[query, level]
            if len(reference) == 4:
                step = reference[2:] / (2 * points)
            result[query, :, level] = reference[:2] + offsets[query, :, level] * step
    return result


def stretched(references: Tensor, offsets: Tensor, shapes: Shapes, by_points: bool = True) -> Tensor:
    if references.shape[-1] == 2:
        return good_places(references, offsets, shapes)
    return good_places(references, offsets * (2 if by_points else offsets.shape[-2]), shapes)


def turned(references: Tensor, offsets: Tensor, shapes: Shapes) -> Tensor:
    if references.shape[-1] == 4:
        return good_places(references[..., [0, 1, 3, 2]], offsets, shapes)
    return good_places(references, offsets, [(width, height) for height, width in shapes])


def raw(references: Tensor, offsets: Tensor, shapes: Shapes) -> Tensor:
    return references[:, None, :, None, :2] + offsets


def good_weights(z: Tensor, m: int, n: int, p: int) -> Tensor:
    exponentials = z.exp().view(-1, m, n, p)
    return exponentials / exponentials.sum((2, 3), keepdim=True)


def good_attend(
    value: Tensor,
    shapes: Shapes,
    locations: Tensor,
    weights: Tensor,
    area: Callable[[int, int], int] = lambda h, w: h * w,
) -> Tensor:
    queries, heads, _, points = weights.shape
    output = torch.zeros(queries, heads, value.shape[-1])
    for q in range(queries):
        for m in range(heads):
            start = 0
            for level, (height, width) in enumerate(shapes):
                for p in range(points):
                    u, v = locations[q, m, level, p].tolist()
                    x, y = u * width - 0.5, v * height - 0.5
                    for row in (int(y // 1), int(y // 1) + 1):
                        for column in (int(x // 1), int(x // 1) + 1):
                            if 0 <= row < height and 0 <= column < width:
                                share = (1 - abs(x - column)) * (1 - abs(y - row))
                                cell = value[start + row * width + column, m]
                                output[q, m] += weights[q, m, level, p] * share * cell
                start += area(height, width)
    return output.flatten(1)


def by_columns(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    pieces, start = [], 0
    for height, width in shapes:
        piece = value[start : start + height * width]
        index = torch.tensor([column * height + row for row in range(height) for column in range(width)])
        pieces.append(piece[index])
        start += height * width
    return good_attend(torch.cat(pieces), shapes, locations, weights)


RIGHT: list[tuple[Answer, Answer]] = [
    (chapter06.places, good_places),
    (chapter06.attention_weights, good_weights),
    (chapter06.attend, good_attend),
]

WRONG: list[tuple[Answer, Answer, str]] = [
    (chapter06.places, turned, "turn the shape round"),
    (chapter06.places, raw, "not fractions"),
    (chapter06.places, lambda r, o, s: good_places(r, o, [s[0]] * len(s)), "its own level"),
    (chapter06.places, lambda r, o, s: good_places(r[..., :2], o, s), "treated as a point"),
    (chapter06.places, stretched, "half its width"),
    (chapter06.places, lambda r, o, s: stretched(r, o, s, by_points=False), "divide the offset by the number"),
    (chapter06.attention_weights, lambda z, m, n, p: z.view(-1, m, n, p).softmax(-1), "turn to one level"),
    (chapter06.attention_weights, lambda z, m, n, p: z.view(-1, m, n, p).softmax(2), "levels alone"),
    (chapter06.attention_weights, lambda z, m, n, p: z.softmax(-1).view(-1, m, n, p), "softmax of its own"),
    (chapter06.attention_weights, lambda z, m, n, p: z.sigmoid().view(-1, m, n, p), "do not compete"),
    (chapter06.attention_weights, lambda z, m, n, p: z.view(-1, m, n, p), "softmax is missing"),
    (
        chapter06.attention_weights,
        lambda z, m, n, p: z.view(-1, n * p, m).softmax(1).transpose(1, 2).reshape(-1, m, n, p),
        "heads innermost",
    ),
    (
        chapter06.attention_weights,
        lambda z, m, n, p: (z.view(-1, m, n * p) / z.view(-1, m, n * p).sum(-1, keepdim=True)).view(-1, m, n, p),
        "some weights are negative",
    ),
    (chapter06.attend, lambda *a: good_attend(*a, area=lambda h, w: 0), "at the beginning of the tokens"),
    (chapter06.attend, lambda *a: good_attend(*a, area=lambda h, w: h), "advanced by the height"),
    (chapter06.attend, by_columns, "row after row"),
    (chapter06.attend, lambda v, s, x, a: good_attend(v, [(w, h) for h, w in s], x, a), r"a shape is \(H, W\)"),
    (chapter06.attend, lambda v, s, x, a: good_attend(v, s, x.flip(-1), a), "along the width"),
    (chapter06.attend, lambda v, s, x, a: good_attend(v, s, x, a * 0 + 1 / (a[0, 0].numel())), "count alike"),
    (chapter06.attend, lambda v, s, x, a: good_attend(v[:, :1].expand_as(v), s, x, a), "channels of its own"),
    (chapter06.attend, lambda *a: good_attend(*a)[..., None], "print the shape|another arrangement"),
]


def levels_stacked(references: Tensor, offsets: Tensor, shapes: Shapes) -> Tensor:
    result = []
    for level, (height, width) in enumerate(shapes):
        one = references[:, level][:, None, None]  # (Q, 1, 1, 2 or 4)
        step = torch.tensor([1 / width, 1 / height]) if one.shape[-1] == 2 else one[..., 2:] / 2 / offsets.shape[3]
        result.append(one[..., :2] + offsets[:, :, level] * step)
    return torch.stack(result, dim=2)


def times_the_size(references: Tensor, offsets: Tensor, shapes: Shapes) -> Tensor:
    """Wrong about points, on which the mistakes about boxes could once not be computed."""
    sizes = torch.tensor(shapes).flip(-1)[:, None]
    return references[:, None, :, None, :2] + offsets * sizes


def no_offsets(references: Tensor, offsets: Tensor, shapes: Shapes) -> Tensor:
    return references[:, None, :, None, :2].expand_as(offsets)


RIGHT += [(chapter06.places, levels_stacked)]

WRONG += [
    (chapter06.places, times_the_size, "were multiplied by the size"),
    (chapter06.places, no_offsets, "work the first wrong row out"),
    (chapter06.places, lambda r, o, s: good_places(r, o, s).clamp(0, 1), "cut to 0-1"),
    (chapter06.attention_weights, lambda z, m, n, p: z.view(-1, m, n, p).softmax(1), "ran over the heads"),
    (chapter06.attention_weights, lambda z, m, n, p: good_weights(z, m, p, n).transpose(2, 3), "levels and points"),
    (
        chapter06.attend,
        lambda v, s, u, a: good_attend(v, s, u + 0.5 / torch.tensor(s).flip(-1)[:, None], a),
        "half a cell too far right",
    ),
]
