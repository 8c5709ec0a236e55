"""The checks of chapter 16: a step of AdamW, the schedule, clipping, and losses of a batch in pieces.

Built in chapter 16.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ddetr_lab.checks.core import Answer, Mistake, Passed, check_function, generator, random_integer
from ddetr_lab.training.schedule import learning_rate_factor

__all__ = ["accumulated_loss", "adamw_step", "clipped", "rate_factor"]

_BETAS, _EPS = (0.9, 0.999), 1e-8
_Moments = tuple[Tensor, Tensor, Tensor]


def adamw_step(answer: Answer) -> Passed:
    """Check a function from weight, gradient, both averages, step, rate and decay to the new weight and averages."""

    def reference(
        weight: Tensor, gradient: Tensor, first: Tensor, second: Tensor, step: int, rate: float, decay: float
    ) -> _Moments:
        parameter = nn.Parameter(weight.clone())
        optimizer = torch.optim.AdamW([parameter], lr=rate, betas=_BETAS, eps=_EPS, weight_decay=decay)
        parameter.grad = gradient.clone()
        optimizer.state[parameter] = {
            "step": torch.tensor(float(step - 1)),
            "exp_avg": first.clone(),
            "exp_avg_sq": second.clone(),
        }
        optimizer.step()
        state = optimizer.state[parameter]
        return parameter.detach(), state["exp_avg"], state["exp_avg_sq"]

    def moments(g: Tensor, m: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return _BETAS[0] * m + (1 - _BETAS[0]) * g, _BETAS[1] * v + (1 - _BETAS[1]) * g**2

    def moved(w: Tensor, m: Tensor, v: Tensor, t: int, rate: float) -> Tensor:
        return w - rate * (m / (1 - _BETAS[0] ** t)) / ((v / (1 - _BETAS[1] ** t)).sqrt() + _EPS)

    def penalty(w: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, rate: float, decay: float) -> _Moments:
        m, v = moments(g + decay * w, m, v)
        return moved(w, m, v, t, rate), m, v

    def uncorrected(w: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, rate: float, decay: float) -> _Moments:
        m, v = moments(g, m, v)
        return w * (1 - rate * decay) - rate * m / (v.sqrt() + _EPS), m, v

    def no_decay(w: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, rate: float, decay: float) -> _Moments:
        m, v = moments(g, m, v)
        return moved(w, m, v, t, rate), m, v

    def full_decay(w: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, rate: float, decay: float) -> _Moments:
        m, v = moments(g, m, v)
        return moved(w * (1 - decay), m, v, t, rate), m, v

    def no_root(w: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, rate: float, decay: float) -> _Moments:
        m, v = moments(g, m, v)
        step = (m / (1 - _BETAS[0] ** t)) / (v / (1 - _BETAS[1] ** t) + _EPS)
        return w * (1 - rate * decay) - rate * step, m, v

    def eps_inside(w: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, rate: float, decay: float) -> _Moments:
        m, v = moments(g, m, v)
        step = (m / (1 - _BETAS[0] ** t)) / (v / (1 - _BETAS[1] ** t) + _EPS).sqrt()
        return w * (1 - rate * decay) - rate * step, m, v

    def corrected(w: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, rate: float, decay: float) -> _Moments:
        weight, m, v = reference(w, g, m, v, t, rate, decay)
        return weight, m / (1 - _BETAS[0] ** t), v / (1 - _BETAS[1] ** t)

    def betas_exchanged(w: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, rate: float, decay: float) -> _Moments:
        m, v = (1 - _BETAS[0]) * m + _BETAS[0] * g, (1 - _BETAS[1]) * v + _BETAS[1] * g**2
        return moved(w * (1 - rate * decay), m, v, t, rate), m, v

    def uphill(w: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, rate: float, decay: float) -> _Moments:
        m, v = moments(g, m, v)
        shrunk = w * (1 - rate * decay)
        return 2 * shrunk - moved(shrunk, m, v, t, rate), m, v

    mistakes = [
        Mistake(
            penalty,
            "the decay went through the gradient: there it is divided by its own root like everything else. AdamW "
            "takes it off the weight directly.",
        ),
        Mistake(
            uncorrected,
            "the averages start at 0 and are too small at first: divide each by 1 - beta**step before you use it.",
        ),
        Mistake(no_decay, "the weight does not decay: it should shrink by the factor 1 - rate * decay."),
        Mistake(full_decay, "the decay is not multiplied by the rate: the weight shrinks by 1 - rate * decay."),
        Mistake(no_root, "divide by the square root of the second average: the step should have the rate's size."),
        Mistake(
            eps_inside,
            "epsilon was added under the root: add it to the root. For a tiny second average the two differ by far.",
        ),
        Mistake(
            corrected,
            "the averages that are handed on are corrected ones: the next step corrects again, so return m and v.",
        ),
        Mistake(
            betas_exchanged, "the betas weigh the new values: beta belongs to the old average, 1 - beta to the new."
        ),
        Mistake(uphill, "the step goes up the gradient: subtract it."),
    ]
    parts = ("the weight", "the first average", "the second average")
    return check_function(answer, reference, _adamw_cases(), mistakes, name="adamw", parts=parts)


def _adamw_cases() -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, int, float, float]]:
    """Yield a first step, later ones, and one without decay."""
    rng = generator(161)
    for step, decay in ((1, 0.1), (2, 0.3), (7, 0.05), (100, 0.0)):
        shape = (random_integer(rng, 2, 4), random_integer(rng, 2, 5))
        weight, gradient, first = (torch.randn(shape, generator=rng) for _ in range(3))
        second = torch.rand(shape, generator=rng)
        if step == 1:
            gradient[:, 0] *= 1e-6  # so small that it matters where epsilon stands
        old = 0.0 if step == 1 else 1.0
        yield weight, gradient, 0.3 * old * first, old * second, step, 0.02, decay


def rate_factor(answer: Answer) -> Passed:
    """Check a function from progress (N,) in 0-1 and the warm-up's share to factors (N,) of the rate."""

    def reference(progress: Tensor, warmup: float) -> Tensor:
        return torch.tensor([learning_rate_factor(float(share), warmup) for share in progress], dtype=progress.dtype)

    def build(progress: Tensor, warmup: float, start: float, length: float, waves: float = 1.0) -> Tensor:
        falling = 0.5 * (1 + torch.cos(waves * math.pi * (progress - start) / length))
        return torch.where(progress < warmup, progress / warmup, falling)

    def straight(progress: Tensor, warmup: float) -> Tensor:
        return torch.where(progress < warmup, progress / warmup, (1 - progress) / (1 - warmup))

    def cold(progress: Tensor, warmup: float) -> Tensor:
        return 0.5 * (1 + torch.cos(math.pi * progress))

    def unhalved(progress: Tensor, warmup: float) -> Tensor:
        return torch.where(
            progress < warmup, progress / warmup, torch.cos(math.pi * (progress - warmup) / (1 - warmup))
        )

    mistakes = [
        Mistake(
            lambda p, w: build(p, w, 0.0, 1.0),
            "the cosine runs over the whole run: it should begin at 1 where the warm-up ends, so that nothing jumps.",
        ),
        Mistake(
            lambda p, w: build(p, w, w, 1 - w, waves=2.0),
            "this is a whole wave, which comes up again: half a wave ends at 0.",
        ),
        Mistake(
            lambda p, w: build(p, w, w, 1 - w, waves=0.5),
            "this is a quarter of a wave, which ends at a half: half a wave ends at 0.",
        ),
        Mistake(straight, "the rate falls in a straight line: after the warm-up half a cosine was asked for."),
        Mistake(cold, "there is no warm-up: below its share the factor is progress / warmup."),
        Mistake(
            lambda p, w: build(p, w, w, 1.0),
            "half a wave is too long for what is left: divide by 1 - warmup, so that it ends with the run.",
        ),
        Mistake(
            lambda p, w: build(p, w, w, 1 - w, waves=1 / math.pi),
            "pi is missing: without it the cosine falls from 1 to cos(1), not to -1.",
        ),
        Mistake(
            lambda p, w: 0.5 * (1 + torch.cos(math.pi * (p - w) / (1 - w))),
            "the warm-up is missing: below its share the factor is progress / warmup, not a cosine run backwards.",
        ),
        Mistake(lambda p, w: torch.where(p < w, p, reference(p, w)), "the warm-up ends at 1: divide by its share."),
        Mistake(
            lambda p, w: torch.where(p < w, 1.0, reference(p, w)),
            "the rate is full from the start: in the warm-up it rises from 0, progress / warmup.",
        ),
        Mistake(unhalved, "a cosine goes from 1 to -1, and a rate below 0 climbs the loss: 0.5 * (1 + cos)."),
    ]
    rng = generator(162)
    cases = []
    for warmup in (0.02, 0.3, 0.1):
        progress = torch.rand(random_integer(rng, 5, 9), generator=rng, dtype=torch.float64)
        cases.append((torch.cat((progress, torch.tensor([0.0, warmup / 2, 1.0], dtype=torch.float64))), warmup))
    return check_function(answer, reference, cases, mistakes, name="rate_factors")


