"""Deformable attention through Triton: the operator for a GPU without a CUDA compiler.

Here is what surrounds the kernels of :mod:`ddetr_lab.ops.triton_kernels`: what is in the way of running them, sizes of
blocks, memory, launches, and the rules for autograd and tracing, which are those of the compiled operator. Importing
this module does not import Triton; the first call does.

``TRITON_INTERPRET=1``, set before Python starts, runs the same kernels on the CPU in numpy: slow, and how they are
tested where there is no GPU.

Built in chapter 9.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ddetr_lab.ops.arguments import check_arguments
from ddetr_lab.ops.native import level_tensors
from ddetr_lab.ops.rules import (
    backward_by,
    check_grad_output,
    fake,
    fake_backward,
    gradients_of_gradients,
    save_inputs,
    save_inputs_of_backward,
)

__all__ = ["ms_deform_attn_triton", "triton_problem"]

# Threads of a program, and what each loads at once: 4 warps, 16 bytes.
THREADS, LOAD_BYTES = 128, 16


def triton_problem(device: str | torch.device) -> str | None:
    """Return None where the kernels can run on a device, else what is in the way and the remedy."""
    kind = torch.device(device).type
    if kind == "cpu":
        return _interpreter_problem()
    if kind != "cuda":
        return f"Triton's kernels are for CUDA devices, not for {kind!r}"
    return _gpu_problem()


def _interpreter_problem() -> str | None:
    if os.environ.get("TRITON_INTERPRET") != "1":
        return (
            "Triton's kernels run on a GPU; its interpreter, a test aid, runs them on the CPU: set TRITON_INTERPRET=1"
        )
    loaded = sys.modules.get("triton.language")
    if loaded is not None and type(loaded.cdiv).__name__ != "InterpretedFunction":
        return "Triton was imported before TRITON_INTERPRET=1 was set, and looks only then: set it before Python starts"
    return _missing_package()


@cache
def _missing_package() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return (
            "triton is not installed; on Linux `pip install triton` does it, and torch's CUDA packages bring it along"
        )
    return None


@cache
def _gpu_problem() -> str | None:
    if _missing_package() is not None:
        return _missing_package()
    if not torch.cuda.is_available():
        return "there is no GPU that torch can use; `ddetr-lab doctor` says why"
    # On its first launch Triton compiles a few lines of C that call the driver.
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler (gcc or clang) on its first launch; Debian and Ubuntu: apt install gcc"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return (
            "Triton needs Python's headers (Python.h) on its first launch; Debian and Ubuntu: apt install python3-dev"
        )
    return None


@dataclass(frozen=True)
class _Call:
    """A checked call: contiguous tensors, and the numbers that every kernel takes, in its order of arguments."""

    value: Tensor
    locations: Tensor
    weights: Tensor
    heights: tuple[float, ...]
    widths: tuple[float, ...]

    @property
    def counts(self) -> tuple[int, int, int]:
        """S, Q and M."""
        return self.value.shape[1], self.weights.shape[1], self.value.shape[2]

    @property
    def constants(self) -> dict[str, int]:
        """What a kernel is compiled for: levels, points, channels, and the power of two above the channels."""
        channels = self.value.shape[3]
        return {
            "L": self.weights.shape[3],
            "P": self.weights.shape[4],
            "D": channels,
            "BLOCK_D": _power_of_two(channels),
        }

    @property
    def is_empty(self) -> bool:
        return self.value.numel() == 0 or self.weights.numel() == 0

    def blocks(self, numbers: int) -> tuple[int, int]:
        """Return BLOCK_Q for tiles of about so many numbers, and how many programs cover all pictures and heads."""
        batch, queries, heads = self.weights.shape[:3]
        rows = max(1, numbers // self.constants["BLOCK_D"])
        return rows, batch * heads * -(-queries // rows)


def _power_of_two(number: int) -> int:
    """Round up to a power of two: a tile's sides have to be one."""
    return 1 << max(0, number - 1).bit_length()


