"""Look a data set over before an hour is wasted on it: ``validate_dataset``, or ``ddetr-lab validate DIR``.

Most training runs that never learn fail here: a label map off by one, boxes in another format, pictures that were
turned, training pictures among those for validation. Every file is read, every picture decoded, and everything that is
found is told with its id and a remedy. Whatever a file holds, checking it never fails.

Built in chapter 18.
"""

from __future__ import annotations

import os
import time
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ddetr_lab.data.coco_parts import CocoPart, coco_parts
from ddetr_lab.data.coco_table import read_json, short
from ddetr_lab.data.findings import ValidationReport
from ddetr_lab.data.validate_boxes import check_box_format, check_boxes
from ddetr_lab.data.validate_entries import Content, ImageEntry, check_content
from ddetr_lab.data.validate_pictures import PICTURE_ENDINGS, PictureFacts, inspect_pictures

__all__ = ["Looked", "validate_dataset"]

# Where a picture was seen: COCO file, id, path.
_Place = tuple[str, int, Path]


class Looked:
    """What was read of one COCO file: its entries, and each picture's path, if there is one."""

    def __init__(self, part: CocoPart, content: Content) -> None:
        self.part = part
        self.content = content
        self.paths: list[Path | None] = [_find(part.folders, image.file_name) for image in content.images]


def validate_dataset(
    path: str | Path,
    image_folder: str | Path | None = None,
    workers: int | None = None,
    keep: list[Looked] | None = None,
) -> ValidationReport:
    """Check a COCO data set, its files and its pictures.

    Args:
        path: a COCO file or a folder; see :func:`ddetr_lab.data.coco_parts.coco_parts`.
        image_folder: where the pictures lie, if elsewhere.
        workers: threads that decode pictures; by default as many as processors.
        keep: takes what was read, for figures.

    Returns:
        A :class:`ValidationReport`; ``ok`` says whether there is no error.

    Raises:
        FileNotFoundError: if there is nothing at ``path``. Nothing in a file raises.

    Built in chapter 18.
    """
    started = time.perf_counter()
    if not Path(path).exists():
        raise FileNotFoundError(f"path = {path}: there is no such folder or COCO file")
    report = ValidationReport()
    parts = coco_parts(path, image_folder)
    if not parts:
        report.add("no-coco-file", f"{path} holds no COCO file that was looked for")
    looked = [Looked(part, _content(part, report)) for part in parts]
    _compare_categories(looked, report)
    seen: dict[str, list[_Place]] = {}
    listed: dict[Path, PictureFacts] = {}
    for one in looked:
        _check_pictures(one, workers, report, seen, listed)
    for places in seen.values():
        _check_same(places, report)
    _unlisted(looked, listed, report)
    report.decoded = len(listed)
    report.seconds = time.perf_counter() - started
    if keep is not None:
        keep += looked
    return report


def _content(part: CocoPart, report: ValidationReport) -> Content:
    twice: Counter[str] = Counter()
    try:
        parsed = read_json(part.file, twice)
    except (ValueError, OSError, MemoryError) as error:
        report.add("not-json", short(str(error)), part.name)
        return Content()
    for key, times in twice.items():
        text = f"the key {short(key)} stands more than once in one object, {times} times in the file"
        report.add("json-key-twice", text, part.name)
    return check_content(parsed, part.name, report)


def _find(folders: Iterable[Path], name: str) -> Path | None:
    if not name:
        return None
    for folder in folders:
        try:
            if (folder / name).is_file():
                return folder / name
        except (OSError, ValueError):  # a name too long, or of characters that no file can have
            return None
    return None


def _compare_categories(looked: list[Looked], report: ValidationReport) -> None:
    first = next((one for one in looked if one.content.names), None)
    for one in looked:
        if first is not None and one.content.names and one.content.names != first.content.names:
            here, there = short(one.content.names), short(first.content.names)
            report.add("categories-differ", f"{here}, but {first.part.name} has {there}", one.part.name)


