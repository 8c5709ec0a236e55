"""Calls the compiled operator with random arguments, good and bad, and compares a sample of them with exact results.

    python -m tests.ops.fuzz --calls 100000

Meant for a library that was built with sanitizers (``make sanitize``): those end the process at the first read or write
outside a tensor, and at the first overflow. Without them it still finds wrong results and bad calls that go through.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from ddetr_lab.ops.native import native_problem
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


def good_call(problem: Problem, check: bool, worst: list[float]) -> None:
    """Call forward and backward; a checked call is compared with the exact results."""
    shapes, starts = problem.level_tensors
    inputs = (problem.value, shapes, starts, problem.locations, problem.weights)
    output = torch.ops.ddetr_lab.ms_deform_attn(*inputs)
    gradients = torch.ops.ddetr_lab.ms_deform_attn_backward(*inputs, problem.grad_output, True)
    if not check:
        return
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
    for index, (name, units) in enumerate(zip(NAMES, errors_in_eps(exact, got), strict=True)):
        worst[index] = max(worst[index], units)
        if not units <= LIMIT:
            raise Finding(f"{name} is off by {units:.3g} eps")


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


def bad_call(problem: Problem, chooser: random.Random) -> None:
    """Call with one argument spoilt: it must be refused."""
    inputs = [problem.value, *problem.level_tensors, problem.locations, problem.weights, problem.grad_output]
    backward = chooser.random() < 0.5
    index = chooser.randrange(6 if backward else 5)
    changes: list[Callable[[Tensor], Tensor]] = [lambda tensor: wrong_size(tensor, chooser)]
    if index in (1, 2) and inputs[index].numel():
        wrong = chooser.choice((-(2**63), -1, 2**31, 2**32 + 1, 2**62, 2**63 - 1))
        changes += [lambda tensor: tensor.index_fill(0, torch.tensor(chooser.randrange(len(tensor))), wrong)] * 3
        changes += [lambda tensor: tensor.double()]
    elif index not in (1, 2):
        changes += [lambda tensor: tensor.to(chooser.choice((torch.int64, torch.bool, torch.complex64)))]
    spoilt = chooser.choice(changes)(inputs[index])
    # D is value's alone: without a gradient, or without heads, any number of channels will do.
    unknown = index == 0 and (not backward or problem.value.shape[2] == 0)
    unknown = unknown and spoilt.ndim == 4 and spoilt.shape[:3] == inputs[0].shape[:3]
    inputs[index] = spoilt
    if unknown and spoilt.dtype == problem.value.dtype:
        return
    operators = torch.ops.ddetr_lab
    try:
        operators.ms_deform_attn_backward(*inputs, True) if backward else operators.ms_deform_attn(*inputs[:5])
    except RuntimeError:
        return
    raise Finding(f"argument {index} of a bad call went through: {[tuple(tensor.shape) for tensor in inputs]}")


def main() -> int:
    """Make the calls, report what was done, and return 1 if there was a finding."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=100_000, help="calls of an operator, good and bad")
    parser.add_argument("--check-every", type=int, default=50, help="compare every so many-th problem")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if native_problem() is not None:
        print(native_problem())
        return 1
    torch.set_num_threads(1)
    count: Counter[str] = Counter()
    worst = [0.0] * 4
    started = time.monotonic()
    number = options.seed * 1_000_000_007
    while count["calls"] < options.calls:
        number += 1
        chooser = random.Random(number)
        torch.default_generator.manual_seed(number)  # torch.manual_seed notes a traceback for every GPU: 2 ms
        problem = draw_problem(chooser)
        try:
            if chooser.random() < 0.15:
                bad_call(problem, chooser)
                count.update(calls=1, bad=1)
            else:
                check = number % options.check_every == 0
                good_call(problem, check, worst)
                count.update(calls=2, good=2, compared=2 * check)
        except Finding as finding:
            print(f"finding in problem {number}: {finding}\n{problem}")
            return 1
    print(
        f"{count['calls']} calls in {time.monotonic() - started:.0f} s: {count['good']} good, "
        f"{count['compared']} of them compared, {count['bad']} bad and refused"
    )
    print("largest errors: " + ", ".join(f"{name} {units:.2f} eps" for name, units in zip(NAMES, worst, strict=True)))
    print("no finding")
    return 0


if __name__ == "__main__":
    sys.exit(main())
