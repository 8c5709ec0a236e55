"""A COCO file as arrays: read once, checked entry by entry, small enough for all of COCO.

COCO's own training file is mostly outlines of objects, and as Python objects it would fill the memory of every worker
process anew. Outlines are dropped while the file is parsed, and boxes go into arrays, which processes share. Of a file
like COCO's (118,000 pictures, 860,000 boxes, 470 MB) opening holds 1.0 GB at most, where Python's json alone holds 2.7,
and takes no longer: ``python -m tests.faults.coco_size`` measures it.

Built in chapter 18.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from ddetr_lab.data.labels import LabelMap

__all__ = ["CocoTable", "is_integer", "is_number", "read_json", "read_table", "short"]

_LARGEST_ID = 2**63 - 1
_NOT_READ = ("segmentation", "keypoints")


@dataclass(frozen=True)
class CocoTable:
    """Pictures and boxes of a COCO file, the boxes in the order of their pictures.

    Attributes:
        label_map: of the categories.
        image_ids: (N,) int64.
        file_names: N of them.
        sizes: (N, 2) int64 width and height in _px; 0 where the file does not say.
        offsets: (N + 1,) int64: the boxes of picture i are those from ``offsets[i]`` to ``offsets[i + 1]``.
        boxes: (A, 4) float64 xywh in _px.
        labels: (A,) int64.
        areas: (A,) float64, of the object if the file says, else of the box.
        crowds: (A,) bool.
        annotation_ids: (A,) int64; where the file gives none, the entry's place in it, counted from 1.
    """

    label_map: LabelMap
    image_ids: NDArray[np.int64]
    file_names: list[str]
    sizes: NDArray[np.int64]
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    areas: NDArray[np.float64]
    crowds: NDArray[np.bool_]
    annotation_ids: NDArray[np.int64]

    def annotations(self, index: int) -> list[dict[str, Any]]:
        """Return the annotations of picture ``index``, as dictionaries with labels for category ids."""
        part = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        image_id = int(self.image_ids[index])
        columns = (self.annotation_ids, self.boxes, self.labels, self.areas, self.crowds)
        return [
            {
                "id": id_,
                "image_id": image_id,
                "bbox": box,
                "category_id": label,
                "area": area,
                "iscrowd": int(crowd),
            }
            for id_, box, label, area, crowd in zip(*(column[part].tolist() for column in columns), strict=True)
        ]


def is_integer(value: Any) -> TypeGuard[int]:
    """Tell a whole number that an array can hold from everything else that JSON may hold."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST_ID


def is_number(value: Any) -> TypeGuard[float]:
    """Tell a finite number from everything else that JSON may hold, NaN and Infinity too."""
    return is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def read_json(path: Path, twice: Counter[str] | None = None) -> Any:
    """Parse a JSON file, leaving out the outlines of objects.

    Args:
        path: of the file.
        twice: counts the keys that stand more than once in one object, of which JSON keeps the last, silently.

    Raises:
        ValueError: if it is no JSON; the message says where it breaks off.
    """

    def without_outlines(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entry = dict(pairs)
        if twice is not None and len(entry) < len(pairs):
            twice.update(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        for key in _NOT_READ:
            entry.pop(key, None)
        return entry

    try:
        # With a byte order mark or without: some Windows programs write one.
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=without_outlines)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def read_table(path: Path, contiguous: bool = True) -> CocoTable:
    """Read a COCO file.

    Args:
        path: of the file.
        contiguous: number the categories 0 to K-1; see :meth:`LabelMap.from_categories`.

    Raises:
        ValueError: if it is no COCO file, or contradicts itself; the message names the first entry that does.
    """
    content = read_json(path)
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in lists):
        raise ValueError(f"{path} is not a COCO detection file: it needs the lists {', '.join(lists)}")
    try:
        label_map = LabelMap.from_categories(content["categories"], contiguous)
        places, sizes = _images(content["images"])
        columns = _annotations(content["annotations"], places, label_map)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    order = np.argsort(columns["picture"], kind="stable")  # within a picture, the order of the file
    return CocoTable(
        label_map=label_map,
        image_ids=np.array(list(places), dtype=np.int64),
        file_names=[entry["file_name"] for entry in content["images"]],
        sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
        offsets=np.searchsorted(columns["picture"][order], np.arange(len(places) + 1)).astype(np.int64),
        boxes=columns["box"][order],
        labels=columns["label"][order],
        areas=columns["area"][order],
        crowds=columns["crowd"][order],
        annotation_ids=columns["id"][order],
    )


