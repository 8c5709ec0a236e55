"""What a call of the operator may look like: every argument checked before any backend sees it.

A check costs a few microseconds and looks at sizes, dtypes and devices only, never at a tensor's numbers, so that no
GPU is waited for and ``torch.compile`` can trace it. The two exceptions are ``spatial_shapes`` and
``level_start_index``, which are a few numbers on the CPU.

Built in chapters 6 to 8.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["check_arguments", "check_fused_arguments", "check_traced_arguments", "level_sizes"]

VALUE_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LOCATION_DTYPES = (torch.float32, torch.float64)
INTEGER_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

# Kernels number the cells of one map in 32 bits, and the bytes of one tensor in 64.
MOST_CELLS = 2**31 - 1
MOST_ELEMENTS = 2**63 // 16

# The (B, Q, M, L, P, 2) and the (B, Q, M, L, P) argument of the operator, and of the fused one.
GIVEN = ("sampling_locations", "attention_weights")
FUSED = ("sampling_offsets", "attention_logits")


def check_arguments(
    value: Tensor,
    spatial_shapes: Tensor | Sequence[tuple[int, int]],
    level_start_index: Tensor | None,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> list[tuple[int, int]]:
    """Check a call of :func:`~ddetr_lab.ops.ms_deform_attn` and return its spatial shapes as L pairs (H, W).

    Raises:
        TypeError: if an argument is no tensor, or a size is no whole number.
        ValueError: if shapes, dtypes or devices disagree. Either message has the name, what came, what was expected
            and, where there is one, the remedy.
    """
    _check_tensors(value, sampling_locations, attention_weights, GIVEN, LOCATION_DTYPES)
    pairs = _check_sizes(value, spatial_shapes, sampling_locations, GIVEN[0])
    if level_start_index is not None:
        _check_starts(level_start_index, pairs)
    return pairs


def check_fused_arguments(
    value: Tensor,
    spatial_shapes: Tensor | Sequence[tuple[int, int]],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> list[tuple[int, int]]:
    """Check a call of :func:`~ddetr_lab.ops.ms_deform_attn_fused` and return its spatial shapes as L pairs (H, W).

    Raises:
        TypeError, ValueError: as :func:`check_arguments`.
    """
    _check_tensors(value, sampling_offsets, attention_logits, FUSED, VALUE_DTYPES)
    _check_reference(value, reference_points, sampling_offsets, LOCATION_DTYPES)
    return _check_sizes(value, spatial_shapes, sampling_offsets, FUSED[0])


def _check_reference(
    value: Tensor, reference_points: Tensor, sampling_offsets: Tensor, dtypes: tuple[torch.dtype, ...]
) -> None:
    _check_tensor("reference_points", reference_points, dtypes, 4, "(B, Q, L, 2) or (B, Q, L, 4)")
    batch, queries, _, levels = sampling_offsets.shape[:4]
    expected = (batch, queries, levels)
    if tuple(reference_points.shape[:3]) != expected or reference_points.shape[3] not in (2, 4):
        raise ValueError(
            f"reference_points has shape {tuple(reference_points.shape)}, expected {(*expected, 2)} (x, y) or "
            f"{(*expected, 4)} (cx, cy, w, h): one a query and level"
        )
    if reference_points.device != value.device:
        raise ValueError(
            f"reference_points is on {reference_points.device}, expected {value.device}, where value is: "
            "move it with .to()"
        )


def _check_sizes(
    value: Tensor, spatial_shapes: Tensor | Sequence[tuple[int, int]], points: Tensor, points_name: str
) -> list[tuple[int, int]]:
    batch, queries, heads, levels = points.shape[:4]
    pairs = level_sizes(spatial_shapes)
    if len(pairs) != levels:
        raise ValueError(f"spatial_shapes has {len(pairs)} levels, but {points_name} has L = {levels}")
    tokens = sum(height * width for height, width in pairs)
    if tokens != value.shape[1]:
        raise ValueError(
            f"value has S = {value.shape[1]} tokens, but spatial_shapes {pairs} add up to {tokens}: "
            "flatten exactly the maps whose shapes you pass"
        )
    # While a graph is traced, sizes may be symbols; a bound on them would become a guard that no caller can meet.
    if not torch.compiler.is_compiling() and batch * queries * heads * value.shape[3] > MOST_ELEMENTS:
        raise ValueError(
            f"B * Q * M * D = {batch} * {queries} * {heads} * {value.shape[3]} elements, "
            f"expected at most {MOST_ELEMENTS}: split the call over pictures or queries"
        )
    return pairs


def check_traced_arguments(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    points: Tensor,
    weights: Tensor,
    reference_points: Tensor | None = None,
) -> None:
    """Check a raw operator's call as far as that goes without numbers: for its fake kernels.

    A fake kernel also gets every call that mixes the meta device with another, and would answer with memory that
    nobody has written. With ``reference_points`` it is the fused operator's call.

    Raises:
        TypeError, ValueError: as :func:`check_arguments`.
    """
    _check_tensors(value, points, weights, GIVEN if reference_points is None else FUSED, VALUE_DTYPES)
    if reference_points is not None:
        _check_reference(value, reference_points, points, VALUE_DTYPES)
    levels = points.shape[3]
    for name, tensor, shape in (
        ("spatial_shapes", spatial_shapes, (levels, 2)),
        ("level_start_index", level_start_index, (levels,)),
    ):
        if tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}: one row a level")
        if tensor.device.type not in ("cpu", value.device.type):
            raise ValueError(f"{name} is on {tensor.device}, expected cpu, where it is read: move it with .cpu()")


def _check_tensors(
    value: Tensor, points: Tensor, weights: Tensor, names: tuple[str, str], points_dtypes: tuple[torch.dtype, ...]
) -> None:
    points_name, weights_name = names
    _check_tensor("value", value, VALUE_DTYPES, 4, "(B, S, M, D)")
    _check_tensor(points_name, points, points_dtypes, 6, "(B, Q, M, L, P, 2)")
    _check_tensor(weights_name, weights, VALUE_DTYPES, 5, "(B, Q, M, L, P)")
    batch, _, heads, _, _, coordinates = points.shape
    if coordinates != 2:
        raise ValueError(
            f"{points_name} has shape {tuple(points.shape)}, expected (B, Q, M, L, P, 2): its last axis is (x, y)"
        )
    if weights.shape != points.shape[:-1]:
        raise ValueError(
            f"{weights_name} has shape {tuple(weights.shape)}, expected {tuple(points.shape[:-1])} (B, Q, M, L, P), "
            f"as {points_name} without its last axis"
        )
    if value.shape[0] != batch or value.shape[2] != heads:
        raise ValueError(
            f"value has B = {value.shape[0]} and M = {value.shape[2]}, but {points_name} has B = {batch} "
            f"and M = {heads}: both need the same pictures and heads"
        )
    for name, tensor in ((points_name, points), (weights_name, weights)):
        if tensor.device != value.device:
            raise ValueError(
                f"{name} is on {tensor.device}, expected {value.device}, where value is: move it with .to()"
            )


def level_sizes(spatial_shapes: Tensor | Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return L pairs (H, W) of positive whole numbers.

    Raises:
        TypeError: if they are no pairs, or no whole numbers.
        ValueError: if a size is not positive, a map is too large, or a tensor of them has another shape, dtype or
            device than (L, 2), integer and CPU.
    """
    given: Any = spatial_shapes
    if isinstance(given, Tensor):
        _check_cpu_integers("spatial_shapes", given, "pass a list of pairs (H, W), made once")
        if given.ndim != 2 or given.shape[1] != 2:
            raise ValueError(
                f"spatial_shapes has shape {tuple(given.shape)}, expected (L, 2), a row (H, W) for each level"
            )
    if hasattr(given, "tolist"):  # tensors and NumPy's arrays
        given = given.tolist()
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)):
        raise TypeError(
            f"spatial_shapes is a {type(spatial_shapes).__name__}, expected L pairs (H, W): a list or an (L, 2) tensor"
        )
    pairs: list[Any] = []  # of int, or of torch.SymInt while a graph is traced
    tracing = torch.compiler.is_compiling()
    for level, pair in enumerate(given):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"spatial_shapes[{level}] = {pair!r}, expected a pair (H, W)")
        height, width = pair
        if type(height) is not int or type(width) is not int:
            height, width = _whole(height, level), _whole(width, level)
        if height <= 0 or width <= 0:
            raise ValueError(
                f"spatial_shapes[{level}] = ({height}, {width}), expected positive sizes: leave out an empty level"
            )
        if not tracing and height * width > MOST_CELLS:
            raise ValueError(
                f"spatial_shapes[{level}] = ({height}, {width}) are {height * width} cells, "
                f"expected at most {MOST_CELLS}"
            )
        pairs.append((height, width))
    return pairs


