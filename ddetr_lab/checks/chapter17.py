"""The checks of chapter 17: what attention costs, its slopes at the logits, and reading a learning curve.

Built in chapter 17.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ddetr_lab.checks.core import Answer, Mistake, Passed, check_function, generator, random_integer

__all__ = ["attention_cost", "logit_slopes", "steps_to_reach"]


def attention_cost(answer: Answer) -> Passed:
    """Check a function from numbers of cells, channels, heads and points to multiplications, dense and deformable."""

    def dense(cells: int, channels: int) -> int:
        return 4 * cells * channels**2 + 2 * cells**2 * channels

    def deformable(cells: int, channels: int, heads: int, points: int) -> int:
        projections = 2 * cells * channels**2
        predictions = 3 * cells * channels * heads * points
        return projections + predictions + 5 * cells * points * channels

    def reference(cells: int, channels: int, heads: int, points: int) -> Tensor:
        return torch.tensor([dense(cells, channels), deformable(cells, channels, heads, points)])

    def linear(cells: int, channels: int, heads: int, points: int) -> Tensor:
        return torch.tensor([4 * cells * channels**2, deformable(cells, channels, heads, points)])

    def once(cells: int, channels: int, heads: int, points: int) -> Tensor:
        return reference(cells, channels, heads, points) - torch.tensor([cells**2 * channels, 0])

    def by_head(cells: int, channels: int, heads: int, points: int) -> Tensor:
        return reference(cells, channels, heads, points) + torch.tensor([2 * (heads - 1) * cells**2 * channels, 0])

    def without_weights(cells: int, channels: int, heads: int, points: int) -> Tensor:
        return reference(cells, channels, heads, points) - torch.tensor([0, cells * channels * heads * points])

    def one_corner(cells: int, channels: int, heads: int, points: int) -> Tensor:
        return reference(cells, channels, heads, points) - torch.tensor([0, 4 * cells * points * channels])

    def keys_too(cells: int, channels: int, heads: int, points: int) -> Tensor:
        return reference(cells, channels, heads, points) + torch.tensor([0, 2 * cells * channels**2])

    def head_samples(cells: int, channels: int, heads: int, points: int) -> Tensor:
        return reference(cells, channels, heads, points) + torch.tensor(
            [0, 5 * (heads - 1) * cells * points * channels]
        )

    def four_only(cells: int, channels: int, heads: int, points: int) -> Tensor:
        return reference(cells, channels, heads, points) - torch.tensor([0, cells * points * channels])

    def one_prediction(cells: int, channels: int, heads: int, points: int) -> Tensor:
        return reference(cells, channels, heads, points) - torch.tensor(
            [0, 3 * cells * channels * (heads - 1) * points]
        )

    mistakes = [
        Mistake(reference, "the numbers are right, but these are counts: a tensor of integers, torch.int64."),
        Mistake(four_only, "the four corners are counted, but not the multiplication by the attention weight."),
        Mistake(one_prediction, "each head predicts offsets and weights of its own: 3 for each head and point."),
        Mistake(linear, "dense attention lacks what every cell does with every other: products and weighted sums."),
        Mistake(once, "dense attention meets all pairs of cells twice: for the products, and for the weighted sum."),
        Mistake(by_head, "a head has only channels / heads of the channels: all heads together have them once."),
        Mistake(without_weights, "offsets are two numbers a point and head, and the weight is a third."),
        Mistake(one_corner, "a sample reads four corners, and its value is weighted once more: five, not one."),
        Mistake(keys_too, "deformable attention projects values and the output: it has neither queries nor keys."),
        Mistake(head_samples, "each head samples its own channels only: all heads together have them once."),
        Mistake(
            lambda s, c, m, k: reference(s, c, m, k).flip(0),
            "the two are exchanged: first dense, then deformable.",
        ),
    ]
    rng = generator(171)
    cases = []
    for heads in (8, 4, 2):
        cells, points = random_integer(rng, 30, 600), 4 * random_integer(rng, 1, 4)
        cases.append((cells, heads * random_integer(rng, 3, 16), heads, points))
    return check_function(answer, reference, cases, mistakes, name="attention_cost")


def logit_slopes(answer: Answer) -> Passed:
    """Check a function from logits (N,), values (N, D) and the loss's slope at the output (D,) to slopes (N,)."""

    def reference(logits: Tensor, values: Tensor, slope: Tensor) -> Tensor:
        z = logits.detach().clone().requires_grad_()
        (found,) = torch.autograd.grad((z.softmax(0) @ values) @ slope, z)
        return found

    def weighted(logits: Tensor, values: Tensor, slope: Tensor) -> Tensor:
        return logits.softmax(0) * (values @ slope)

    def unweighted(logits: Tensor, values: Tensor, slope: Tensor) -> Tensor:
        output = logits.softmax(0) @ values
        return (values - output) @ slope

    def plain_mean(logits: Tensor, values: Tensor, slope: Tensor) -> Tensor:
        return logits.softmax(0) * ((values - values.mean(0)) @ slope)

    def own_only(logits: Tensor, values: Tensor, slope: Tensor) -> Tensor:
        p = logits.softmax(0)
        return p * (1 - p) * (values @ slope)

    def turned(logits: Tensor, values: Tensor, slope: Tensor) -> Tensor:
        return -reference(logits, values, slope)

    def even(logits: Tensor, values: Tensor, slope: Tensor) -> Tensor:
        return (values - logits.softmax(0) @ values) @ slope / len(logits)

    mistakes = [
        Mistake(
            weighted,
            "the output is missing: a logit that rises takes weight from all others, so its value counts only as far "
            "as it differs from the output.",
        ),
        Mistake(unweighted, "the weight p is missing in front: that factor is what makes a flat start slow."),
        Mistake(plain_mean, "the values' plain mean was subtracted: it is their mean weighted by p, the output."),
        Mistake(own_only, "only the logit's own weight was followed: the others' weights fall when it rises."),
        Mistake(even, "divided by N: that is the weight at a flat start; later each cell has its own."),
        Mistake(turned, "the sign is turned: a cell that is better than the output has a positive slope."),
    ]
    rng = generator(172)
    cases = []
    for cells, channels in ((6, 3), (1, 2), (40, 8)):
        logits = torch.randn(cells, generator=rng, dtype=torch.float64) * 2
        values = torch.randn(cells, channels, generator=rng, dtype=torch.float64) + 0.5
        cases.append((logits, values, torch.randn(channels, generator=rng, dtype=torch.float64)))
    return check_function(answer, reference, cases, mistakes, name="logit_slopes")


