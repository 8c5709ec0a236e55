"""Chapter 7: the solution of each exercise passes; typical wrong answers fail, each with the intended hint."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ddetr_lab.checks import chapter07
from tests.checks.contract import *  # noqa: F403 (the tests that every chapter's checks pass)

Answer = Callable[..., Any]
Shapes = tuple[tuple[int, int], ...]


def maps(arrange: Answer, cut: Answer | None = None) -> Answer:
    """Make an answer that cuts the levels and arranges each, (B, H*W, M, D) and (H, W), as told."""

    def answer(value: Tensor, spatial_shapes: Shapes) -> list[Tensor]:
        sizes = [height * width for height, width in spatial_shapes]
        parts = value.split(sizes, dim=1) if cut is None else [cut(value, size) for size in sizes]
        return [arrange(part, *shape) for part, shape in zip(parts, spatial_shapes, strict=True)]

    return answer


def arranged(part: Tensor, height: int, width: int) -> Tensor:
    batch, _, heads, channels = part.shape
    return part.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)


def in_columns(part: Tensor, height: int, width: int) -> Tensor:
    return arranged(part, width, height).transpose(2, 3)


def sample(
    grid_of: Answer = lambda u: 2 * u - 1,
    weight_of: Answer = lambda a: a,
    turn: bool = True,
    finish: Answer | None = None,
    **options: Any,
) -> Answer:
    """Make an answer to ``sample_level`` of which each step can be spoilt."""

    def answer(level_map: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        batch, queries, heads, points, _ = locations.shape
        grid = grid_of(locations)
        grid = grid.transpose(1, 2) if turn else grid
        grid = grid.reshape(batch * heads, queries, points, 2)
        samples = F.grid_sample(level_map, grid, **{"align_corners": False, **options})
        weight = weight_of(weights).transpose(1, 2).reshape(batch * heads, 1, queries, points)
        summed = (samples * weight).sum(-1)
        if finish is not None:
            return finish(summed, batch, queries)
        return summed.reshape(batch, -1, queries).transpose(1, 2)

    return answer


def whole(one: Answer, join: Answer = sum) -> Answer:
    """Make an answer to ``attend`` that samples level by level."""

    def answer(value: Tensor, spatial_shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        parts = maps(arranged)(value, spatial_shapes)
        return join([one(part, locations[:, :, :, level], weights[:, :, :, level]) for level, part in enumerate(parts)])

    return answer


def with_half_cell(value: Tensor, spatial_shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    sizes = torch.tensor(spatial_shapes).flip(-1)[:, None]  # (L, 1, 2), (W, H)
    return whole(sample())(value, spatial_shapes, locations + 0.5 / sizes, weights)


def softmax_again(value: Tensor, spatial_shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    return whole(sample())(value, spatial_shapes, locations, weights.softmax(-1))


RIGHT: list[tuple[Answer, Answer]] = [
    (chapter07.maps_of_levels, maps(arranged)),
    (chapter07.sample_level, sample()),
    (chapter07.attend, whole(sample())),
]

WRONG: list[tuple[Answer, Answer, str]] = [
    (
        chapter07.maps_of_levels,
        maps(lambda part, h, w: part.reshape(part.shape[0] * part.shape[2], part.shape[3], h, w)),
        "reshape never moves",
    ),
    (
        chapter07.maps_of_levels,
        maps(lambda part, h, w: part.transpose(1, 2).reshape(-1, part.shape[3], h, w)),
        "channels still come last",
    ),
    (chapter07.maps_of_levels, maps(in_columns), "column after column"),
    (chapter07.maps_of_levels, maps(arranged, lambda value, size: value[:, :size]), "from the first token"),
    (
        chapter07.maps_of_levels,
        maps(lambda part, h, w: part.permute(2, 0, 3, 1).reshape(-1, part.shape[3], h, w)),
        "heads, then pictures",
    ),
    (chapter07.maps_of_levels, lambda value, shapes: maps(arranged)(value, shapes)[:1], "what it returns"),
    (chapter07.sample_level, sample(align_corners=True), "centres of the outer cells"),
    (chapter07.sample_level, sample(grid_of=lambda u: u), "from -1 to 1"),
    (chapter07.sample_level, sample(padding_mode="border"), "read zero"),
    (chapter07.sample_level, sample(grid_of=lambda u: 2 * u.flip(-1) - 1), "x and y are exchanged"),
    (chapter07.sample_level, sample(weight_of=torch.ones_like), "without their attention weights"),
    (chapter07.sample_level, sample(turn=False), "Transpose first"),
    (chapter07.sample_level, sample(finish=lambda x, b, q: x.reshape(b, q, -1)), "only reshaped"),
    (
        chapter07.sample_level,
        sample(finish=lambda x, b, q: x.reshape(b, -1, q)),
        "axes are in another order",
    ),
    (chapter07.attend, whole(sample(align_corners=True)), "planted fault is still there"),
    (chapter07.attend, whole(sample(padding_mode="border")), "padding_mode='zeros'"),
    (chapter07.attend, with_half_cell, "half a cell too far"),
    (chapter07.attend, softmax_again, "a second time"),
    (chapter07.attend, whole(sample(), lambda levels: sum(levels) / len(levels)), "averaged"),
]


def only_last(value: Tensor, spatial_shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    return whole(sample(), lambda parts: list(parts)[-1])(value, spatial_shapes, locations, weights)


RIGHT += [
    (
        chapter07.maps_of_levels,
        lambda v, shapes: [
            torch.einsum("bsmd->bmds", part).reshape(-1, v.shape[3], *shape)
            for part, shape in zip(v.split([h * w for h, w in shapes], 1), shapes, strict=True)
        ],
    ),
]

WRONG += [
    (chapter07.sample_level, lambda m, u, a: sample()(m, u.clamp(0, 1), a), "cut to 0-1"),
    (
        chapter07.sample_level,
        lambda m, u, a: sample()(m, u, a.reshape(len(a), a.shape[2], a.shape[1], -1).transpose(1, 2)),
        "weights of one head",
    ),
    (chapter07.attend, only_last, "only the last level"),
    (chapter07.attend, lambda v, s, u, a: whole(sample())(v, s, u, torch.ones_like(a)), "without their attention"),
    (chapter07.attend, lambda v, s, u, a: whole(sample())(v, s, u.flip(-1), a), "x and y are exchanged"),
]
