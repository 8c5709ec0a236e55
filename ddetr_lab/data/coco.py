"""COCO folders: read pictures and boxes from a COCO file, and write any dataset as one.

The file numbers its categories as it likes (COCO's own 80 lie between 1 and 90, with holes), whereas a class head
needs labels 0 to K-1. ``CocoDataset`` translates once, on reading, in the order of the ids; everything after it
speaks of labels only. ``label_of`` and ``id_of`` lead back and forth.

Built in chapter 18.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from torch.utils.data import Dataset

from ddetr_lab.image_inputs import load_image, to_rgb

__all__ = ["ANNOTATION_FILES", "CocoDataset", "DetectionDataset", "write_coco"]

# Looked for in a folder, in this order: what write_coco writes, what annotation tools export.
ANNOTATION_FILES = ("annotations.json", "_annotations.coco.json", "instances.json", "result.json")


class DetectionDataset(Protocol):
    """What every dataset here offers: items, names of the labels, and the truth to score against."""

    categories: dict[int, str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image.Image, dict[str, Any]]: ...

    def coco_ground_truth(self) -> dict[str, Any]: ...


class CocoDataset(Dataset[tuple[Image.Image, dict[str, Any]]]):
    """Pictures and boxes of a COCO file, with contiguous labels.

    Args:
        path: the COCO file, or a folder that holds one (see ``ANNOTATION_FILES``).
        image_folder: where the ``file_name`` entries lie; by default the file's own folder, then ``images`` in it.
        contiguous: translate category ids to labels 0 to K-1. With False the ids stay: for checkpoints whose head
            is numbered by COCO's ids, such as the published 91-wide ones.

    Attributes:
        categories: label to name.
        label_of: the file's category id to label; ``id_of`` is the way back.

    Raises:
        FileNotFoundError: if there is no such file, or a picture is missing (on reading it).
        ValueError: if the file is not a COCO file, or contradicts itself; the message names the entry.

    Built in chapter 18.
    """

    def __init__(self, path: str | Path, image_folder: str | Path | None = None, contiguous: bool = True) -> None:
        self.path = _annotation_file(Path(path))
        self.image_folder = Path(image_folder) if image_folder is not None else None
        content = _read(self.path)
        names = _unique(content["categories"], "categories", self.path)
        ordered = sorted(names)
        self.label_of = {id_: label if contiguous else id_ for label, id_ in enumerate(ordered)}
        self.id_of = {label: id_ for id_, label in self.label_of.items()}
        self.categories = {self.label_of[id_]: str(names[id_].get("name", id_)) for id_ in ordered}
        self._images = list(_unique(content["images"], "images", self.path).values())
        self._annotations: dict[int, list[dict[str, Any]]] = {entry["id"]: [] for entry in self._images}
        for position, entry in enumerate(content["annotations"]):
            annotation = self._checked(entry, f"{self.path.name}: annotations[{position}]")
            self._annotations[annotation["image_id"]].append(annotation)

    def __repr__(self) -> str:
        return f"CocoDataset({self.path.name!r}, {len(self)} pictures, {len(self.categories)} categories)"

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Image.Image, dict[str, Any]]:
        """Read picture ``index`` as RGB, upright as its boxes are, with its annotation.

        Raises:
            IndexError: if the index is outside the dataset.
            FileNotFoundError: if the picture is missing.
            ValueError: if it cannot be decoded or has another size than the file says.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"picture {index} of {self!r}")
        entry = self._images[index]
        annotations = [dict(annotation) for annotation in self._annotations[entry["id"]]]
        return self._open(entry), {"image_id": entry["id"], "annotations": annotations}

    def coco_ground_truth(self) -> dict[str, Any]:
        """Return the dataset as a COCO dictionary whose category ids are the labels."""
        annotations = [dict(a) for entry in self._images for a in self._annotations[entry["id"]]]
        return {
            "images": [dict(entry) for entry in self._images],
            "annotations": [{**annotation, "id": number} for number, annotation in enumerate(annotations, start=1)],
            "categories": [{"id": label, "name": name} for label, name in self.categories.items()],
        }

    def _checked(self, entry: Any, where: str) -> dict[str, Any]:
        """Check one annotation of the file and translate its category."""
        if not isinstance(entry, dict) or not {"image_id", "category_id", "bbox"} <= entry.keys():
            raise ValueError(f"{where} needs the keys image_id, category_id and bbox, got {_short(entry)}")
        if entry["image_id"] not in self._annotations:
            raise ValueError(f"{where} has image_id {entry['image_id']!r}, which no entry of images has")
        if entry["category_id"] not in self.label_of:
            raise ValueError(
                f"{where} has category_id {entry['category_id']!r}, but the categories are {sorted(self.label_of)}"
            )
        bbox = entry["bbox"]
        numbers = isinstance(bbox, list) and all(isinstance(side, (int, float)) for side in bbox)
        if not numbers or len(bbox) != 4 or not all(math.isfinite(side) for side in bbox):
            raise ValueError(
                f"{where} has bbox {_short(bbox)}, expected four finite numbers [x, y, width, height] in pixels"
            )
        x, y, width, height = (float(side) for side in bbox)
        return {
            **entry,
            "bbox": [x, y, width, height],
            "category_id": self.label_of[entry["category_id"]],
            "area": float(entry.get("area", width * height)),
            "iscrowd": int(entry.get("iscrowd", 0)),
        }

    def _open(self, entry: dict[str, Any]) -> Image.Image:
        name = entry["file_name"]
        folders = (self.image_folder,) if self.image_folder else (self.path.parent, self.path.parent / "images")
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is None:
            places = " or ".join(str(folder) for folder in folders)
            raise FileNotFoundError(f"picture {name} of {self.path.name} is not in {places}: pass image_folder")
        # Cameras store "turn me" beside the pixels. Boxes were drawn on one of the two versions, and the size in the
        # file tells which; without a size it is the upright one, as every viewer shows it.
        size = (entry.get("width", 0), entry.get("height", 0))
        picture = load_image(path)
        if all(size) and picture.size != size:
            with Image.open(path) as stored:
                picture = to_rgb(stored, str(path)) if stored.size == size else picture
        if all(size) and picture.size != size:
            raise ValueError(
                f"picture {path} is {picture.width}x{picture.height}, but {self.path.name} says {size[0]}x{size[1]}: "
                "its boxes would not fit; export the annotations again for these files"
            )
        return picture


