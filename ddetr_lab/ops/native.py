"""The compiled operators: finding their library, loading it once, and calling them.

Built in chapter 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

import torch
from torch import Tensor

from ddetr_lab.ops.build import library_path
from ddetr_lab.ops.rules import register_rules

__all__ = ["level_tensors", "ms_deform_attn_fused_native", "ms_deform_attn_native", "native_problem"]


@cache
def native_problem(kind: str = "cpu") -> str | None:
    """Say what keeps the compiled operators from running on a kind of device ("cpu", "cuda"); None where they run."""
    if kind != "cpu":
        return native_problem() or _missing_kernels(kind)
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
    register_rules()
    return None


def _missing_kernels(kind: str) -> str | None:
    if kind != "cuda":
        return f"there are no compiled kernels for devices of type {kind!r}"
    if torch._C._dispatch_has_kernel_for_dispatch_key("ddetr_lab::ms_deform_attn", "CUDA"):
        return None
    return (
        "the operator is compiled without CUDA kernels; `ddetr-lab build-ops` adds them where it finds nvcc and a GPU"
    )


def ms_deform_attn_native(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Compute deformable attention by the compiled kernels.

    Args and result as :func:`~ddetr_lab.ops.reference.ms_deform_attn_loops`. Sums run in float32 (float64 for float64
    values); on the CPU in an order that does not depend on the number of threads.
    """
    return torch.ops.ddetr_lab.ms_deform_attn(
        value, *level_tensors(spatial_shapes), sampling_locations, attention_weights
    )


def ms_deform_attn_fused_native(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """Compute deformable attention by the compiled kernels, from what a layer has before locations and softmax.

    Args and result as :func:`~ddetr_lab.ops.ms_deform_attn_fused`.
    """
    return torch.ops.ddetr_lab.ms_deform_attn_fused(
        value, *level_tensors(spatial_shapes), reference_points, sampling_offsets, attention_logits
    )


def level_tensors(spatial_shapes: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Return the sizes (L, 2) and first tokens (L,) of the levels, int64 on the CPU, as the operators take them.

    They are kept: making them takes longer than a small call. While a graph is traced they are made anew, for its
    tensors are its own.
    """
    if torch.compiler.is_compiling():
        return _new_level_tensors(spatial_shapes)
    return _kept_level_tensors(tuple(spatial_shapes))


def _new_level_tensors(spatial_shapes: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    starts, total = [], 0
    for height, width in spatial_shapes:
        starts.append(total)
        total += height * width
    shapes = torch.tensor(spatial_shapes, dtype=torch.int64).view(-1, 2)
    return shapes, torch.tensor(starts, dtype=torch.int64)


@lru_cache(maxsize=256)
def _kept_level_tensors(spatial_shapes: tuple[tuple[int, int], ...]) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # a tensor of inference mode could not be saved for a later backward pass
        return _new_level_tensors(spatial_shapes)
