"""The checks of chapter 8: the four cells of a sample, its gradients, and gradients that meet in one cell.

Built in chapter 8.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ddetr_lab.checks.core import Answer, Mistake, Passed, check_function, generator, random_integer

__all__ = ["corners", "sample_backward", "spread"]


def corners(answer: Answer) -> Passed:
    """Check a function from places u, v (n,) and a map's size to the cells (n, 4) and their weights (n, 4).

    Corners are top left, top right, bottom left, bottom right; one outside the map has cell 0 and weight 0.
    """

    def located(x: Tensor, y: Tensor, height: int, width: int, inside_only: bool = True) -> tuple[Tensor, ...]:
        left, top = x.floor(), y.floor()
        return _four(x, y, left, top, height, width, inside_only)

    def reference(u: Tensor, v: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        return located(u * width - 0.5, v * height - 0.5, height, width)

    def truncated(u: Tensor, v: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        x, y = u * width - 0.5, v * height - 0.5
        return _four(x, y, x.trunc(), y.trunc(), height, width)

    def exchanged_weights(u: Tensor, v: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        x, y = u * width - 0.5, v * height - 0.5
        left, top = x.floor(), y.floor()
        return _four(2 * left + 1 - x, 2 * top + 1 - y, left, top, height, width)

    def columns_first(u: Tensor, v: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        cells, weights = reference(u, v, height, width)
        return (cells % width) * height + cells // width, weights

    def by_height(u: Tensor, v: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
        cells, weights = reference(u, v, height, width)
        return (cells // width) * height + cells % width, weights

    def with_cells(change: Callable[[Tensor, Tensor, int, int], Tensor], weighed: bool = False) -> Answer:
        """Make an answer whose cells come from another rule, and whose weights are right or never set to 0."""

        def answer(u: Tensor, v: Tensor, height: int, width: int) -> tuple[Tensor, ...]:
            x, y = u * width - 0.5, v * height - 0.5
            columns = x.floor()[:, None] + torch.tensor([0, 1, 0, 1])
            rows = y.floor()[:, None] + torch.tensor([0, 0, 1, 1])
            weights = located(x, y, height, width, not weighed)[1]
            return change(rows, columns, height, width).long(), weights

        return answer

    def onto_the_rim(rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
        return rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)

    def as_they_are(rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
        return rows * width + columns

    def turned(order: list[int]) -> Answer:
        return lambda *arguments: tuple(part[:, order] for part in reference(*arguments))

    mistakes = [
        *(
            Mistake(
                with_cells(onto_the_rim, weighed),
                "a corner outside was moved to the nearest cell, as in chapter 5: here it has cell 0, and weight 0.",
            )
            for weighed in (False, True)
        ),
        *(
            Mistake(
                with_cells(as_they_are, weighed),
                "the cells of corners outside are those of another row, or of none: ask row and column each for both "
                "sides, and give a corner outside cell 0 and weight 0.",
            )
            for weighed in (False, True)
        ),
        *(
            Mistake(
                turned(order), "the corners stand in another order: top left, top right, bottom left, bottom right."
            )
            for order in ([0, 2, 1, 3], [0, 1, 3, 2])
        ),
        Mistake(
            lambda u, v, height, width: reference(u.clamp(0, 1), v.clamp(0, 1), height, width),
            "the places were cut to 0-1: one that lies outside has its corners outside.",
        ),
        Mistake(
            lambda u, v, height, width: located(u * width, v * height, height, width),
            "the half pixel is missing: the centre of cell 0 lies at u = 0.5 / W, so x = u * W - 0.5.",
        ),
        Mistake(
            lambda u, v, height, width: located(u * height - 0.5, v * width - 0.5, height, width),
            "u was multiplied by the height and v by the width.",
        ),
        Mistake(
            truncated,
            "the conversion to an integer cuts towards zero: -0.3 becomes 0, but the corner on its left is -1. Floor "
            "first, then convert.",
        ),
        Mistake(
            exchanged_weights,
            "the weights are exchanged: the nearer corner gets the larger one, so the left one gets 1 - fraction.",
        ),
        Mistake(columns_first, "the cells are numbered column after column: a map lies row after row, y * width + x."),
        Mistake(by_height, "one row further is one width further in memory, not one height: y * width + x."),
        Mistake(
            lambda u, v, height, width: located(u * width - 0.5, v * height - 0.5, height, width, False),
            "corners outside the map still have a weight, so that they read cell 0 or a cell of another row.",
        ),
    ]
    rng = generator(81)
    cases = []
    for _ in range(6):
        height = random_integer(rng, 2, 6)
        width = height + random_integer(rng, 1, 5)
        u, v = torch.rand(2, 24, generator=rng) * 1.6 - 0.3
        u[0], v[0] = 0.2 / width, 0.4 / height  # left of the first centre and above it, yet inside the map
        cases.append((u, v, height, width))
    return check_function(answer, reference, cases, mistakes, name="corners", parts=("cells", "weights"))


def _four(
    x: Tensor, y: Tensor, left: Tensor, top: Tensor, height: int, width: int, inside_only: bool = True
) -> tuple[Tensor, Tensor]:
    """Return cells and weights of the corners around (x, y), given the top left one."""
    cells, weights = [], []
    for row, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
        for column, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            cells.append((row * width + column).where(inside, 0.0).long())
            weights.append((weight_x * weight_y).where(inside, 0.0) if inside_only else weight_x * weight_y)
    return torch.stack(cells, dim=-1), torch.stack(weights, dim=-1)


def sample_backward(answer: Answer) -> Passed:
    """Check the backward pass of one sample that lies inside its map.

    From four cells (4, D), the fractions (x, y), an attention weight, the gradient (D,) of the result and the map's
    size to the gradients of the cells (4, D), of the attention weight () and of the location (2,).
    """

    def parts(fraction: Tensor, cells: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, y = fraction
        weights = torch.stack(((1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x))
        gain = cells @ gradient  # (4,)
        slope = torch.stack(
            (
                (1 - y) * (gain[1] - gain[0]) + y * (gain[3] - gain[2]),
                (1 - x) * (gain[2] - gain[0]) + x * (gain[3] - gain[1]),
            )
        )
        return weights, gain, slope

    def made(
        c: Tensor,
        f: Tensor,
        a: Tensor,
        g: Tensor,
        size: tuple[int, int],
        *,
        to_cells: Tensor | None = None,
        to_weight: Tensor | None = None,
        swapped: bool = False,
        slope_weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights, gain, slope = parts(f, c, g)
        if swapped:  # of the corners top right and bottom left
            _, _, slope = parts(f, c[[0, 2, 1, 3]], g)
        return (
            (a if to_cells is None else to_cells) * weights[:, None] * g,
            (1.0 if to_weight is None else to_weight) * (weights @ gain),
            (a if slope_weight is None else slope_weight) * slope * torch.tensor(size),
        )

    def reference(
        cells: Tensor, fraction: Tensor, attention: Tensor, gradient: Tensor, height: int, width: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        return made(cells, fraction, attention, gradient, (width, height))

    one = torch.tensor(1.0)
    mistakes = [
        Mistake(
            lambda c, f, a, g, h, w: made(c, f.flip(0), a, g, (w, h)),
            "the fractions are exchanged: the first one is along x, between left and right.",
        ),
        Mistake(
            lambda c, f, a, g, h, w: made(c, 1 - f, a, g, (w, h)),
            "the weights are exchanged: the fraction is the way from the left cell, so the left one gets 1 - fraction.",
        ),
        Mistake(
            lambda c, f, a, g, h, w: (made(c, f, a, g, (w, h))[0][[0, 2, 1, 3]], *made(c, f, a, g, (w, h))[1:]),
            "top right and bottom left are exchanged: cells come row by row.",
        ),
        Mistake(
            lambda c, f, a, g, h, w: (made(c, f, a, torch.ones_like(g), (w, h))[0], *made(c, f, a, g, (w, h))[1:]),
            "the cells' gradient lacks the gradient of the result: each channel passes its own on.",
        ),
        Mistake(
            lambda c, f, a, g, h, w: made(c, f, a, g, (1, 1)),
            "the location's gradient is per cell: u counts in widths of the map and v in heights, so a chain rule's "
            "factor is missing.",
        ),
        Mistake(
            lambda c, f, a, g, h, w: made(c, f, a, g, (h, w)),
            "width and height are exchanged in the location's gradient: u runs along the width.",
        ),
        Mistake(
            lambda c, f, a, g, h, w: made(c, f, a, g, (w, h), to_cells=one),
            "the cells' gradient lacks the attention weight: a sample that counts for nothing teaches nothing.",
        ),
        Mistake(
            lambda c, f, a, g, h, w: made(c, f, a, g, (w, h), slope_weight=one),
            "the location's gradient lacks the attention weight: the result moves by attention times the slope.",
        ),
        Mistake(
            lambda c, f, a, g, h, w: made(c, f, a, g, (w, h), to_weight=a),
            "the attention weight's gradient still has the attention weight in it: the result is linear in it, so what "
            "is left is sample times gradient.",
        ),
        Mistake(
            lambda c, f, a, g, h, w: made(c, f, a, g, (w, h), swapped=True),
            "top right and bottom left are exchanged in the slope: cells come row by row, so 0 and 1 differ in x.",
        ),
    ]
    rng = generator(82)
    cases = []
    for _ in range(6):
        channels, height = random_integer(rng, 1, 9), random_integer(rng, 2, 9)
        cells, gradient = torch.randn(4, channels, generator=rng), torch.randn(channels, generator=rng)
        fraction = torch.rand(2, generator=rng) * 0.8 + 0.1
        attention = torch.rand((), generator=rng) * 0.5 + 0.2
        cases.append((cells, fraction, attention, gradient, height, height + random_integer(rng, 1, 5)))
    names = ("of the cells", "of the attention weight", "of the location")
    return check_function(answer, reference, cases, mistakes, name="sample_backward", parts=names)


def spread(answer: Answer) -> Passed:
    """Check a function that adds shares (n, 4, D) into the gradient (S, D) of the cells (n, 4) they belong to."""

    def reference(cells: Tensor, shares: Tensor, tokens: int) -> Tensor:
        return shares.new_zeros(tokens, shares.shape[-1]).index_add(0, cells.flatten(), shares.flatten(0, 1))

    def last_one_stays(cells: Tensor, shares: Tensor, tokens: int) -> Tensor:
        result = shares.new_zeros(tokens, shares.shape[-1])
        for cell, share in zip(cells.flatten().tolist(), shares.flatten(0, 1), strict=True):
            result[cell] = share
        return result

    def averaged(cells: Tensor, shares: Tensor, tokens: int) -> Tensor:
        count = torch.bincount(cells.flatten(), minlength=tokens).clamp(min=1)
        return reference(cells, shares, tokens) / count[:, None]

    def first_corner(cells: Tensor, shares: Tensor, tokens: int) -> Tensor:
        return reference(cells[:, :1], shares[:, :1], tokens)

    def one_at_a_time(dim: int) -> Answer:
        """Add with += in a loop over samples (0) or corners (1): within one step the last share of a cell stays."""

        def answer(cells: Tensor, shares: Tensor, tokens: int) -> Tensor:
            result = shares.new_zeros(tokens, shares.shape[-1])
            for cell, share in zip(cells.unbind(dim), shares.unbind(dim), strict=True):
                result[cell] += share
            return result

        return answer

    mistakes = [
        *(
            Mistake(
                one_at_a_time(dim),
                "nearly: grad[cells] += shares still loses shares where two cells of one step are the same. A loop "
                "over single cells does not, and neither does index_add.",
            )
            for dim in (0, 1)
        ),
        Mistake(
            last_one_stays,
            "where several samples read one cell, only the last share is there: grad[cells] += shares reads all old "
            "values first and then writes, once a cell. index_add adds one after the other.",
        ),
        Mistake(averaged, "shares of one cell were averaged: a cell that is read twice has twice the influence."),
        Mistake(first_corner, "only one of the four corners got its share."),
    ]
    rng = generator(83)
    cases = []
    for _ in range(6):
        tokens, samples, channels = random_integer(rng, 5, 9), random_integer(rng, 4, 12), random_integer(rng, 1, 6)
        cells = torch.randint(0, tokens, (samples, 4), generator=rng)
        cases.append((cells, torch.randn(samples, 4, channels, generator=rng), tokens))
    return check_function(answer, reference, cases, mistakes, name="spread")
