"""Chapter 5: the solution of each exercise passes; typical wrong answers fail, each with the intended hint."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ddetr_lab.checks import chapter05
from tests.checks.contract import *  # noqa: F403 (the tests that every chapter's checks pass)

Answer = Callable[..., Any]


def cell(feature_map: Tensor, row: int, column: int, repeat: bool = False) -> float:
    height, width = feature_map.shape
    if repeat:
        row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
    return float(feature_map[row, column]) if 0 <= row < height and 0 <= column < width else 0.0


def good_location(f: Tensor, locations: Tensor, shift: float = 0.5, repeat: bool = False) -> Tensor:
    height, width = f.shape
    rows = []
    for u, v in locations.tolist():
        x, y = u * width - shift, v * height - shift
        left, top = int(x // 1), int(y // 1)
        fx, fy = x - left, y - top
        upper, lower = ([cell(f, row, left + i, repeat) for i in (0, 1)] for row in (top, top + 1))
        by_x = (1 - fy) * (upper[1] - upper[0]) + fy * (lower[1] - lower[0])
        by_y = (1 - fx) * (lower[0] - upper[0]) + fx * (lower[1] - upper[1])
        rows.append([by_x * width, by_y * height])
    return torch.tensor(rows, dtype=f.dtype)


def unscaled(f: Tensor, locations: Tensor) -> Tensor:
    return good_location(f, locations) / torch.tensor([f.shape[1], f.shape[0]])


def upper_row_only(f: Tensor, locations: Tensor) -> Tensor:
    height, width = f.shape
    rows = []
    for u, v in locations.tolist():
        left, top = int((u * width - 0.5) // 1), int((v * height - 0.5) // 1)
        corner = cell(f, top, left)
        rows.append([(cell(f, top, left + 1) - corner) * width, (cell(f, top + 1, left) - corner) * height])
    return torch.tensor(rows, dtype=f.dtype)


def tents(coordinate: Tensor, size: int) -> Tensor:
    return (1 - (coordinate[:, None] - torch.arange(size)).abs()).clamp(min=0)  # (N, size)


def good_map(p: Tensor, g: Tensor, height: int, width: int, shift: float = 0.5) -> Tensor:
    columns, rows = tents(p[:, 0] * width - shift, width), tents(p[:, 1] * height - shift, height)
    return torch.einsum("n,nh,nw->hw", g, rows, columns)


def overwritten(p: Tensor, g: Tensor, height: int, width: int) -> Tensor:
    result = torch.zeros(height, width, dtype=p.dtype)
    for n in range(len(p)):
        part = good_map(p[n : n + 1], g[n : n + 1], height, width)
        result[part != 0] = part[part != 0]
    return result


def split(x: Tensor, size: int, left: Tensor) -> tuple[Tensor, Tensor]:
    cells = torch.stack((left, left + 1), -1).long()
    shares = torch.stack((left + 1 - x, x - left), -1)
    return cells, shares


def good_shares(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    return masked(*split(x, size, x.floor()), size)


def masked(cells: Tensor, shares: Tensor, size: int) -> tuple[Tensor, Tensor]:
    return cells.clamp(0, size - 1), shares * ((cells >= 0) & (cells < size))


def exchanged(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    cells, shares = split(x, size, x.floor())
    return masked(cells, shares.flip(-1), size)


def unmasked(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    cells, shares = split(x, size, x.floor())
    return cells.clamp(0, size - 1), shares


def one_cell_too_many(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    cells, shares = split(x, size, x.floor())
    return cells.clamp(0, size - 1), shares * ((cells >= 0) & (cells <= size))


RIGHT: list[tuple[Answer, Answer]] = [
    (chapter05.location_gradient, good_location),
    (chapter05.map_gradient, good_map),
    (chapter05.cells_and_shares, good_shares),
]

WRONG: list[tuple[Answer, Answer, str]] = [
    (chapter05.location_gradient, unscaled, "a derivative of its own"),
    (chapter05.location_gradient, lambda f, p: unscaled(f, p) * torch.tensor(f.shape), "its factor is W"),
    (chapter05.location_gradient, lambda f, p: good_location(f, p, shift=0.0), "half a cell too far"),
    (chapter05.location_gradient, lambda f, p: good_location(f, p, repeat=True), "copies of the rim"),
    (chapter05.location_gradient, upper_row_only, "mixture of the slopes of both rows"),
    (chapter05.location_gradient, lambda f, p: -good_location(f, p), "sign is reversed"),
    (chapter05.location_gradient, lambda f, p: good_location(f, p).flip(-1), "x and y are exchanged"),
    (chapter05.map_gradient, overwritten, "sum over all its readers"),
    (chapter05.map_gradient, lambda p, g, h, w: good_map(p, torch.ones_like(g), h, w), "shares alone"),
    (chapter05.map_gradient, lambda p, g, h, w: good_map(p, g, h, w, shift=0.0), "half a cell further"),
    (chapter05.map_gradient, lambda p, g, h, w: good_map(p.flip(1), g, h, w), "x and y of the locations"),
    (chapter05.map_gradient, lambda p, g, h, w: good_map(p, g, h, w) / len(p), "mean over the samples"),
    (chapter05.map_gradient, lambda p, g, h, w: good_map(p, g, h, w).T, "another order"),
    (chapter05.cells_and_shares, lambda x, n: masked(*split(x, n, x.trunc()), n), "to the left of -0.3"),
    (chapter05.cells_and_shares, lambda x, n: masked(*split(x, n, x.round()), n), "left neighbour of 1.7"),
    (chapter05.cells_and_shares, unmasked, "moved onto the rim"),
    (chapter05.cells_and_shares, exchanged, "two shares are exchanged"),
    (chapter05.cells_and_shares, one_cell_too_many, "numbered 0 to size - 1"),
    (chapter05.cells_and_shares, lambda x, n: good_shares(x, n)[1], "look at what it returns"),
]


def in_loops(cut: Answer, checked: Answer) -> Answer:
    """Make an answer to ``map_gradient`` as its loops are first written, with another integer or another question."""

    def answer(p: Tensor, g: Tensor, height: int, width: int) -> Tensor:
        result = torch.zeros(height, width, dtype=p.dtype)
        for (u, v), upstream in zip(p.tolist(), g.tolist(), strict=True):
            x, y = u * width - 0.5, v * height - 0.5
            for row in (cut(y), cut(y) + 1):
                for column in (cut(x), cut(x) + 1):
                    if checked(row, column, height, width):
                        result[row, column] += upstream * (1 - abs(x - column)) * (1 - abs(y - row))
        return result

    return answer


def everywhere(row: int, column: int, height: int, width: int) -> bool:
    return 0 <= row < height and 0 <= column < width


def ringed(f: Tensor, locations: Tensor, floor: Answer = torch.floor, reach: float = 1.5) -> Tensor:
    """Answer ``location_gradient`` as its hint says, with two rings."""
    height, width = f.shape
    ring = torch.nn.functional.pad(f, (2, 2, 2, 2))
    x = (locations[:, 0] * width - 0.5).clamp(-reach, width - 1 + reach)
    y = (locations[:, 1] * height - 0.5).clamp(-reach, height - 1 + reach)
    left, top = floor(x).long(), floor(y).long()
    a, b, c, d = (ring[top + 2 + i, left + 2 + j] for i in (0, 1) for j in (0, 1))
    by_x, by_y = torch.lerp(b - a, d - c, y - top), torch.lerp(c - a, d - b, x - left)
    return torch.stack((by_x * width, by_y * height), dim=1)


RIGHT += [
    (chapter05.location_gradient, ringed),
    (chapter05.map_gradient, in_loops(lambda x: int(x // 1), everywhere)),
    (
        chapter05.cells_and_shares,
        lambda x, size: [part.float() if i else part.int() for i, part in enumerate(good_shares(x, size))],
    ),
]

WRONG += [
    (chapter05.location_gradient, lambda f, p: ringed(f, p, torch.trunc), "cut towards zero"),
    (chapter05.location_gradient, lambda f, p: ringed(f, p, reach=1.0), "still touch the rim"),
    (chapter05.location_gradient, lambda f, p: good_location(f, p.flip(-1)), "x and y of the locations"),
    (chapter05.map_gradient, in_loops(int, everywhere), "cuts towards zero"),
    (chapter05.map_gradient, in_loops(lambda x: int(x // 1), lambda i, j, h, w: i < h and j < w), "a negative index"),
    (
        chapter05.cells_and_shares,
        lambda x, size: unmasked(x.trunc(), size)[:1] + split(x, size, x.long())[1:],
        "both faults",
    ),
    (
        chapter05.cells_and_shares,
        lambda x, size: (x.floor().long()[:, None] + torch.arange(2), good_shares(x, size)[1]),
        "Clamp them",
    ),
    (chapter05.cells_and_shares, lambda x, size: good_shares(x.clamp(0, size - 1), size), "instead of the cells"),
]
