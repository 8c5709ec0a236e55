"""Multi-scale deformable attention as one function, ``ms_deform_attn``, with a backend that is chosen visibly.

Built in chapters 6 to 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ddetr_lab.ops.arguments import check_arguments
from ddetr_lab.ops.native import ms_deform_attn_native, native_problem
from ddetr_lab.ops.reference import ms_deform_attn_gather, ms_deform_attn_grid_sample, ms_deform_attn_loops
from ddetr_lab.ops.triton import ms_deform_attn_triton, triton_problem

__all__ = ["available_backends", "default_backend", "ms_deform_attn"]

_BACKENDS: dict[str, Callable[[Tensor, Sequence[tuple[int, int]], Tensor, Tensor], Tensor]] = {
    "native": ms_deform_attn_native,
    "triton": ms_deform_attn_triton,
    "grid_sample": ms_deform_attn_grid_sample,
    "gather": ms_deform_attn_gather,
    "loops": ms_deform_attn_loops,
}


def _native_runs() -> bool:
    return native_problem() is None


def _triton_runs(kind: str) -> bool:
    return triton_problem(kind) is None


# A compiled graph takes the answers as constants: loading a library is nothing to trace. This is what
# torch.compiler.assume_constant_result sets, which would load the whole compiler with this package.
_native_runs._dynamo_marked_constant = True  # type: ignore[attr-defined]
_triton_runs._dynamo_marked_constant = True  # type: ignore[attr-defined]


def available_backends(device: str | torch.device = "cpu") -> tuple[str, ...]:
    """Name the backends that can run on a device here, fastest first.

    ``native`` is the compiled kernel, on the CPU, once `ddetr-lab build-ops` has built it. ``triton`` is for GPUs; on a
    CPU it comes last, and only where its interpreter was asked for. The others are PyTorch code for any device.
    """
    kind = torch.device(device).type
    runs = {"native": kind == "cpu" and _native_runs(), "triton": _triton_runs(kind)}
    names = [name for name in _BACKENDS if runs.get(name, True)]
    if kind == "cpu" and "triton" in names:
        names.append(names.pop(names.index("triton")))
    return tuple(names)


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
    available = available_backends(value.device)
    name = available[0] if backend is None else backend
    if name not in available:
        problems = {"native": native_problem(), "triton": triton_problem(value.device)}
        raise ValueError(
            f"backend = {name!r} is not available on {value.device}, expected one of {', '.join(available)}"
            + (f": {problems[name]}" if problems.get(name) else "")
        )
    return _BACKENDS[name](value, pairs, sampling_locations, attention_weights)
