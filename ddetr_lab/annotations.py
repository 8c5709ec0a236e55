"""COCO annotations in, targets for the loss out: boxes, labels, masks, keypoints.

COCO writes a box as (left, top, width, height) in pixels of the file. It becomes corners, is clipped to the picture,
follows the picture through the resize, and ends as centre and size in 0-1: always of the picture before padding.

Built in chapter 2.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ddetr_lab.advice import warn_once
from ddetr_lab.choices import Choice
from ddetr_lab.image_inputs import ChannelDimension
from ddetr_lab.image_transforms import resize

__all__ = [
    "AnnotionFormat",
    "check_annotations",
    "convert_coco_poly_to_mask",
    "masks_to_boxes",
    "normalize_annotation",
    "prepare_coco_detection_annotation",
    "prepare_coco_panoptic_annotation",
    "read_annotations",
    "resize_annotation",
]


class AnnotionFormat(Choice):
    """The two COCO formats. The name is spelt as in the reference, whose users import it."""

    COCO_DETECTION = "coco_detection"
    COCO_PANOPTIC = "coco_panoptic"


_NEEDED = {
    AnnotionFormat.COCO_DETECTION: ("annotations", ("image_id", "annotations")),
    AnnotionFormat.COCO_PANOPTIC: ("segments_info", ("image_id", "file_name", "segments_info")),
}


def check_annotations(annotations: Sequence[Any], format: AnnotionFormat) -> None:
    """Raise ValueError, saying which picture, unless each annotation is a dict of the format with a list of dicts."""
    objects_key, keys = _NEEDED[format]
    for i, annotation in enumerate(annotations):
        if not isinstance(annotation, Mapping):
            raise ValueError(
                f"annotations[{i}] has type {type(annotation).__name__}: expected one dict a picture with the keys "
                f"{list(keys)} (format {format.value})"
            )
        missing = [key for key in keys if key not in annotation]
        if missing:
            raise ValueError(
                f"annotations[{i}] has the keys {sorted(map(str, annotation))} and lacks {missing}: "
                f"expected {list(keys)} (format {format.value})"
            )
        objects = annotation[objects_key]
        if not isinstance(objects, (list, tuple)) or not all(isinstance(item, Mapping) for item in objects):
            raise ValueError(
                f"annotations[{i}][{objects_key!r}] is not a list of dicts: expected one dict an object, "
                "an empty list for a picture without objects"
            )


def read_annotations(
    annotations: Any, pictures: int, format: AnnotionFormat, masks_path: str | os.PathLike[str] | None
) -> Sequence[Mapping[str, Any]] | None:
    """Return the annotations as a list of one dict a picture, or raise ValueError."""
    if annotations is None:
        return None
    if isinstance(annotations, Mapping):
        annotations = [annotations]
    if not isinstance(annotations, (list, tuple)) or len(annotations) != pictures:
        what = f"{len(annotations)} of them" if hasattr(annotations, "__len__") else type(annotations).__name__
        raise ValueError(f"annotations: expected a list of {pictures} dicts, one a picture, but got {what}")
    check_annotations(annotations, format)
    if format is AnnotionFormat.COCO_PANOPTIC and not isinstance(masks_path, (str, os.PathLike, type(None))):
        raise ValueError(
            f"masks_path has type {type(masks_path).__name__}: expected the folder of the panoptic PNG files"
        )
    return annotations


def _column(objects: Mapping[int, Mapping[str, Any]], key: str, list_name: str) -> list[Any]:
    """Return ``key`` of each object; ``objects`` are numbered as in the file, for the error's sake."""
    for i, item in objects.items():
        if key not in item:
            raise KeyError(f"{list_name}[{i}] has no {key!r}; it has {sorted(map(str, item))}")
    return [item[key] for item in objects.values()]


def _integers(values: list[Any], name: str) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=np.int64)
        exact = bool(np.all(array == np.asarray(values, dtype=np.float64)))
    except (ValueError, TypeError, OverflowError):
        exact = False
    if not exact:
        raise ValueError(f"{name} is {values!r}: expected whole numbers")
    return array


