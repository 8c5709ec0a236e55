"""What PyTorch must know about the compiled operators besides their results: shapes without data, and gradients.

Fake kernels let ``torch.compile`` and ``torch.export`` trace a call without running it; autograd rules name the
operator that computes the gradients. The backward operators have gradients too, through plain PyTorch code: gradients
of gradients are rarely needed, so they need not be fast.

Built in chapter 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ddetr_lab.ops.arguments import check_traced_arguments
from ddetr_lab.ops.reference import ms_deform_attn_gather, sampling_locations

__all__ = [
    "backward_by",
    "check_grad_output",
    "fake",
    "fake_backward",
    "gradients_of_gradients",
    "register_rules",
    "save_inputs",
    "save_inputs_of_backward",
]


def register_rules() -> None:
    """Tell PyTorch the rules of all four operators of the library, once it is loaded."""
    for name, fake_forward, fake_gradients, second in (
        ("ms_deform_attn", fake, fake_backward, gradients_of_gradients),
        ("ms_deform_attn_fused", _fake_fused, _fake_fused_backward, _fused_gradients_of_gradients),
    ):
        backward = backward_by(f"{name}_backward")
        torch.library.register_fake(f"ddetr_lab::{name}", fake_forward)
        torch.library.register_fake(f"ddetr_lab::{name}_backward", fake_gradients)
        torch.library.register_autograd(f"ddetr_lab::{name}", backward, setup_context=save_inputs)
        torch.library.register_autograd(f"ddetr_lab::{name}_backward", second, setup_context=save_inputs_of_backward)


def fake(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Answer with an empty result (B, Q, M * D)."""
    check_traced_arguments(value, shapes, starts, locations, weights)
    return _empty_result(value, locations)


def fake_backward(
    value: Tensor,
    shapes: Tensor,
    starts: Tensor,
    locations: Tensor,
    weights: Tensor,
    grad_output: Tensor,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Answer with empty gradients of value, locations and weights."""
    check_traced_arguments(value, shapes, starts, locations, weights)
    check_grad_output(value, locations, grad_output)
    return _empty_like(value, locations, weights)


def _fake_fused(
    value: Tensor, shapes: Tensor, starts: Tensor, reference: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    check_traced_arguments(value, shapes, starts, offsets, logits, reference)
    return _empty_result(value, offsets)


def _fake_fused_backward(
    value: Tensor,
    shapes: Tensor,
    starts: Tensor,
    reference: Tensor,
    offsets: Tensor,
    logits: Tensor,
    grad_output: Tensor,
    deterministic: bool,
) -> tuple[Tensor, ...]:
    check_traced_arguments(value, shapes, starts, offsets, logits, reference)
    check_grad_output(value, offsets, grad_output)
    return _empty_like(value, reference, offsets, logits)


def _empty_result(value: Tensor, points: Tensor) -> Tensor:
    return value.new_empty(value.shape[0], points.shape[1], value.shape[2] * value.shape[3])


def _empty_like(*tensors: Tensor) -> Any:
    return tuple(torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in tensors)


def check_grad_output(value: Tensor, points: Tensor, grad_output: Tensor) -> None:
    """Check that the result's gradient has the result's shape and device.

    Args:
        value: (B, S, M, D).
        points: (B, Q, ...), locations or offsets.
        grad_output: what should be (B, Q, M * D), on the device of ``value``.

    Raises:
        ValueError: if it is not.
    """
    expected = (value.shape[0], points.shape[1], value.shape[2] * value.shape[3])
    if grad_output.shape != expected or grad_output.device != value.device:
        raise ValueError(
            f"grad_output has shape {tuple(grad_output.shape)} and is on {grad_output.device}, "
            f"expected {expected} (B, Q, M * D) on {value.device}, as the result"
        )


def save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep a forward operator's inputs for its gradient."""
    ctx.save_for_backward(*inputs)


def save_inputs_of_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keep a backward operator's tensors, all but the flag at the end."""
    ctx.save_for_backward(*inputs[:-1])


def backward_by(operator: str) -> Callable[[Any, Tensor], tuple[Tensor | None, ...]]:
    """Return a forward operator's gradient: what the backward operator of this name computes.

    Shapes and starts of the levels, the second and third input, have none.
    """

    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        deterministic = torch.are_deterministic_algorithms_enabled()
        value, *others = getattr(torch.ops.ddetr_lab, operator)(*ctx.saved_tensors, grad_output, deterministic)
        return value, None, None, *others

    return backward


def gradients_of_gradients(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
    """Differentiate ``ms_deform_attn_backward``, through the gather formula."""
    value, shapes, _, locations, weights, grad_output = ctx.saved_tensors

    def formula(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn_gather(value, shapes, locations, weights)

    first, *others = _differentiated_twice(formula, (value, locations, weights), grad_output, upstream)
    return first, None, None, *others, None


def _fused_gradients_of_gradients(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
    value, shapes, _, reference, offsets, logits, grad_output = ctx.saved_tensors

    def formula(value: Tensor, reference: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
        weights = logits.flatten(-2).softmax(-1).view_as(logits)
        return ms_deform_attn_gather(value, shapes, sampling_locations(reference, offsets, shapes), weights)

    first, *others = _differentiated_twice(formula, (value, reference, offsets, logits), grad_output, upstream)
    return first, None, None, *others, None


def _differentiated_twice(
    formula: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    grad_output: Tensor,
    upstream: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """Return the gradients of ``inputs`` and of ``grad_output``, given those of the formula's first gradients."""
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        outer = grad_output.detach().requires_grad_()
        first = torch.autograd.grad(formula(*leaves), leaves, outer, create_graph=True)
        wanted = [(one, grad) for one, grad in zip(first, upstream, strict=True) if grad is not None]
        return torch.autograd.grad(
            [one for one, _ in wanted], [*leaves, outer], [grad for _, grad in wanted], allow_unused=True
        )
