"""Multi-scale deformable attention as one function, ``ms_deform_attn``, with a backend that is chosen visibly.

Built in chapters 6 to 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ddetr_lab.ops.native import ms_deform_attn_native, native_problem
from ddetr_lab.ops.reference import ms_deform_attn_gather, ms_deform_attn_grid_sample, ms_deform_attn_loops

__all__ = ["available_backends", "default_backend", "ms_deform_attn"]

_BACKENDS: dict[str, Callable[[Tensor, Sequence[tuple[int, int]], Tensor, Tensor], Tensor]] = {
    "native": ms_deform_attn_native,
    "grid_sample": ms_deform_attn_grid_sample,
    "gather": ms_deform_attn_gather,
    "loops": ms_deform_attn_loops,
}


def available_backends(device: str | torch.device = "cpu") -> tuple[str, ...]:
    """Name the backends that can run on a device here, fastest first.

    ``native`` is the compiled kernel, on the CPU, once `ddetr-lab build-ops` has built it; the others are PyTorch code
    for any device.
    """
    native = torch.device(device).type == "cpu" and native_problem() is None
    return tuple(name for name in _BACKENDS if name != "native" or native)


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

    Args:
        value: (B, S, M, D) float. Flattened maps; samples outside a map read zero.
        spatial_shapes: L pairs (H, W), as a list or an (L, 2) integer tensor. A list spares a GPU one wait.
        level_start_index: (L,) integer, first token of each level, or None. It follows from the shapes.
        sampling_locations: (B, Q, M, L, P, 2) float32 or float64, (x, y) in _padnorm; pixel = u * W - 0.5.
        attention_weights: (B, Q, M, L, P), over levels and points.
        backend: one of ``available_backends()``; None takes the default.

    Returns:
        (B, Q, M * D) in the dtype of ``value``.

    Raises:
        ValueError: if shapes disagree or the backend is unknown; the message has the name, what came and what was
            expected.

    Built in chapters 6 to 8.
    """
    shapes = spatial_shapes.tolist() if isinstance(spatial_shapes, Tensor) else spatial_shapes
    pairs = [(int(height), int(width)) for height, width in shapes]
    _check_shapes(value, pairs, level_start_index, sampling_locations, attention_weights)
    available = available_backends(value.device)
    name = available[0] if backend is None else backend
    if name not in available:
        raise ValueError(
            f"backend = {name!r} is not available on {value.device}, expected one of {', '.join(available)}"
            + (f": {native_problem()}" if name == "native" and native_problem() else "")
        )
    return _BACKENDS[name](value, pairs, sampling_locations, attention_weights)


def _check_shapes(
    value: Tensor, pairs: list[tuple[int, int]], start: Tensor | None, locations: Tensor, weights: Tensor
) -> None:
    if value.ndim != 4:
        raise ValueError(f"value has shape {tuple(value.shape)}, expected (B, S, M, D)")
    if locations.ndim != 6 or locations.shape[-1] != 2:
        raise ValueError(f"sampling_locations has shape {tuple(locations.shape)}, expected (B, Q, M, L, P, 2)")
    if locations.dtype in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"sampling_locations has dtype {locations.dtype}, expected float32 (or float64): "
            "half precision moves a sample by up to a third of a pixel; call .float() on the locations"
        )
    if weights.shape != locations.shape[:-1]:
        raise ValueError(
            f"attention_weights has shape {tuple(weights.shape)}, expected {tuple(locations.shape[:-1])} "
            "(B, Q, M, L, P), as sampling_locations without its last axis"
        )
    batch, tokens, heads, _ = value.shape
    if (batch, heads) != (locations.shape[0], locations.shape[2]):
        raise ValueError(
            f"value has B = {batch} and M = {heads}, but sampling_locations has B = {locations.shape[0]} "
            f"and M = {locations.shape[2]}: both need the same pictures and heads"
        )
    if len(pairs) != locations.shape[3]:
        raise ValueError(f"spatial_shapes has {len(pairs)} levels, but sampling_locations has L = {locations.shape[3]}")
    expected = sum(height * width for height, width in pairs)
    if expected != tokens:
        raise ValueError(
            f"value has S = {tokens} tokens, but spatial_shapes {pairs} add up to {expected}: "
            "flatten exactly the maps whose shapes you pass"
        )
    if start is not None and start.shape != (len(pairs),):
        raise ValueError(f"level_start_index has shape {tuple(start.shape)}, expected ({len(pairs)},)")