def clipped(answer: Answer) -> Passed:
    """Check a function from the gradients of two parameters and a limit to the clipped gradients."""

    def reference(one: Tensor, two: Tensor, limit: float) -> tuple[Tensor, Tensor]:
        parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in (one, two)]
        for parameter, gradient in zip(parameters, (one, two), strict=True):
            parameter.grad = gradient.clone()
        nn.utils.clip_grad_norm_(parameters, limit)
        return tuple(parameter.grad for parameter in parameters if parameter.grad is not None)  # type: ignore[return-value]

    def factor(norm: Tensor, limit: float) -> Tensor:
        return (limit / norm.clamp(min=1e-6)).clamp(max=1)

    def common(one: Tensor, two: Tensor) -> Tensor:
        return (one.square().sum() + two.square().sum()).sqrt()

    def alone(one: Tensor, two: Tensor, limit: float) -> tuple[Tensor, Tensor]:
        return one * factor(one.norm(), limit), two * factor(two.norm(), limit)

    def by_value(one: Tensor, two: Tensor, limit: float) -> tuple[Tensor, Tensor]:
        return one.clamp(-limit, limit), two.clamp(-limit, limit)

    def always(one: Tensor, two: Tensor, limit: float) -> tuple[Tensor, Tensor]:
        scale = limit / common(one, two).clamp(min=1e-6)
        return one * scale, two * scale

    def of_squares(one: Tensor, two: Tensor, limit: float) -> tuple[Tensor, Tensor]:
        scale = factor(common(one, two).square(), limit)
        return one * scale, two * scale

    def of_norms(one: Tensor, two: Tensor, limit: float) -> tuple[Tensor, Tensor]:
        scale = factor(one.norm() + two.norm(), limit)
        return one * scale, two * scale

    def to_one(one: Tensor, two: Tensor, limit: float) -> tuple[Tensor, Tensor]:
        scale = factor(common(one, two), 1.0)
        return one * scale, two * scale

    def absolute(one: Tensor, two: Tensor, limit: float) -> tuple[Tensor, Tensor]:
        scale = factor(one.abs().sum() + two.abs().sum(), limit)
        return one * scale, two * scale

    def divided(one: Tensor, two: Tensor, limit: float) -> tuple[Tensor, Tensor]:
        scale = (common(one, two) / limit).clamp(max=1)
        return one * scale, two * scale

    mistakes = [
        Mistake(to_one, "1 was taken for the limit: it is an argument, and another one here."),
        Mistake(absolute, "the norm was taken as a sum of absolute values: it is the root of the sum of squares."),
        Mistake(divided, "the factor is turned round: it is the limit divided by the norm."),
        Mistake(
            alone, "each parameter was clipped by its own norm, which turns the step: one common norm, one factor."
        ),
        Mistake(by_value, "entries were cut one by one, which turns the step: scale all of them by one factor."),
        Mistake(always, "short gradients were made longer: the factor is at most 1."),
        Mistake(of_squares, "the norm is the square root of the sum of squares."),
        Mistake(of_norms, "the common norm is no sum of norms: add the squares, then take the root."),
    ]
    rng = generator(163)
    cases = []
    for scale, limit in ((3.0, 1.0), (0.01, 0.5), (1.0, 0.1)):
        one = scale * torch.randn(random_integer(rng, 2, 4), 3, generator=rng)
        cases.append((one, scale * torch.randn(random_integer(rng, 2, 5), generator=rng), limit))
    return check_function(answer, reference, cases, mistakes, name="clip_gradients", parts=("the first", "the second"))


