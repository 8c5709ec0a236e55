"""TreeCrowns: real pictures from the air, with a box around every tree, cut into tiles and split by place.

The package DeepForest (MIT) carries four pictures that the US National Ecological Observatory Network took from an
aeroplane at 10 cm a pixel, with 951 crowns marked by hand. They are what a first data set of one's own is like: few
pictures, much larger than a network's input, from places that differ.

Tiles of one meadow share its light, its soil and its species. Held-out tiles that touch the training tiles measure how
well a detector remembers; so the split is by place:

* ``train``: two pictures of Yellowstone, but for a strip along the lower edge of the larger one.
* ``val``: that strip. Between it and the training tiles lies a gap wider than any crown, so that no tree, let alone a
  pixel, is in both.
* ``OSBS``: pines on sand in Florida; ``SOAP``: mostly dead trees in California. Two sites that training never sees, to
  measure what happens when the world changes (domain shift).

Built in chapter 18.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from ddetr_lab.data.labels import LabelMap
from ddetr_lab.data.wheels import DataWheel, fetch

__all__ = ["CROWNS", "SPLITS", "TreeCrowns", "fetch_trees", "tree_boxes"]

# Picture (without its ending) and how many crowns are marked in it: 951 together.
CROWNS = {
    "2019_YELL_2_528000_4978000_image_crop2": 574,
    "2019_YELL_2_541000_4977000_image_crop": 279,
    "OSBS_029": 61,
    "SOAP_061": 37,
}
_MEADOW, _SLOPE, _FLORIDA, _CALIFORNIA = CROWNS

WHEEL = DataWheel(
    project="deepforest",
    version="2.1.0",
    sha256="8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54",
    files=(
        *(f"deepforest/data/{name}{ending}" for name in CROWNS for ending in (".png", ".xml")),
        "deepforest-2.1.0.dist-info/licenses/LICENSE",
    ),
)

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_STRIP = 512  # height of the held-out strip: two rows of tiles of 256
_GAP = 112  # between the strip and the training tiles; the largest crown measures 108 pixels


@dataclass(frozen=True)
class _Region:
    """Rows ``top`` to ``bottom`` of a picture, over its full width; a ``bottom`` of 0 or less counts from its end."""

    picture: str
    top: int = 0
    bottom: int = 0

    def rows(self, height: int) -> tuple[int, int]:
        """Return the two as rows of a picture of this height."""
        return self.top % height, self.bottom if self.bottom > 0 else height + self.bottom


SPLITS: dict[str, tuple[_Region, ...]] = {
    "train": (_Region(_MEADOW, bottom=-(_STRIP + _GAP)), _Region(_SLOPE)),
    "val": (_Region(_MEADOW, top=-_STRIP),),
    "OSBS": (_Region(_FLORIDA),),
    "SOAP": (_Region(_CALIFORNIA),),
}


def fetch_trees() -> Path:
    """Return the folder of the four pictures and their boxes; the first call fetches 21 MB through pip.

    Raises:
        FetchError: if they are not there and cannot be fetched; the message says what to do.

    Built in chapter 18.
    """
    return fetch(WHEEL)


@cache
def _picture(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        return opened.convert("RGB")


@cache
def tree_boxes(path: Path) -> NDArray[np.float64]:
    """Read the (N, 4) boxes xyxy in _px of a Pascal VOC file.

    Raises:
        ValueError: if the file is not one, or has not the number of crowns that it was published with.
    """
    try:
        objects = ElementTree.parse(path).getroot().findall("object")
        corners = [[float(one.findtext(f"bndbox/{side}", "")) for side in _CORNERS] for one in objects]
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{path} is no Pascal VOC file ({error}): delete its folder and fetch again") from error
    if len(corners) != CROWNS.get(path.stem, len(corners)):
        raise ValueError(f"{path} has {len(corners)} crowns, expected {CROWNS[path.stem]}: delete its folder")
    return np.array(corners, dtype=np.float64).reshape(-1, 4)


class TreeCrowns(Dataset[tuple[Image.Image, dict[str, Any]]]):
    """Square tiles of the pictures of one split, with the crowns in them: a detection dataset of one class, "Tree".

    Tiles cover the split's part of each picture evenly. A crown that a tile's edge cuts is cut with it, and belongs to
    the tile if at least ``min_visible`` of its box is inside. Tiles without a tree stay: meadow is a lesson too.

    Args:
        split: one of ``SPLITS``: "train", "val", or a site by its name.
        tile: side of a tile in pixels.
        overlap: least share of a tile that its neighbour shows too, 0 to below 1. By default a half for "train", where
            a crown that one tile cuts should be whole in another, and none elsewhere, so that the score counts each
            crown once (but for the few pixels by which the last row and column must reach back).
        min_visible: see above.
        folder: of the four pictures and their boxes; by default what :func:`fetch_trees` returns.

    Attributes:
        categories: ``{0: "Tree"}``; ``label_map`` says the same.

    Raises:
        ValueError: if an argument is out of range.
        FetchError: if the pictures are not there and cannot be fetched.

    Built in chapter 18.
    """

    def __init__(
        self,
        split: str = "train",
        tile: int = 256,
        overlap: float | None = None,
        min_visible: float = 0.3,
        folder: str | Path | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split = {split!r}, but TreeCrowns has {', '.join(SPLITS)}")
        overlap = (0.5 if split == "train" else 0.0) if overlap is None else overlap
        if not 32 <= tile <= 400:
            raise ValueError(f"tile = {tile}, expected 32 to 400: the smallest of the pictures measures 400 pixels")
        if not 0 <= overlap < 1:
            raise ValueError(f"overlap = {overlap}, expected 0 to below 1")
        if not 0 < min_visible <= 1:
            raise ValueError(f"min_visible = {min_visible}, expected above 0, to 1")
        self.split = split
        self.tile = tile
        self.overlap = overlap
        self.min_visible = min_visible
        self.folder = fetch_trees() if folder is None else Path(folder)
        self.label_map = LabelMap.from_names(["Tree"])
        self.categories = self.label_map.names
        self._tiles: list[tuple[str, int, int]] = []  # picture, left, top
        for region in SPLITS[split]:
            width, height = _picture(self._path(region.picture)).size
            top, bottom = region.rows(height)
            self._tiles += [
                (region.picture, left, y)
                for y in _starts(top, bottom, tile, overlap)
                for left in _starts(0, width, tile, overlap)
            ]

    def __repr__(self) -> str:
        return f"TreeCrowns(split={self.split!r}, tile={self.tile}, overlap={self.overlap}), {len(self)} tiles"

    def __len__(self) -> int:
        return len(self._tiles)

    def __getitem__(self, index: int) -> tuple[Image.Image, dict[str, Any]]:
        """Cut tile ``index``; negative indices count from the end.

        Raises:
            IndexError: if the index is outside the dataset.
        """
        annotation = self.annotation(index)
        name, left, top = self._tiles[index]
        picture = _picture(self._path(name)).crop((left, top, left + self.tile, top + self.tile))
        return picture, annotation

    def annotation(self, index: int) -> dict[str, Any]:
        """Return the annotation of tile ``index`` without cutting it; equal to ``self[index][1]``."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"tile {index} of {self!r}")
        index %= len(self)
        name, left, top = self._tiles[index]
        boxes = tree_boxes(self._path(name, ".xml"))
        inside = (boxes - [left, top, left, top]).clip(0, self.tile)
        sides, whole = inside[:, 2:] - inside[:, :2], boxes[:, 2:] - boxes[:, :2]
        keep = sides.prod(axis=1) >= self.min_visible * whole.prod(axis=1)
        return {
            "image_id": index,
            "annotations": [
                {
                    "image_id": index,
                    "bbox": [*corner, *side],
                    "category_id": 0,
                    "area": side[0] * side[1],
                    "iscrowd": 0,
                }
                for corner, side in zip(inside[keep, :2].tolist(), sides[keep].tolist(), strict=True)
            ],
        }

    def place(self, index: int) -> tuple[str, int, int]:
        """Return where tile ``index`` was cut: the picture's name, left, top in _px."""
        return self._tiles[index]

    def coco_ground_truth(self) -> dict[str, Any]:
        """Return the whole split as a COCO dictionary; the category id of a tree is 0, its label."""
        entries = [entry for index in range(len(self)) for entry in self.annotation(index)["annotations"]]
        return {
            "info": {"description": repr(self)},
            "images": [
                {
                    "id": index,
                    "file_name": f"{name}_{left}_{top}.png",
                    "width": self.tile,
                    "height": self.tile,
                }
                for index, (name, left, top) in enumerate(self._tiles)
            ],
            "annotations": [{**entry, "id": number} for number, entry in enumerate(entries, start=1)],
            "categories": [{"id": label, "name": name} for label, name in self.categories.items()],
        }

    def _path(self, name: str, ending: str = ".png") -> Path:
        return self.folder / f"{name}{ending}"


def _starts(first: int, last: int, tile: int, overlap: float) -> list[int]:
    """Return where tiles begin that cover ``first`` to ``last`` evenly, as few as the overlap allows."""
    room = last - first - tile
    steps = math.ceil(room / (tile * (1 - overlap)))
    return [first + round(step * room / steps) for step in range(steps + 1)] if steps > 0 else [first]
