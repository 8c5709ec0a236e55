"""Multi-scale deformable attention as one function, ``ms_deform_attn``, with a backend that is chosen visibly.

Built in chapters 6 to 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ddetr_lab.ops.arguments import check_arguments, check_fused_arguments
from ddetr_lab.ops.native import ms_deform_attn_fused_native, ms_deform_attn_native, native_problem
from ddetr_lab.ops.reference import (
    ms_deform_attn_gather,
    ms_deform_attn_grid_sample,
    ms_deform_attn_loops,
    sampling_locations,
)
from ddetr_lab.ops.triton import ms_deform_attn_triton, triton_problem

__all__ = ["available_backends", "default_backend", "ms_deform_attn", "ms_deform_attn_fused"]

_BACKENDS: dict[str, Callable[[Tensor, Sequence[tuple[int, int]], Tensor, Tensor], Tensor]] = {
    "native": ms_deform_attn_native,
    "triton": ms_deform_attn_triton,
    "grid_sample": ms_deform_attn_grid_sample,
    "gather": ms_deform_attn_gather,
    "loops": ms_deform_attn_loops,
}

_AVAILABLE: dict[str, tuple[str, ...]] = {}  # by kind of device, once asked for


def _problem(backend: str, kind: str) -> str | None:
    """Say what keeps a backend from running on a kind of device; None where it runs, or where it does not exist."""
    if backend == "native":
        return native_problem(kind)
    if backend == "triton":
        return triton_problem(kind)
    return None


def _backends_of(kind: str) -> tuple[str, ...]:
    if kind in _AVAILABLE:
        return _AVAILABLE[kind]
    names = [name for name in _BACKENDS if _problem(name, kind) is None]
    if kind == "cpu" and "triton" in names:  # in its interpreter, the slowest of all
        names.remove("triton")
        names.append("triton")
    return _AVAILABLE.setdefault(kind, tuple(names))


# A compiled graph takes the answer as a constant: loading a library is nothing to trace. This is what
# torch.compiler.assume_constant_result sets, which would load the whole compiler with this package.
_backends_of._dynamo_marked_constant = True  # type: ignore[attr-defined]


def available_backends(device: str | torch.device = "cpu") -> tuple[str, ...]:
    """Name the backends that can run on a device here, fastest first.

    ``native`` is compiled by `ddetr-lab build-ops`, for the CPU, and for a GPU where there is one. ``triton`` is for
    GPUs; on a CPU it comes last, and only where its interpreter was asked for. The others are PyTorch code for any
    device. A process asks once a kind of device: what is built later counts from the next start.
    """
    return _backends_of(torch.device(device).type)


def default_backend(device: str | torch.device = "cpu") -> str:
    """Name the backend that ``ms_deform_attn`` uses when none is asked for: the fastest that can run on the device."""
    return available_backends(device)[0]


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor | Sequence[tuple[int, int]],
    level_start_index: Tensor | None,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """Sample each head's points from every level and sum them by weight (Deformable DETR, eq. 3).

    Every backend treats the corners alike, as ``F.grid_sample`` with zero padding does. A sample reads the four cells
    around its location; those outside the map are zeros, so that the values fade out within one cell of its rim and
    everything further away, be it 1e30, adds nothing and has zero gradients. What is not read cannot leak: NaN and
    infinity in other cells change nothing. A cell that is read with weight 0 (a location exactly on a neighbour's
    centre, an attention weight of 0) still makes NaN of infinity. A location that is NaN or infinite makes the
    result of its query and head NaN, in all channels, and its weight's gradient too: a fault upstream must not become
    a plausible number. Its own gradient is NaN or 0; all others stay as they are, ``value``'s included. Subnormal
    numbers are numbers like others.

    Args:
        value: (B, S, M, D) float. Flattened maps; samples outside a map read zero.
        spatial_shapes: L pairs (H, W), a list or an (L, 2) integer tensor on the CPU. ``torch.compile`` wants a list.
        level_start_index: (L,) integer on the CPU, first token of each level, or None. It follows from the shapes.
        sampling_locations: (B, Q, M, L, P, 2) float32 or float64, (x, y) in _padnorm; pixel = u * W - 0.5.
        attention_weights: (B, Q, M, L, P), over levels and points.
        backend: one of ``available_backends()``; None takes the default.

    Returns:
        (B, Q, M * D) in the dtype of ``value``.

    Raises:
        TypeError: if an argument is no tensor, or a size is no whole number.
        ValueError: if shapes, dtypes or devices disagree or the backend is unknown. Either message has the name, what
            came, what was expected and the remedy.

    Built in chapters 6 to 8.
    """
    pairs = check_arguments(value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    return _BACKENDS[_choose(backend, value.device)](value, pairs, sampling_locations, attention_weights)


def ms_deform_attn_fused(
    value: Tensor,
    spatial_shapes: Tensor | Sequence[tuple[int, int]],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """Compute deformable attention from what a layer has before it makes locations and weights.

    The locations are those of :func:`~ddetr_lab.ops.reference.sampling_locations`, the weights the softmax of the
    logits over L * P. The ``native`` backend makes both where it reads them, so that they never reach memory, forward
    or backward; every other one makes them first and calls :func:`ms_deform_attn`.

    Args:
        value: (B, S, M, D) float.
        spatial_shapes: L pairs (H, W), a list or an (L, 2) integer tensor on the CPU.
        reference_points: (B, Q, L, 2) as (x, y) or (B, Q, L, 4) as (cx, cy, w, h), float32 or float64, in _padnorm.
        sampling_offsets: (B, Q, M, L, P, 2): cells from a point, half sides over P from a box.
        attention_logits: (B, Q, M, L, P).
        backend: one of ``available_backends()``; None takes the default.

    Returns:
        (B, Q, M * D) in the dtype of ``value``.

    Raises:
        TypeError, ValueError: as :func:`ms_deform_attn`.

    Built in chapter 9.
    """
    pairs = check_fused_arguments(value, spatial_shapes, reference_points, sampling_offsets, attention_logits)
    name = _choose(backend, value.device)
    if name == "native":
        return ms_deform_attn_fused_native(value, pairs, reference_points, sampling_offsets, attention_logits)
    weights = attention_logits.flatten(-2).softmax(-1).view_as(attention_logits)  # over all levels and points together
    locations = sampling_locations(reference_points, sampling_offsets, pairs)
    return _BACKENDS[name](value, pairs, locations, weights)


def _choose(backend: str | None, device: torch.device) -> str:
    """Return the backend that is asked for, the default for None, or refuse it and say what keeps it from running."""
    available = available_backends(device)
    if backend is None:
        return available[0]
    if backend in available:
        return backend
    problem = _problem(backend, device.type)
    raise ValueError(
        f"backend = {backend!r} is not available on {device}, expected one of {', '.join(available)}"
        + (f": {problem}" if problem else "")
    )