def accumulated_loss(answer: Answer) -> Passed:
    """Check a function from the losses of pieces (n,), each over its own objects, and those counts to the batch's."""

    def reference(losses: Tensor, counts: Tensor) -> Tensor:
        own = counts.clamp(min=1)
        return (losses * own).sum() / counts.sum().clamp(min=1)

    def unguarded(losses: Tensor, counts: Tensor) -> Tensor:
        return (losses * counts).sum() / counts.sum().clamp(min=1)

    mistakes = [
        Mistake(
            lambda losses, counts: losses.mean(),
            "this is the mean over pieces: an object of a piece with few of them would weigh more than another's.",
        ),
        Mistake(
            lambda losses, counts: losses.sum() / counts.sum().clamp(min=1),
            "the pieces' losses were summed as they are: each was divided by its own objects, so multiply by these.",
        ),
        Mistake(lambda losses, counts: losses.sum(), "this is the sum over pieces: it grows with their number."),
        Mistake(
            unguarded,
            "a piece without objects has a loss too, of its background, which was divided by max(n, 1) = 1: "
            "multiply by that again.",
        ),
        Mistake(
            lambda losses, counts: (losses * counts.clamp(min=1)).sum(),
            "the sums are put back together, but not divided by the objects of the whole batch.",
        ),
        Mistake(
            lambda losses, counts: (losses * counts.clamp(min=1)).sum() / counts.clamp(min=1).sum(),
            "empty pieces were counted as an object each: the batch is divided by the objects there are, at least 1.",
        ),
    ]
    rng = generator(164)
    cases = []
    for counts in ([4.0, 1.0], [3.0, 0.0, 5.0], [0.0, 0.0], [2.0, 7.0, 1.0, 0.0]):
        cases.append((torch.rand(len(counts), generator=rng) * 3, torch.tensor(counts)))
    return check_function(answer, reference, cases, mistakes, name="accumulated")
