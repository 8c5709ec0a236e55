"""Box formats, areas and overlaps: the arithmetic that every other part of a detector leans on.

Three conventions are in use in detection, and a tensor's name says which one it holds:

* ``cxcywh``: centre x, centre y, width, height. What the network predicts and the losses compare.
* ``xyxy``: left, top, right, bottom. What overlaps are computed on and pictures are drawn with.
* ``xywh``: left, top, width, height. What COCO files store.

Every function takes ``(..., 4)`` tensors in any one frame (pixels or 0-1) and stays in that frame.

Built in chapter 2 (formats) and chapter 14 (overlaps).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "at_least_float32",
    "box_area",
    "box_iou",
    "check_boxes_cxcywh",
    "cxcywh_to_xyxy",
    "elementwise_generalized_box_iou",
    "generalized_box_iou",
    "inverse_sigmoid",
    "xywh_to_xyxy",
    "xyxy_to_cxcywh",
    "xyxy_to_xywh",
]


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return half-precision tensors as float32 and every other tensor as it is.

    Coordinates live in float32 even in a half-precision model: bfloat16 has 8 bits of mantissa, so at a map
    of 167 cells it moves a sampling point by a third of a cell.
    """
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _check_last_axis(boxes: Tensor, name: str) -> None:
    if boxes.shape[-1:] != (4,):
        raise ValueError(f"{name} has shape {tuple(boxes.shape)}, but boxes are (..., 4): one row a box")


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Convert (..., 4) boxes from centre and size to corners.

    Raises:
        ValueError: if the last axis is not 4.
    """
    _check_last_axis(boxes_cxcywh, "boxes_cxcywh")
    cx, cy, w, h = boxes_cxcywh.unbind(-1)
    return torch.stack((cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h), dim=-1)


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """Convert (..., 4) boxes from corners to centre and size.

    Raises:
        ValueError: if the last axis is not 4.
    """
    _check_last_axis(boxes_xyxy, "boxes_xyxy")
    x0, y0, x1, y1 = boxes_xyxy.unbind(-1)
    return torch.stack(((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0), dim=-1)


def xywh_to_xyxy(boxes_xywh: Tensor) -> Tensor:
    """Convert (..., 4) boxes from COCO's corner and size to two corners.

    Raises:
        ValueError: if the last axis is not 4.
    """
    _check_last_axis(boxes_xywh, "boxes_xywh")
    x, y, w, h = boxes_xywh.unbind(-1)
    return torch.stack((x, y, x + w, y + h), dim=-1)


def xyxy_to_xywh(boxes_xyxy: Tensor) -> Tensor:
    """Convert (..., 4) boxes from two corners to COCO's corner and size.

    Raises:
        ValueError: if the last axis is not 4.
    """
    _check_last_axis(boxes_xyxy, "boxes_xyxy")
    x0, y0, x1, y1 = boxes_xyxy.unbind(-1)
    return torch.stack((x0, y0, x1 - x0, y1 - y0), dim=-1)


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Compute log(x / (1 - x)) with x clamped to [0, 1] and both parts kept above ``eps``.

    Refinement adds an offset in this space, so that a box moved by any amount still ends between 0 and 1
    (Deformable DETR, appendix A.3). The clamp keeps 0 and 1 finite: about -11.5 and 11.5.
    """
    x = x.clamp(min=0, max=1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def box_area(boxes_xyxy: Tensor) -> Tensor:
    """Compute the areas (...,) of (..., 4) corner boxes, in at least float32 or int32.

    Raises:
        ValueError: if the last axis is not 4.
    """
    _check_last_axis(boxes_xyxy, "boxes_xyxy")
    boxes = at_least_float32(boxes_xyxy)
    if not boxes.is_floating_point() and boxes.dtype not in (torch.int32, torch.int64):
        boxes = boxes.int()  # a product of 8- or 16-bit pixels would overflow
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _check_corners(boxes_xyxy: Tensor, name: str) -> None:
    _check_last_axis(boxes_xyxy, name)
    bad = ~(boxes_xyxy[..., 2:] >= boxes_xyxy[..., :2]).all(-1)  # NaN compares false and is caught here too
    if bad.any():
        row = int(bad.flatten().nonzero()[0])
        values = [round(v, 4) for v in boxes_xyxy.reshape(-1, 4)[row].tolist()]
        raise ValueError(
            f"{name}[{row}] = {values} is no corner box (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1. "
            "Centre boxes go through cxcywh_to_xyxy first, COCO's x, y, w, h through xywh_to_xyxy"
        )


def _ratio_or_zero(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide, giving 0 (and a zero gradient) where the denominator is 0: two boxes that are both points."""
    empty = denominator == 0
    return torch.where(empty, torch.zeros_like(numerator), numerator / denominator.masked_fill(empty, 1))


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return IoU, union, and the area of the smallest box around both, for broadcastable corner boxes."""
    size = (torch.min(a[..., 2:], b[..., 2:]) - torch.max(a[..., :2], b[..., :2])).clamp(min=0)
    intersection = size[..., 0] * size[..., 1]
    union = box_area(a) + box_area(b) - intersection
    hull = (torch.max(a[..., 2:], b[..., 2:]) - torch.min(a[..., :2], b[..., :2])).clamp(min=0)
    return _ratio_or_zero(intersection, union), union, hull[..., 0] * hull[..., 1]


def box_iou(boxes1_xyxy: Tensor, boxes2_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Compute intersection over union of every pair.

    Args:
        boxes1_xyxy: (N, 4) corner boxes, any frame.
        boxes2_xyxy: (M, 4) corner boxes in the same frame.

    Returns:
        The IoU (N, M) and the union's area (N, M). Two boxes without area have an IoU of 0.

    Raises:
        ValueError: if the last axis is not 4.
    """
    _check_last_axis(boxes1_xyxy, "boxes1_xyxy")
    _check_last_axis(boxes2_xyxy, "boxes2_xyxy")
    iou, union, _ = _overlap(at_least_float32(boxes1_xyxy)[:, None], at_least_float32(boxes2_xyxy)[None])
    return iou, union


def _generalized(a: Tensor, b: Tensor) -> Tensor:
    iou, union, hull = _overlap(at_least_float32(a), at_least_float32(b))
    return iou - _ratio_or_zero(hull - union, hull)


def generalized_box_iou(boxes1_xyxy: Tensor, boxes2_xyxy: Tensor) -> Tensor:
    """Compute the generalised IoU (Rezatofighi et al., 2019) of every pair.

    IoU minus the share of the hull (the smallest box around both) that neither box covers: it stays
    informative, down to -1, where boxes do not touch and the IoU is flat at 0.

    Args:
        boxes1_xyxy: (..., N, 4) corner boxes, any frame.
        boxes2_xyxy: (..., M, 4) corner boxes in the same frame.

    Returns:
        (..., N, M), between -1 and 1.

    Raises:
        ValueError: if a box has its corners the wrong way round or a NaN; the message has its row.
    """
    _check_corners(boxes1_xyxy, "boxes1_xyxy")
    _check_corners(boxes2_xyxy, "boxes2_xyxy")
    return _generalized(boxes1_xyxy[..., :, None, :], boxes2_xyxy[..., None, :, :])


def elementwise_generalized_box_iou(boxes1_xyxy: Tensor, boxes2_xyxy: Tensor) -> Tensor:
    """Compute the generalised IoU of box i with box i, for (N, 4) and (N, 4): the loss needs no other pair.

    Raises:
        ValueError: if the shapes differ, or a box has its corners the wrong way round or a NaN.
    """
    if boxes1_xyxy.shape != boxes2_xyxy.shape:
        raise ValueError(
            f"boxes1_xyxy has shape {tuple(boxes1_xyxy.shape)} and boxes2_xyxy {tuple(boxes2_xyxy.shape)}, "
            "but boxes are compared row by row: give equal shapes, or use generalized_box_iou for all pairs"
        )
    _check_corners(boxes1_xyxy, "boxes1_xyxy")
    _check_corners(boxes2_xyxy, "boxes2_xyxy")
    return _generalized(boxes1_xyxy, boxes2_xyxy)


def check_boxes_cxcywh(boxes_cxcywh: Tensor, name: str, slack: float = 0.01) -> None:
    """Refuse target boxes that are not (N, 4), finite, centre-and-size, and relative to the picture (0-1).

    Pixel boxes and corner boxes train a network silently to nothing, so they are named here instead.

    Args:
        boxes_cxcywh: what the caller handed in as normalised centre boxes.
        name: how the caller calls them, for the message, e.g. ``labels[2]["boxes"]``.
        slack: how far outside 0-1 a coordinate may lie (boxes at the rim round outwards).

    Raises:
        ValueError: naming the first bad row and what it looks like.
    """
    if boxes_cxcywh.ndim != 2 or boxes_cxcywh.shape[-1] != 4:
        raise ValueError(
            f"{name} has shape {tuple(boxes_cxcywh.shape)}, expected (N, 4); a picture without objects (0, 4)"
        )
    if not boxes_cxcywh.is_floating_point():
        raise ValueError(f"{name} has dtype {boxes_cxcywh.dtype}, expected a float tensor of relative cx, cy, w, h")
    fine = ((boxes_cxcywh >= -slack) & (boxes_cxcywh <= 1 + slack)).all(-1) & (boxes_cxcywh[:, 2:] >= 0).all(-1)
    if fine.all():
        return
    row = int((~fine).nonzero()[0])
    box = boxes_cxcywh[row]
    values = [round(v, 4) for v in box.tolist()]
    if not torch.isfinite(box).all():
        problem = "is not finite: look for a division by a zero width or height in your annotations"
    elif bool((box > 1 + slack).any()):
        problem = (
            "looks like pixels: divide x and w by the picture's width, y and h by its height (the processor does it)"
        )
    else:
        problem = "has a negative coordinate or size: corner boxes go through xyxy_to_cxcywh first"
    raise ValueError(f"{name}[{row}] = {values}, expected cx, cy, w, h between 0 and 1, but it {problem}")
