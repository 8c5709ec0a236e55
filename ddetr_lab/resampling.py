"""Resize and colour in one pass over memory, by the compiled library where it is built, else step by step.

Pillow's resize alone takes as long as all that a fast processor does, and each step after it writes megabytes that
the next one reads. The compiled function keeps a few rows in the processor's cache and writes nothing but the result.
It has Pillow's weights and roundings, so that both ways give the same pixels to the last bit. A picture that loses
height stays with Pillow: which side it resizes first, with 8 bits in between, depends on the picture and on Pillow's
version.

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

__all__ = ["resize_and_colour"]


def resize_and_colour(
    picture: Picture,
    layout: ChannelDimension,
    size: tuple[int, int],
    resample: int | None = None,
    factor: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    output_layout: ChannelDimension | None = None,
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

    Returns:
        a new array, float32 unless there was nothing to compute after resizing 8-bit pixels: then uint8.

    Raises:
        ValueError: if the values are neither in 0-255 nor in 0-1, or ``mean`` or ``std`` does not fit the channels.

    Built in chapter 2.
    """
    if not _compiled(picture, layout, size, resample, coloured=factor is not None or mean is not None):
        resized, stretched = transforms.resize_to_8_bits(picture, size, resample, layout)
        return transforms.colour(resized, layout, factor, mean, std, output_layout, stretched)
    stretched = False
    pixels = array_of(picture)  # (H, W, 3)
    if not isinstance(picture, Image.Image):
        pixels, stretched = transforms.eight_bits(pixels, layout)
    table = transforms.colour_table(3, factor, mean, std, stretched)
    planes = np.empty((3, *size), dtype=np.float32)  # numpy asks for huge pages, which halve the time of a first write
    torch.ops.ddetr_lab.resize_bilinear(
        # A tensor can neither run backwards in memory nor be read-only.
        torch.from_numpy(np.require(pixels, requirements=["C", "W"])),
        torch.from_numpy(table),
        torch.from_numpy(planes),
    )
    return to_channel_dimension_format(planes, output_layout or layout, ChannelDimension.FIRST)


def _compiled(
    picture: Picture, layout: ChannelDimension, size: tuple[int, int], resample: int | None, coloured: bool
) -> bool:
    """Tell whether the compiled function runs here and knows the case: see the conditions."""
    return (
        coloured
        and resample in (None, Image.Resampling.BILINEAR)
        and size[0] >= image_size(picture, layout)[0]
        and number_of_channels(picture, layout) == 3
        and native_problem() is None
    )
