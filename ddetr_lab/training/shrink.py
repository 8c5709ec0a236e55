"""Small pictures first: a run's first part on shrunk pictures, where a step costs less.

Where things are and what they roughly look like is learnt from small pictures as well; the fine grain waits for the
last part of the run, on pictures of full size (progressive resizing).

Built in chapter 16.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F

__all__ = ["shrunk"]


def shrunk(batch: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """Return a batch whose pictures are smaller; its boxes, shares of a picture, stay as they are.

    Args:
        batch: ``pixel_values`` (B, 3, H, W), ``pixel_mask`` (B, H, W), and anything else, which is passed on.
        factor: of both sides, above 0 and at most 1; sides are rounded to whole pixels.

    Returns:
        The same keys, with pictures (B, 3, h, w) and masks (B, h, w), in the dtypes that they had.
    """
    pixels, mask = batch["pixel_values"], batch["pixel_mask"]
    size = [max(1, round(side * factor)) for side in pixels.shape[-2:]]
    if size == list(pixels.shape[-2:]):
        return dict(batch)
    small = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    real = F.interpolate(mask[:, None].float(), size=size)[:, 0].to(mask.dtype)
    return {**batch, "pixel_values": small, "pixel_mask": real}
