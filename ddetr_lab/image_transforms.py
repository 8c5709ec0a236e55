"""Resize, rescale, normalise and pad one picture: the four steps between a file and ``pixel_values``.

The published weights were trained on pictures that went through Pillow's 8-bit resampling, so every picture does
here, floats in 0-1 too. The colour arithmetic on 8-bit pixels is a table of 256 entries a channel: the same numbers
as the arithmetic written out, bit for bit, at a fifth of the time.

Built in chapter 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from PIL import Image

from ddetr_lab.image_inputs import (
    ChannelDimension,
    Picture,
    array_of,
    image_size,
    infer_channel_dimension_format,
    number_of_channels,
    to_channel_dimension_format,
)

__all__ = [
    "colour",
    "normalize",
    "output_size",
    "pad",
    "pad_batch",
    "rescale",
    "resize",
    "resize_to_8_bits",
    "size_dict",
]

_SIZE_KEYS = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"}, {"longest_edge"})


def size_dict(size: int | Sequence[int] | Mapping[str, int] | None, max_size: int | None = None) -> dict[str, int]:
    """Write every accepted form of ``size`` as a dict.

    Args:
        size: pixels. A dict with ``height`` and ``width``, or ``shortest_edge`` with or without ``longest_edge``, or
            ``longest_edge``; an int, the shortest edge; a pair (height, width); or None.
        max_size: the longest edge that goes with an int or None.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(size, Mapping):
        if set(size) not in _SIZE_KEYS:
            raise ValueError(
                f"size has the keys {sorted(size)}: expected one of {[sorted(keys) for keys in _SIZE_KEYS]}"
            )
        return dict(size)
    if isinstance(size, Integral) and not isinstance(size, bool):
        edges = {"shortest_edge": int(size)}
        return edges if max_size is None else edges | {"longest_edge": max_size}
    if isinstance(size, (tuple, list)) and len(size) == 2:
        return {"height": size[0], "width": size[1]}
    if size is None and max_size is not None:
        return {"longest_edge": max_size}
    raise ValueError(f"size is {size!r}: expected a dict such as {{'shortest_edge': 800, 'longest_edge': 1333}}")


def output_size(height: int, width: int, size: Mapping[str, int]) -> tuple[int, int]:
    """Compute the (height, width) that a picture is resized to.

    With edges, the shorter one becomes ``shortest_edge`` unless the longer one would then pass ``longest_edge``; in
    that case the shorter one is rounded to what keeps the proportions. The longer one is always cut to a whole
    number, so 653 x 958 at 640/640 gives 436 x 639.

    Raises:
        ValueError: if ``size`` lacks an edge, or a side of the result would be zero.

    Source: the reference's ``get_size_with_aspect_ratio``. Built in chapter 2.
    """
    if {"shortest_edge", "longest_edge"} <= set(size):
        short = size["shortest_edge"]
        longer, shorter = float(max(height, width)), float(min(height, width))
        if longer / shorter * short > size["longest_edge"]:
            short = round(size["longest_edge"] * shorter / longer)
        if (height <= width and height == short) or (width <= height and width == short):
            result = height, width
        elif width < height:
            result = int(short * height / width), short
        else:
            result = short, int(short * width / height)
    elif {"height", "width"} <= set(size):
        result = size["height"], size["width"]
    else:
        raise ValueError(
            f"size has the keys {sorted(size)}, not enough to resize: expected height and width, or shortest_edge and "
            "longest_edge. In a call an int stands for the shortest edge alone; give both edges"
        )
    if min(result) < 1:
        raise ValueError(
            f"size {dict(size)} makes a {height} x {width} picture {result[0]} x {result[1]}: no pixels left"
        )
    return result


