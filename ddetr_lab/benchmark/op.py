"""``benchmark op``: the operator alone, on the maps of an 800 x 1066 picture.

Used in chapter 9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ddetr_lab.attention import sampling_locations
from ddetr_lab.benchmark import peers
from ddetr_lab.benchmark.cases import FULL, QUICK, OpCase, make_cases
from ddetr_lab.benchmark.ceilings import count_work
from ddetr_lab.benchmark.contest import Plan, Rules, compete
from ddetr_lab.benchmark.report import Case, Work
from ddetr_lab.benchmark.timing import Contender
from ddetr_lab.ops import default_backend, ms_deform_attn
from ddetr_lab.ops.native import native_problem
from ddetr_lab.ops.reference import ms_deform_attn_grid_sample

__all__ = ["TOLERANCE", "op_cases"]

# Share of each tensor's largest entry by which a result may miss float64's.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}
FUSED = "ms_deform_attn_fused"
EXACT = "ours (grid_sample) in float64"
CHUNK = 2048  # queries at a time when the expected numbers are computed: float64 maps of samples are large

Function = Callable[..., Tensor]


def op_cases(plan: Plan, dtype: torch.dtype = torch.float32) -> list[Case]:
    """Run all cases of the operator with values of a dtype, forward, and forward with backward.

    Raises:
        ValueError: if ours does not give float64's numbers.
    """
    sizes = QUICK if plan.quick else FULL
    rules = Rules(plan.rounds, TOLERANCE[dtype], relative=True, device=plan.device)
    done = []
    for case in make_cases(sizes, dtype, plan.device):
        for backward in (False, True):
            for contest in (_plain, _fused):
                found = contest(case, backward, rules, plan.against)
                if found is not None:
                    done.append(found)
                    plan.report(found)
    return done


def _plain(case: OpCase, backward: bool, rules: Rules, against: tuple[str, ...]) -> Case:
    """Compare the operator's implementations on locations and weights."""
    inputs = (case.value, case.locations, case.weights)

    def entry(name: str, function: peers.OpFunction, trusted: bool = False) -> Contender:
        call = _call(lambda *tensors: function(case, *tensors), inputs, case.upstream, backward)
        return Contender(name, call, trusted=trusted)

    best = default_backend(rules.device)
    contenders = [entry(f"ours ({best})", _ours(best), trusted=True)]
    if best != "grid_sample":
        contenders.append(entry("ours (grid_sample)", _ours("grid_sample"), trusted=True))
    for peer in against:
        functions = peers.op_functions(peer, rules.device)
        contenders += [entry(name, function) for name, function in functions.items()]

    def exact(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn_grid_sample(value, case.spatial_shapes, locations, weights)

    expected = (EXACT, _expected(exact, inputs, case.upstream, backward))
    name = f"{case.name}, {_passes(backward)}"
    return compete(name, _describe(case), contenders, rules, expected, _work(case, backward))


def _passes(backward: bool) -> str:
    return "forward + backward" if backward else "forward"


def _ours(backend: str) -> peers.OpFunction:
    def call(case: OpCase, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn(value, case.spatial_shapes, None, locations, weights, backend=backend)

    return call


def _fused(case: OpCase, backward: bool, rules: Rules, against: tuple[str, ...]) -> Case | None:
    """Compare the fused operator with its parts: locations, softmax, operator. None where it does not exist."""
    if case.name == "scattered" or rules.device != "cpu" or not _fused_exists(backward):
        return None
    shapes, starts = case.shapes.cpu(), case.starts.cpu()

    def fused(value: Tensor, reference: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
        return torch.ops.ddetr_lab.ms_deform_attn_fused(value, shapes, starts, reference, offsets, logits)

    def in_parts(backend: str) -> Function:
        def call(value: Tensor, reference: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
            locations = sampling_locations(reference, offsets, case.spatial_shapes)
            weights = logits.flatten(-2).softmax(-1).view_as(logits)
            return ms_deform_attn(value, case.spatial_shapes, None, locations, weights, backend=backend)

        return call

    inputs = (case.value, case.reference_points, case.sampling_offsets, case.attention_logits)
    contenders = [
        Contender("ours (fused)", _call(fused, inputs, case.upstream, backward), trusted=True),
        Contender("ours (in parts)", _call(in_parts("native"), inputs, case.upstream, backward), trusted=True),
    ]
    expected = (EXACT, _expected(in_parts("grid_sample"), inputs, case.upstream, backward))
    name = f"{case.name} from offsets and logits, {_passes(backward)}"
    return compete(name, _describe(case), contenders, rules, expected)


def _fused_exists(backward: bool) -> bool:
    """Whether the library has a fused kernel for the CPU, and with ``backward`` its gradient."""
    if native_problem() is not None:
        return False
    keys = ("CPU", "Autograd") if backward else ("CPU",)
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return hasattr(torch.ops.ddetr_lab, FUSED) and all(has_kernel(f"ddetr_lab::{FUSED}", key) for key in keys)


def _call(function: Function, inputs: tuple[Tensor, ...], upstream: Tensor, backward: bool) -> Callable[[], Any]:
    """Return a call without arguments: the forward pass, or both, with the gradients of all inputs as its result."""
    if not backward:

        def forward_only() -> Tensor:
            with torch.no_grad():
                return function(*inputs)

        return forward_only
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]

    def both() -> list[Tensor]:
        for leaf in leaves:
            leaf.grad = None  # added to an old gradient, it would cost a pass over memory
        output = function(*leaves)
        output.backward(upstream)
        return [output.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    return both


def _expected(function: Function, inputs: tuple[Tensor, ...], upstream: Tensor, backward: bool) -> Any:
    """Return the result in float64, and the gradients of all inputs with ``backward``.

    Args:
        function: from value and tensors (B, Q, ...) to (B, Q, M * D).
        inputs: value first. The others are split by queries, which do not see each other.
        upstream: the result's gradient.
        backward: also return the gradients.
    """
    value, *others = (tensor.detach().double() for tensor in inputs)
    value.requires_grad_(backward)
    outputs: list[Tensor] = []
    gradients: list[tuple[Tensor | None, ...]] = []
    parts = zip(*(tensor.split(CHUNK, 1) for tensor in others), strict=True)
    for part, gradient in zip(parts, upstream.double().split(CHUNK, 1), strict=True):
        leaves = [tensor.clone().requires_grad_(backward) for tensor in part]
        output = function(value, *leaves)
        outputs.append(output.detach())
        if backward:
            output.backward(gradient)  # adds up in value.grad
            gradients.append(tuple(leaf.grad for leaf in leaves))
    if not backward:
        return torch.cat(outputs, 1)
    return [torch.cat(outputs, 1), value.grad, *(torch.cat(kind, 1) for kind in zip(*gradients, strict=True))]


def _describe(case: OpCase) -> str:
    queries, _, levels, points = case.weights.shape[1:5]
    maps = ", ".join(f"{height}x{width}" for height, width in case.spatial_shapes)
    heads, channels = case.value.shape[2:]
    return (
        f"{queries} queries, {heads} heads of {channels} channels, {levels} levels {maps}, {points} points, "
        f"batch {case.value.shape[0]}, {str(case.value.dtype).removeprefix('torch.')}"
    )


def _work(case: OpCase, backward: bool) -> Work:
    batch, tokens, heads, channels = case.value.shape
    queries, _, levels, points = case.weights.shape[1:5]
    return count_work(
        batch, tokens, queries, heads, channels, levels * points, case.value.element_size(), backward=backward
    )
