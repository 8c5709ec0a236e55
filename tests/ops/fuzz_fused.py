"""Random calls of the fused operators, held against their parts in float64: parts of :mod:`tests.ops.fuzz`."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from ddetr_lab.ops.reference import sampling_locations
from tests.ops.fuzz_plain import PLACES, Finding
from tests.ops.problems import STRIDES, Problem, exact_results, on_a_kink, with_strides

FUSED_NAMES = ("output", "grad_value", "grad_reference", "grad_offsets", "grad_logits")
LIMIT = 4.0  # in units of eps: a location and a weight are rounded several times on their way here
TINY = 1e-25  # a weight below the smallest normal float may be as large as that: 1e-38 times sides of up to 1e9


@dataclass
class FusedProblem:
    """One call of the fused operators, and the gradient that comes back to its result."""

    plain: Problem  # sizes, maps and gradient; its locations and weights are not used
    reference: Tensor  # (B, Q, L, 2 or 4)
    offsets: Tensor  # (B, Q, M, L, P, 2)
    logits: Tensor  # (B, Q, M, L, P)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What the raw backward operator takes, without its flag."""
        plain = self.plain
        return plain.value, *plain.level_tensors, self.reference, self.offsets, self.logits, plain.grad_output


def strewn(tensor: Tensor, chooser: random.Random) -> Tensor:
    """Put numbers with which arithmetic goes wrong, if it can, into a share of the tensor."""
    places = torch.tensor(chooser.choices(PLACES, k=tensor.numel()), dtype=torch.float64).to(tensor.dtype)
    chosen = torch.rand(tensor.shape) < chooser.choice((0.01, 0.1, 1.0))
    return places.view(tensor.shape).where(chosen, tensor)


def draw_fused(plain: Problem, chooser: random.Random, comparable: bool) -> FusedProblem:
    """Draw reference points, offsets and logits for the sizes and maps of a problem.

    A comparable problem has no huge number against another one: what float32 makes of their difference is anything.
    """
    batch, queries, _, levels, _ = plain.weights.shape
    real = chooser.choice((torch.float32, torch.float64))
    reference = torch.rand(batch, queries, levels, chooser.choice((2, 4)), dtype=real)
    offsets = torch.randn(plain.locations.shape, dtype=plain.locations.dtype) * chooser.choice((0.0, 1.0, 4.0))
    logits = (torch.randn(plain.weights.shape) * chooser.choice((0.0, 1.0, 3.0, 30.0))).to(plain.weights.dtype)
    wild = [chooser.random() < 0.2 for _ in range(3)]
    if wild[0] and not (comparable and wild[1]):
        reference = strewn(reference, chooser)
        if comparable:  # 3e38 times an offset overflows or not, by the order of the factors
            reference[..., 2:] = reference[..., 2:].clamp(-1e9, 1e9)
    if wild[1]:
        offsets = strewn(offsets, chooser)
    if wild[2]:
        logits = strewn(logits, chooser)
    return FusedProblem(plain, *(with_strides(t, chooser.choice(STRIDES)) for t in (reference, offsets, logits)))


def good_fused_call(problem: FusedProblem, check: bool) -> dict[str, float]:
    """Call forward and backward; return the errors by name of a checked call, which is compared with exact results."""
    output = torch.ops.ddetr_lab.ms_deform_attn_fused(*problem.inputs[:-1])
    gradients = torch.ops.ddetr_lab.ms_deform_attn_fused_backward(*problem.inputs, True)
    given = (problem.plain.value, problem.reference, problem.offsets, problem.logits)
    for gradient, tensor in zip(gradients, given, strict=True):
        if gradient.shape != tensor.shape or gradient.dtype != tensor.dtype:
            raise Finding(f"a gradient is {gradient.dtype} {tuple(gradient.shape)}, not as its tensor")
    return compared(problem, (output, *gradients)) if check else {}


