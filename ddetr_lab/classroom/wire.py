"""Values as plain data: what a student's process may send to the grader, and nothing that could run there.

A frame is a length, a JSON header and raw buffers. The grader decodes only None, numbers, text, lists, tuples, dicts,
tensors and arrays of known dtypes; anything else arrives as an empty object that has the name of its type. Unpickling
would let a submission run code in the grader, so it is not used in this direction.

Used in every chapter.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["LARGEST_FRAME", "LARGEST_HEADER", "WireError", "decode", "encode", "pack", "unpack"]

LARGEST_FRAME = 256 * 2**20
LARGEST_HEADER = 8 * 2**20  # JSON takes many times its length in memory
DEEPEST = 20
MOST_ITEMS = 100_000
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}


class WireError(ValueError):
    """A frame or a value that the wire does not carry."""


def pack(header: dict[str, Any], buffers: list[bytes]) -> bytes:
    """Make one frame of a header and its buffers.

    Raises:
        WireError: if it is too large for the other end.
    """
    text = json.dumps({**header, "sizes": [len(buffer) for buffer in buffers]}).encode()
    size = 4 + len(text) + sum(map(len, buffers))
    if len(text) > LARGEST_HEADER or size > LARGEST_FRAME:
        raise WireError(f"the value is too large to be sent: {size} bytes, {len(text)} of them apart from tensors")
    body = b"".join([struct.pack(">I", len(text)), text, *buffers])
    return struct.pack(">Q", len(body)) + body


def unpack(read: Callable[[int], bytes]) -> tuple[dict[str, Any], list[bytes]]:
    """Read one frame.

    Args:
        read: returns exactly as many bytes as it is asked for, or raises.

    Raises:
        WireError: if it is too large or not made by ``pack``.
    """
    (size,) = struct.unpack(">Q", read(8))
    if not 4 <= size <= LARGEST_FRAME:
        raise WireError(f"a frame of {size} bytes")
    body = read(size)
    (length,) = struct.unpack(">I", body[:4])
    if length > LARGEST_HEADER:
        raise WireError(f"a header of {length} bytes")
    try:
        header = json.loads(body[4 : 4 + length])
        sizes = [int(one) for one in header["sizes"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WireError("a frame with a broken header") from error
    if not isinstance(header, dict) or min(sizes, default=0) < 0 or 4 + length + sum(sizes) != size:
        raise WireError("a frame whose sizes do not fit")
    buffers, place = [], 4 + length
    for one in sizes:
        buffers.append(body[place : place + one])
        place += one
    return header, buffers


def encode(value: Any, buffers: list[bytes], depth: int = 0) -> Any:
    """Turn a value into JSON, and append the numbers of its tensors and arrays to ``buffers``."""
    if depth > DEEPEST:
        return {"other": "deeply nested value"}
    if isinstance(value, Tensor):
        return _encode_tensor(value, buffers)
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        if array.dtype.name in DTYPES:
            inner = _encode_tensor(torch.from_numpy(np.array(array)), buffers)
            return {**inner, "array": True}
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int) and abs(value) < 2**200:
        return int(value)
    if isinstance(value, float):
        return {"float": float(value).hex()}
    if isinstance(value, (list, tuple)) and len(value) <= MOST_ITEMS:
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [encode(one, buffers, depth + 1) for one in value]}
    if isinstance(value, dict) and len(value) <= MOST_ITEMS:
        return {
            "dict": [[encode(key, buffers, depth + 1), encode(one, buffers, depth + 1)] for key, one in value.items()]
        }
    return {"other": type(value).__name__}


def _encode_tensor(value: Tensor, buffers: list[bytes]) -> Any:
    name = str(value.dtype).removeprefix("torch.")
    if name not in DTYPES or value.layout is not torch.strided:
        return {"other": f"tensor of {name}"}
    flat = value.detach().cpu().contiguous().reshape(-1)
    raw = flat.view(torch.uint8).numpy().tobytes() if len(flat) else b""
    buffers.append(raw)
    return {"tensor": len(buffers) - 1, "dtype": name, "shape": list(value.shape), "graph": bool(value.requires_grad)}


def decode(value: Any, buffers: list[bytes], depth: int = 0) -> Any:
    """Turn JSON back into the value.

    A buffer is used up by the tensor that names it: a short header could otherwise ask for one large buffer many times.

    Raises:
        WireError: if it is not what ``encode`` makes.
    """
    if depth > DEEPEST + 1:
        raise WireError("a value that is nested too deeply")
    if value is None or isinstance(value, (bool, int, str)):
        return value
    try:
        match value:
            case {"tensor": int(place), "dtype": str(name), "shape": list(shape), "graph": bool(graph)}:
                raw, buffers[place] = buffers[place], b""
                tensor = _decode_tensor(raw, name, [int(size) for size in shape])
                if "array" in value:
                    return tensor.numpy()[()]
                return tensor.requires_grad_() if graph and tensor.is_floating_point() else tensor
            case {"float": str(text)}:
                return float.fromhex(text)
            case {"list": list(items)}:
                return [decode(one, buffers, depth + 1) for one in items]
            case {"tuple": list(items)}:
                return tuple(decode(one, buffers, depth + 1) for one in items)
            case {"dict": list(items)}:
                return {decode(key, buffers, depth + 1): decode(one, buffers, depth + 1) for key, one in items}
            case {"other": str(name)}:
                return _stranger("".join(filter(str.isidentifier, name))[:40] or "object")()
    except WireError:
        raise
    except (TypeError, ValueError, IndexError, OverflowError, RuntimeError) as error:
        raise WireError("a value that the wire does not carry") from error
    raise WireError("a value that the wire does not carry")


@lru_cache(maxsize=64)
def _stranger(name: str) -> type:
    """Make a type that has nothing but a name, for messages."""
    return type(name, (), {})


def _decode_tensor(raw: bytes, name: str, shape: list[int]) -> Tensor:
    dtype = DTYPES.get(name)
    count = 1
    for size in shape:
        count *= size
    if dtype is None or min(shape, default=0) < 0 or len(shape) > 32 or count * dtype.itemsize != len(raw):
        raise WireError("a tensor whose numbers do not fit its shape")
    if not raw:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(dtype).reshape(shape)
