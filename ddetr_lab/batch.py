"""What a processor returns: a dict with attribute access that turns into tensors and moves between devices.

Built in chapter 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ddetr_lab.choices import Choice

__all__ = ["BatchFeature", "TensorType"]


class TensorType(Choice):
    """The kinds of arrays that ``return_tensors`` may ask for."""

    PYTORCH = "pt"
    NUMPY = "np"


def _as_array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.dtype == object:
        raise ValueError("its parts do not form one rectangular array")
    return array


def _as_tensor(value: Any) -> torch.Tensor:
    if isinstance(value, (list, tuple)) and value:
        if isinstance(value[0], torch.Tensor):
            return torch.stack(list(value))
        if isinstance(value[0], np.ndarray):
            value = np.array(value)  # one copy; a list of arrays given to torch is copied element by element
    return torch.tensor(value)


class BatchFeature(dict):
    """A dict of arrays with attribute access: ``batch.pixel_values`` is ``batch["pixel_values"]``.

    Args:
        data: the values by name, or nothing.
        tensor_type: "pt", "np" or None; see :meth:`convert_to_tensors`.

    Raises:
        ValueError: if ``tensor_type`` is unknown, or a value cannot become one tensor.

    Source: the reference's ``BatchFeature``. Built in chapter 2.
    """

    def __init__(self, data: Mapping[str, Any] | None = None, tensor_type: str | TensorType | None = None) -> None:
        super().__init__(data or {})
        self.convert_to_tensors(tensor_type)

    @property
    def data(self) -> dict[str, Any]:
        """The mapping itself, under the name that the reference gives it."""
        return self

    def __getitem__(self, key: str) -> Any:
        if not isinstance(key, str):
            raise KeyError(f"{key!r}: a batch is indexed by name, one of {sorted(self)}, and not by position")
        return super().__getitem__(key)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"this batch has no {name!r}; it has {sorted(self)}") from None

    def copy(self) -> BatchFeature:
        """Return a shallow copy of the same class."""
        return type(self)(self)

    def convert_to_tensors(self, tensor_type: str | TensorType | None = None) -> BatchFeature:
        """Turn every value into one tensor, in place.

        Args:
            tensor_type: "pt" for torch tensors, "np" for numpy arrays, None to leave the values alone.

        Returns:
            this batch.

        Raises:
            ValueError: if ``tensor_type`` is unknown, or a value (pictures of different sizes, text) has no
                rectangular form; the message names the key.
        """
        if tensor_type is None:
            return self
        to_torch = TensorType(tensor_type) is TensorType.PYTORCH
        for key, value in self.items():
            if isinstance(value, torch.Tensor if to_torch else np.ndarray):
                continue
            try:
                self[key] = _as_tensor(value) if to_torch else _as_array(value)
            except (ValueError, TypeError, RuntimeError) as error:
                raise ValueError(
                    f"{key!r} cannot become one tensor ({error}). Pictures of different sizes need do_pad=True; "
                    "return_tensors=None leaves every value as it is"
                ) from error
        return self

    def to(self, *args: Any, **kwargs: Any) -> BatchFeature:
        """Move the batch to a device, a dtype or both, in place.

        A dtype is for the network's inputs: it changes floating-point tensors at the top level only. The
        targets in ``labels`` move to the device and keep their dtype, because a box in half precision is
        off by up to a quarter of a pixel in a thousand, and in bfloat16 by two.

        Args:
            *args: a device (name, index or ``torch.device``) and/or a ``torch.dtype``, in any order.
            **kwargs: ``device``, ``dtype``, ``non_blocking``.

        Returns:
            this batch.

        Raises:
            ValueError: if an argument is neither a device nor a dtype.
            TypeError: if the batch holds numpy arrays, which have no device.
        """
        device, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
        non_blocking = bool(kwargs.pop("non_blocking", False))
        if kwargs:
            raise ValueError(f"to() takes device, dtype and non_blocking, not {sorted(kwargs)}")
        for arg in args:
            if isinstance(arg, torch.dtype):
                dtype = arg
            elif isinstance(arg, (str, int, torch.device)) and not isinstance(arg, bool):
                device = arg
            else:
                raise ValueError(f"to() got {arg!r}, which is neither a device nor a torch.dtype")
        for key, value in self.items():
            self[key] = _move(value, device, dtype, non_blocking, key)
        return self


def _move(value: Any, device: Any, dtype: torch.dtype | None, non_blocking: bool, name: str) -> Any:
    """Move one value of a batch, and what is nested in it, to ``device``; see :meth:`BatchFeature.to`."""
    if isinstance(value, torch.Tensor):
        return value.to(
            device=value.device if device is None else device,
            dtype=dtype if dtype is not None and value.is_floating_point() else value.dtype,
            non_blocking=non_blocking,
        )
    if isinstance(value, np.ndarray):
        raise TypeError(f"{name!r} is a numpy array, which has no device: process with return_tensors='pt'")
    if isinstance(value, Mapping):
        moved = {key: _move(item, device, None, non_blocking, f"{name}.{key}") for key, item in value.items()}
        return BatchFeature(moved) if isinstance(value, BatchFeature) else moved
    if isinstance(value, (list, tuple)):
        return type(value)(_move(item, device, None, non_blocking, f"{name}[{i}]") for i, item in enumerate(value))
    return value
