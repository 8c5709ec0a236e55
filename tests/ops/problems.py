"""Random problems for the operator, their exact results, and what an error is measured in.

The exact results are a formula of their own, in float64 and corner by corner. Beside each number stands the sum of the
absolute values of the terms that it was summed from, and of what a rounding of the location moves them by: an error is
judged against that, in units of eps, so that cancellation excuses nothing and condemns nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddetr_lab.ops import ms_deform_attn

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
STRIDES = ("contiguous", "permuted", "sliced", "offset")
NAMES = ("output", "grad_value", "grad_locations", "grad_weights")


@dataclass
class Problem:
    """One call of the operator, and the gradient that comes back to its result."""

    shapes: list[tuple[int, int]]
    value: Tensor  # (B, S, M, D)
    locations: Tensor  # (B, Q, M, L, P, 2)
    weights: Tensor  # (B, Q, M, L, P)
    grad_output: Tensor  # (B, Q, M * D), in value's dtype

    @property
    def level_tensors(self) -> tuple[Tensor, Tensor]:
        """What the raw operators take: shapes (L, 2) and first tokens (L,)."""
        shapes = torch.tensor(self.shapes, dtype=torch.int64).view(-1, 2)
        sizes = shapes.prod(1)
        return shapes, sizes.cumsum(0) - sizes


def random_problem(
    shapes: Sequence[tuple[int, int]],
    batch: int,
    queries: int,
    heads: int,
    channels: int,
    points: int,
    dtype: torch.dtype = torch.float64,
    location_dtype: torch.dtype | None = None,
    weight_dtype: torch.dtype | None = None,
    spread: float = 0.3,
) -> Problem:
    """Draw a problem whose locations reach ``spread`` of a map beyond its borders, from torch's generator."""
    real = torch.float64 if dtype == torch.float64 else torch.float32
    tokens = sum(height * width for height, width in shapes)
    grid = (batch, queries, heads, len(shapes), points)
    return Problem(
        list(shapes),
        torch.randn(batch, tokens, heads, channels, dtype=real).to(dtype),
        torch.rand(*grid, 2, dtype=location_dtype or real) * (1 + 2 * spread) - spread,
        (torch.rand(grid, dtype=real) - 0.2).to(weight_dtype or real),
        torch.randn(batch, queries, heads * channels, dtype=real).to(dtype),
    )


def with_strides(tensor: Tensor, how: str) -> Tensor:
    """Lay the same numbers out in memory in another way."""
    if how == "permuted":
        order = list(reversed(range(tensor.ndim)))
        return tensor.permute(order).contiguous().permute(order)
    if how == "sliced":  # every second element of every row
        return torch.stack((tensor, tensor * 0 + 7), dim=-1)[..., 0]
    if how == "offset":  # in the middle of a larger piece of memory, not aligned to anything
        room = tensor.new_full((tensor.numel() + 5,), 7)
        room[3 : 3 + tensor.numel()] = tensor.flatten()
        return room[3 : 3 + tensor.numel()].view(tensor.shape)
    return tensor.contiguous()


def random_strides(problem: Problem, chooser: random.Random) -> Problem:
    """Lay out each tensor in a way of its own."""
    tensors = (problem.value, problem.locations, problem.weights, problem.grad_output)
    return Problem(problem.shapes, *(with_strides(tensor, chooser.choice(STRIDES)) for tensor in tensors))


def results(problem: Problem, backend: str | None = None) -> tuple[Tensor, ...]:
    """Return output and gradients by a backend, in the order of ``NAMES``."""
    inputs = [tensor.detach().requires_grad_() for tensor in (problem.value, problem.locations, problem.weights)]
    output = ms_deform_attn(inputs[0], problem.shapes, None, inputs[1], inputs[2], backend=backend)
    if not output.requires_grad:  # the loops, where no sample was taken
        return output, *(torch.zeros_like(tensor) for tensor in inputs)
    gradients = torch.autograd.grad(output, inputs, problem.grad_output, materialize_grads=True)
    return output.detach(), *gradients


