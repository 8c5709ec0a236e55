"""The checks of chapter 5: the cells that a sample reads, and its gradients by location and by map.

Built in chapter 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ddetr_lab.checks.core import Answer, Mistake, Passed, check_function, generator, random_integer, random_size
from ddetr_lab.ops import ms_deform_attn

__all__ = ["cells_and_shares", "location_gradient", "map_gradient"]

# Half a cell outside the map on each side is where a careless sampler gives itself away.
_RIM = 0.25


def _cases(seed: int, cases: int = 6) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a map (H, W) and locations (N, 2) in _padnorm, float64, inside, on the rim and outside."""
    rng = generator(seed)
    for _ in range(cases):
        height, width = random_size(rng, 2, 9)
        feature_map = torch.randn(height, width, generator=rng, dtype=torch.float64)
        count = random_integer(rng, 3, 8)
        locations = torch.rand(count, 2, generator=rng, dtype=torch.float64) * (1 + 2 * _RIM) - _RIM
        # Always one sample astride the left rim and one astride the lower rim, half a cell out at most.
        locations[0] = torch.tensor([0.2 / width, 0.6])
        locations[1] = torch.tensor([0.4, 1 - 0.3 / height])
        yield feature_map, locations


def _sample(feature_map: Tensor, locations: Tensor) -> Tensor:
    """Sample a map (H, W) at (N, 2) with the package's operator: one head, one level, one point, one channel."""
    height, width = feature_map.shape
    value = feature_map.reshape(1, height * width, 1, 1)  # (H, W) -> (B=1, S, M=1, D=1)
    places = locations[None, :, None, None, None]  # (N, 2) -> (B=1, Q, M=1, L=1, P=1, 2)
    weights = torch.ones_like(places[..., 0])
    return ms_deform_attn(value, [(height, width)], None, places, weights, backend="gather")[0, :, 0]


def _location_gradient(feature_map: Tensor, locations: Tensor) -> Tensor:
    with torch.enable_grad():
        places = locations.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(_sample(feature_map.detach(), places).sum(), places)
    return gradient


def _slopes(
    feature_map: Tensor,
    locations: Tensor,
    *,
    cell: Callable[[Tensor], Tensor] = torch.floor,
    reach: float = 1.5,
    swapped: bool = False,
) -> Tensor:
    """Compute the gradient by (u, v) from four cells, with another rounding, clamp or order of the shares if told."""
    sizes = torch.tensor(feature_map.shape[::-1])  # (W, H)
    ringed = F.pad(feature_map, (2, 2, 2, 2))
    pixel = (locations * sizes - 0.5).clamp(min=-reach).minimum(sizes - 1 + reach)  # (N, 2)
    corner = cell(pixel)
    (x, y), (left, top) = (pixel - corner).unbind(-1), corner.long().unbind(-1)
    if swapped:
        x, y = y, x
    a, b = ringed[top + 2, left + 2], ringed[top + 2, left + 3]
    c, d = ringed[top + 3, left + 2], ringed[top + 3, left + 3]
    slope = torch.stack(((1 - y) * (b - a) + y * (d - c), (1 - x) * (c - a) + x * (d - b)), dim=-1)
    return slope * sizes