def _check_pictures(
    one: Looked,
    workers: int | None,
    report: ValidationReport,
    seen: dict[str, list[_Place]],
    listed: dict[Path, PictureFacts],
) -> None:
    """Inspect a file's pictures and hold its boxes against them."""
    file = one.part.name
    new = list(dict.fromkeys(path for path in one.paths if path is not None and path not in listed))
    started = time.perf_counter()
    listed.update(zip(new, inspect_pictures(new, workers), strict=True))
    report.decoding += time.perf_counter() - started
    boxes: list[Any] = []
    for image, path in zip(one.content.images, one.paths, strict=True):
        width, height = image.width, image.height
        if path is None:
            if image.file_name:
                report.add("picture-missing", _missing(image, one.part), file, image.id)
        else:
            facts = listed[path]
            for kind, message in facts.findings:
                report.add(kind, f"{path.name}: {message}", file, image.id)
            if facts.digest:
                seen.setdefault(facts.digest, []).append((file, image.id, path))
                _check_size(image, facts, file, report)
                if not (width and height):
                    width, height = facts.upright
        if not image.boxes:
            report.add("picture-no-boxes", f"{short(image.file_name)} has no box", file, image.id)
        check_boxes(image, width, height, file, report)
        if width and height:
            boxes += [(image, box, width, height) for box in image.boxes]
    check_box_format(boxes, file, report)


def _missing(image: ImageEntry, part: CocoPart) -> str:
    """Say where a picture was looked for, and what it may have been called instead."""
    name = image.file_name.replace("\\", "/").rsplit("/", 1)[-1]
    for form in ("NFC", "NFD"):  # one character, or a letter and its accent: systems differ, and nobody sees it
        other = unicodedata.normalize(form, image.file_name)
        if other != image.file_name and _find(part.folders, other) is not None:
            return f"{ascii(image.file_name)} is not there, but {ascii(other)} is"
    text = f"{short(image.file_name)} is not in {' or '.join(str(folder) for folder in part.folders)}"
    for folder in part.folders:
        for other in (
            name,
            name.lower(),
            name.upper(),
            *(Path(name).stem + ending for ending in sorted(PICTURE_ENDINGS)),
        ):
            if _find((folder,), other) is not None:
                return f"{text}; is it {other}?"
    return text


def _check_size(image: ImageEntry, facts: PictureFacts, file: str, report: ValidationReport) -> None:
    size = (image.width, image.height)
    if all(size) and size not in (facts.stored, facts.upright):
        width, height = facts.upright
        text = f"{facts.path.name} measures {width}x{height}, the file says {size[0]}x{size[1]}"
        report.add("picture-size", text, file, image.id)


def _check_same(places: list[_Place], report: ValidationReport) -> None:
    """The same pixels at several places: twice in one file, or in two that should share nothing."""
    first_file, first_id, first_path = places[0]
    for file, id_, path in places[1:]:
        text = f"{path.name} has the same pixels as {first_path.name}, picture {first_id} of {first_file}"
        report.add("picture-twice" if file == first_file else "leakage", text, file, id_)


def _unlisted(looked: list[Looked], listed: dict[Path, PictureFacts], report: ValidationReport) -> None:
    """Name pictures that lie beside listed ones, or in ``images``, without an entry."""
    known = {os.path.realpath(path) for path in listed}
    folders = {path.parent.resolve() for path in listed}
    folders |= {folder.resolve() for one in looked for folder in one.part.folders if folder.is_dir()}
    for folder in sorted(folders):
        try:
            files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_ENDINGS)
        except OSError:
            continue
        for path in files:
            # Unlike Path.resolve, realpath stands links that go round in circles.
            if os.path.realpath(path) not in known and path.is_file():
                report.add("picture-unlisted", "no entry of images lists it", path.name)