def _is_whole(array: np.ndarray) -> bool:
    """Tell whether all values are within numpy's ``allclose`` of the whole number below; stops at the first not so."""
    if array.dtype.kind != "f":
        return True
    for part in array.reshape(-1, array.shape[-1]) if array.size > 4096 else [array]:
        whole = part.astype(np.int64).astype(np.float64)
        if not (np.abs(part - whole) <= 1e-8 + 1e-5 * np.abs(whole)).all():
            return False
    return True


def _must_stretch(array: np.ndarray) -> bool:
    """Tell whether an array is in 0-1 and so must be multiplied by 255 for Pillow (False: it is in 0-255)."""
    if array.dtype == np.uint8:
        return False
    low, high = array.min(), array.max()
    # Also keeps infinite and huge floats from the integer cast, on which numpy warns.
    if low < 0 or high > 255:
        raise ValueError(
            f"resizing needs pixels in 0 to 255 (whole numbers) or 0 to 1, but they range from {low} to {high}: "
            "divide 16-bit pixels by 257, undo a normalisation, or pass do_resize=False"
        )
    if _is_whole(array):
        return False
    if high > 1:
        raise ValueError(
            f"resizing needs pixels in 0 to 255 (whole numbers) or 0 to 1, but they range from {low} to {high} "
            "with fractions: round them or divide them by 255"
        )
    return True


def _to_pil(array: np.ndarray, layout: ChannelDimension, stretch: bool) -> Image.Image:
    array = to_channel_dimension_format(array, ChannelDimension.LAST, layout)
    array = array[..., 0] if array.shape[-1] == 1 else array  # (H, W)
    if array.ndim == 3 and array.shape[-1] > 4:
        raise ValueError(
            f"resizing knows 1 to 4 channels, but the picture has {array.shape[-1]} (layout {layout.value})"
        )
    if stretch:
        array = (array * 255).astype(np.float32)  # the reference's rounding: to float32, then cut, never rounded
    return Image.fromarray(np.ascontiguousarray(array.astype(np.uint8, copy=False)))


def resize(
    picture: Picture,
    size: tuple[int, int],
    resample: int | None = None,
    layout: str | ChannelDimension | None = None,
    reducing_gap: float | None = None,
) -> Picture:
    """Resize a picture through Pillow's 8-bit resampling.

    Args:
        picture: a Pillow picture, or an array of whole numbers in 0-255 or of floats in 0-1.
        size: (height, width) in pixels.
        resample: a Pillow filter; None is bilinear.
        layout: of an array; inferred if None.
        reducing_gap: Pillow's two-step shortcut; None is exact.

    Returns:
        a Pillow picture for a Pillow picture; otherwise an array in the same layout, uint8, or float32 in 0-1 (of
        256 steps) if the values were fractions.

    Raises:
        ValueError: if the values are in neither range.

    Source: the reference's ``image_transforms.resize``. Built in chapter 2.
    """
    resized, stretched = resize_to_8_bits(picture, size, resample, layout, reducing_gap)
    return rescale(array_of(resized), 1 / 255) if stretched else resized


def resize_to_8_bits(
    picture: Picture,
    size: tuple[int, int],
    resample: int | None = None,
    layout: str | ChannelDimension | None = None,
    reducing_gap: float | None = None,
) -> tuple[Picture, bool]:
    """Resize as :func:`resize` does, but leave fractions times 255; True says that they still are."""
    height, width = size
    filter_ = Image.Resampling.BILINEAR if resample is None else Image.Resampling(resample)
    if isinstance(picture, Image.Image):
        return picture.resize((width, height), resample=filter_, reducing_gap=reducing_gap), False
    layout = infer_channel_dimension_format(picture) if layout is None else ChannelDimension(layout)
    stretch = _must_stretch(picture)
    resized = _to_pil(picture, layout, stretch).resize((width, height), resample=filter_, reducing_gap=reducing_gap)
    return array_of(resized, layout), stretch


def rescale(array: np.ndarray, factor: float) -> np.ndarray:
    """Multiply by ``factor`` and return float32; whole numbers are multiplied in double precision."""
    return (array * float(factor)).astype(np.float32)


