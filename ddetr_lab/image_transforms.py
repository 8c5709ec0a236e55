"""Resize, rescale and normalise one picture: three of the four steps between a file and ``pixel_values``.

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
    layout_of,
    number_of_channels,
    to_channel_dimension_format,
)

__all__ = [
    "colour",
    "colour_table",
    "eight_bits",
    "normalize",
    "output_size",
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


def output_size(height: int, width: int, size: Mapping[str, Any]) -> tuple[int, int]:
    """Compute the (height, width) that a picture is resized to.

    With edges, the shorter one becomes ``shortest_edge`` unless the longer one would then pass ``longest_edge``; in
    that case the shorter one is rounded to what keeps the proportions; a ``longest_edge`` of None is no limit. The
    longer one is always cut to a whole number, so 653 x 958 at 640/640 gives 436 x 639.

    Raises:
        ValueError: if ``size`` lacks an edge, or a side of the result would be zero.

    Source: the reference's ``get_size_with_aspect_ratio``. Built in chapter 2.
    """
    if {"shortest_edge", "longest_edge"} <= set(size):
        short, most = size["shortest_edge"], size["longest_edge"]
        longer, shorter = float(max(height, width)), float(min(height, width))
        if most is not None and longer / shorter * short > most:
            short = round(most * shorter / longer)
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


def eight_bits(array: np.ndarray, layout: ChannelDimension) -> tuple[np.ndarray, bool]:
    """Return an array as (H, W, C) uint8, and whether it was in 0-1 and had to be multiplied by 255 for that.

    Raises:
        ValueError: if the values are in neither range.
    """
    stretch = _must_stretch(array)
    array = to_channel_dimension_format(array, ChannelDimension.LAST, layout)
    if stretch:
        array = (array * 255).astype(np.float32)  # the reference's rounding: to float32, then cut, never rounded
    return array.astype(np.uint8, copy=False), stretch


def _to_pil(array: np.ndarray, layout: ChannelDimension) -> Image.Image:
    array = array[..., 0] if array.shape[-1] == 1 else array  # (H, W)
    if array.ndim == 3 and array.shape[-1] > 4:
        raise ValueError(
            f"resizing knows 1 to 4 channels, but the picture has {array.shape[-1]} (layout {layout.value})"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _resize_with_pillow(
    picture: Image.Image, size: tuple[int, int], resample: int | None, reducing_gap: float | None
) -> Image.Image:
    height, width = size
    filter_ = Image.Resampling.BILINEAR if resample is None else Image.Resampling(resample)
    return picture.resize((width, height), resample=filter_, reducing_gap=reducing_gap)


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
    if isinstance(picture, Image.Image):
        return _resize_with_pillow(picture, size, resample, reducing_gap), False
    layout = layout_of(picture, layout)
    pixels, stretched = eight_bits(picture, layout)
    return array_of(_resize_with_pillow(_to_pil(pixels, layout), size, resample, reducing_gap), layout), stretched


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
    layout = layout_of(array, layout)
    channels = number_of_channels(array, layout)
    if array.dtype.kind != "f":
        array = array.astype(np.float32)
    shape = (-1, 1, 1) if layout is ChannelDimension.FIRST else (-1,)
    shift = np.array(_per_channel(mean, channels, "image_mean"), dtype=array.dtype).reshape(shape)
    scale = np.array(_per_channel(std, channels, "image_std"), dtype=array.dtype).reshape(shape)
    if not scale.all():
        raise ValueError(f"image_std is {std!r}: expected no zero, pixels are divided by it")
    return (array - shift) / scale


def colour_table(
    channels: int,
    factor: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    stretched: bool = False,
) -> np.ndarray:
    """Compute what becomes of each 8-bit value: (C, 256) float32. Arguments and errors as in :func:`colour`."""
    table = np.broadcast_to(np.arange(256, dtype=np.uint8), (channels, 1, 256))
    for step in ([1 / 255] if stretched else []) + ([] if factor is None else [factor]):
        table = rescale(table, step)
    table = table if mean is None or std is None else normalize(table, mean, std, ChannelDimension.FIRST)
    return np.ascontiguousarray(table[:, 0])


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
    table = colour_table(number_of_channels(picture, layout), factor, mean, std, stretched)
    pixels = to_channel_dimension_format(picture, ChannelDimension.FIRST, layout)  # (C, H, W)
    planes = np.empty(pixels.shape, dtype=np.float32)
    for plane, plane_pixels, entries in zip(planes, pixels, table, strict=True):
        np.take(entries, plane_pixels, out=plane, mode="clip")
    return to_channel_dimension_format(planes, output_layout, ChannelDimension.FIRST)
