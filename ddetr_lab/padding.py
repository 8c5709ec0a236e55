"""Pad the pictures of a batch to one size, and say in a mask which pixels are real: the last of the four steps.

Built in chapter 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ddetr_lab.image_inputs import ChannelDimension, image_size, number_of_channels, to_channel_dimension_format

__all__ = ["empty_batch", "pad", "pad_batch", "pad_target"]


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
    if out is None:
        out = np.empty(_padded_shape(number_of_channels(array, layout), size, layout), dtype=array.dtype)
    height, width = image_size(array, layout)
    _write_margins(out, (height, width), layout, value)
    _corner(out, (height, width), layout)[...] = array
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


def empty_batch(
    sizes: Sequence[tuple[int, int]], channels: int, layout: ChannelDimension, target: tuple[int, int] | None = None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Make room for a batch before its pictures are computed, so that each is written where it will stay.

    Args:
        sizes: (height, width) of each picture.
        channels: of each picture.
        layout: where the channels are to stand.
        target: (height, width) to pad to; None is the largest height and width.

    Returns:
        a block for the padded batch, float32 and not yet written; and a view of each picture's place in it.

    Raises:
        ValueError: if a picture does not fit into ``target``.
    """
    shape = _padded_shape(channels, _common_size(sizes, target), layout)
    # numpy asks for huge pages, which halve the time of a first write.
    block = np.empty((len(sizes), *shape), dtype=np.float32)
    return block, [_corner(slot, size, layout) for slot, size in zip(block, sizes, strict=True)]


def pad_batch(
    arrays: Sequence[np.ndarray],
    layout: ChannelDimension,
    value: Any = 0,
    target: tuple[int, int] | None = None,
    block: np.ndarray | None = None,
) -> tuple[np.ndarray | list[np.ndarray], np.ndarray]:
    """Pad arrays at the bottom and the right to a target size, else to the largest height and width among them.

    Args:
        arrays: all in ``layout``.
        layout: where the channels stand.
        value: see :func:`pad`.
        target: (height, width) to pad to.
        block: what :func:`empty_batch` made, if the arrays are its places: then only the padding is written, and
            ``target`` is the block's.

    Returns:
        the padded arrays in one block, or in a list if their channels or dtypes differ; and the pixel mask (B, H, W)
        int64, 1 on real pixels.

    Raises:
        ValueError: if an array does not fit into ``target``.
    """
    sizes = [image_size(array, layout) for array in arrays]
    size = _common_size(sizes, target) if block is None else image_size(block[0], layout)
    mask = _pixel_mask(sizes, size)
    if block is not None:
        for slot, real in zip(block, sizes, strict=True):
            _write_margins(slot, real, layout, value)
        return block, mask
    shapes = {_padded_shape(number_of_channels(array, layout), size, layout) for array in arrays}
    if len(shapes) > 1 or len({array.dtype for array in arrays}) > 1:
        return [pad(array, size, layout, value) for array in arrays], mask
    # One block of memory, filled once, is the batch: no copy when it becomes a tensor.
    block = np.empty((len(arrays), *shapes.pop()), dtype=arrays[0].dtype)
    for array, slot in zip(arrays, block, strict=True):
        pad(array, size, layout, value, out=slot)
    return block, mask


def _common_size(sizes: Sequence[tuple[int, int]], target: tuple[int, int] | None) -> tuple[int, int]:
    largest = max(height for height, _ in sizes), max(width for _, width in sizes)
    if target is not None and (largest[0] > target[0] or largest[1] > target[1]):
        raise ValueError(
            f"a picture of {largest[0]} x {largest[1]} (height x width, after resizing) does not fit into pad_size "
            f"{target[0]} x {target[1]}: make pad_size larger, or size smaller"
        )
    return target or largest


def _pixel_mask(sizes: Sequence[tuple[int, int]], size: tuple[int, int]) -> np.ndarray:
    mask = np.empty((len(sizes), *size), dtype=np.int64)
    for slot, (height, width) in zip(mask, sizes, strict=True):
        slot[:height, :width] = 1
        slot[:height, width:] = 0
        slot[height:] = 0
    return mask


def _padded_shape(channels: int, size: tuple[int, int], layout: ChannelDimension) -> tuple[int, int, int]:
    return (channels, *size) if layout is ChannelDimension.FIRST else (*size, channels)


def _corner(padded: np.ndarray, size: tuple[int, int], layout: ChannelDimension) -> np.ndarray:
    """Return the view of a padded array in which the real pixels stand."""
    height, width = size
    return padded[:, :height, :width] if layout is ChannelDimension.FIRST else padded[:height, :width]


def _write_margins(padded: np.ndarray, size: tuple[int, int], layout: ChannelDimension, value: Any) -> None:
    bottom, right = _pad_values(value)
    rows = to_channel_dimension_format(padded, ChannelDimension.LAST, layout)  # (H, W, C) view
    rows[:, size[1] :] = right
    rows[size[0] :, : size[1]] = bottom


def _pad_values(value: Any) -> tuple[Any, Any]:
    if np.ndim(value) == 0:
        return value, value
    if len(value) == 1:
        return value[0], value[0]
    if len(value) == 2:
        return (value[1], value[1]) if np.ndim(value[0]) == 0 else (value[0][1], value[1][1])
    raise ValueError(f"constant_values is {value!r}: expected a number, (before, after), or two such pairs")
