"""Chapter 8: the solution of each exercise passes; typical wrong answers fail, each with the intended hint."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ddetr_lab.checks import chapter08
from tests.checks.contract import *  # noqa: F403 (the tests that every chapter's checks pass)

Answer = Callable[..., Any]


def four(
    half: float = 0.5,
    integer: Answer = math.floor,
    sizes: Answer = lambda height, width: (width, height),
    cell: Answer = lambda row, column, height, width: row * width + column,
    nearer: bool = True,
    inside_only: bool = True,
) -> Answer:
    """Make an answer to ``corners``, in plain loops, of which each step can be spoilt."""

    def answer(u: Tensor, v: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        cells, weights = torch.zeros(len(u), 4, dtype=torch.long), torch.zeros(len(u), 4)
        times_x, times_y = sizes(height, width)
        for i in range(len(u)):
            x, y = u[i].item() * times_x - half, v[i].item() * times_y - half
            left, top = integer(x), integer(y)
            for corner in range(4):
                row, column = top + corner // 2, left + corner % 2
                weight = (1 - abs(y - row)) * (1 - abs(x - column))
                if not nearer:
                    weight = abs(y - row) * abs(x - column)
                inside = 0 <= row < height and 0 <= column < width
                if inside:
                    cells[i, corner] = cell(row, column, height, width)
                if inside or not inside_only:
                    weights[i, corner] = weight
        return cells, weights

    return answer


def by_truncation(u: Tensor, v: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    x, y = u * width - 0.5, v * height - 0.5
    left, top = x.int(), y.int()
    cells, weights = [], []
    for dy in (0, 1):
        for dx in (0, 1):
            row, column = top + dy, left + dx
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weight = (y - top if dy else 1 - (y - top)) * (x - left if dx else 1 - (x - left))
            cells.append(torch.where(inside, row * width + column, 0).long())
            weights.append(torch.where(inside, weight, 0.0))
    return torch.stack(cells, 1), torch.stack(weights, 1)


def backward(
    scale: Answer = lambda height, width: (width, height), spoil: Answer = lambda grads, attention: grads
) -> Answer:
    """Make an answer to ``sample_backward`` by autograd, and spoil its results."""

    def answer(
        cells: Tensor, fraction: Tensor, attention: Tensor, gradient: Tensor, height: int, width: int
    ) -> tuple[Tensor, ...]:
        inputs = [tensor.clone().requires_grad_() for tensor in (cells, attention, fraction)]
        c, a, (x, y) = inputs[0], inputs[1], inputs[2]
        sample = (1 - y) * ((1 - x) * c[0] + x * c[1]) + y * ((1 - x) * c[2] + x * c[3])
        of_cells, of_attention, of_place = torch.autograd.grad(a * sample, inputs, gradient)
        grads = of_cells, of_attention, of_place * torch.tensor(scale(height, width))
        result: tuple[Tensor, ...] = spoil(grads, attention)
        return result

    return answer


def rows_for_columns(cells: Tensor, *others: Any) -> tuple[Tensor, ...]:
    right = backward()
    _, _, place = right(cells[[0, 2, 1, 3]], *others)
    of_cells, of_attention, _ = right(cells, *others)
    return of_cells, of_attention, place


def good_spread(cells: Tensor, shares: Tensor, tokens: int) -> Tensor:
    grad = torch.zeros(tokens, shares.shape[2])
    for sample in range(len(cells)):
        for corner in range(4):
            grad[cells[sample, corner]] += shares[sample, corner]
    return grad


def lost(cells: Tensor, shares: Tensor, tokens: int) -> Tensor:
    grad = torch.zeros(tokens, shares.shape[2])
    grad[cells] += shares
    return grad


def averaged(cells: Tensor, shares: Tensor, tokens: int) -> Tensor:
    count = torch.zeros(tokens, 1).index_add(0, cells.flatten(), torch.ones(cells.numel(), 1))
    return good_spread(cells, shares, tokens) / count.clamp(min=1)


def one_corner(cells: Tensor, shares: Tensor, tokens: int) -> Tensor:
    return torch.zeros(tokens, shares.shape[2]).index_add(0, cells[:, 0], shares[:, 0])


RIGHT: list[tuple[Answer, Answer]] = [
    (chapter08.corners, four()),
    (chapter08.sample_backward, backward()),
    (chapter08.spread, good_spread),
]

WRONG: list[tuple[Answer, Answer, str]] = [
    (chapter08.corners, four(half=0.0), "half pixel is missing"),
    (chapter08.corners, four(sizes=lambda height, width: (height, width)), "multiplied by the height"),
    (chapter08.corners, by_truncation, "towards zero"),
    (chapter08.corners, four(nearer=False), "nearer corner"),
    (chapter08.corners, four(cell=lambda row, column, height, width: column * height + row), "column after column"),
    (chapter08.corners, four(cell=lambda row, column, height, width: row * height + column), "one row further"),
    (chapter08.corners, four(inside_only=False), "still have a weight"),
    (chapter08.sample_backward, backward(scale=lambda height, width: (1, 1)), "per cell"),
    (chapter08.sample_backward, backward(scale=lambda height, width: (height, width)), "u runs along the width"),
    (
        chapter08.sample_backward,
        backward(spoil=lambda grads, attention: (grads[0] / attention, *grads[1:])),
        "teaches nothing",
    ),
    (
        chapter08.sample_backward,
        backward(spoil=lambda grads, attention: (*grads[:2], grads[2] / attention)),
        "attention times the slope",
    ),
    (
        chapter08.sample_backward,
        backward(spoil=lambda grads, attention: (grads[0], grads[1] * attention, grads[2])),
        "linear in it",
    ),
    (chapter08.sample_backward, rows_for_columns, "row by row"),
    (chapter08.spread, averaged, "twice the influence"),
    (chapter08.spread, one_corner, "four corners"),
    (chapter08.spread, lambda c, s, tokens: good_spread(c, s, tokens)[:-1], "drops, keeps"),
]

WRONG.append((chapter08.spread, lost, "only the last share"))


def clamped(u: Tensor, v: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Move corners outside onto the rim, as chapter 5 does it."""
    columns = (u * width - 0.5).floor()[:, None].long() + torch.tensor([0, 1, 0, 1])
    rows = (v * height - 0.5).floor()[:, None].long() + torch.tensor([0, 0, 1, 1])
    return rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1), four()(u, v, height, width)[1]


def corner_by_corner(cells: Tensor, shares: Tensor, tokens: int) -> Tensor:
    grad = torch.zeros(tokens, shares.shape[-1])
    for corner in range(4):
        grad[cells[:, corner]] += shares[:, corner]
    return grad


RIGHT += [
    (
        chapter08.spread,
        lambda cells, shares, tokens: torch.zeros(tokens, shares.shape[-1]).index_put_(
            (cells,), shares, accumulate=True
        ),
    ),
    (
        chapter08.spread,
        lambda cells, shares, tokens: torch.einsum(
            "nks,nkd->sd", torch.nn.functional.one_hot(cells, tokens).float(), shares
        ),
    ),
]

WRONG += [
    (chapter08.corners, clamped, "as in chapter 5"),
    (chapter08.corners, lambda *a: tuple(part[:, [0, 2, 1, 3]] for part in four()(*a)), "another order"),
    (chapter08.sample_backward, lambda c, f, *others: backward()(c, f.flip(0), *others), "fractions are exchanged"),
    (chapter08.sample_backward, lambda c, f, *others: backward()(c, 1 - f, *others), "gets 1 - fraction"),
    (chapter08.spread, corner_by_corner, "still loses shares"),
]