def _whole(size: Any, level: int) -> Any:
    """Read a whole number that may be another library's (NumPy's, say), or a symbol while a graph is traced."""
    if isinstance(size, torch.SymInt):
        return size
    if not isinstance(size, (bool, Tensor)) and hasattr(size, "__index__"):
        return operator.index(size)
    raise TypeError(
        f"spatial_shapes[{level}] holds {size!r} ({type(size).__name__}), expected whole numbers: convert it with int()"
    )


def _check_tensor(name: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...], axes: int, shape: str) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}, expected a torch.Tensor {shape}")
    if tensor.layout is not torch.strided:
        raise ValueError(f"{name} has layout {tensor.layout}, expected torch.strided: call .to_dense() on it")
    if tensor.ndim != axes:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
    if tensor.dtype not in dtypes:
        remedy = "call .float() on it"
        if tensor.dtype in VALUE_DTYPES:
            remedy = "half precision moves a sample by up to a third of a pixel; call .float() on the locations"
        *others, last = (str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise ValueError(f"{name} has dtype {tensor.dtype}, expected {', '.join(others)} or {last}: {remedy}")


def _check_cpu_integers(name: str, tensor: Tensor, remedy: str) -> None:
    if tensor.dtype not in INTEGER_DTYPES:
        raise ValueError(f"{name} has dtype {tensor.dtype}, expected an integer one: call .long() on it")
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
        where = tensor.device if tensor.layout is torch.strided else tensor.layout
        raise ValueError(f"{name} is on {where}, expected a plain tensor on the CPU, where it is read: {remedy}")


def _check_starts(starts: Tensor, pairs: list[tuple[int, int]]) -> None:
    if not isinstance(starts, Tensor):
        raise TypeError(f"level_start_index is a {type(starts).__name__}, expected a torch.Tensor (L,) or None")
    if starts.shape != (len(pairs),):
        raise ValueError(f"level_start_index has shape {tuple(starts.shape)}, expected ({len(pairs)},)")
    _check_cpu_integers("level_start_index", starts, "pass None, for it follows from spatial_shapes")
    if torch.compiler.is_compiling():  # a traced graph may not branch on a tensor's numbers
        return
    first = 0
    for level, ((height, width), start) in enumerate(zip(pairs, starts.tolist(), strict=True)):
        if start != first:
            raise ValueError(
                f"level_start_index[{level}] = {start}, expected {first}: "
                "levels follow each other without gaps; None works it out"
            )
        first += height * width
