"""``benchmark processor``: one photograph from the file's pixels to the network's.

Used in chapter 9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from ddetr_lab.benchmark import peers
from ddetr_lab.benchmark.contest import Plan, Rules, compete
from ddetr_lab.benchmark.report import Case
from ddetr_lab.benchmark.timing import Contender
from ddetr_lab.image_processing import DeformableDetrImageProcessor

__all__ = ["processor_cases"]

HEIGHT, WIDTH = 480, 640  # of the picture; it becomes 800 x 1066
QUICK_HEIGHT, QUICK_WIDTH = 48, 64
SEED = 20201004
GREY_LEVEL = 1 / 255 / 0.224  # of a normalised pixel
TOLERANCE = 1e-5
# The torchvision path resizes in its own way: it may be two grey levels off, and the table says by how much it is.
OTHER_RESIZE = 2 * GREY_LEVEL


def processor_cases(plan: Plan) -> list[Case]:
    """Compare processors on one picture, as 8-bit array and as Pillow image."""
    height, width = (QUICK_HEIGHT, QUICK_WIDTH) if plan.quick else (HEIGHT, WIDTH)
    pixels = _photograph(height, width)
    ours = DeformableDetrImageProcessor()
    functions = {"ours": lambda picture: ours(picture, return_tensors="pt")}
    if plan.against:
        functions |= peers.processors()
    done = []
    for kind, picture in (("from an array", pixels), ("from a Pillow image", Image.fromarray(pixels))):
        contenders = [
            Contender(
                name,
                _call(function, picture),
                tolerance=OTHER_RESIZE if "torchvision" in name else None,
                trusted=name == "ours",
            )
            for name, function in functions.items()
        ]
        size = tuple(ours(picture, return_tensors="pt")["pixel_values"].shape[-2:])
        what = f"one {width} x {height} picture, 8 bits, to {size[0]} x {size[1]} pixels, normalised, with mask"
        done.append(compete(kind, what, contenders, Rules(plan.rounds, TOLERANCE)))
        plan.report(done[-1])
    return done


def _photograph(height: int, width: int) -> np.ndarray:
    """Return 8-bit pixels (H, W, 3): smooth colour with grain, as a photograph has; noise alone would be no test."""
    rng = np.random.default_rng(SEED)
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(9 * x + 3 * y), np.cos(7 * y - 2 * x), np.sin(11 * x * y)]
    grain = rng.normal(scale=8, size=(height, width, 3))
    return (128 + 100 * np.stack(waves, -1) + grain).clip(0, 255).astype(np.uint8)


def _call(function: Callable[[Any], Any], picture: Any) -> Callable[[], Any]:
    def call() -> Any:
        features = function(picture)
        return features["pixel_values"], features["pixel_mask"]

    return call