def _boxes_xywh(objects: Mapping[int, Mapping[str, Any]]) -> np.ndarray:
    boxes = _column(objects, "bbox", "annotations")
    for i, box in zip(objects, boxes, strict=True):
        if np.shape(box) != (4,) or not np.isfinite(np.asarray(box, dtype=np.float64)).all():
            raise ValueError(f"annotations[{i}]['bbox'] is {box!r}: expected four finite numbers [x, y, width, height]")
    return np.asarray(boxes, dtype=np.float32).reshape(-1, 4)  # (N, 4), also for N = 0


def prepare_coco_detection_annotation(
    image_size: tuple[int, int], target: Mapping[str, Any], return_segmentation_masks: bool = False
) -> dict[str, np.ndarray]:
    """Turn one picture's COCO detection annotation into arrays.

    Crowds are left out. Boxes are clipped to the picture, and a box with no width or height left is dropped with
    everything that belongs to it.

    Args:
        image_size: (height, width) of the picture that the boxes refer to, in pixels.
        target: ``image_id`` and ``annotations``, a list of dicts with ``bbox`` [x, y, width, height] in pixels,
            ``category_id``, ``area``, and perhaps ``iscrowd``, ``segmentation``, ``keypoints``.
        return_segmentation_masks: whether to draw ``segmentation`` into masks.

    Returns:
        image_id (1,), class_labels (N,), iscrowd (N,), orig_size (2,), all int64; boxes (N, 4) float32 xyxy _px;
        area (N,) float32; keypoints (N * keypoints, 3) float32 (x, y, visibility) _px if the first object has any
        (they stay in pixels of the original picture); masks (N, H, W) bool, or uint8 (0, H, W) if there are no
        objects.

    Raises:
        KeyError: if an object lacks a key.
        ValueError: if a value is of the wrong kind; the message says which object.

    Source: the reference's function of this name. It fails on more than one keypoint an object. Built in chapter 2.
    """
    height, width = image_size
    objects = {i: item for i, item in enumerate(target["annotations"]) if item.get("iscrowd", 0) == 0}
    labels = _integers(_column(objects, "category_id", "annotations"), "category_id")
    area = np.asarray(_column(objects, "area", "annotations"), dtype=np.float32)
    iscrowd = np.zeros(len(objects), dtype=np.int64)
    boxes = _boxes_xywh(objects)
    boxes[:, 2:] += boxes[:, :2]
    boxes[:, 0::2] = boxes[:, 0::2].clip(0, width)
    boxes[:, 1::2] = boxes[:, 1::2].clip(0, height)
    keep = (boxes[:, 3] > boxes[:, 1]) & (boxes[:, 2] > boxes[:, 0])
    if not keep.all():
        warn_once(__name__, "boxes with no area inside their picture are dropped (this is said once)")

    prepared = {
        "image_id": _integers([_image_id(target)], "image_id"),
        "class_labels": labels[keep],
        "boxes": boxes[keep],
        "area": area[keep],
        "iscrowd": iscrowd[keep],
        "orig_size": np.asarray([height, width], dtype=np.int64),
    }
    if objects and "keypoints" in next(iter(objects.values())):
        prepared["keypoints"] = _keypoints(_column(objects, "keypoints", "annotations"))[keep].reshape(-1, 3)
    if return_segmentation_masks:
        segmentations = _column(objects, "segmentation", "annotations")
        prepared["masks"] = convert_coco_poly_to_mask(segmentations, height, width)[keep]
    return prepared


def _keypoints(values: list[Any]) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float32).reshape(len(values), -1, 3)  # (N, keypoints, 3)
    except ValueError as error:
        counts = sorted({int(np.size(value)) for value in values})
        raise ValueError(
            f"the objects' 'keypoints' have {counts} numbers: expected x, y and visibility, as many for every object"
        ) from error


def _image_id(target: Mapping[str, Any]) -> Any:
    for key in ("image_id", "id"):
        if key in target:
            return target[key]
    raise KeyError(f"the annotation has no 'image_id'; it has {sorted(map(str, target))}")


