"""The checks of chapter 6: places from references and offsets, weights from logits, and the loops over levels.

Built in chapter 6.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ddetr_lab import attention
from ddetr_lab.checks.core import Answer, Mistake, Passed, check_function, generator, random_integer, random_size
from ddetr_lab.ops import ms_deform_attn

__all__ = ["attend", "attention_weights", "places"]

Shapes = Sequence[tuple[int, int]]


def _shapes(rng: torch.Generator, levels: int) -> tuple[tuple[int, int], ...]:
    """Draw sizes of maps, none square and no two alike in area, so that levels cannot be exchanged unseen."""
    shapes: list[tuple[int, int]] = []
    while len(shapes) < levels:
        shape = random_size(rng, 2, 7)
        if shape[0] * shape[1] not in [height * width for height, width in shapes]:
            shapes.append(shape)
    return tuple(shapes)


def places(answer: Answer) -> Passed:
    """Check a function from references (Q, L, 2 or 4), offsets (Q, M, L, P, 2) and shapes to places (Q, M, L, P, 2)."""

    def reference(references: Tensor, offsets: Tensor, spatial_shapes: Shapes) -> Tensor:
        return attention.sampling_locations(references[None], offsets[None], spatial_shapes)[0]

    def parts(references: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, int]:
        wide = references[:, None, :, None]  # (Q, L, 2 or 4) -> (Q, 1, L, 1, 2 or 4)
        if references.shape[-1] == 2:
            return wide, torch.full_like(wide, math.inf), offsets.shape[-2]  # no answer is what a box would give
        return wide[..., :2], wide[..., 2:], offsets.shape[-2]

    def exchanged(references: Tensor, offsets: Tensor, spatial_shapes: Shapes) -> Tensor:
        if references.shape[-1] == 4:
            centre, size, points = parts(references, offsets)
            return centre + offsets / points * size.flip(-1) / 2
        return reference(references, offsets, [(width, height) for height, width in spatial_shapes])

    def added(references: Tensor, offsets: Tensor, spatial_shapes: Shapes) -> Tensor:
        return parts(references, offsets)[0] + offsets

    def box_as_point(references: Tensor, offsets: Tensor, spatial_shapes: Shapes) -> Tensor:
        return reference(references[..., :2], offsets, spatial_shapes)

    def whole_box(references: Tensor, offsets: Tensor, spatial_shapes: Shapes) -> Tensor:
        centre, size, points = parts(references, offsets)
        return centre + offsets / points * size

    def not_by_points(references: Tensor, offsets: Tensor, spatial_shapes: Shapes) -> Tensor:
        centre, size, _ = parts(references, offsets)
        return centre + offsets * size / 2

    def first_level(references: Tensor, offsets: Tensor, spatial_shapes: Shapes) -> Tensor:
        return reference(references, offsets, [spatial_shapes[0]] * len(spatial_shapes))

    def multiplied(references: Tensor, offsets: Tensor, spatial_shapes: Shapes) -> Tensor:
        sizes = torch.tensor([(width, height) for height, width in spatial_shapes])[:, None]  # (L, 1, 2)
        return parts(references, offsets)[0] + offsets * sizes

    def by_four(references: Tensor, offsets: Tensor, spatial_shapes: Shapes) -> Tensor:
        centre, size, _ = parts(references, offsets)
        return centre + offsets / 4 * size / 2

    def from_corner(references: Tensor, offsets: Tensor, spatial_shapes: Shapes) -> Tensor:
        right = reference(references, offsets, spatial_shapes)
        return right - parts(references, offsets)[1] / 2

    mistakes = [
        Mistake(
            multiplied,
            "the offsets were multiplied by the size of the map: they count cells, and a cell is 1 / W of a map.",
        ),
        Mistake(by_four, "the number of points is not always 4: it is an axis of the offsets."),
        Mistake(from_corner, "the steps start at the corner of the box: they start at its centre."),
        Mistake(
            lambda references, offsets, spatial_shapes: reference(references, offsets, spatial_shapes).clamp(0, 1),
            "the places were cut to 0-1: they may lie outside of the map, where a sample reads zero.",
        ),
        Mistake(
            exchanged,
            "x met the heights and y the widths: an offset is (x, y), a shape is (H, W), so turn the shape round.",
        ),
        Mistake(added, "the offsets were added as they are: they count cells (or parts of a box), not fractions."),
        Mistake(
            first_level,
            "every level was divided by the size of the first one: an offset counts cells of its own level.",
        ),
        Mistake(
            box_as_point,
            "the box was treated as a point: with a size at hand, steps are measured in the box and not in cells.",
        ),
        Mistake(
            whole_box,
            "from the centre to the rim of a box it is half its width and half its height, not the whole.",
        ),
        Mistake(not_by_points, "in a box, P steps shall reach the rim: divide the offset by the number of points."),
    ]
    rng = generator(61)
    cases = []
    for case in range(6):
        levels, heads, points = (random_integer(rng, 2, 4) for _ in range(3))
        queries = random_integer(rng, 1, 4)
        offsets = 2 * torch.randn(queries, heads, levels, points, 2, generator=rng)
        # Points and boxes by turns.
        references = torch.rand(queries, levels, 2 + 2 * (case % 2), generator=rng)
        cases.append((references, offsets, _shapes(rng, levels)))
    return check_function(answer, reference, cases, mistakes, name="places")


def attention_weights(answer: Answer) -> Passed:
    """Check a function from logits (Q, M*L*P) and the counts M, L, P to attention weights (Q, M, L, P)."""

    def reference(logits: Tensor, heads: int, levels: int, points: int) -> Tensor:
        return logits.view(-1, heads, levels * points).softmax(-1).view(-1, heads, levels, points)

    def shaped(logits: Tensor, heads: int, levels: int, points: int) -> Tensor:
        return logits.view(-1, heads, levels, points)

    def heads_last(logits: Tensor, heads: int, levels: int, points: int) -> Tensor:
        logits = logits.view(-1, levels * points, heads).transpose(1, 2)  # (Q, L*P, M) -> (Q, M, L*P)
        return logits.softmax(-1).reshape(-1, heads, levels, points)

    mistakes = [
        Mistake(
            lambda z, m, n, p: shaped(z, m, n, p).softmax(-1),
            "the weights of each level sum to 1, those of a head to L: the softmax runs over levels and points "
            "together, so that a head can turn to one level.",
        ),
        Mistake(
            lambda z, m, n, p: shaped(z, m, n, p).softmax(-2),
            "the softmax ran over the levels alone: a head divides its attention among all its L * P samples.",
        ),
        Mistake(
            lambda z, m, n, p: z.softmax(-1).view(-1, m, n, p),
            "all heads together sum to 1: each head has a softmax of its own, over its L * P samples.",
        ),
        Mistake(
            lambda z, m, n, p: shaped(z, m, n, p).sigmoid(),
            "these are sigmoids, which do not compete: the weights of a head sum to 1.",
        ),
        Mistake(
            lambda z, m, n, p: shaped(z, m, n, p) / shaped(z, m, n, p).sum((-2, -1), keepdim=True),
            "the logits were divided by their sum without the exponential: some weights are negative.",
        ),
        Mistake(
            heads_last,
            "the logits were read with the heads innermost: they lie head after head, in each head level after level.",
        ),
        Mistake(shaped, "these are still the logits, in the right shape: the softmax is missing."),
        Mistake(
            lambda z, m, n, p: shaped(z, m, n, p).softmax(1),
            "the softmax ran over the heads: each head has one of its own, over its L * P samples.",
        ),
        Mistake(
            lambda z, m, n, p: z.softmax(0).view(-1, m, n, p),
            "the softmax ran over the queries: each query and head has one of its own.",
        ),
        Mistake(
            lambda z, m, n, p: z.view(-1, n, m, p).transpose(1, 2).flatten(2).softmax(-1).view(-1, m, n, p),
            "the logits were read level after level: they lie head after head, in each head level after level.",
        ),
        Mistake(
            lambda z, m, n, p: z.view(-1, m, n * p).softmax(-1).view(-1, m, p, n).transpose(2, 3),
            "levels and points are exchanged: in a head the points of level 0 come first, then those of level 1.",
        ),
        Mistake(
            lambda z, m, n, p: shaped(z, m, n, p).softmax(-1) / n,
            "each level got the same say: with one softmax over levels and points together, a head can turn to one "
            "level.",
        ),
    ]
    rng = generator(62)
    cases = []
    for _ in range(6):
        heads, levels, points = (random_integer(rng, 2, 5) for _ in range(3))
        logits = 2 * torch.randn(random_integer(rng, 2, 6), heads * levels * points, generator=rng)
        cases.append((logits, heads, levels, points))
    return check_function(answer, reference, cases, mistakes, name="attention_weights")


def _in_loops(
    value: Tensor,
    spatial_shapes: Shapes,
    locations: Tensor,
    weights: Tensor,
    *,
    cell: Callable[[float], int] = math.floor,
    checked: bool = True,
    low: bool = True,
    by_height: bool = False,
    sizes_exchanged: bool = False,
) -> Tensor:
    """Attend in loops over (Q, M, L, P), with another rounding, fewer questions about the rim, or exchanged sizes."""
    queries, heads, _, points = weights.shape
    output, start = value.new_zeros(queries, heads, value.shape[-1]), 0
    for level, (height, width) in enumerate(spatial_shapes):
        for q, m, k in itertools.product(range(queries), range(heads), range(points)):
            u, v = locations[q, m, level, k].tolist()
            x, y = (u * height, v * width) if sizes_exchanged else (u * width, v * height)
            x, y = x - 0.5, y - 0.5
            for row, column in itertools.product((cell(y), cell(y) + 1), (cell(x), cell(x) + 1)):
                share = (1 - abs(x - column)) * (1 - abs(y - row)) * weights[q, m, level, k]
                near, far = row >= 0 and column >= 0, row < height and column < width
                token = start + row * (height if by_height else width) + column
                if not checked or (far and (near or not low)):
                    # A token behind the last raises in the reader's code, and one before the first wraps.
                    output[q, m] += share * value[min(token, len(value) - 1), m]
        start += height * width
    return output.flatten(1)


def attend(answer: Answer) -> Passed:
    """Check loops over values (S, M, D), shapes, locations (Q, M, L, P, 2) and weights (Q, M, L, P) to (Q, M*D)."""

    def reference(value: Tensor, spatial_shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn(value[None], spatial_shapes, None, locations[None], weights[None], backend="gather")[0]

    def from_starts(
        value: Tensor, spatial_shapes: Shapes, locations: Tensor, weights: Tensor, starts: Sequence[int]
    ) -> Tensor:
        """Read level l from token ``starts[l]`` on, whatever stands there."""
        padded = torch.cat((value, value.new_zeros(sum(h * w for h, w in spatial_shapes), *value.shape[1:])))
        areas = [height * width for height, width in spatial_shapes]
        moved = torch.cat([padded[start : start + area] for start, area in zip(starts, areas, strict=True)])
        return reference(moved, spatial_shapes, locations, weights)

    def all_from_zero(value: Tensor, spatial_shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        return from_starts(value, spatial_shapes, locations, weights, [0] * len(spatial_shapes))

    def rows_only(value: Tensor, spatial_shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        starts = [sum(height for height, _ in spatial_shapes[:level]) for level in range(len(spatial_shapes))]
        return from_starts(value, spatial_shapes, locations, weights, starts)

    def exchanged(value: Tensor, spatial_shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        return reference(value, [(width, height) for height, width in spatial_shapes], locations, weights)

    def equal_weights(value: Tensor, spatial_shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        samples = weights.shape[-2] * weights.shape[-1]
        return reference(value, spatial_shapes, locations, torch.full_like(weights, 1 / samples))

    def first_head(value: Tensor, spatial_shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        return reference(value[:, :1].expand_as(value), spatial_shapes, locations, weights)

    def points_exchanged(value: Tensor, spatial_shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        return reference(value, spatial_shapes, locations.flip(-1), weights)

    def columns_first(value: Tensor, spatial_shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        # Token column * H + row instead of row * W + column.
        levels = value.split([height * width for height, width in spatial_shapes])
        turned = [
            level.unflatten(0, (width, height)).transpose(0, 1).flatten(0, 1)  # (H*W, M, D), columns first
            for level, (height, width) in zip(levels, spatial_shapes, strict=True)
        ]
        return reference(torch.cat(turned), spatial_shapes, locations, weights)

    mistakes = [
        Mistake(
            all_from_zero,
            "every level was read at the beginning of the tokens: level l starts after the cells of all levels before.",
        ),
        Mistake(rows_only, "the start advanced by the height of a level: a level has height times width cells."),
        Mistake(
            columns_first,
            "cells were looked up column after column: a map is flattened row after row, row * width + column.",
        ),
        Mistake(exchanged, "height and width of the levels are exchanged: a shape is (H, W)."),
        Mistake(points_exchanged, "x and y of the locations are exchanged: x runs along the width."),
        Mistake(equal_weights, "all samples count alike: multiply each by its attention weight."),
        Mistake(first_head, "every head read the values of head 0: a head has channels of its own."),
        Mistake(
            lambda v, s, u, a: reference(v, s, u + 0.5 / torch.tensor([(w, h) for h, w in s])[:, None], a),
            "every sample is read half a cell too far right and down: x = u * W - 0.5, y = v * H - 0.5.",
        ),
        Mistake(
            lambda v, s, u, a: _in_loops(v, s, u, a, cell=int),
            "the cells of a place left of the first centre or above it are wrong: int() cuts towards zero, so that "
            "-0.3 becomes 0. Round down, with math.floor or // 1.",
        ),
        Mistake(
            lambda v, s, u, a: _in_loops(v, s, u, a, checked=False),
            "cells outside of a map were read: row -1 or column W is a token of another row or another level. Outside "
            "reads zero.",
        ),
        Mistake(
            lambda v, s, u, a: _in_loops(v, s, u, a, low=False),
            "row or column -1 was read: only the far sides are asked for. Outside reads zero on all four sides.",
        ),
        Mistake(
            lambda v, s, u, a: _in_loops(v, s, u, a, by_height=True),
            "one row further is one width further, not one height: row * width + column.",
        ),
        Mistake(
            lambda v, s, u, a: _in_loops(v, s, u, a, sizes_exchanged=True),
            "u was multiplied by the height and v by the width: u runs along the width.",
        ),
        Mistake(
            lambda v, s, u, a: reference(v, s, u, a).unflatten(-1, (v.shape[1], -1)).transpose(1, 2).flatten(1),
            "the channels of the heads are interleaved: the result has head after head, (Q, M, D) flattened.",
        ),
    ]
    rng = generator(63)
    cases = []
    for _ in range(4):
        levels, heads, points, queries = (random_integer(rng, 2, 3) for _ in range(4))
        shapes = _shapes(rng, levels)
        tokens = sum(height * width for height, width in shapes)
        value = torch.randn(tokens, heads, random_integer(rng, 2, 4), generator=rng)
        locations = torch.rand(queries, heads, levels, points, 2, generator=rng) * 1.2 - 0.1
        weights = torch.randn(queries, heads, levels * points, generator=rng).softmax(-1)
        cases.append((value, shapes, locations, weights.view(queries, heads, levels, points)))
    return check_function(answer, reference, cases, mistakes, name="attend")
