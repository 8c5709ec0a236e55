"""The compiled operator: finding its library, loading it once, and its rules for autograd and tracing.

Built in chapter 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ddetr_lab.ops.build import library_path
from ddetr_lab.ops.reference import ms_deform_attn_gather

__all__ = ["ms_deform_attn_native", "native_problem"]

Gradients = tuple[Tensor | None, None, None, Tensor | None, Tensor | None]


@cache
def native_problem() -> str | None:
    """Load the library on the first call; return None where it runs, else what is in the way."""
    try:
        library = library_path()
    except FileNotFoundError as error:
        return str(error)
    if not library.is_file():
        return "the operator is not compiled; `ddetr-lab build-ops` does it"
    try:
        torch.ops.load_library(library)
    except OSError as error:
        return f"{library.name} does not load ({error}); `ddetr-lab build-ops --force` builds it anew"
    _register_rules()
    return None


def _register_rules() -> None:
    torch.library.register_fake("ddetr_lab::ms_deform_attn", _fake)
    torch.library.register_fake("ddetr_lab::ms_deform_attn_backward", _fake_backward)
    torch.library.register_autograd("ddetr_lab::ms_deform_attn", _backward, setup_context=_save)
    torch.library.register_autograd(
        "ddetr_lab::ms_deform_attn_backward", _double_backward, setup_context=_save_backward
    )


def _fake(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])


def _fake_backward(
    value: Tensor,
    shapes: Tensor,
    starts: Tensor,
    locations: Tensor,
    weights: Tensor,
    grad_output: Tensor,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(  # type: ignore[return-value]
        torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (value, locations, weights)
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_output: Tensor) -> Gradients:
    inputs = ctx.saved_tensors
    deterministic = torch.are_deterministic_algorithms_enabled()
    value, locations, weights = torch.ops.ddetr_lab.ms_deform_attn_backward(*inputs, grad_output, deterministic)
    return value, None, None, locations, weights


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:6])


def _double_backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
    """Differentiate the backward pass, through the gather formula: rarely needed, so it need not be fast."""
    value, shapes, _, locations, weights, grad_output = ctx.saved_tensors
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in (value, locations, weights)]
        outer = grad_output.detach().requires_grad_()
        output = ms_deform_attn_gather(inputs[0], shapes, inputs[1], inputs[2])
        first = torch.autograd.grad(output, inputs, outer, create_graph=True)
        wanted = [(one, grad) for one, grad in zip(first, upstream, strict=True) if grad is not None]
        second = torch.autograd.grad(
            [one for one, _ in wanted], [*inputs, outer], [grad for _, grad in wanted], allow_unused=True
        )
    of_value, of_locations, of_weights, of_output = second
    return of_value, None, None, of_locations, of_weights, of_output, None


def ms_deform_attn_native(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Compute deformable attention by the compiled kernel, on the CPU.

    Args and result as :func:`~ddetr_lab.ops.reference.ms_deform_attn_loops`. Sums run in float32 (float64 for float64
    values) in an order that does not depend on the number of threads.
    """
    shapes = torch.tensor(spatial_shapes, dtype=torch.int64).view(-1, 2)
    sizes = shapes.prod(1)
    return torch.ops.ddetr_lab.ms_deform_attn(
        value, shapes, sizes.cumsum(0) - sizes, sampling_locations, attention_weights
    )
