"""Boxes against the pictures that they lie in: one by one, and what all of them together give away.

A file whose boxes are in another format is legal JSON, and trains, and never learns. No single box shows it; all of
them do. Read as [x, y, width, height], a good file's boxes end inside the picture. Where many do not, and the same
numbers read as two corners, or as middle and size, all fit, they were written as that.

Built in chapter 18.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ddetr_lab.data.findings import ValidationReport
from ddetr_lab.data.validate_entries import Box, ImageEntry

__all__ = ["check_box_format", "check_boxes"]

_SLACK = 1.0  # pixels that a box may reach out: tools round
_FEWEST = 3  # boxes from which their statistics mean anything
_FEWEST_ORDERED = 20  # boxes that all look like corners before that alone is suspicious
_MANY_OUTSIDE = 0.2
_NEARLY_ALL = 0.99


def check_boxes(image: ImageEntry, width: int, height: int, file: str, report: ValidationReport) -> None:
    """Check the boxes of one picture.

    Args:
        image: the picture's entry.
        width, height: of the picture in _px; 0 where nobody knows.
        file: the COCO file's name, for the findings.
        report: takes the findings and the sizes of boxes that have one.
    """
    seen: dict[tuple[object, ...], int | str] = {}
    for box in image.boxes:
        x, y, w, h = box.values
        text = f"bbox is [{x:g}, {y:g}, {w:g}, {h:g}]"
        place = (file, image.id, box.id)
        if w < 0 or h < 0:
            report.add("box-reversed", f"{text}: width or height is below 0", *place)
            continue
        if w == 0 or h == 0:
            report.add("box-empty", text, *place)
            continue
        report.sizes.append((w, h))
        if w < 1 or h < 1:
            report.add("box-tiny", text, *place)
        if width and height:
            if x >= width or y >= height or x + w <= 0 or y + h <= 0:
                report.add("box-outside", f"{text} in a picture of {width}x{height}", *place)
            elif min(x, y) < -_SLACK or x + w > width + _SLACK or y + h > height + _SLACK:
                report.add("box-overhang", f"{text} in a picture of {width}x{height}", *place)
        # An annotation's category may be anything that JSON can hold, lists too.
        key = (*box.values, repr(box.category_id))
        if key in seen:
            report.add("box-twice", f"{text}, as annotation {seen[key]}", *place)
        else:
            seen[key] = box.id


def check_box_format(boxes: Sequence[tuple[ImageEntry, Box, int, int]], file: str, report: ValidationReport) -> None:
    """Say what all boxes of a file look like if they do not look like [x, y, width, height] in pixels.

    Args:
        boxes: picture, box, and the picture's width and height in _px, where known.
        file: the COCO file's name, for the findings.
        report: takes the finding, which names the first picture and annotation that show it.
    """
    if len(boxes) < _FEWEST:
        return
    values = np.array([box.values for _, box, _, _ in boxes])
    sizes = np.array([(width, height) for _, _, width, height in boxes], dtype=np.float64)

    def note(kind: str, text: str, example: Any) -> None:
        image, box, _, _ = boxes[int(example.argmax())]
        report.add(kind, f"{text}; see for example this one", file, image.id, box.id)

    small = (np.abs(values) <= 1.5).all(axis=1) & (sizes > 8).all(axis=1)
    if small.mean() >= 0.9:
        note("boxes-normalised", f"{small.mean():.0%} of {len(boxes)} boxes have only numbers from 0 to 1", small)
        return
    with np.errstate(over="ignore"):  # numbers near the largest there is: their sum is infinite, and outside
        outside = (values[:, :2] + values[:, 2:] > sizes + _SLACK).any(axis=1)
    ordered = (values[:, 2:] > values[:, :2]).all(axis=1)
    as_corners = ordered & (values[:, 2:] <= sizes + _SLACK).all(axis=1)
    halves = values[:, 2:] / 2
    with np.errstate(over="ignore"):
        low, high = values[:, :2] - halves, values[:, :2] + halves
    as_middle = (low >= -_SLACK).all(axis=1) & (high <= sizes + _SLACK).all(axis=1)
    share = f"{outside.mean():.0%} of {len(boxes)} boxes end outside their pictures, read as [x, y, width, height]"
    if outside.mean() >= _MANY_OUTSIDE and as_corners.mean() >= _NEARLY_ALL:
        note("boxes-xyxy", f"{share}; read as two corners, {as_corners.mean():.0%} fit", outside)
    elif outside.mean() >= _MANY_OUTSIDE and as_middle.mean() >= _NEARLY_ALL:
        note("boxes-cxcywh", f"{share}; read as middle and size, {as_middle.mean():.0%} fit", outside)
    elif len(boxes) >= _FEWEST_ORDERED and as_corners.all():
        note("boxes-maybe-xyxy", f"in all {len(boxes)} boxes the last two numbers are above the first two", ordered)