def _images(entries: list[Any]) -> tuple[dict[int, int], list[tuple[int, int]]]:
    """Return each picture's place by its id, in the order of the file, and the sizes."""
    places: dict[int, int] = {}
    sizes = []
    for position, entry in enumerate(entries):
        where = f"images[{position}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
            raise ValueError(f"{where} has no file_name, got {short(entry)}")
        if not is_integer(entry.get("id")):
            raise ValueError(f"{where} needs an integer id, got {short(entry)}")
        if entry["id"] in places:
            raise ValueError(f"{where} has the id {entry['id']} of an entry before it")
        places[entry["id"]] = position
        size = (entry.get("width") or 0, entry.get("height") or 0)
        if not all(is_integer(side) and side >= 0 for side in size):
            raise ValueError(f"{where} has width and height {size}, expected whole numbers of pixels")
        sizes.append(size)
    return places, sizes


def _annotations(entries: list[Any], places: Mapping[int, int], label_map: LabelMap) -> dict[str, NDArray[Any]]:
    """Check every annotation, and return a column for each of its fields."""
    count = len(entries)
    columns: dict[str, NDArray[Any]] = {
        "id": np.arange(1, count + 1, dtype=np.int64),
        "picture": np.empty(count, dtype=np.int64),
        "label": np.empty(count, dtype=np.int64),
        "box": np.empty((count, 4), dtype=np.float64),
        "area": np.empty(count, dtype=np.float64),
        "crowd": np.zeros(count, dtype=np.bool_),
    }
    for position, entry in enumerate(entries):
        where = f"annotations[{position}]"
        if not isinstance(entry, dict) or not {"image_id", "category_id", "bbox"} <= entry.keys():
            raise ValueError(f"{where} needs the keys image_id, category_id and bbox, got {short(entry)}")
        image_id, category_id, bbox = entry["image_id"], entry["category_id"], entry["bbox"]
        if not is_integer(image_id) or image_id not in places:
            raise ValueError(f"{where} has image_id {short(image_id)}, which no entry of images has")
        if not is_integer(category_id) or category_id not in label_map.label_of:
            known = short(sorted(label_map.label_of))
            raise ValueError(f"{where} has category_id {short(category_id)}, but the categories are {known}")
        if not isinstance(bbox, list) or len(bbox) != 4 or not all(is_number(side) for side in bbox):
            raise ValueError(
                f"{where} has bbox {short(bbox)}, expected four finite numbers [x, y, width, height] in pixels"
            )
        area = entry.get("area")
        if area is not None and not is_number(area):
            raise ValueError(f"{where} has area {short(area)}, expected a finite number of pixels")
        crowd = entry.get("iscrowd")
        if crowd not in (None, 0, 1):
            raise ValueError(f"{where} has iscrowd {short(crowd)}, expected 0 or 1")
        if is_integer(entry.get("id")):
            columns["id"][position] = entry["id"]
        columns["picture"][position] = places[image_id]
        columns["label"][position] = label_map.label_of[category_id]
        columns["box"][position] = bbox
        columns["area"][position] = float(bbox[2]) * float(bbox[3]) if area is None else area
        columns["crowd"][position] = bool(crowd)
    return columns


def short(value: Any) -> str:
    """Write any value in at most 80 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # whole numbers of more digits than Python writes; lists in lists in lists
        return f"a {type(value).__name__} too large to write"
    return text if len(text) <= 80 else text[:77] + "..."