def steps_to_reach(answer: Answer) -> Passed:
    """Check a function from steps (P,), scores (P,) and a level to the step at which the level is reached first."""

    def reference(steps: Tensor, scores: Tensor, level: float) -> Tensor:
        there = (scores >= level).nonzero().flatten()
        if len(there) == 0:
            return torch.tensor(torch.inf, dtype=torch.float64)
        after = int(there[0])
        if after == 0:
            return steps[0].double()
        before = after - 1
        share = (level - scores[before]) / (scores[after] - scores[before])
        return (steps[before] + share * (steps[after] - steps[before])).double()

    def at_point(steps: Tensor, scores: Tensor, level: float) -> Tensor:
        there = (scores >= level).nonzero().flatten()
        return steps[there[0]].double() if len(there) else torch.tensor(torch.inf, dtype=torch.float64)

    def last_time(steps: Tensor, scores: Tensor, level: float) -> Tensor:
        below = (scores < level).nonzero().flatten()
        before = int(below[-1]) if len(below) else -1
        if before == len(scores) - 1:
            return torch.tensor(torch.inf, dtype=torch.float64)
        if before < 0:
            return steps[0].double()
        share = (level - scores[before]) / (scores[before + 1] - scores[before])
        return (steps[before] + share * (steps[before + 1] - steps[before])).double()

    def above(steps: Tensor, scores: Tensor, level: float) -> Tensor:
        return reference(steps, torch.where(scores == level, level - 1e-9, scores), level)

    def extended(steps: Tensor, scores: Tensor, level: float) -> Tensor:
        return reference(steps[1:], scores[1:], level) if scores[1] < level else before_start(steps, scores, level)

    def before_start(steps: Tensor, scores: Tensor, level: float) -> Tensor:
        return steps[0] + (level - scores[0]) / (scores[1] - scores[0]) * (steps[1] - steps[0])

    def sorted_curve(steps: Tensor, scores: Tensor, level: float) -> Tensor:
        found = np.interp(level, scores.numpy(), steps.numpy()) if scores.max() >= level else np.inf
        return torch.tensor(found, dtype=torch.float64)

    def turned(steps: Tensor, scores: Tensor, level: float) -> Tensor:
        found, after = reference(steps, scores, level), at_point(steps, scores, level)
        place = int((steps == after).nonzero()[0]) if torch.isfinite(after) else 0
        return steps[place - 1] + after - found if place else found

    def at_the_end(steps: Tensor, scores: Tensor, level: float) -> Tensor:
        found = reference(steps, scores, level)
        return steps[-1].double() if torch.isinf(found) else found

    def argmax(steps: Tensor, scores: Tensor, level: float) -> Tensor:
        found = reference(steps, scores, level)
        return steps[0].double() if torch.isinf(found) else found

    mistakes = [
        Mistake(argmax, "a curve that never reaches the level got its first step: argmax of all False is 0."),
        Mistake(
            at_point,
            "this is the first evaluation at or above the level: the curve crosses it before, between two of them.",
        ),
        Mistake(
            extended,
            "the curve begins above the level, and was drawn on to the left of its first point: return the first step.",
        ),
        Mistake(
            turned, "the share was counted from the later point: it is the part of the rise that is done at the level."
        ),
        Mistake(above, "a point that is exactly on the level reaches it: at least, not above."),
        Mistake(
            sorted_curve, "np.interp needs scores that rise: this curve goes down as well. Find the first crossing."
        ),
        Mistake(last_time, "this is the last crossing: scores go up and down, and the first time counts."),
        Mistake(at_the_end, "a curve that never reaches the level got its last step: it is torch.tensor(torch.inf)."),
    ]
    steps = torch.tensor([100.0, 200.0, 400.0, 600.0, 1000.0], dtype=torch.float64)
    curves = [[0.0, 0.1, 0.3, 0.25, 0.5], [0.0, 0.05, 0.12, 0.2, 0.21], [0.3, 0.31, 0.35, 0.36, 0.4]]
    curves += [[0.0, 0.1, 0.4, 0.1, 0.15], [0.0, 0.125, 0.25, 0.125, 0.5]]  # down again to the end; exactly there
    levels = (0.27, 0.27, 0.25, 0.2, 0.25)
    cases = [
        (steps, torch.tensor(curve, dtype=torch.float64), level) for curve, level in zip(curves, levels, strict=True)
    ]
    return check_function(answer, reference, cases, mistakes, name="steps_to_reach")