def exact_results(problem: Problem) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return output and gradients in float64, and the sums of absolute terms that go with them.

    Locations must be finite, or there is no exact result.
    """
    value, locations, weights = problem.value.double(), problem.locations.double(), problem.weights.double()
    batch, queries, heads, _, points = weights.shape
    upstream = problem.grad_output.double().view(batch, queries, heads, value.shape[3])  # (B, Q, M, D)
    got = [upstream * 0, torch.zeros_like(value), torch.zeros_like(locations), torch.zeros_like(weights)]
    size = [tensor.clone() for tensor in got]
    rows = torch.arange(batch).view(-1, 1, 1, 1), torch.arange(heads).view(1, 1, -1, 1)
    start = 0
    for level, (height, width) in enumerate(problem.shapes):
        attention = weights[:, :, :, level, :, None]  # (B, Q, M, P, 1)
        place, cell, fraction, slack = [], [], [], []
        for axis, cells in ((0, width), (1, height)):
            pixel = locations[:, :, :, level, :, axis] * cells - 0.5  # (B, Q, M, P)
            place.append(pixel.clamp(-2, cells + 1))  # further out is as far out, and an integer can hold it
            cell.append(place[axis].floor())
            fraction.append((place[axis] - cell[axis])[..., None])
            slack.append((pixel.abs() + 1).clamp(max=2.0 * cells + 2)[..., None])  # a rounding moves a place by this
        for right in (0, 1):
            for below in (0, 1):
                x, y = cell[0].long() + right, cell[1].long() + below
                inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
                token = start + (y * width + x).where(inside, 0)
                index = (rows[0], token, rows[1])
                corner = value[index].where(inside[..., None], 0.0)  # (B, Q, M, P, D)
                near_x = fraction[0] if right else 1 - fraction[0]  # (B, Q, M, P, 1)
                near_y = fraction[1] if below else 1 - fraction[1]
                share = near_x * near_y
                moved = share + slack[0] * near_y + slack[1] * near_x  # share, and what a rounding may make of it
                got[0] += (attention * share * corner).sum(3)
                size[0] += (attention.abs() * moved * corner.abs()).sum(3)
                for total, of_value in ((got[1], attention * share), (size[1], (attention * moved).abs())):
                    of_cell = of_value * (upstream if total is got[1] else upstream.abs())[:, :, :, None]
                    total.index_put_(index, of_cell * inside[..., None], accumulate=True)
                worth = (upstream[:, :, :, None] * corner).sum(-1)  # (B, Q, M, P)
                most = (upstream[:, :, :, None] * corner).abs().sum(-1)
                got[3][:, :, :, level] += share[..., 0] * worth
                size[3][:, :, :, level] += moved[..., 0] * most
                for axis, cells, sign, across, drift in (
                    (0, width, 2 * right - 1, near_y, slack[1]),
                    (1, height, 2 * below - 1, near_x, slack[0]),
                ):
                    slope = cells * attention[..., 0]
                    got[2][:, :, :, level, :, axis] += sign * slope * across[..., 0] * worth
                    size[2][:, :, :, level, :, axis] += (slope * (across + drift)[..., 0]).abs() * most
        start += height * width
    got[0], size[0] = got[0].flatten(2), size[0].flatten(2)
    return tuple(got), tuple(size)


def on_a_kink(problem: Problem, closer_than: float = 1e-3) -> Tensor:
    """Return which locations (B, Q, M, L, P, 2) lie where a slope jumps: rounding decides which side they see."""
    sizes = torch.tensor(problem.shapes, dtype=torch.float64).view(-1, 1, 2).flip(-1)  # (L, 1, 2), (W, H)
    pixel = problem.locations.double() * sizes - 0.5
    # Either coordinate's slope is one between two cells: both depend on the side.
    return ((pixel - pixel.round()).abs() < closer_than).any(-1, keepdim=True).expand(pixel.shape)


def errors_in_eps(problem: Problem, got: Sequence[Tensor]) -> list[float]:
    """Return the largest errors of output and gradients, in eps of the sums' dtype plus eps of the result's.

    One unit is eps (of float32; of float64 where values are float64) times the sum of absolute terms, plus eps of the
    result's dtype times the result, for its own rounding.
    """
    accumulation = torch.finfo(torch.float64 if problem.value.dtype == torch.float64 else torch.float32).eps
    worst = []
    for name, result, right, size in zip(NAMES, got, *exact_results(problem), strict=True):
        dtype = torch.finfo(result.dtype)
        unit = accumulation * size + dtype.eps * right.abs() + dtype.smallest_normal
        error = (result.double() - right).abs() / unit
        if name == "grad_locations":
            error = error.masked_fill(on_a_kink(problem), 0.0)
        worst.append(float(error.max()) if error.numel() else 0.0)
    return worst
