"""A picture with its detections drawn on, by Pillow alone: what the command line writes.

No matplotlib, no figure, no margins: the result is a picture as large as the one that came in, or a whole multiple
of it if that one was too small for legible words. Labels sit outside their boxes where there is room, keep off one
another, and are black or white, whichever reads better on the box's colour.

The colours are Okabe and Ito's, which readers with any common colour blindness tell apart. Label ``i`` always has
colour ``i`` modulo seven (their eighth, black, is kept for outlines and text).

Built in chapter 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ddetr_lab.image_inputs import to_rgb

__all__ = [
    "OKABE_ITO",
    "caption",
    "label_colour",
    "label_names",
    "numbers",
    "pixels_of",
    "render_detections",
    "text_colour",
]

# Okabe and Ito, "Color Universal Design" (2008), black left out.
OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
_LEGIBLE_SIDE = 480  # a picture whose longest side is shorter is enlarged before it is written on
_Rectangle = tuple[float, float, float, float]


def label_colour(label: int) -> str:
    """Return the colour of a label as ``#RRGGBB``; the same in every figure."""
    return OKABE_ITO[int(label) % len(OKABE_ITO)]


def text_colour(background: str) -> str:
    """Return ``black`` or ``white``, whichever has more contrast on ``#RRGGBB`` (WCAG's relative luminance)."""
    channels = np.array([int(background[i : i + 2], 16) for i in (1, 3, 5)]) / 255.0
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ (0.2126, 0.7152, 0.0722))
    # Contrast with white is 1.05 / (l + 0.05), with black (l + 0.05) / 0.05: they are equal at l = 0.179.
    return "black" if luminance > 0.179 else "white"


def caption(name: str, score: float | None) -> str:
    """Return what is written on a box: the name, the score with two decimals, either, or nothing."""
    return name if score is None else f"{name} {score:.2f}".strip()