def location_gradient(answer: Answer) -> Passed:
    """Check a function from a map (H, W) and locations (N, 2) to the gradient (N, 2) of each sample by (u, v)."""

    def reference(feature_map: Tensor, locations: Tensor) -> Tensor:
        return _location_gradient(feature_map, locations)

    def by_pixel(feature_map: Tensor, locations: Tensor) -> Tensor:
        height, width = feature_map.shape
        return reference(feature_map, locations) / torch.tensor([width, height])

    def sizes_exchanged(feature_map: Tensor, locations: Tensor) -> Tensor:
        height, width = feature_map.shape
        return by_pixel(feature_map, locations) * torch.tensor([height, width])

    def no_half_pixel(feature_map: Tensor, locations: Tensor) -> Tensor:
        height, width = feature_map.shape
        return reference(feature_map, locations + 0.5 / torch.tensor([width, height]))

    def rim_repeated(feature_map: Tensor, locations: Tensor) -> Tensor:
        # One more ring of cells, copied from the rim instead of zero.
        height, width = feature_map.shape
        rows = torch.arange(-3, height + 3).clamp(0, height - 1)
        columns = torch.arange(-3, width + 3).clamp(0, width - 1)
        sizes = torch.tensor([width, height])
        inner = (locations * sizes + 3) / (sizes + 6)
        return _location_gradient(feature_map[rows][:, columns], inner) * sizes / (sizes + 6)

    def one_row(feature_map: Tensor, locations: Tensor) -> Tensor:
        # The slope along the upper row and the left column only, as if the sample lay on them.
        height, width = feature_map.shape
        sizes = torch.tensor([width, height])
        pixel = locations * sizes - 0.5
        on_row = torch.stack((pixel[:, 0], pixel[:, 1].floor()), dim=1)
        on_column = torch.stack((pixel[:, 0].floor(), pixel[:, 1]), dim=1)
        by_x = _location_gradient(feature_map, (on_row + 0.5) / sizes)[:, 0]
        by_y = _location_gradient(feature_map, (on_column + 0.5) / sizes)[:, 1]
        return torch.stack((by_x, by_y), dim=1)

    mistakes = [
        Mistake(
            by_pixel,
            "this is the slope in cells, by x and y; the location is a fraction, and x = u * W - 0.5 has a "
            "derivative of its own.",
        ),
        Mistake(sizes_exchanged, "the slope by u was multiplied by the height: u runs along x, so its factor is W."),
        Mistake(no_half_pixel, "the sample is read half a cell too far right and down: x = u * W - 0.5."),
        Mistake(
            rim_repeated,
            "cells outside were read as copies of the rim: they are zero, and towards zero there is a slope.",
        ),
        Mistake(
            one_row,
            "only the upper row and the left column were looked at: the slope by x is a mixture of the slopes of both "
            "rows, by the shares of y.",
        ),
        Mistake(lambda f, p: -reference(f, p), "the sign is reversed: right minus left, lower minus upper."),
        Mistake(
            lambda f, p: _slopes(f, p, cell=torch.trunc),
            "the cells of a place left of the first centre or above it are wrong: .long() and int() cut towards zero, "
            "so round down with floor first.",
        ),
        *(
            Mistake(
                lambda f, p, reach=reach: _slopes(f, p, reach=reach),
                "places outside were moved onto the map or so near to it that they still touch the rim: one that is "
                "more than a cell away sees zeros only.",
            )
            for reach in (0.0, 0.5, 1.0)
        ),
        Mistake(
            lambda f, p: _slopes(f, p, swapped=True),
            "the slopes are mixed by the wrong shares: the slope by x by those of y, and the slope by y by those of x.",
        ),
        Mistake(
            lambda f, p: reference(f, p.flip(-1)),
            "x and y of the locations are exchanged: u comes first, runs along the width and chooses the column.",
        ),
    ]
    return check_function(answer, reference, _cases(51), mistakes, name="location_gradient")


def _scattered(
    locations: Tensor,
    upstream: Tensor,
    height: int,
    width: int,
    *,
    cell: Callable[[float], int] = math.floor,
    outside: str = "nothing",
    swapped: bool = False,
) -> Tensor:
    """Add the shares up in loops, with another rounding, another fate of the cells outside, or exchanged shares."""
    result = torch.zeros(height, width, dtype=locations.dtype)
    for (u, v), gradient in zip(locations.tolist(), upstream.tolist(), strict=True):
        x, y = u * width - 0.5, v * height - 0.5
        for row in (cell(y), cell(y) + 1):
            for column in (cell(x), cell(x) + 1):
                share = abs(x - column) * abs(y - row) if swapped else (1 - abs(x - column)) * (1 - abs(y - row))
                inside = 0 <= row < height and 0 <= column < width
                if outside == "rim":
                    result[min(max(row, 0), height - 1), min(max(column, 0), width - 1)] += gradient * share
                elif inside or (outside == "wrapped" and row < height and column < width):
                    result[row % height, column % width] += gradient * share
    return result


def map_gradient(answer: Answer) -> Passed:
    """Check a function from locations (N, 2), upstream gradients (N,), a height and a width to the map's (H, W)."""

    def reference(locations: Tensor, upstream: Tensor, height: int, width: int) -> Tensor:
        with torch.enable_grad():
            feature_map = torch.zeros(height, width, dtype=locations.dtype, requires_grad=True)
            (gradient,) = torch.autograd.grad(_sample(feature_map, locations), feature_map, upstream)
        return gradient

    def one_by_one(locations: Tensor, upstream: Tensor, height: int, width: int) -> list[Tensor]:
        return [reference(locations[n : n + 1], upstream[n : n + 1], height, width) for n in range(len(locations))]

    def last_wins(locations: Tensor, upstream: Tensor, height: int, width: int) -> Tensor:
        result = torch.zeros(height, width, dtype=locations.dtype)
        for part in one_by_one(locations, upstream, height, width):
            result = torch.where(part != 0, part, result)
        return result

    mistakes = [
        Mistake(
            last_wins,
            "where two samples read the same cell, the later one has overwritten the earlier: a cell's gradient is "
            "the sum over all its readers.",
        ),
        Mistake(
            lambda p, g, height, width: reference(p, torch.ones_like(g), height, width),
            "these are the shares alone: each sample passes on its upstream gradient times its shares.",
        ),
        Mistake(
            lambda p, g, height, width: reference(p + 0.5 / torch.tensor([width, height]), g, height, width),
            "the shares are those of a place half a cell further right and down: x = u * W - 0.5.",
        ),
        Mistake(
            lambda p, g, height, width: reference(p.flip(-1), g, height, width),
            "x and y of the locations are exchanged: x chooses the column, y the row.",
        ),
        Mistake(
            lambda p, g, height, width: reference(p, g, height, width) / len(p),
            "this is the mean over the samples: gradients of several readers add up.",
        ),
        Mistake(
            lambda p, g, height, width: _scattered(p, g, height, width, cell=int),
            "the cells of a place left of the first centre or above it are wrong: int() cuts towards zero, so that "
            "-0.3 becomes 0. Round down, with math.floor or // 1.",
        ),
        Mistake(
            lambda p, g, height, width: _scattered(p, g, height, width, outside="wrapped"),
            "a share of row or column -1 has arrived at the far side: a negative index counts from the end. Ask for "
            "0 <= row and 0 <= column too.",
        ),
        Mistake(
            lambda p, g, height, width: _scattered(p, g, height, width, outside="rim"),
            "the shares of cells outside were given to the rim: what does not exist receives nothing.",
        ),
        Mistake(
            lambda p, g, height, width: _scattered(p, g, height, width, swapped=True),
            "the shares are exchanged: the nearer cell has the larger one.",
        ),
    ]
    rng = generator(52)
    cases = []
    for feature_map, locations in _cases(53):
        # Two readers of the same cells, so that adding and overwriting differ.
        crowded = torch.cat((locations, locations[1:2] + 1e-3))
        upstream = torch.randn(len(crowded), generator=rng, dtype=torch.float64)
        cases.append((crowded, upstream, *feature_map.shape))
    return check_function(answer, reference, cases, mistakes, name="map_gradient")