def compared(problem: FusedProblem, got: tuple[Tensor, ...]) -> dict[str, float]:
    """Return the errors of output and gradients; where something is NaN, of the output's other heads alone."""
    plain = problem.plain
    real = torch.float64 if plain.value.dtype == torch.float64 else torch.float32
    shapes = plain.level_tensors[0]
    # What is not finite is decided in the kernel's precision, all else in float64.
    rounded = sampling_locations(problem.reference.to(real), problem.offsets.to(real), shapes)
    logits = problem.logits.double().flatten(3)  # (B, Q, M, L * P)
    weights = logits.softmax(-1)
    nowhere = (~rounded.isfinite()).flatten(3).any(-1)  # (B, Q, M)
    poisoned = nowhere | weights.isnan().any(-1)
    poisoned_output = poisoned.repeat_interleave(plain.value.shape[3], -1)
    if (poisoned_output != got[0].isnan()).any():
        raise Finding("what is not finite is not NaN in its query and head, or is elsewhere")
    locations = sampling_locations(problem.reference.double(), problem.offsets.double(), shapes)
    locations = locations.where(~poisoned[..., None, None, None], 1e6)
    weights = weights.where(~poisoned[..., None], 0.0)
    # An error of eps in a logit's distance from the largest one is one of distance * eps in its weight.
    behind = (logits.amax(-1, keepdim=True) - logits).clamp(max=90.0).nan_to_num(90.0) if logits.shape[3] else logits
    unsure = weights * (1 + behind)
    right, size = (
        chained(
            problem, Problem(plain.shapes, plain.value, locations, w.view(plain.weights.shape), plain.grad_output), s
        )
        for w, s in ((weights, False), (unsure, True))
    )
    errors = {}
    accumulation = torch.finfo(real).eps
    kink = on_a_kink(Problem(plain.shapes, plain.value, locations, plain.weights, plain.grad_output))
    on_kink = (None, None, kink.flatten(4).any(-1).any(2)[..., None] if kink.numel() else None, kink, None)
    for index, name in enumerate(FUSED_NAMES[:1] if poisoned.any() else FUSED_NAMES):
        dtype = torch.finfo(got[index].dtype)
        unit = accumulation * size[index] + dtype.eps * right[index].abs() + dtype.smallest_normal + TINY
        error = (got[index].double() - right[index]).abs() / unit
        error = error.masked_fill(poisoned_output, 0.0) if index == 0 else error
        hidden = on_kink[index]
        error = error if hidden is None else error.masked_fill(hidden, 0.0)
        errors[f"fused {name}"] = float(error.max()) if error.numel() else 0.0
        if not errors[f"fused {name}"] <= LIMIT:
            raise Finding(f"fused {name} is off by {errors[f'fused {name}']:.3g} eps")
    return errors


def chained(problem: FusedProblem, parts: Problem, sizes: bool) -> tuple[Tensor, ...]:
    """Return output and the four gradients from those of the parts, or the sums of absolute terms that go with them."""
    output, of_value, of_locations, of_weights = exact_results(parts)[sizes]
    reference, offsets = problem.reference.double(), problem.offsets.double()
    points, sign = offsets.shape[4], -1 if not sizes else 1
    if reference.shape[3] == 4:
        step = reference[:, :, None, :, None, 2:] * 0.5 / max(points, 1)  # (B, Q, 1, L, 1, 2)
    else:
        step = 1 / parts.level_tensors[0].flip(-1)[:, None].double()  # (L, 1, 2)
    of_reference = [of_locations.sum((2, 4))]  # (B, Q, L, 2)
    if reference.shape[3] == 4:
        moves = offsets.abs() if sizes else offsets
        of_reference.append((of_locations * moves).sum((2, 4)) * 0.5 / max(points, 1))
    weights, worth = parts.weights.flatten(3), of_weights.flatten(3)
    of_logits = weights * (worth + sign * (weights * worth).sum(-1, keepdim=True))
    of_offsets = of_locations * (step.abs() if sizes else step)
    return output, of_value, torch.cat(of_reference, -1), of_offsets, of_logits.view(parts.weights.shape)
