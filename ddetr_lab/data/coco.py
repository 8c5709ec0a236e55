"""COCO folders: read pictures and boxes from a COCO file, and write any dataset as one.

The file numbers its categories as it likes (COCO's own 80 lie between 1 and 90, with holes), whereas a class head
needs labels 0 to K-1. ``CocoDataset`` translates once, on reading, in the order of the ids; everything after it
speaks of labels only. Its ``label_map`` leads back and forth.

Built in chapter 18.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from torch.utils.data import Dataset

from ddetr_lab.data.coco_table import read_table
from ddetr_lab.data.labels import LabelMap
from ddetr_lab.files import write_atomically
from ddetr_lab.image_inputs import load_image, to_rgb

__all__ = ["ANNOTATION_FILES", "CocoDataset", "DetectionDataset", "picture_folders", "write_coco"]

# Looked for in a folder, in this order: what write_coco writes, what annotation tools export.
ANNOTATION_FILES = ("annotations.json", "_annotations.coco.json", "instances.json", "result.json")

_QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that swap width and height


class DetectionDataset(Protocol):
    """What every dataset here offers: items, names of the labels, and the truth to score against."""

    categories: dict[int, str]
    label_map: LabelMap

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image.Image, dict[str, Any]]: ...

    def coco_ground_truth(self) -> dict[str, Any]: ...


class CocoDataset(Dataset[tuple[Image.Image, dict[str, Any]]]):
    """Pictures and boxes of a COCO file, with contiguous labels.

    Outlines and key points of the file are not read: its boxes are what a detector learns from.

    Args:
        path: the COCO file, or a folder that holds one (see ``ANNOTATION_FILES``).
        image_folder: where the ``file_name`` entries lie; by default the file's own folder, then ``images`` in it.
        contiguous: translate category ids to labels 0 to K-1. With False the ids stay: for checkpoints whose head
            is numbered by COCO's ids, such as the published 91-wide ones.

    Attributes:
        label_map: the file's category ids, the labels and their names.
        categories: label to name.

    Raises:
        FileNotFoundError: if there is no such file, or a picture is missing (on reading it).
        ValueError: if the file is not a COCO file, or contradicts itself; the message names the entry.

    Built in chapter 18.
    """

    def __init__(self, path: str | Path, image_folder: str | Path | None = None, contiguous: bool = True) -> None:
        self.path = _annotation_file(Path(path))
        self.image_folder = Path(image_folder) if image_folder is not None else None
        self._table = read_table(self.path, contiguous)
        self.label_map = self._table.label_map
        self.categories = self.label_map.names

    def __repr__(self) -> str:
        return f"CocoDataset({self.path.name!r}, {len(self)} pictures, {len(self.categories)} categories)"

    def __len__(self) -> int:
        return len(self._table.image_ids)

    def __getitem__(self, index: int) -> tuple[Image.Image, dict[str, Any]]:
        """Read picture ``index`` as RGB, upright as its boxes are, with its annotation.

        Raises:
            IndexError: if the index is outside the dataset.
            FileNotFoundError: if the picture is missing.
            ValueError: if it cannot be decoded or has another size than the file says.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"picture {index} of {self!r}")
        index %= len(self)
        annotations = self._table.annotations(index)
        return self._open(index), {"image_id": int(self._table.image_ids[index]), "annotations": annotations}

    def picture_sizes(self) -> NDArray[np.int64]:
        """Return the (N, 2) width and height in _px; where the file does not say, of the picture's header.

        Raises:
            FileNotFoundError: if a picture that must be looked at is missing.
            ValueError: if it has more pixels than Pillow opens.
        """
        sizes = self._table.sizes.copy()
        for index in np.flatnonzero((sizes == 0).any(axis=1)).tolist():
            path = self.picture_path(index)
            try:
                with Image.open(path) as picture:
                    turned = picture.getexif().get(ExifTags.Base.Orientation, 1) in _QUARTER_TURNS
                    sizes[index] = picture.size[::-1] if turned else picture.size
            except Image.DecompressionBombError as error:
                raise ValueError(f"picture {path} has more pixels than Pillow opens ({error}): cut it up") from error
        return sizes

    def coco_ground_truth(self) -> dict[str, Any]:
        """Return the dataset as a COCO dictionary whose category ids are the labels."""
        table = self._table
        images = [
            {"id": id_, "file_name": name, "width": width, "height": height}
            for id_, name, (width, height) in zip(
                table.image_ids.tolist(), table.file_names, table.sizes.tolist(), strict=True
            )
        ]
        annotations = [entry for index in range(len(self)) for entry in table.annotations(index)]
        return {
            "images": images,
            "annotations": [{**entry, "id": number} for number, entry in enumerate(annotations, start=1)],
            "categories": [{"id": label, "name": name} for label, name in self.categories.items()],
        }

    def picture_path(self, index: int) -> Path:
        """Find the file of picture ``index``.

        Raises:
            FileNotFoundError: if it is missing; the message says where it was looked for.
        """
        name = self._table.file_names[index]
        folders = (self.image_folder,) if self.image_folder else picture_folders(self.path)
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
        places = " or ".join(str(folder) for folder in folders)
        raise FileNotFoundError(f"picture {name} of {self.path.name} is not in {places}: pass image_folder")

    def _open(self, index: int) -> Image.Image:
        path = self.picture_path(index)
        # Cameras store "turn me" beside the pixels. Boxes were drawn on one of the two versions, and the size in the
        # file tells which; without a size it is the upright one, as every viewer shows it.
        size = tuple(self._table.sizes[index].tolist())
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
    write_atomically(target, lambda path: path.write_text(json.dumps(content), encoding="utf-8"))
    return target


def picture_folders(annotation_file: Path) -> tuple[Path, Path]:
    """Return where pictures are looked for: beside the COCO file, then in ``images`` beside it."""
    return annotation_file.parent, annotation_file.parent / "images"


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