def convert_coco_poly_to_mask(segmentations: Sequence[Any], height: int, width: int) -> np.ndarray:
    """Draw COCO polygons, or run lengths, into masks.

    Args:
        segmentations: one an object: a list of polygons [x0, y0, x1, y1, ...] in pixels, or a run-length dict.
        height: of the masks.
        width: of the masks.

    Returns:
        (N, height, width) bool; uint8 if N = 0, as in the reference.

    Raises:
        ImportError: if pycocotools is missing.
        ValueError: if an object has no polygon, or one that is not pairs of coordinates.
    """
    try:
        from pycocotools import mask as coco_mask
    except ImportError as error:
        raise ImportError("masks from polygons need pycocotools: pip install pycocotools") from error
    masks = []
    for i, segmentation in enumerate(segmentations):
        if isinstance(segmentation, Mapping):
            packed = isinstance(segmentation.get("counts"), (str, bytes))
            runs = segmentation if packed else coco_mask.frPyObjects(dict(segmentation), height, width)
        else:
            runs = coco_mask.merge(coco_mask.frPyObjects(_polygons(segmentation, i), height, width))
        with warnings.catch_warnings():
            # Its arrays lack the copy keyword of numpy 2, about which numpy warns.
            warnings.simplefilter("ignore", DeprecationWarning)
            mask = np.asarray(coco_mask.decode(runs), dtype=bool)
        if mask.shape != (height, width):
            raise ValueError(f"segmentation {i} is {mask.shape[0]} x {mask.shape[1]}, the picture {height} x {width}")
        masks.append(mask)
    return np.stack(masks) if masks else np.zeros((0, height, width), dtype=np.uint8)


def _polygons(segmentation: Any, i: int) -> list[list[float]]:
    try:
        polygons = [[float(value) for value in polygon] for polygon in segmentation]
    except (TypeError, ValueError):
        polygons = []
    lengths = {len(polygon) for polygon in polygons}
    if not lengths or any(n < 6 or n % 2 for n in lengths):
        raise ValueError(
            f"segmentation {i} is {str(segmentation)[:80]}: expected a list of polygons [x0, y0, x1, y1, x2, y2, ...]"
        )
    return polygons


def masks_to_boxes(masks: np.ndarray) -> np.ndarray:
    """Find the (N, 4) xyxy boxes around (N, H, W) masks: indices of the first and last pixel, without + 1.

    Returns:
        float32; float64 if there is no mask, as in the reference.

    Raises:
        ValueError: if a mask has no pixel.
    """
    if masks.size == 0:
        return np.zeros((0, 4))
    edges = []
    for axis in (1, 2):  # what remains of (N, H, W) is columns, then rows
        hit = np.any(masks, axis=axis)
        if not hit.any(axis=1).all():
            raise ValueError(f"mask {int(np.argmin(hit.any(axis=1)))} has no pixel, so no box is around it")
        edges.append((hit.argmax(axis=1), hit.shape[1] - 1 - hit[:, ::-1].argmax(axis=1)))
    (x0, x1), (y0, y1) = edges
    return np.stack([x0, y0, x1, y1], axis=1).astype(np.float32)


def prepare_coco_panoptic_annotation(
    image_size: tuple[int, int],
    target: Mapping[str, Any],
    masks_path: str | os.PathLike[str] | None,
    return_masks: bool = True,
) -> dict[str, np.ndarray]:
    """Turn one picture's COCO panoptic annotation into arrays; the masks are read from a PNG file.

    Args:
        image_size: (height, width) of the picture, in pixels.
        target: ``image_id`` (or ``id``), ``file_name`` of the PNG, and ``segments_info``, a list of dicts with ``id``,
            ``category_id``, ``iscrowd`` and ``area``. A pixel belongs to segment red + 256 green + 65536 blue.
        masks_path: the folder of the PNG files.
        return_masks: whether to return the masks, or only the boxes around them.

    Returns:
        image_id (1,), size (2,), orig_size (2,), class_labels (N,), iscrowd (N,), all int64; masks (N, H, W) uint8;
        boxes (N, 4) float32 xyxy _px; area (N,) float32. Crowds stay in. Without ``segments_info`` the first three.

    Raises:
        FileNotFoundError: if the PNG is missing.
        KeyError: if a segment lacks a key.
        ValueError: if the PNG has another size than the picture, no colours, or no pixel of a segment.
        TypeError: if ``masks_path`` is not a path.

    Source: the reference's function of this name. Built in chapter 2.
    """
    if not isinstance(masks_path, (str, os.PathLike)):
        raise TypeError(f"masks_path is {masks_path!r}: panoptic annotations need the folder of their PNG files")
    height, width = image_size
    prepared = {
        "image_id": _integers([_image_id(target)], "image_id"),
        "size": np.asarray([height, width], dtype=np.int64),
        "orig_size": np.asarray([height, width], dtype=np.int64),
    }
    if "segments_info" not in target:
        return prepared
    segments = dict(enumerate(target["segments_info"]))
    path = Path(masks_path) / target["file_name"]
    segment_of_pixel = _segment_ids(path)
    if segment_of_pixel.shape != (height, width):
        found = " x ".join(map(str, segment_of_pixel.shape))
        raise ValueError(f"{path} is {found} pixels, but its picture is {height} x {width}: they must be equal")
    ids = _integers(_column(segments, "id", "segments_info"), "id")
    masks = (segment_of_pixel == ids[:, None, None]).astype(np.uint8)  # (N, H, W)
    for i, mask in enumerate(masks):
        if not mask.any():
            raise ValueError(f"segments_info[{i}]['id'] = {ids[i]} has no pixel in {path}: wrong file or wrong id")
    if return_masks:
        prepared["masks"] = masks
    prepared["boxes"] = masks_to_boxes(masks)
    prepared["class_labels"] = _integers(_column(segments, "category_id", "segments_info"), "category_id")
    prepared["iscrowd"] = _integers(_column(segments, "iscrowd", "segments_info"), "iscrowd")
    prepared["area"] = np.asarray(_column(segments, "area", "segments_info"), dtype=np.float32)
    return prepared


