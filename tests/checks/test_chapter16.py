"""Chapter 16: the solution of each exercise passes; typical wrong answers fail, each with the intended hint."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ddetr_lab.checks import chapter16
from tests.checks.contract import *  # noqa: F403 (the tests that every chapter's checks pass)

Answer = Callable[..., Any]
Step = tuple[Tensor, Tensor, Tensor]


def adamw(
    corrected: bool = True,
    root: float = 0.5,
    sign: float = 1.0,
    shrink: Callable[[float, float], float] = lambda rate, decay: 1 - rate * decay,
    penalty: bool = False,
) -> Answer:
    """Make a step of AdamW that is right by default."""

    def answer(
        weight: Tensor, gradient: Tensor, first: Tensor, second: Tensor, step: int, rate: float, decay: float
    ) -> Step:
        if penalty:
            gradient = gradient + decay * weight
        first = first + 0.1 * (gradient - first)
        second = second + 0.001 * (gradient**2 - second)
        m = first / (1 - 0.9**step) if corrected else first
        v = second / (1 - 0.999**step) if corrected else second
        shrunk = weight if penalty else shrink(rate, decay) * weight
        return shrunk - sign * rate * m / (v**root + 1e-8), first, second

    return answer


def factor(
    begin: Callable[[float], float] = lambda warmup: warmup,
    waves: float = 1.0,
    shape: Callable[[float], float] = lambda share: (1 + math.cos(math.pi * share)) / 2,
) -> Answer:
    """Make a warm-up and a way down that is right by default."""

    def one(share: float, warmup: float) -> float:
        if share < warmup:
            return share / warmup
        start = begin(warmup)
        return shape(waves * (share - start) / (1 - start))

    return lambda progress, warmup: torch.tensor(
        [one(share, warmup) for share in progress.tolist()], dtype=progress.dtype
    )


def scaled(norm: Callable[[Tensor, Tensor], Tensor], at_most: float = 1.0) -> Answer:
    """Make a clipping by one common norm."""

    def answer(one: Tensor, two: Tensor, limit: float) -> tuple[Tensor, Tensor]:
        scale = min(limit / float(norm(one, two)), at_most)
        return one * scale, two * scale

    return answer


def common(one: Tensor, two: Tensor) -> Tensor:
    return torch.cat([one.flatten(), two.flatten()]).norm()


def one_by_one(one: Tensor, two: Tensor, limit: float) -> tuple[Tensor, ...]:
    return tuple(gradient * min(1.0, limit / float(gradient.norm())) for gradient in (one, two))


def together(losses: Tensor, counts: Tensor) -> Tensor:
    return (losses * counts.clamp(min=1)).sum() / max(float(counts.sum()), 1.0)


RIGHT = [
    (chapter16.adamw_step, adamw()),
    (chapter16.rate_factor, factor()),
    (chapter16.clipped, scaled(common)),
    (chapter16.accumulated_loss, together),
]

WRONG = [
    (chapter16.adamw_step, adamw(penalty=True), "through the gradient"),
    (chapter16.adamw_step, adamw(corrected=False), "start at 0"),
    (chapter16.adamw_step, adamw(shrink=lambda rate, decay: 1.0), "does not decay"),
    (chapter16.adamw_step, adamw(shrink=lambda rate, decay: 1 - decay), "not multiplied by the rate"),
    (chapter16.adamw_step, adamw(root=1.0), "square root"),
    (chapter16.adamw_step, adamw(sign=-1.0), "up the gradient"),
    (chapter16.rate_factor, factor(begin=lambda warmup: 0.0), "where the warm-up ends"),
    (chapter16.rate_factor, factor(waves=2.0), "whole wave"),
    (chapter16.rate_factor, factor(waves=0.5), "quarter of a wave"),
    (chapter16.rate_factor, factor(shape=lambda share: 1 - share), "straight line"),
    (
        chapter16.rate_factor,
        lambda progress, warmup: (1 + torch.cos(math.pi * progress)) / 2,
        "no warm-up",
    ),
    (chapter16.rate_factor, factor(shape=lambda share: math.cos(math.pi * share)), "below 0"),
    (chapter16.clipped, one_by_one, "its own norm"),
    (chapter16.clipped, lambda one, two, limit: (one.clip(-limit, limit), two.clip(-limit, limit)), "one by one"),
    (chapter16.clipped, scaled(common, at_most=math.inf), "made longer"),
    (chapter16.clipped, scaled(lambda one, two: common(one, two) ** 2), "square root"),
    (chapter16.clipped, scaled(lambda one, two: one.norm() + two.norm()), "no sum of norms"),
    (chapter16.accumulated_loss, lambda losses, counts: losses.mean(), "mean over pieces"),
    (chapter16.accumulated_loss, lambda losses, counts: losses.sum(), "sum over pieces"),
    (
        chapter16.accumulated_loss,
        lambda losses, counts: (losses * counts).sum() / max(float(counts.sum()), 1.0),
        "piece without objects",
    ),
    (
        chapter16.accumulated_loss,
        lambda losses, counts: (losses * counts.clamp(min=1)).sum(),
        "not divided",
    ),
    (
        chapter16.accumulated_loss,
        lambda losses, counts: (losses * counts.clamp(min=1)).sum() / counts.clamp(min=1).sum(),
        "an object each",
    ),
]
