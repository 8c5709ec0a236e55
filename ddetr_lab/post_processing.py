"""Pictures out: the network's logits and boxes become scored, labelled boxes in pixels.

Deformable DETR scores every label of every query on its own (a sigmoid, not a softmax), so one query may yield two
detections with different labels: the ranking runs over queries times labels.

Built in chapter 15.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ddetr_lab.boxes import at_least_float32, cxcywh_to_xyxy

__all__ = ["post_process", "post_process_object_detection"]


def _logits_and_boxes(outputs: Any) -> tuple[Tensor, Tensor]:
    """Return logits (B, Q, K) and boxes (B, Q, 4), at least float32, or say why they cannot be ranked."""
    logits, boxes = outputs.logits, outputs.pred_boxes
    if logits.ndim != 3 or boxes.shape != (*logits.shape[:2], 4):
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and pred_boxes {tuple(boxes.shape)}: "
            "expected (B, Q, K) and (B, Q, 4) with equal B and Q"
        )
    for name, bad in (("logits", logits.isnan()), ("pred_boxes", ~boxes.isfinite())):
        if bad.any():
            picture, query, _ = bad.nonzero()[0].tolist()
            raise ValueError(
                f"{name} of picture {picture}, query {query} hold NaN or infinity: nothing can be ranked. Look for NaN "
                "in the weights (a diverged training?) and in pixel_values"
            )
    return at_least_float32(logits), at_least_float32(boxes)


def _number(value: Any) -> float:
    """Return a number as Python's; text is none, though ``float`` would read it."""
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{value!r} is text, expected a number")
    return float(value)


def _scale(target_sizes: Any, pictures: int, device: torch.device) -> Tensor:
    """Return (B, 1, 4) factors (w, h, w, h) out of (h, w) sizes."""
    # float32 for a list, as in the reference; a tensor keeps its dtype, and a float64 one makes float64 boxes.
    if isinstance(target_sizes, Tensor):
        sizes = target_sizes
    else:
        try:
            rows = [tuple(map(_number, () if isinstance(size, (str, bytes)) else size)) for size in target_sizes]
        except (TypeError, ValueError, OverflowError, RuntimeError):
            rows = [()]
        if any(len(row) != 2 for row in rows):
            raise ValueError(f"target_sizes is {target_sizes!r}: expected one (height, width) a picture, two numbers")
        sizes = torch.tensor(rows, dtype=torch.float32).reshape(-1, 2)  # (B, 2), also for B = 0
    if tuple(sizes.shape) != (pictures, 2):
        raise ValueError(
            f"target_sizes has shape {tuple(sizes.shape)}, but the outputs hold {pictures} pictures: "
            f"expected ({pictures}, 2), one (height, width) a picture"
        )
    bad = ~((sizes > 0) & sizes.isfinite())
    if bad.any():
        picture = int(bad.nonzero()[0, 0])
        raise ValueError(
            f"target_sizes[{picture}] is {tuple(sizes[picture].tolist())}: expected the picture's (height, width) in "
            "pixels, finite numbers above 0"
        )
    heights, widths = sizes.to(device).unbind(1)
    return torch.stack([widths, heights, widths, heights], dim=1)[:, None, :]  # (B, 1, 4)


def _best(outputs: Any, top_k: int, target_sizes: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Rank queries times labels: scores (B, k) falling, labels (B, k), boxes (B, k, 4) xyxy."""
    logits, boxes = _logits_and_boxes(outputs)
    if top_k < 0:
        raise ValueError(f"top_k is {top_k}: expected how many detections to keep a picture, 0 or more")
    labels_in_all = logits.shape[2]
    flat = logits.sigmoid().flatten(1)  # (B, Q * K)
    scores, index = flat.topk(min(top_k, flat.shape[1]), dim=1)
    query, labels = (index // labels_in_all, index % labels_in_all) if labels_in_all else (index, index)
    boxes = cxcywh_to_xyxy(boxes).gather(1, query[..., None].expand(-1, -1, 4))
    if target_sizes is not None:
        boxes = boxes * _scale(target_sizes, len(logits), boxes.device)
    return scores, labels, boxes


def _is_number(value: Any) -> bool:
    """Tell whether a value is one real number: Python's, numpy's, or a tensor of one."""
    return isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex())


def post_process_object_detection(
    outputs: Any,
    threshold: float = 0.5,
    target_sizes: Tensor | Sequence[Sequence[int]] | None = None,
    top_k: int = 100,
) -> list[dict[str, Tensor]]:
    """Turn raw outputs into detections.

    Args:
        outputs: has ``logits`` (B, Q, K) and ``pred_boxes`` (B, Q, 4) cxcywh _norm.
        threshold: a detection is kept if its score is above this, not equal.
        target_sizes: (B, 2) tensor or list of (height, width): the pictures as the boxes shall fit them, in pixels.
            None leaves the boxes relative.
        top_k: at most so many detections a picture, before the threshold.

    Returns:
        for each picture a dict, best first: scores (n,) float32, labels (n,) int64, boxes (n, 4) xyxy, in _px, or in
        _norm without ``target_sizes`` (where the reference crashes). Boxes are not clipped to the picture.

    Raises:
        ValueError: if shapes do not fit, ``top_k`` is negative, ``threshold`` is no finite number, a size is not
            finite and above 0, or logits or boxes hold NaN.

    Source: the reference's method of this name. Built in chapter 15.
    """
    if not (_is_number(threshold) and math.isfinite(threshold)):
        raise ValueError(f"threshold is {threshold!r}: expected a finite number, such as 0.5; 0.0 keeps every score")
    return [
        {"scores": scores[scores > threshold], "labels": labels[scores > threshold], "boxes": boxes[scores > threshold]}
        for scores, labels, boxes in zip(*_best(outputs, top_k, target_sizes), strict=True)
    ]


def post_process(outputs: Any, target_sizes: Tensor | Sequence[Sequence[int]]) -> list[dict[str, Tensor]]:
    """Return the 100 best detections of each picture, whatever their score: the reference's older method.

    Args:
        outputs: see :func:`post_process_object_detection`.
        target_sizes: (B, 2), (height, width) in pixels.

    Raises:
        ValueError: see :func:`post_process_object_detection`.
    """
    return [
        {"scores": scores, "labels": labels, "boxes": boxes}
        for scores, labels, boxes in zip(*_best(outputs, 100, target_sizes), strict=True)
    ]