def numbers(values: Any, name: str = "values") -> NDArray[np.float64]:
    """Bring a tensor on any device, an array or a list to float64 numpy, refusing NaN and infinity.

    Raises:
        ValueError: if a value is not finite.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().to("cpu", torch.float64).numpy()
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity, which cannot be drawn: look at where it came from")
    return array


def pixels_of(image: Any) -> NDArray[np.uint8]:
    """Bring a Pillow picture, (H, W), (H, W, 3) array or (3, H, W) tensor, 0-1 or 0-255, to (H, W, 3) uint8.

    Raises:
        ValueError: if the shape is another, or floats are outside 0-1, as in a normalised picture.
    """
    if isinstance(image, Image.Image):
        return np.asarray(to_rgb(image))
    array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=-1)  # (H, W, 3)
    if array.ndim == 3 and array.shape[-1] != 3 and array.shape[0] == 3:
        array = array.transpose(1, 2, 0)  # (H, W, 3)
    if array.ndim != 3 or array.shape[-1] != 3:
        raise ValueError(f"image has shape {array.shape}, expected (H, W), (H, W, 3) or (3, H, W)")
    if array.dtype.kind == "f":
        if not (array.min(initial=0.0) >= -0.01 and array.max(initial=1.0) <= 1.01):
            raise ValueError(
                f"image is a float array from {array.min():.2f} to {array.max():.2f}, expected 0 to 1: "
                "undo the normalisation first (times image_std, plus image_mean)"
            )
        array = array * 255.0
    return np.rint(array).clip(0, 255).astype(np.uint8)


def label_names(
    labels: Sequence[int | str] | Any | None, count: int, id2label: Mapping[int, str] | None = None
) -> tuple[list[str], list[str]]:
    """Name and colour ``count`` labels.

    Args:
        labels: integers, strings, a tensor or an array, or None for boxes without a name.
        count: how many there must be.
        id2label: label to name; a label that is not in it is written as its number.

    Returns:
        The names, and colours ``#RRGGBB``. A string has the colour of its place in ``id2label``, or of its first
        appearance.

    Raises:
        ValueError: if the number of labels is not ``count``.
    """
    if labels is None:
        return [""] * count, [OKABE_ITO[0]] * count
    listed = labels.tolist() if isinstance(labels, (torch.Tensor, np.ndarray)) else list(labels)
    if len(listed) != count:
        raise ValueError(f"labels has {len(listed)} entries, but there are {count} boxes")
    places = {name: label for label, name in (id2label or {}).items()}
    names, colours = [], []
    for label in listed:
        if isinstance(label, str):
            names.append(label)
            colours.append(label_colour(places.setdefault(label, len(places))))
        else:
            names.append(str((id2label or {}).get(int(label), int(label))))
            colours.append(label_colour(label))
    return names, colours


def render_detections(
    image: Image.Image,
    detections: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    id2label: Mapping[int, str] | None = None,
    threshold: float = 0.0,
    scale: int | None = None,
) -> Image.Image:
    """Draw detections on a copy of a picture.

    Args:
        image: Pillow picture of any mode.
        detections: one entry of the processor's ``post_process_object_detection``, ``{"scores": (N,), "labels": (N,),
            "boxes": (N, 4) xyxy in pixels}``; or a list of ``{"label", "score", "box": [x0, y0, x1, y1]}``, as
            ``ddetr-lab detect --json`` prints it.
        id2label: label to name.
        threshold: detections with a lower score are left out.
        scale: enlarge the picture so many times first. By default as often as needed to bring the longest side to
            480 pixels: a 160-pixel scene comes back three times as large.

    Returns:
        A new RGB picture; ``image`` is not changed.

    Raises:
        ValueError: if the entries do not fit together, a box is NaN, or ``scale`` is below 1.

    Built in chapter 1.
    """
    boxes, labels, scores = _columns(detections)
    names, colours = label_names(labels, len(boxes), id2label)
    scale = max(1, math.ceil(_LEGIBLE_SIDE / max(image.size))) if scale is None else scale
    if scale < 1:
        raise ValueError(f"scale = {scale}, expected 1 or more")
    picture = to_rgb(image)
    size = (picture.width * scale, picture.height * scale)
    picture = picture.copy() if scale == 1 else picture.resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    stroke = max(2, round(max(size) / 320))
    font = ImageFont.load_default(size=max(12.0, max(size) / 42))
    # The weakest first: where boxes cross, the surest is on top.
    order = [index for index in np.argsort(scores, kind="stable") if scores[index] >= threshold]
    outlines = {index: _clipped(boxes[index] * scale, size, stroke) for index in order}
    for index in order:
        x0, y0, x1, y1 = outlines[index]
        draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline="black", width=stroke + 2)
        draw.rectangle((x0, y0, x1, y1), outline=colours[index], width=stroke)
    # Words after all boxes, so that no line crosses them, and the surest choose their place first.
    placed: list[_Rectangle] = []
    for index in reversed(order):
        text = caption(names[index], float(scores[index]))
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        pad = stroke
        w, h = right - left + 2 * pad, bottom - top + 2 * pad
        x, y = _label_place(outlines[index], w, h, size, placed)
        placed.append((x, y, x + w, y + h))
        draw.rectangle((x, y, x + w - 1, y + h - 1), fill=colours[index])
        draw.text((x + pad - left, y + pad - top), text, fill=text_colour(colours[index]), font=font)
    return picture


def _columns(
    detections: Mapping[str, Any] | Sequence[Mapping[str, Any]],
) -> tuple[NDArray[np.float64], Any, NDArray[np.float64]]:
    """Bring both forms of detections to boxes (N, 4), labels (N,), as they came, and scores (N,)."""
    if isinstance(detections, Mapping):
        boxes, labels, scores = (detections[name] for name in ("boxes", "labels", "scores"))
    else:
        boxes = [entry["box"] for entry in detections]
        labels, scores = [entry["label"] for entry in detections], [entry["score"] for entry in detections]
    boxes, scores = numbers(boxes, "boxes"), numbers(scores, "scores")
    boxes = boxes.reshape(-1, 4) if boxes.size == 0 else boxes  # an empty list has no second axis
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != (len(boxes),):
        raise ValueError(f"boxes has shape {boxes.shape} and scores {scores.shape}, expected (N, 4) and (N,)")
    return boxes, labels, scores


def _clipped(box: NDArray[np.float64], size: tuple[int, int], stroke: int) -> _Rectangle:
    """Keep a box's line inside the picture, and its corners in order, which Pillow insists on."""
    x0, x1 = np.clip(sorted((box[0], box[2])), 0, size[0] - 1).round()
    y0, y1 = np.clip(sorted((box[1], box[3])), 0, size[1] - 1).round()
    return float(x0), float(y0), float(max(x1 - 1, x0)), float(max(y1 - 1, y0))


def _label_place(
    outline: _Rectangle, w: float, h: float, size: tuple[int, int], placed: Sequence[_Rectangle]
) -> tuple[float, float]:
    """Choose a corner for a (w, h) label: above its box, below, or inside, where it hides the fewest other labels."""
    x0, y0, x1, y1 = outline
    wishes = [(x0, y0 - h), (x1 - w, y0 - h), (x0, y1 + 1), (x1 - w, y1 + 1), (x0, y0), (x1 - w, y1 - h)]
    best, least = (0.0, 0.0), math.inf
    for rank, (wish_x, wish_y) in enumerate(wishes):
        x = min(max(wish_x, 0.0), max(0.0, size[0] - w))
        y = min(max(wish_y, 0.0), max(0.0, size[1] - h))
        hidden = sum(
            max(0.0, min(x + w, right) - max(x, left)) * max(0.0, min(y + h, bottom) - max(y, top))
            for left, top, right, bottom in placed
        )
        # Being pushed back into the picture covers the box itself: worse than a later wish that fits.
        cost = hidden + 0.5 * h * (abs(x - wish_x) + abs(y - wish_y)) + 0.01 * rank
        if cost < least:
            best, least = (x, y), cost
    return best