def write_coco(
    dataset: DetectionDataset, directory: str | Path, indices: Iterable[int] | None = None, overwrite: bool = False
) -> Path:
    """Write a dataset as ``annotations.json`` and ``images/*.png``, which ``CocoDataset`` reads back exactly.

    Args:
        dataset: any dataset of ``ddetr_lab.data``.
        directory: made if it does not exist.
        indices: which items, by default all.
        overwrite: replace an ``annotations.json`` that is there already.

    Returns:
        The path of the COCO file. Category ids in it are the dataset's labels.

    Raises:
        FileExistsError: if the folder holds a dataset already and ``overwrite`` is False.

    Built in chapter 18.
    """
    directory = Path(directory)
    target = directory / ANNOTATION_FILES[0]
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists: choose another directory or pass overwrite=True")
    (directory / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(len(dataset)) if indices is None else indices:
        picture, annotation = dataset[index]
        # PNG, whatever the source: a second JPEG compression would be another picture.
        name = f"images/{annotation['image_id']:06d}.png"
        picture.save(directory / name, compress_level=1)
        width, height = picture.size
        images.append({"id": annotation["image_id"], "file_name": name, "width": width, "height": height})
        for entry in annotation["annotations"]:
            annotations.append({**entry, "image_id": annotation["image_id"], "id": len(annotations) + 1})
    categories = [{"id": label, "name": name} for label, name in dataset.categories.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    # Last, and in one step: a killed run leaves pictures but never half a file that looks like a dataset.
    partial = target.with_suffix(".json.part")
    partial.write_text(json.dumps(content), encoding="utf-8")
    partial.replace(target)
    return target


def _annotation_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"path = {path} is neither a COCO file nor a folder that holds one")
    for name in ANNOTATION_FILES:
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(
        f"folder {path} holds none of {', '.join(ANNOTATION_FILES)}: pass the path of the COCO file itself"
    )


def _read(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in lists):
        raise ValueError(f"{path} is not a COCO detection file: it needs the lists {', '.join(lists)}")
    for position, entry in enumerate(content["images"]):
        if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
            raise ValueError(f"{path.name}: images[{position}] has no file_name, got {_short(entry)}")
    return content


def _unique(entries: list[Any], key: str, path: Path) -> dict[int, dict[str, Any]]:
    """Index entries by their id, refusing entries without one, or two with the same."""
    found: dict[int, dict[str, Any]] = {}
    for position, entry in enumerate(entries):
        id_ = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(id_, int):
            raise ValueError(f"{path.name}: {key}[{position}] needs an integer id, got {_short(entry)}")
        if id_ in found:
            raise ValueError(f"{path.name}: {key}[{position}] has the id {id_} of an entry before it")
        found[id_] = entry
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