def _checked_call(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> _Call:
    """Check a call of the raw operator: a kernel that is handed the wrong shapes reads memory that is not its own.

    Raises:
        RuntimeError: if the kernels cannot run on the device of ``value``.
        TypeError, ValueError: if the arguments do not fit each other, or a level is too large for 32-bit offsets.
    """
    pairs = check_arguments(value, shapes, starts, locations, weights)
    problem = triton_problem(value.device)
    if problem is not None:
        raise RuntimeError(f"ms_deform_attn_triton cannot run on {value.device}: {problem}")
    for level, (height, width) in enumerate(pairs):
        numbers = height * width * value.shape[2] * value.shape[3]
        if numbers >= 2**31 or max(height, width) >= 2**24:
            raise ValueError(
                f"spatial_shapes[{level}] = ({height}, {width}) with M * D = {value.shape[2] * value.shape[3]} has "
                f"{numbers} numbers in one picture, expected fewer than 2^31, and sides below 2^24: "
                "backend='grid_sample' takes such a level"
            )
    real = torch.float64 if value.dtype == torch.float64 else torch.float32
    return _Call(
        value.contiguous(),
        locations.to(real).contiguous(),
        weights.to(real).contiguous(),
        tuple(float(height) for height, _ in pairs),
        tuple(float(width) for _, width in pairs),
    )


def _loads(tensor: Tensor) -> int:
    """Say how many numbers a program's threads load at once, 16 bytes each."""
    return THREADS * LOAD_BYTES // tensor.element_size()


@torch.library.custom_op("ddetr_lab::ms_deform_attn_triton", mutates_args=())
def _forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    call = _checked_call(value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    output = fake(value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    if call.is_empty:
        return output.zero_()
    from ddetr_lab.ops.triton_kernels import forward_kernel

    rows, programs = call.blocks(_loads(value))
    with torch.cuda.device_of(value):
        forward_kernel[(programs,)](
            call.value,
            call.heights,
            call.widths,
            call.locations,
            call.weights,
            output,
            *call.counts,
            **call.constants,
            BLOCK_Q=rows,
            num_warps=_warps(call),
        )
    return output


@torch.library.custom_op("ddetr_lab::ms_deform_attn_triton_backward", mutates_args=())
def _gradients(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    call = _checked_call(value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    check_grad_output(value, sampling_locations, grad_output)
    batch, _, heads, levels, points = attention_weights.shape
    # Sums of many parts, in the dtype that they are made in; rounded once, at the end.
    grad_value = torch.zeros(value.shape, dtype=call.weights.dtype, device=value.device)
    grad_locations, grad_weights = torch.zeros_like(call.locations), torch.zeros_like(call.weights)
    if not call.is_empty:
        from ddetr_lab.ops import triton_kernels as kernels

        inputs = (call.heights, call.widths, call.locations, call.weights, grad_output.to(value.dtype).contiguous())
        rows, programs = call.blocks(_loads(value))
        with torch.cuda.device_of(value):
            kernels.sample_gradients_kernel[(programs,)](
                call.value,
                *inputs,
                grad_locations,
                grad_weights,
                *call.counts,
                **call.constants,
                BLOCK_Q=rows,
                BLOCK_P=_power_of_two(points),
                num_warps=_warps(call),
            )
            if deterministic:
                kernels.value_gradient_in_order_kernel[(batch * heads * levels,)](
                    grad_value, *inputs, *call.counts, **call.constants, num_warps=1
                )
            else:
                rows, programs = call.blocks(_adds(grad_value))
                kernels.value_gradient_kernel[(programs,)](
                    grad_value, *inputs, *call.counts, **call.constants, BLOCK_Q=rows, num_warps=_warps(call)
                )
    return (
        grad_value.to(value.dtype),
        grad_locations.to(sampling_locations.dtype),
        grad_weights.to(attention_weights.dtype),
    )


def _warps(call: _Call) -> int:
    """Four warps, and more where a single query's channels would not fit their registers."""
    return min(32, max(THREADS // 32, call.constants["BLOCK_D"] // 512))


def _adds(grad_value: Tensor) -> int:
    """Say how many numbers a program's threads add at once: four each for float32 on the newer GPUs, else one.

    Only from compute capability 9.0 on is there an instruction for four. Given more than it can add, the compiler would
    turn the tile around through shared memory, at every corner.
    """
    newer = not grad_value.is_cuda or torch.cuda.get_device_capability(grad_value.device) >= (9, 0)
    return 4 * THREADS if newer and grad_value.dtype == torch.float32 else THREADS


_forward.register_fake(fake)
_forward.register_autograd(backward_by("ms_deform_attn_triton_backward"), setup_context=save_inputs)
_gradients.register_fake(fake_backward)
_gradients.register_autograd(gradients_of_gradients, setup_context=save_inputs_of_backward)


def ms_deform_attn_triton(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Compute deformable attention by Triton's kernels, on a GPU, or on the CPU in Triton's interpreter.

    Args and result as :func:`~ddetr_lab.ops.reference.ms_deform_attn_loops`. Sums run in float32 (float64 for float64
    values). The gradient of ``value`` is added up by atomic additions, whose order changes from run to run; under
    ``torch.use_deterministic_algorithms(True)`` by one program for each picture, head and level, in order: the same
    bits every time, at the price of most of the GPU standing idle.
    """
    return torch.ops.ddetr_lab.ms_deform_attn_triton(
        value, *level_tensors(spatial_shapes), sampling_locations, attention_weights
    )
