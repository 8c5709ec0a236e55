"""What a COCO file says, checked entry by entry, whatever JSON stands where an entry should.

Nothing here opens a picture. Every check tolerates every value: a string for an id, a list for a number, no entry at
all. What remains usable is handed on as ``Content``.

Built in chapter 18.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ddetr_lab.data.coco_table import is_integer, is_number, short
from ddetr_lab.data.findings import ValidationReport

__all__ = ["Box", "Content", "ImageEntry", "check_content"]


@dataclass
class ImageEntry:
    """A usable entry of a picture: its id, its file, its size (0 where the file does not say), its boxes."""

    id: int
    file_name: str
    width: int = 0
    height: int = 0
    boxes: list[Box] = field(default_factory=list)


@dataclass(frozen=True)
class Box:
    """Four finite numbers that stand as a bbox, and whose they are."""

    id: int | str
    values: tuple[float, float, float, float]
    category_id: Any
    crowd: bool


@dataclass
class Content:
    """What is usable of a COCO file."""

    names: dict[int, str] = field(default_factory=dict)
    images: list[ImageEntry] = field(default_factory=list)


def check_content(content: Any, file: str, report: ValidationReport) -> Content:
    """Check a COCO file that was parsed, and return what is usable of it.

    Args:
        content: whatever the JSON file held.
        file: its name, for the findings.
        report: takes the findings, and counts.
    """
    found = Content()
    lists = {}
    for key in ("images", "annotations", "categories"):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            report.add("not-coco", f"{key} is {short(entries)}, expected a list", file)
            entries = []
        lists[key] = entries
    if isinstance(content, dict):
        for key, kind in (("images", "no-pictures"), ("annotations", "no-boxes"), ("categories", "no-categories")):
            if content.get(key) == []:
                report.add(kind, f"the list {key} is empty", file)
    _categories(lists["categories"], file, report, found)
    by_id = _images(lists["images"], file, report, found)
    _annotations(lists["annotations"], file, report, found, by_id)
    report.pictures += len(lists["images"])
    report.boxes += len(lists["annotations"])
    return found


def _categories(entries: list[Any], file: str, report: ValidationReport, found: Content) -> None:
    by_name: dict[str, int] = {}
    for position, entry in enumerate(entries):
        where = f"categories[{position}]"
        if not isinstance(entry, dict):
            report.add("category-entry", f"{where} is {short(entry)}", file)
            continue
        id_, name = entry.get("id"), entry.get("name")
        if not is_integer(id_):
            report.add("category-id", f"{where} has the id {short(id_)}", file)
            continue
        if id_ in found.names:
            report.add("category-twice", f"{where} has the id {id_} of an entry before it", file)
            continue
        if not isinstance(name, str) or not name.strip():
            report.add("category-name", f"category {id_} has the name {short(name)}", file)
            name = str(id_)
        elif by_name.setdefault(name.strip().casefold(), id_) != id_:
            report.add("category-same-name", f"categories {by_name[name.strip().casefold()]} and {id_}: {name!r}", file)
        found.names[id_] = name
    if found.names:
        low, high = min(found.names), max(found.names)
        if high - low + 1 != len(found.names):
            text = f"{len(found.names)} category ids lie between {low} and {high}"
            report.add("category-holes", text, file)


def _images(entries: list[Any], file: str, report: ValidationReport, found: Content) -> dict[int, ImageEntry]:
    by_id: dict[int, ImageEntry] = {}
    by_name: dict[str, int] = {}
    for position, entry in enumerate(entries):
        where = f"images[{position}]"
        if not isinstance(entry, dict):
            report.add("image-entry", f"{where} is {short(entry)}", file, where)
            continue
        id_, name = entry.get("id"), entry.get("file_name")
        if not is_integer(id_):
            report.add("image-id", f"{where} has the id {short(id_)}", file, where if id_ is None else id_)
            continue
        if id_ in by_id:
            report.add("image-twice", f"{where} has the id of an entry before it", file, id_)
            continue
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            report.add("file-name", f"file_name is {short(name)}", file, id_)
            name = ""
        elif by_name.setdefault(name, id_) != id_:
            report.add("file-name-twice", f"{short(name)} is the file of picture {by_name[name]} too", file, id_)
        if name and ("\\" in name or name.startswith("/") or ":" in name[:8] or ".." in name.split("/")):
            report.add("file-name-path", f"file_name is {short(name)}", file, id_)
        image = ImageEntry(id_, name, *_size(entry, id_, file, report))
        by_id[id_] = image
        found.images.append(image)
    return by_id


def _size(entry: dict[str, Any], id_: int, file: str, report: ValidationReport) -> tuple[int, int]:
    width, height = entry.get("width"), entry.get("height")
    if width is None and height is None:
        report.add("image-size-missing", "no width and height", file, id_)
        return 0, 0
    if is_integer(width) and is_integer(height) and min(width, height) > 0:
        return width, height
    report.add("image-size", f"width is {short(width)} and height is {short(height)}", file, id_)
    return 0, 0


def _annotations(
    entries: list[Any], file: str, report: ValidationReport, found: Content, by_id: dict[int, ImageEntry]
) -> None:
    seen: set[int] = set()
    used: Counter[int] = Counter()
    known = short(sorted(found.names))
    for position, entry in enumerate(entries):
        where = f"annotations[{position}]"
        if not isinstance(entry, dict):
            report.add("annotation-entry", f"{where} is {short(entry)}", file, annotation_id=where)
            continue
        raw, image_id, category_id = entry.get("id"), entry.get("image_id"), entry.get("category_id")
        id_: int | str = raw if is_integer(raw) else where
        if id_ is where:
            report.add("annotation-id", f"{where} has the id {short(raw)}", file, image_id, where)
        elif raw in seen:
            report.add("annotation-twice", f"{where} has the id of an entry before it", file, image_id, id_)
        elif isinstance(raw, int):
            seen.add(raw)
        image = by_id.get(image_id) if is_integer(image_id) else None
        if image is None:
            report.add("annotation-image", f"{where} has image_id {short(image_id)}", file, image_id, id_)
        if is_integer(category_id) and category_id in found.names:
            used[category_id] += 1
        else:
            text = f"category_id is {short(category_id)}, the categories are {known}"
            report.add("annotation-category", text, file, image_id, id_)
        values = _numbers(entry.get("bbox"), file, report, image_id, id_)
        crowd = entry.get("iscrowd")
        if crowd not in (None, 0, 1):
            report.add("crowd-flag", f"iscrowd is {short(crowd)}", file, image_id, id_)
        elif crowd == 1:
            report.add("crowd", "iscrowd is 1", file, image_id, id_)
        if values is not None:
            _area(entry, values, file, report, image_id, id_)
            if image is not None:
                image.boxes.append(Box(id_, values, category_id, crowd == 1))
    for category_id, name in found.names.items():
        report.boxes_of[name] += used[category_id]
        if not used[category_id] and entries:
            report.add("category-unused", f"category {category_id} ({name!r}) has no box", file)


def _numbers(
    bbox: Any, file: str, report: ValidationReport, image_id: Any, id_: int | str
) -> tuple[float, float, float, float] | None:
    """Return a bbox's four finite numbers, or note why there are none."""
    numeric = isinstance(bbox, list) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in bbox)
    if not numeric or len(bbox) != 4:
        report.add("box-form", f"bbox is {short(bbox)}", file, image_id, id_)
        return None
    if not all(is_number(value) for value in bbox):
        report.add("box-not-finite", f"bbox is {short(bbox)}", file, image_id, id_)
        return None
    x, y, w, h = map(float, bbox)
    return x, y, w, h


def _area(
    entry: dict[str, Any],
    values: tuple[float, ...],
    file: str,
    report: ValidationReport,
    image_id: Any,
    id_: int | str,
) -> None:
    area, most = entry.get("area"), abs(values[2] * values[3])
    if area is None:
        return
    if not is_number(area):
        report.add("area-form", f"area is {short(area)}", file, image_id, id_)
    elif area < 0 or (area == 0 and most > 0):
        report.add("area", f"area is {short(area)}", file, image_id, id_)
    elif math.isfinite(most) and area > 1.01 * most + 1:
        report.add("area", f"area is {short(area)}, more than the box's {most:g}", file, image_id, id_)