def _per_channel(value: Any, channels: int, name: str) -> list[float]:
    values = [value] * channels if np.ndim(value) == 0 else list(value)
    if len(values) != channels:
        raise ValueError(
            f"{name} has {len(values)} entries, but the picture has {channels} channels: give one for each"
        )
    return values


def normalize(
    array: np.ndarray,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    layout: str | ChannelDimension | None = None,
) -> np.ndarray:
    """Compute (array - mean) / std for each channel.

    Args:
        array: (C, H, W) or (H, W, C). Whole numbers are taken as float32; the reference casts ``std`` to 8 bits
            there, divides by zero and returns NaN.
        mean: one number, or one for each channel, in the scale of the array.
        std: likewise.
        layout: inferred if None.

    Returns:
        the array's shape, in its floating dtype.

    Raises:
        ValueError: if ``mean`` or ``std`` has another length than there are channels.
    """
    layout = infer_channel_dimension_format(array) if layout is None else ChannelDimension(layout)
    channels = number_of_channels(array, layout)
    if array.dtype.kind != "f":
        array = array.astype(np.float32)
    shape = (-1, 1, 1) if layout is ChannelDimension.FIRST else (-1,)
    shift = np.array(_per_channel(mean, channels, "image_mean"), dtype=array.dtype).reshape(shape)
    scale = np.array(_per_channel(std, channels, "image_std"), dtype=array.dtype).reshape(shape)
    if not scale.all():
        raise ValueError(f"image_std is {std!r}: expected no zero, pixels are divided by it")
    return (array - shift) / scale


def colour(
    picture: Picture,
    layout: ChannelDimension,
    factor: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    output_layout: ChannelDimension | None = None,
    stretched: bool = False,
) -> np.ndarray:
    """Rescale by ``factor`` and normalise by ``mean`` and ``std``, each if given, and set the layout.

    Args:
        picture: a Pillow picture, or an array in ``layout``.
        layout: where the array's channels stand.
        factor: what pixels are multiplied by.
        mean: with ``std``, one number or one a channel.
        std: see ``mean``.
        output_layout: layout of the result; None is ``layout``.
        stretched: whether the picture is what :func:`resize_to_8_bits` made of fractions: divide by 255 first.

    Returns:
        a new array, or a view of the picture if there was nothing to compute. float32 unless the picture is of
        another floating dtype and is not rescaled.

    Raises:
        ValueError: if the length of ``mean`` or ``std`` does not fit the channels.
    """
    output_layout = layout if output_layout is None else ChannelDimension(output_layout)
    nothing = factor is None and mean is None and not stretched
    if isinstance(picture, Image.Image):
        layout = ChannelDimension.LAST
        picture = array_of(picture) if nothing else np.asarray(picture)  # the second cannot be written to
    if picture.dtype != np.uint8 or nothing:
        array = picture if factor is None else rescale(picture, factor)
        array = array if mean is None or std is None else normalize(array, mean, std, layout)
        return to_channel_dimension_format(array, output_layout, layout)
    channels = number_of_channels(picture, layout)
    table = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], channels, axis=2)  # (256, 1, C)
    for step in ([1 / 255] if stretched else []) + ([] if factor is None else [factor]):
        table = rescale(table, step)
    table = table if mean is None or std is None else normalize(table, mean, std, ChannelDimension.LAST)
    pixels = to_channel_dimension_format(picture, ChannelDimension.FIRST, layout)  # (C, H, W)
    planes = np.empty(pixels.shape, dtype=np.float32)
    for plane, plane_pixels, entries in zip(planes, pixels, table[:, 0].T, strict=True):
        np.take(np.ascontiguousarray(entries), plane_pixels, out=plane, mode="clip")
    return to_channel_dimension_format(planes, output_layout, ChannelDimension.FIRST)


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