def _segment_ids(path: Path) -> np.ndarray:
    """Read a panoptic PNG as (H, W) segment ids in uint32: three bytes a pixel."""
    if not path.is_file():
        raise FileNotFoundError(f"no mask file {path}: masks_path must be the folder that holds the PNG files")
    try:
        with Image.open(path) as png:
            if png.mode not in ("RGB", "RGBA", "P"):
                raise ValueError(f"{path} has mode {png.mode}: a panoptic PNG codes its segments in RGB colours")
            rgb = np.asarray(png.convert("RGB"), dtype=np.uint32)  # (H, W, 3)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not a picture") from error
    except OSError as error:
        raise ValueError(f"{path} is truncated or damaged ({error})") from error
    return rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]


def resize_annotation(
    annotation: Mapping[str, Any],
    orig_size: tuple[int, int],
    target_size: tuple[int, int],
    threshold: float = 0.5,
    resample: int = Image.Resampling.NEAREST,
) -> dict[str, Any]:
    """Carry a target along when its picture is resized.

    Args:
        annotation: what a ``prepare_`` function returned.
        orig_size: (height, width) before.
        target_size: (height, width) after; becomes ``size``, which stands first in the result.
        threshold: a resized mask pixel counts if it is above this.
        resample: Pillow filter for the masks.

    Returns:
        a new dict: boxes and area scaled, masks (N, H, W) bool by Pillow's rule, everything else (also keypoints)
        as it was.

    Source: the reference's function of this name. It fails on masks of a picture without objects. Chapter 2.
    """
    ratio_height, ratio_width = (float(new) / float(old) for new, old in zip(target_size, orig_size, strict=True))
    resized: dict[str, Any] = {"size": target_size}
    for key, value in annotation.items():
        if key == "boxes":
            value = value * np.asarray([ratio_width, ratio_height, ratio_width, ratio_height], dtype=np.float32)
        elif key == "area":
            value = value * (ratio_width * ratio_height)
        elif key == "masks":
            masks = np.zeros((len(value), *target_size), dtype=bool)
            for mask, drawn in zip(value, masks, strict=True):
                drawn[:] = np.asarray(resize(mask[None], target_size, resample, ChannelDimension.FIRST))[0] > threshold
            value = masks
        elif key == "size":
            value = target_size
        resized[key] = value
    return resized


def normalize_annotation(annotation: Mapping[str, Any], image_size: tuple[int, int]) -> dict[str, Any]:
    """Turn ``boxes`` from xyxy _px into cxcywh _norm; everything else stays as it was.

    Args:
        annotation: a target with boxes (N, 4) in pixels of a picture of ``image_size``.
        image_size: (height, width) of the unpadded picture.

    Source: the reference's function of this name. Built in chapter 2.
    """
    height, width = image_size
    normalized = dict(annotation)
    if "boxes" in normalized:
        x0, y0, x1, y1 = normalized["boxes"].T
        boxes = np.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], axis=-1)
        normalized["boxes"] = boxes / np.asarray([width, height, width, height], dtype=np.float32)
    return normalized
