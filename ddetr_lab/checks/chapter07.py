"""The checks of chapter 7: maps a level, one level sampled, and the whole operator without loops.

Built in chapter 7.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ddetr_lab.checks.core import Answer, Mistake, Passed, check_function, generator, random_integer
from ddetr_lab.ops import ms_deform_attn

__all__ = ["attend", "maps_of_levels", "sample_level"]

Shapes = tuple[tuple[int, int], ...]


def _problems(seed: int, cases: int = 6, levels: int = 2) -> Iterator[tuple[Tensor, Shapes, Tensor, Tensor]]:
    """Yield value, shapes, locations and weights, with M, Q, D, P, H and W all different and points off the rim."""
    rng = generator(seed)
    for case in range(cases):
        heads, queries, points = random_integer(rng, 2, 3), random_integer(rng, 5, 7), 4
        channels, batch = random_integer(rng, 8, 10), 1 if case == 1 else 2
        shapes = []
        for _ in range(levels):
            height = random_integer(rng, 2, 5)
            shapes.append((height, height + random_integer(rng, 1, 4)))
        if case == 2:
            shapes[0] = (1, 3)  # a level of one row
        tokens = sum(height * width for height, width in shapes)
        value = torch.randn(batch, tokens, heads, channels, generator=rng)
        locations = torch.rand(batch, queries, heads, levels, points, 2, generator=rng) * 1.4 - 0.2
        weights = torch.rand(batch, queries, heads, levels * points, generator=rng) + 0.05
        weights = (weights / weights.sum(-1, keepdim=True)).unflatten(-1, (levels, points))
        yield value, tuple(shapes), locations, weights


def maps_of_levels(answer: Answer) -> Passed:
    """Check a function from value (B, S, M, D) and L shapes (H, W) to L maps (B * M, D, H, W)."""

    def split(value: Tensor, shapes: Sequence[tuple[int, int]]) -> tuple[Tensor, ...]:
        return value.split([height * width for height, width in shapes], dim=1)

    def reference(value: Tensor, spatial_shapes: Shapes) -> tuple[Tensor, ...]:
        return tuple(
            part.permute(0, 2, 3, 1).flatten(0, 1).unflatten(-1, shape)  # (B, H*W, M, D) -> (B*M, D, H, W)
            for part, shape in zip(split(value, spatial_shapes), spatial_shapes, strict=True)
        )

    def only_reshaped(value: Tensor, spatial_shapes: Shapes) -> tuple[Tensor, ...]:
        heads, channels = value.shape[2:]
        return tuple(
            part.reshape(value.shape[0] * heads, channels, *shape)
            for part, shape in zip(split(value, spatial_shapes), spatial_shapes, strict=True)
        )

    def heads_forgotten(value: Tensor, spatial_shapes: Shapes) -> tuple[Tensor, ...]:
        heads, channels = value.shape[2:]
        return tuple(
            part.transpose(1, 2).reshape(value.shape[0] * heads, channels, *shape)
            for part, shape in zip(split(value, spatial_shapes), spatial_shapes, strict=True)
        )

    def columns_first(value: Tensor, spatial_shapes: Shapes) -> tuple[Tensor, ...]:
        turned = reference(value, tuple((width, height) for height, width in spatial_shapes))
        return tuple(level_map.transpose(-1, -2) for level_map in turned)

    def from_the_start(value: Tensor, spatial_shapes: Shapes) -> tuple[Tensor, ...]:
        return tuple(reference(value[:, : height * width], ((height, width),))[0] for height, width in spatial_shapes)

    def heads_first(value: Tensor, spatial_shapes: Shapes) -> tuple[Tensor, ...]:
        return tuple(
            level_map.unflatten(0, (value.shape[0], -1)).transpose(0, 1).flatten(0, 1)  # (M*B, D, H, W)
            for level_map in reference(value, spatial_shapes)
        )

    mistakes = [
        Mistake(
            only_reshaped,
            "the shapes are right and the numbers are in the wrong cells: reshape never moves a number in memory. "
            "Bring the axes into the order B, M, D, H*W with permute first.",
        ),
        Mistake(
            heads_forgotten,
            "heads and tokens changed places, but the channels still come last: the axes before the reshape have to "
            "be B, M, D, H*W.",
        ),
        Mistake(
            columns_first,
            "the map was filled column after column: tokens lie row after row, so the width is the last axis.",
        ),
        Mistake(
            from_the_start,
            "every level was cut from the first token on: level 1 starts where level 0 ends. torch.split does the "
            "counting.",
        ),
        Mistake(heads_first, "the first axis runs over heads, then pictures: it has to be the other way, b * M + m."),
    ]
    cases = [(value, shapes) for value, shapes, _, _ in _problems(seed=71)]
    names = ("level 0", "level 1")
    return check_function(answer, reference, cases, mistakes, name="maps_of_levels", parts=names)


def _sampled(
    level_map: Tensor, locations: Tensor, weights: Tensor, *, align: bool = False, padding: str = "zeros"
) -> Tensor:
    """Sample maps (B * M, D, H, W) at locations (B, Q, M, P, 2), and sum by weights (B, Q, M, P)."""
    batch, queries, heads, _, _ = locations.shape
    grid = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # (B, Q, M, P, 2) -> (B*M, Q, P, 2)
    samples = F.grid_sample(level_map, grid, mode="bilinear", padding_mode=padding, align_corners=align)
    summed = (samples * weights.transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)  # (B*M, D, Q)
    return summed.view(batch, -1, queries).transpose(1, 2)  # (B, Q, M*D)


def sample_level(answer: Answer) -> Passed:
    """Check a function from maps (B * M, D, H, W), locations (B, Q, M, P, 2), weights (B, Q, M, P) to (B, Q, M * D)."""

    def reference(level_map: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        height, width = level_map.shape[-2:]
        value = level_map.unflatten(0, locations.shape[:3:2]).flatten(3).permute(0, 3, 1, 2)  # (B, H*W, M, D)
        return ms_deform_attn(value, [(height, width)], None, locations[:, :, :, None], weights[:, :, :, None])

    def queries_and_heads_mixed(level_map: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        batch, queries, heads, points, _ = locations.shape
        grid = (2 * locations - 1).reshape(batch * heads, queries, points, 2)
        samples = F.grid_sample(level_map, grid, align_corners=False)
        summed = (samples * weights.transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)
        return summed.view(batch, -1, queries).transpose(1, 2)

    def both_mixed(level_map: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        batch, queries, heads, points = weights.shape
        turned = weights.reshape(batch, heads, queries, points).transpose(1, 2)
        return queries_and_heads_mixed(level_map, locations, turned)

    def weights_mixed(level_map: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        batch, queries, heads, points = weights.shape
        return _sampled(level_map, locations, weights.reshape(batch, heads, queries, points).transpose(1, 2))

    def not_turned_back(level_map: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        right = reference(level_map, locations, weights)
        return right.transpose(1, 2).reshape(right.shape)

    mistakes = [
        Mistake(
            lambda m, u, a: _sampled(m, u, a, align=True),
            "with align_corners=True -1 and 1 are the centres of the outer cells; our locations count from rim to rim, "
            "which is align_corners=False.",
        ),
        Mistake(
            lambda m, u, a: _sampled(m, (u + 1) / 2, a),
            "the locations went in as they are, 0-1: grid_sample counts from -1 to 1.",
        ),
        Mistake(
            lambda m, u, a: _sampled(m, u, a, padding="border"),
            "what lies outside was read as the nearest cell of the rim: it has to read zero.",
        ),
        Mistake(
            lambda m, u, a: _sampled(m, u.flip(-1), a),
            "x and y are exchanged: the last axis of the grid is (x, y), and so are our locations.",
        ),
        Mistake(
            lambda m, u, a: _sampled(m, u, torch.ones_like(a)),
            "the samples were summed without their attention weights.",
        ),
        Mistake(
            queries_and_heads_mixed,
            "the locations of one head met the map of another: a reshape from (B, Q, M, P, 2) does not exchange Q and "
            "M. Transpose first.",
        ),
        Mistake(
            both_mixed,
            "locations and weights of one head met the map of another: a reshape from (B, Q, M, ...) does not exchange "
            "Q and M. Transpose first.",
        ),
        Mistake(
            weights_mixed,
            "the weights of one head met the samples of another: a reshape from (B, Q, M, P) does not exchange Q and "
            "M. Transpose first.",
        ),
        Mistake(
            lambda m, u, a: _sampled(m, u.clamp(0, 1), a),
            "locations outside were cut to 0-1, and read the rim: outside reads zero, which grid_sample does by "
            "itself.",
        ),
        Mistake(
            not_turned_back,
            "the sums are right, but the result was only reshaped to (B, Q, M*D): it is (B, M*D, Q) in memory, so "
            "transpose the last two axes.",
        ),
    ]
    cases = []
    for value, shapes, locations, weights in _problems(seed=72, levels=1):
        level_map = value.permute(0, 2, 3, 1).flatten(0, 1).unflatten(-1, shapes[0])  # (B*M, D, H, W)
        cases.append((level_map, locations[:, :, :, 0], weights[:, :, :, 0]))
    return check_function(answer, reference, cases, mistakes, name="sample_level")


def attend(answer: Answer) -> Passed:
    """Check the whole operator: value, shapes, locations, weights to (B, Q, M * D)."""

    def by_levels(
        value: Tensor,
        shapes: Shapes,
        locations: Tensor,
        weights: Tensor,
        *,
        align: bool = False,
        padding: str = "zeros",
    ) -> Tensor:
        parts = value.split([height * width for height, width in shapes], dim=1)
        outputs = []
        for level, (part, shape) in enumerate(zip(parts, shapes, strict=True)):
            level_map = part.permute(0, 2, 3, 1).flatten(0, 1).unflatten(-1, shape)  # (B*M, D, H, W)
            place, weight = locations[:, :, :, level], weights[:, :, :, level]
            outputs.append(_sampled(level_map, place, weight, align=align, padding=padding))
        return torch.stack(outputs).sum(0)

    def reference(value: Tensor, spatial_shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn(value, spatial_shapes, None, locations, weights)

    def last_level(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        height, width = shapes[-1]
        return by_levels(value[:, -height * width :], shapes[-1:], locations[:, :, :, -1:], weights[:, :, :, -1:])

    def heads_mixed(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        batch, queries, heads = locations.shape[:3]
        turned = torch.stack(
            [
                one.reshape(batch, heads, queries, -1, 2).transpose(1, 2)  # no transpose before: Q and M are mixed
                for one in locations.unbind(3)
            ],
            dim=3,
        )
        return by_levels(value, shapes, turned, weights)

    mistakes = [
        Mistake(last_level, "only the last level is there: add what the levels give, with += and not with =."),
        Mistake(
            heads_mixed,
            "the locations of one head met the map of another: a reshape does not exchange Q and M. Transpose first.",
        ),
        Mistake(
            lambda v, s, u, a: by_levels(v, s, u, torch.ones_like(a)),
            "the samples were summed without their attention weights.",
        ),
        Mistake(
            lambda v, s, u, a: by_levels(v, s, u.flip(-1), a),
            "x and y are exchanged: the last axis of the grid is (x, y), and so are our locations.",
        ),
        Mistake(
            lambda v, s, u, a: by_levels(v, s, (u + 1) / 2, a),
            "the locations went in as they are, 0-1: grid_sample counts from -1 to 1.",
        ),
        Mistake(
            lambda v, s, u, a: by_levels(v, s, u - 0.5 / torch.tensor([[w, h] for h, w in s])[:, None], a),
            "every sample is half a cell too far left and up: the half pixel is subtracted by align_corners=False "
            "already, and must not be subtracted by hand.",
        ),
        Mistake(
            lambda v, s, u, a: by_levels(v, s, u, a, align=True),
            "the planted fault is still there: a point in the middle is read rightly, one at the rim half a cell off. "
            "Which two cells' centres does grid_sample call -1 and 1 here?",
        ),
        Mistake(
            lambda v, s, u, a: by_levels(v, s, u, a, padding="border"),
            "samples outside a map read the rim: with padding_mode='zeros' they read zero.",
        ),
        Mistake(
            lambda v, s, u, a: by_levels(v, s, u + 0.5 / torch.tensor([[w, h] for h, w in s])[:, None], a),
            "every sample is half a cell too far right and down: the half pixel is subtracted by align_corners=False "
            "already, and must not be added by hand.",
        ),
        Mistake(
            lambda v, s, u, a: by_levels(v, s, u, a.softmax(-1)),
            "the weights went through a softmax a second time: they sum to 1 over levels and points when they come in.",
        ),
        Mistake(
            lambda v, s, u, a: by_levels(v, s, u, a) / len(s),
            "the levels were averaged: the weights sum to 1 over all levels together, so the levels are summed.",
        ),
    ]
    return check_function(answer, reference, list(_problems(seed=73)), mistakes, name="attend")
