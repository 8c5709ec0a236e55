"""Random calls of the compiled resize, good ones held against Pillow: parts of :mod:`tests.ops.fuzz`."""

from __future__ import annotations

import random

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddetr_lab.resampling import rows_first
from tests.ops.fuzz_plain import Finding, wrong_size
from tests.ops.problems import STRIDES, with_strides

SIDES = (1, 1, 2, 3, 5, 8, 13, 33, 70, 150)
COLOURS = (
    torch.arange(256, dtype=torch.float32) + 256 * torch.arange(3, dtype=torch.float32)[:, None]
)  # tells them apart


def draw_picture(chooser: random.Random) -> tuple[Tensor, Tensor, Tensor]:
    """Draw sizes and strides: pixels (H, W, 3), a table (3, 256), and planes (3, H', W') that hold NaN."""
    height, width, new_height, new_width = chooser.choices(SIDES, k=4)
    chosen = torch.randint(256, (height, width, 3), dtype=torch.uint8)
    pixels = chosen if chooser.random() < 0.7 else chosen // 128 * 255  # black and white: sums at both ends
    planes = torch.full((3, new_height, new_width), float("nan"))
    return (
        with_strides(pixels, chooser.choice(STRIDES)),
        COLOURS.clone(),
        with_strides(planes, chooser.choice(STRIDES)),
    )


def good_picture_call(pixels: Tensor, table: Tensor, planes: Tensor) -> None:
    """Resize, and compare with Pillow: exactly where its order is known, else to two levels."""
    torch.ops.ddetr_lab.resize_bilinear(pixels, table, planes)
    (height, width), (new_height, new_width) = pixels.shape[:2], planes.shape[1:]
    image = Image.fromarray(pixels.contiguous().numpy()).resize((new_width, new_height), Image.Resampling.BILINEAR)
    expected = np.asarray(image).transpose(2, 0, 1) + 256.0 * np.arange(3)[:, None, None]
    difference = np.abs(planes.numpy() - expected).max()
    known = rows_first((height, width), (new_height, new_width))
    if not difference <= (0 if known else 2):
        raise Finding(f"{height} x {width} to {new_height} x {new_width} is {difference} levels from Pillow")


def bad_picture_call(inputs: tuple[Tensor, Tensor, Tensor], chooser: random.Random) -> None:
    """Call with one argument spoilt: it must be refused."""
    index = chooser.randrange(3)
    spoilt = inputs[index]
    if chooser.random() < 0.3:
        spoilt = spoilt.to(chooser.choice((torch.int64, torch.float64, torch.bool, torch.complex64)))
    elif index == 0:
        spoilt = chooser.choice((spoilt[None], spoilt[..., 0], spoilt[..., :2], spoilt[:0], spoilt[:, :0]))
    elif index == 1:
        spoilt = chooser.choice((wrong_size(spoilt, chooser), spoilt.T, spoilt.T.contiguous().T))
    else:
        spoilt = chooser.choice((spoilt[None], spoilt[0], spoilt[:2], spoilt[:, :0], spoilt[..., :0]))
    try:
        torch.ops.ddetr_lab.resize_bilinear(*inputs[:index], spoilt, *inputs[index + 1 :])
    except RuntimeError:
        return
    raise Finding(f"argument {index} of a bad picture went through: {tuple(spoilt.shape)} {spoilt.dtype}")