def cells_and_shares(answer: Answer) -> Passed:
    """Check a function from pixel coordinates (N,) and a size to the cells (N, 2) and their shares (N, 2)."""

    def pieces(
        x: Tensor, size: int, left: Tensor, *, mask: bool = True, low: float = 0, upto: float = 0
    ) -> tuple[Tensor, Tensor]:
        cells = torch.stack((left, left + 1), dim=-1)
        shares = torch.stack((left + 1 - x, x - left), dim=-1)
        inside = (cells >= low) & (cells < size + upto)
        return cells.clamp(0, size - 1).long(), torch.where(inside, shares, 0.0) if mask else shares

    def reference(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
        return pieces(x, size, x.floor())

    def exchanged(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
        cells, shares = pieces(x, size, x.floor(), mask=False)
        outside = reference(x, size)[1] == 0
        return cells, shares.flip(-1).masked_fill(outside, 0.0)

    mistakes = [
        Mistake(
            lambda x, size: pieces(x, size, x.trunc()),
            "left of the first centre, where x is negative, the fault is still there: which whole number lies to the "
            "left of -0.3?",
        ),
        Mistake(
            lambda x, size: pieces(x, size, x.trunc(), mask=False),
            "both faults are still there. Which whole number lies to the left of -0.3? And what share has a cell that "
            "does not exist?",
        ),
        Mistake(
            lambda x, size: pieces(x, size, x.round()),
            "the coordinate was rounded to the nearest cell: the left neighbour of 1.7 is 1, not 2.",
        ),
        Mistake(
            lambda x, size: pieces(x, size, x.floor(), mask=False),
            "a cell outside the map was moved onto the rim and kept its share: outside reads zero, so its share is 0.",
        ),
        Mistake(
            exchanged,
            "the two shares are exchanged: the nearer cell has the larger one, so the left cell gets what remains to "
            "the right.",
        ),
        Mistake(
            lambda x, size: pieces(x, size, x.floor(), upto=1),
            "one cell too many counts as inside: cells are numbered 0 to size - 1.",
        ),
        Mistake(
            lambda x, size: pieces(x, size, x.floor(), upto=math.inf),
            "left of the map a share is 0, as it should be, but right of it a cell that does not exist has one.",
        ),
        Mistake(
            lambda x, size: pieces(x, size, x.floor(), low=-math.inf),
            "right of the map a share is 0, as it should be, but left of it a cell that does not exist has one.",
        ),
        Mistake(
            lambda x, size: pieces(x, size, x.floor(), low=1),
            "cell 0 was taken for one outside: cells are numbered 0 to size - 1.",
        ),
        Mistake(
            lambda x, size: (torch.stack((x.floor(), x.floor() + 1), dim=-1).long(), reference(x, size)[1]),
            "the shares are right, but the cells outside are still there: as an index -1 would read the far side, and "
            "size would raise. Clamp them to 0 and size - 1.",
        ),
        Mistake(
            lambda x, size: (reference(x, size)[0].where(reference(x, size)[1] > 0, 0), reference(x, size)[1]),
            "a cell outside became cell 0: here it shall be the nearest one, clamped to 0 and size - 1.",
        ),
        Mistake(
            lambda x, size: reference(x.clamp(0, size - 1), size),
            "the coordinate was clamped instead of the cells: then a place outside reads the rim with a full share.",
        ),
    ]
    rng = generator(54)
    cases = []
    for _ in range(6):
        size = random_integer(rng, 1, 9)
        inner = torch.rand(random_integer(rng, 2, 6), generator=rng, dtype=torch.float64) * (size + 3) - 2
        # Left of the first centre, just left of the second, right of the last, and exactly on the last.
        rim = torch.tensor([-0.3, 0.7, size - 0.8, size - 1.0], dtype=torch.float64)
        cases.append((torch.cat((rim, inner)), size))
    return check_function(answer, reference, cases, mistakes, name="cells_and_shares", parts=("cells", "shares"))
