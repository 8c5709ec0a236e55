"""The wire carries plain values both ways, and refuses whatever a student's process could make of a frame."""

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ddetr_lab.classroom import wire
from ddetr_lab.classroom.wire import WireError, decode, encode, pack, unpack


def reader(data: bytes) -> Callable[[int], bytes]:
    place = 0

    def read(size: int) -> bytes:
        nonlocal place
        place += size
        return data[place - size : place]

    return read


def there_and_back(value: Any) -> Any:
    buffers: list[bytes] = []
    header, received = unpack(reader(pack({"value": encode(value, buffers)}, buffers)))
    return decode(header["value"], received)


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 7, -(2**100), 0.1, float("inf"), "", "\x00\ud800", [], (1, [2.5, None]), {"a": 1, 2: (3,)}),
        [{"tensor": 0}, {"other": "int"}],  # a dict that looks like the wire's own marks
    ],
)
def test_plain_values_arrive_as_they_were(value: Any) -> None:
    assert there_and_back(value) == value
    assert type(there_and_back(value)) is type(value)


def test_a_nan_stays_one() -> None:
    assert str(there_and_back(float("nan"))) == "nan"


@pytest.mark.parametrize("name", wire.DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_tensors_of_every_dtype_arrive_as_they_were(name: str, shape: tuple[int, ...]) -> None:
    value = (torch.arange(6).reshape(2, 3) % 2).to(wire.DTYPES[name])[: shape[0] if shape else 1].reshape(-1)
    value = value[: int(np.prod(shape))].reshape(shape)
    got = there_and_back(value)
    assert got.dtype == value.dtype and got.shape == value.shape and torch.equal(got, value)


def test_views_graphs_and_arrays_arrive() -> None:
    view = torch.arange(6.0).reshape(2, 3).T.requires_grad_()
    got = there_and_back(view * 2)
    assert torch.equal(got, view * 2) and got.requires_grad and not there_and_back(view.detach()).requires_grad
    array = there_and_back(np.float64(0.5))
    assert isinstance(array, np.float64) and array == 0.5
    assert np.array_equal(there_and_back(np.arange(3)), np.arange(3))


def test_what_is_no_plain_value_arrives_as_a_name() -> None:
    class Forged(torch.nn.Module):
        pass

    got = there_and_back([Forged(), torch.eye(2).to_sparse(), np.array(["x"]), 2**300, list(range(10**6))])
    assert [type(one).__name__ for one in got] == ["Forged", "tensoroffloat", "ndarray", "int", "list"]
    assert not any(vars(one) for one in got)
    nested: list[Any] = []
    for _ in range(100):
        nested = [nested]
    there_and_back(nested)  # cut short, not refused: the rest of an answer may be right


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00\x00\x00\x02[]",
        b"\x00\x00\x00\x02{}",
        b"\x00\x00\x00\x09" + b"[" * 9,
        struct.pack(">I", 14) + b'{"sizes":[-1]}',
        struct.pack(">I", 13) + b'{"sizes":[5]}' + b"1234",
        struct.pack(">I", 2**31) + b"{}",
        struct.pack(">I", 200_000) + b"[" * 200_000,
    ],
)
def test_a_frame_that_pack_does_not_make_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        unpack(reader(struct.pack(">Q", len(body)) + body))


def test_sizes_are_refused_before_anything_is_read() -> None:
    asked = []

    def read(size: int) -> bytes:
        asked.append(size)
        return struct.pack(">Q", 2**60)

    with pytest.raises(WireError, match="frame of"):
        unpack(read)
    assert asked == [8]
    header = json.dumps({"sizes": [], "x": "x" * wire.LARGEST_HEADER}).encode()
    with pytest.raises(WireError, match="header of"):
        unpack(reader(struct.pack(">QI", 4 + len(header), len(header)) + header))
    with pytest.raises(WireError, match="too large"):
        pack({"x": "x" * wire.LARGEST_HEADER}, [])


@pytest.mark.parametrize(
    "value",
    [
        {"tensor": 1, "dtype": "float32", "shape": [1], "graph": False},
        {"tensor": 0, "dtype": "float32", "shape": [2**40], "graph": False},
        {"tensor": 0, "dtype": "float32", "shape": [-1, -1], "graph": False},
        {"tensor": 0, "dtype": "float32", "shape": [1] * 40, "graph": False},
        {"tensor": 0, "dtype": "object", "shape": [1], "graph": False},
        {"float": "eval"},
        {"dict": [[{"list": []}, 1]]},
        {"dict": [1]},
        {"unknown": 1},
        1.5,
        [1],
    ],
)
def test_a_value_that_encode_does_not_make_is_refused(value: Any) -> None:
    with pytest.raises(WireError):
        decode(value, [bytes(4)])


def test_a_value_nested_without_end_is_refused() -> None:
    value: Any = 1
    for _ in range(100):
        value = {"list": [value]}
    with pytest.raises(WireError, match="nested"):
        decode(value, [])


def test_one_buffer_serves_one_tensor() -> None:
    """Otherwise a megabyte named a thousand times would take a gigabyte of the grader's."""
    one = {"tensor": 0, "dtype": "uint8", "shape": [1 << 20], "graph": False}
    with pytest.raises(WireError, match="fit"):
        decode({"list": [one, one]}, [bytes(1 << 20)])


def test_the_grader_never_unpickles() -> None:
    assert "pickle" not in vars(wire)
