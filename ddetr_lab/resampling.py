"""Resize and colour in one pass over memory, by the compiled library where it is built, else step by step.

A resize of one's own needs a reason, since Pillow has a good one. Through Pillow the processor is slower than the
fastest other one, compiled it is faster: ``ddetr-lab benchmark processor`` prints the times, and with
``DDETR_LAB_CACHE`` set to an empty folder those through Pillow. The compiled function keeps a few rows in the
processor's cache and writes nothing but the result. It has Pillow's weights and roundings, so that both ways give the
same pixels to the last bit. It is for eager calls on the CPU: there is no fake kernel to trace it by.

Pillow resizes one side, rounds to 8 bits, and resizes the other. Up to version 12 it begins with the rows; from version
13 on, with the columns where the picture loses height, and more than twice as many pixels of it as of width. Those
pictures stay with Pillow, and differ by a grey level here and there between its versions. At unchanged proportions they
are downscaled pictures more than twice as high as wide.

Built in chapter 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from ddetr_lab import image_transforms as transforms
from ddetr_lab.image_inputs import (
    ChannelDimension,
    Picture,
    array_of,
    image_size,
    number_of_channels,
    to_channel_dimension_format,
)
from ddetr_lab.ops.native import native_problem

__all__ = ["resize_and_colour", "rows_first"]


def resize_and_colour(
    picture: Picture,
    layout: ChannelDimension,
    size: tuple[int, int],
    resample: int | None = None,
    factor: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    output_layout: ChannelDimension | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Resize as :func:`~ddetr_lab.image_transforms.resize_to_8_bits` does, then colour as ``colour`` there does.

    Args:
        picture: a Pillow picture, or an array in ``layout``.
        layout: where the array's channels stand.
        size: (height, width) in pixels.
        resample: a Pillow filter; None is bilinear.
        factor: what pixels are multiplied by.
        mean: with ``std``, one number or one a channel.
        std: see ``mean``.
        output_layout: layout of the result; None is ``layout``.
        out: where to write, a float32 array of the result's shape and any strides.

    Returns:
        ``out``, or a new array, float32 unless there was nothing to compute after resizing 8-bit pixels: then uint8.

    Raises:
        ValueError: if the values are neither in 0-255 nor in 0-1, or ``mean`` or ``std`` does not fit the channels.

    Built in chapter 2.
    """
    output_layout = output_layout or layout
    if not _compiled(picture, layout, size, resample, coloured=factor is not None or mean is not None):
        resized, stretched = transforms.resize_to_8_bits(picture, size, resample, layout)
        coloured = transforms.colour(resized, layout, factor, mean, std, output_layout, stretched)
        if out is None:
            return coloured
        out[...] = coloured
        return out
    stretched = False
    pixels = array_of(picture)  # (H, W, 3)
    if not isinstance(picture, Image.Image):
        pixels, stretched = transforms.eight_bits(pixels, layout)
    table = transforms.colour_table(3, factor, mean, std, stretched)
    if out is None:
        out = to_channel_dimension_format(np.empty((3, *size), dtype=np.float32), output_layout, ChannelDimension.FIRST)
    torch.ops.ddetr_lab.resize_bilinear(
        # A tensor can neither run backwards in memory nor be read-only.
        torch.from_numpy(np.require(pixels, requirements=["C", "W"])),
        torch.from_numpy(table),
        torch.from_numpy(to_channel_dimension_format(out, ChannelDimension.FIRST, output_layout)),
    )
    return out


def _compiled(
    picture: Picture, layout: ChannelDimension, size: tuple[int, int], resample: int | None, coloured: bool
) -> bool:
    """Tell whether the compiled function runs here and knows the case: see the conditions."""
    return (
        coloured
        and resample in (None, Image.Resampling.BILINEAR)
        and rows_first(image_size(picture, layout), size)
        and number_of_channels(picture, layout) == 3
        and native_problem() is None
    )


def rows_first(before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Tell whether every version of Pillow resizes rows first between two sizes (height, width) in pixels."""
    lost_height, lost_width = before[0] - after[0], before[1] - after[1]
    return lost_height <= 0 or lost_height <= 2 * lost_width
