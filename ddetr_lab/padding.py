"""Pad the pictures of a batch to one size, and say in a mask which pixels are real: the last of the four steps.

Built in chapter 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ddetr_lab.image_inputs import ChannelDimension, image_size, number_of_channels, to_channel_dimension_format

__all__ = ["pad", "pad_batch", "pad_target"]


def pad(
    array: np.ndarray,
    size: tuple[int, int],
    layout: ChannelDimension,
    value: Any = 0,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Extend an array to (height, width) ``size`` at the bottom and the right.

    Args:
        array: (C, H, W) or (H, W, C).
        size: at least the array's own size.
        layout: where the channels stand.
        value: what the new cells hold: a number, or a pair of pairs ((top, bottom), (left, right)), of which only
            bottom and right meet any cells; (a, b) is short for ((a, b), (a, b)).
        out: where to write, an array of the padded shape.

    Returns:
        ``out``, or a new contiguous array of the same layout and dtype.

    Raises:
        ValueError: if ``value`` has another form.
    """
    bottom, right = _pad_values(value)
    height, width = image_size(array, layout)
    if out is None:
        out = np.empty(_padded_shape(array, size, layout), dtype=array.dtype)
    rows = to_channel_dimension_format(out, ChannelDimension.LAST, layout)  # (H, W, C) view
    rows[:, width:] = right
    rows[height:, :width] = bottom
    rows[:height, :width] = to_channel_dimension_format(array, ChannelDimension.LAST, layout)
    return out


def pad_target(pad_size: Any) -> tuple[int, int] | None:
    """Read a ``pad_size`` as (height, width); None stays None.

    Raises:
        ValueError: if it is no dict of a positive ``height`` and ``width``.
    """
    if pad_size is None:
        return None
    if not isinstance(pad_size, Mapping) or set(pad_size) != {"height", "width"} or min(pad_size.values()) < 1:
        raise ValueError(f"pad_size is {pad_size!r}, expected a dict like {{'height': 640, 'width': 640}}")
    return int(pad_size["height"]), int(pad_size["width"])


def pad_batch(
    arrays: Sequence[np.ndarray], layout: ChannelDimension, value: Any = 0, target: tuple[int, int] | None = None
) -> tuple[np.ndarray | list[np.ndarray], np.ndarray]:
    """Pad arrays at the bottom and the right to a target size, else to the largest height and width among them.

    Args:
        arrays: all in ``layout``.
        layout: where the channels stand.
        value: see :func:`pad`.
        target: (height, width) to pad to.

    Returns:
        the padded arrays in one block, or in a list if their channels or dtypes differ; and the pixel mask (B, H, W)
        int64, 1 on real pixels.
    """
    sizes = [image_size(array, layout) for array in arrays]
    largest = max(height for height, _ in sizes), max(width for _, width in sizes)
    if target is not None:
        if largest[0] > target[0] or largest[1] > target[1]:
            raise ValueError(
                f"a picture of {largest[0]} x {largest[1]} (height x width, after resizing) does not fit into pad_size "
                f"{target[0]} x {target[1]}: make pad_size larger, or size smaller"
            )
        largest = target
    mask = np.zeros((len(arrays), *largest), dtype=np.int64)
    for slot, (height, width) in zip(mask, sizes, strict=True):
        slot[:height, :width] = 1
    shapes = {_padded_shape(array, largest, layout) for array in arrays}
    if len(shapes) > 1 or len({array.dtype for array in arrays}) > 1:
        return [pad(array, largest, layout, value) for array in arrays], mask
    # One block of memory, filled once, is the batch: no copy when it becomes a tensor.
    block = np.empty((len(arrays), *shapes.pop()), dtype=arrays[0].dtype)
    for array, slot in zip(arrays, block, strict=True):
        pad(array, largest, layout, value, out=slot)
    return block, mask


def _padded_shape(array: np.ndarray, size: tuple[int, int], layout: ChannelDimension) -> tuple[int, int, int]:
    channels = number_of_channels(array, layout)
    return (channels, *size) if layout is ChannelDimension.FIRST else (*size, channels)


def _pad_values(value: Any) -> tuple[Any, Any]:
    if np.ndim(value) == 0:
        return value, value
    if len(value) == 1:
        return value[0], value[0]
    if len(value) == 2:
        return (value[1], value[1]) if np.ndim(value[0]) == 0 else (value[0][1], value[1][1])
    raise ValueError(f"constant_values is {value!r}: expected a number, (before, after), or two such pairs")
