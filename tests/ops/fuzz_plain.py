"""Random calls of the plain operators, and what spoils a call of any operator: parts of :mod:`tests.ops.fuzz`."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tests.ops.problems import DTYPES, NAMES, Problem, errors_in_eps, random_problem, random_strides

CHANNELS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 70)
# Places where arithmetic goes wrong if it can: borders, far outside, what is no place, and what is hardly a number.
PLACES = (
    0.0,
    -0.0,
    0.5,
    1.0,
    -1.0,
    2.0,
    1e-42,
    1e-20,
    1e9,
    -1e9,
    3e38,
    -3e38,
    float("nan"),
    float("inf"),
    -float("inf"),
)
LIMIT = 1.0  # in units of eps, as in tests/properties


class Finding(Exception):
    """Something that must not be: a wrong result, or a bad call that went through."""


def draw_problem(chooser: random.Random) -> Problem:
    """Draw sizes, dtypes, places and strides."""
    dtype = chooser.choice(DTYPES)
    halves = () if dtype == torch.float64 else (dtype, torch.float32)
    problem = random_problem(
        [(chooser.randint(1, 9), chooser.randint(1, 9)) for _ in range(chooser.choice((0, 1, 1, 2, 3, 4)))],
        batch=chooser.choice((0, 1, 1, 2, 3)),
        queries=chooser.choice((0, 1, 2, 3, 5, 8, 13, 40)),
        heads=chooser.choice((0, 1, 1, 2, 3, 8)),
        channels=chooser.choice(CHANNELS),
        points=chooser.choice((0, 1, 2, 3, 4, 5, 8)),
        dtype=dtype,
        location_dtype=chooser.choice((torch.float32, torch.float64)),
        weight_dtype=chooser.choice((torch.float32, torch.float64, *halves)),
        spread=chooser.choice((0.0, 0.3, 3.0)),
    )
    if chooser.random() < 0.3:
        places = torch.tensor(chooser.choices(PLACES, k=problem.locations.numel()), dtype=problem.locations.dtype)
        share = chooser.choice((0.05, 0.5, 1.0))
        chosen = torch.rand(problem.locations.shape) < share
        problem.locations = places.view(problem.locations.shape).where(chosen, problem.locations)
    return random_strides(problem, chooser)


def good_call(problem: Problem, check: bool) -> dict[str, float]:
    """Call forward and backward; return the errors by name of a checked call, which is compared with exact results."""
    shapes, starts = problem.level_tensors
    inputs = (problem.value, shapes, starts, problem.locations, problem.weights)
    output = torch.ops.ddetr_lab.ms_deform_attn(*inputs)
    gradients = torch.ops.ddetr_lab.ms_deform_attn_backward(*inputs, problem.grad_output, True)
    if not check:
        return {}
    finite = problem.locations.isfinite().all(-1)  # (B, Q, M, L, P)
    poisoned = ~finite.flatten(3).all(-1, keepdim=True)  # (B, Q, M, 1)
    heads = output.view(*poisoned.shape[:3], problem.value.shape[3])
    if not torch.equal(heads.isnan(), poisoned.expand_as(heads)) or not gradients[0].isfinite().all():
        raise Finding("a location that is not finite is not NaN in its query and head, or is elsewhere")
    # What is not finite reads nothing: for the rest of the comparison it may as well be far outside.
    exact = Problem(
        problem.shapes, *(getattr(problem, name) for name in ("value", "locations", "weights", "grad_output"))
    )
    exact.locations = problem.locations.where(finite[..., None], 1e6)
    got = (
        heads.where(~poisoned, exact_poisoned(exact)).flatten(2) if poisoned.any() else output,
        gradients[0],
        gradients[1].where(finite[..., None], 0.0),
        gradients[2].where(finite, 0.0),
    )
    errors = dict(zip(NAMES, errors_in_eps(exact, got), strict=True))
    for name, units in errors.items():
        if not units <= LIMIT:
            raise Finding(f"{name} is off by {units:.3g} eps")
    return errors


def exact_poisoned(problem: Problem) -> Tensor:
    """Return what the operator gives once the places that were not finite are far outside, by head (B, Q, M, D)."""
    shapes, starts = problem.level_tensors
    output = torch.ops.ddetr_lab.ms_deform_attn(problem.value, shapes, starts, problem.locations, problem.weights)
    return output.view(*problem.weights.shape[:3], problem.value.shape[3])


def wrong_size(tensor: Tensor, chooser: random.Random) -> Tensor:
    """Return the tensor with one axis longer, shorter, gone or added."""
    axis = chooser.randrange(tensor.ndim)
    how = chooser.choice(("longer", "shorter", "gone", "added"))
    if how == "longer" or (how == "shorter" and tensor.shape[axis] == 0):
        return tensor.new_zeros([size + (index == axis) for index, size in enumerate(tensor.shape)])
    if how == "shorter":
        return tensor.narrow(axis, 0, tensor.shape[axis] - 1)
    return tensor.new_zeros(tensor.shape[:axis] + tensor.shape[axis + 1 :]) if how == "gone" else tensor[None]


def bad_call(name: str, inputs: Sequence[Tensor], chooser: random.Random) -> None:
    """Call an operator or its backward with one argument spoilt: it must be refused.

    ``inputs`` are a good call of the backward operator: value, shapes, starts, ..., grad_output.
    """
    given = list(inputs)
    value = given[0]
    backward = chooser.random() < 0.5
    index = chooser.randrange(len(given) if backward else len(given) - 1)
    changes: list[Callable[[Tensor], Tensor]] = [lambda tensor: wrong_size(tensor, chooser)]
    if index in (1, 2) and given[index].numel():
        wrong = chooser.choice((-(2**63), -1, 2**31, 2**32 + 1, 2**62, 2**63 - 1))
        changes += [lambda tensor: tensor.index_fill(0, torch.tensor(chooser.randrange(len(tensor))), wrong)] * 3
        changes += [lambda tensor: tensor.double()]
    elif index not in (1, 2):
        changes += [lambda tensor: tensor.to(chooser.choice((torch.int64, torch.bool, torch.complex64)))]
    given[index] = chooser.choice(changes)(given[index])
    # D is value's alone: without a gradient, or without heads, any number of channels will do.
    unknown = index == 0 and (not backward or value.shape[2] == 0)
    unknown = unknown and given[0].ndim == 4 and given[0].shape[:3] == value.shape[:3]
    if unknown and given[0].dtype == value.dtype:
        return
    operators = torch.ops.ddetr_lab
    try:
        getattr(operators, f"{name}_backward")(*given, True) if backward else getattr(operators, name)(*given[:-1])
    except RuntimeError:
        return
    raise Finding(f"argument {index} of a bad call of {name} went through: {[tuple(t.shape) for t in given]}")
