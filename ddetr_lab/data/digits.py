"""DigitScenes: scanned handwritten digits on photographs, drawn on the fly, with exact boxes and no download.

A detector needs pictures whose boxes are right, and a classroom needs them without a download site. Both
ingredients lie in packages that are installed anyway: scikit-learn ships 1,797 scans of handwritten digits
(8x8 cells of grey), and scikit-learn and scikit-image ship a handful of photographs. A scene is a crop of a
photograph with up to eight digits written on it, each enlarged, slanted and inked to stand out from what is
underneath. Nothing is stored: scene ``i`` of a split is a pure function of ``(seed, split, i)``.

Training and validation share neither a scan nor a photograph, so that AP on ``val`` measures generalisation.

Built in chapter 2; learnt in chapter 16.
"""

from __future__ import annotations

import colorsys
import importlib.util
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from ddetr_lab.data.labels import LabelMap

__all__ = ["DigitScenes", "PHOTOGRAPHS", "SPLITS", "digit_scans"]

SPLITS = ("train", "val")

# (package, folder inside it, file). Pictures with writing in them (page, text) stay out: their digits have no box.
# The cat is in val on purpose: it is the book's "photograph without digits", so no detector has trained on it.
_SKLEARN, _SKIMAGE = ("sklearn", "datasets/images"), ("skimage", "data")
PHOTOGRAPHS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "train": (
        (*_SKLEARN, "china.jpg"),
        (*_SKIMAGE, "astronaut.png"),
        (*_SKIMAGE, "brick.png"),
        (*_SKIMAGE, "coffee.png"),
        (*_SKIMAGE, "gravel.png"),
        (*_SKIMAGE, "hubble_deep_field.jpg"),
        (*_SKIMAGE, "ihc.png"),
        (*_SKIMAGE, "moon.png"),
        (*_SKIMAGE, "motorcycle_left.png"),
        (*_SKIMAGE, "retina.jpg"),
        (*_SKIMAGE, "rocket.jpg"),
    ),
    "val": (
        (*_SKLEARN, "flower.jpg"),
        (*_SKIMAGE, "camera.png"),
        (*_SKIMAGE, "chelsea.png"),
        (*_SKIMAGE, "coins.png"),
        (*_SKIMAGE, "grass.png"),
    ),
}

_DEFAULT_SCENES = {"train": 8000, "val": 500}
# Chance of trying to place 0, 1, 2 ... digits. The empty pictures teach the detector (and the reader's loss code) to
# say nothing. Where there is no place left, a digit stays out: of the 8.7 of a crowded scene some 7 fit.
_DIGIT_COUNTS = np.array([0.08, 0.12, 0.16, 0.17, 0.16, 0.12, 0.09, 0.06, 0.04])
_CROWDED_COUNTS = np.array([0.04, 0.02, 0.02, 0.02, 0.04, 0.04, 0.04, 0.04, 0.10, 0.15, 0.20, 0.29])
_VAL_EVERY = 5  # of each class, every fifth scan is held out
_STORED_SIDE = 320  # photographs are kept at this short side: ample for a 160-pixel crop, and quick to resize
_REMEDY = "install scikit-learn and scikit-image, or ddetr-lab with its extra 'train'"
_MARGIN = 2  # blank cells around a scan, so that a smooth enlargement is not cut off at the border
_INK_THRESHOLD = 0.3  # a pixel belongs to a digit, and to its box, from this opacity on
_MAX_COVER = 0.12  # largest part of the smaller of two boxes that the other may cover
_PLACEMENT_TRIALS = 25


@dataclass(frozen=True)
class _Stroke:
    """One digit before it is inked: its label, where it lies, and its opacity, pixel by pixel."""

    label: int
    x: int
    y: int
    alpha: NDArray[np.float32]

    @property
    def bbox(self) -> list[int]:
        height, width = self.alpha.shape
        return [self.x, self.y, width, height]


@cache
def digit_scans(split: str) -> tuple[NDArray[np.float32], ...]:
    """Return one split's scans, grouped by digit.

    Args:
        split: ``"train"`` or ``"val"``.

    Returns:
        Ten arrays (scans, 12, 12) float32 in 0-1, 1 being ink; entry ``d`` holds the scans of digit ``d``, each with
        two blank cells on every side.

    Raises:
        ValueError: if the split is unknown.
        ModuleNotFoundError: if scikit-learn is not installed.

    Built in chapter 2.
    """
    _check_split(split)
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"DigitScenes takes its digits from scikit-learn: {_REMEDY}") from error

    images, labels = load_digits(return_X_y=True)
    scans = (np.asarray(images, dtype=np.float32) / 16.0).reshape(-1, 8, 8)
    scans = np.pad(scans, ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN)))  # (scans, 12, 12)
    grouped = []
    for digit in range(10):
        of_digit = scans[np.asarray(labels) == digit]
        held_out = np.arange(len(of_digit)) % _VAL_EVERY == 0
        grouped.append(of_digit[held_out if split == "val" else ~held_out])
    return tuple(grouped)


@cache
def _photograph(package: str, folder: str, name: str) -> Image.Image:
    """Load one shipped photograph as RGB, shrunk once to the size that crops are taken at."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"DigitScenes takes {name} from {package}: {_REMEDY}")
    path = Path(next(iter(spec.submodule_search_locations))) / folder / name
    if not path.is_file():
        raise FileNotFoundError(
            f"DigitScenes expected {folder}/{name} inside the installed package {package}, but it is not there: "
            "reinstall scikit-learn and scikit-image from their wheels"
        )
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    factor = _STORED_SIDE / min(picture.size)
    if factor < 1:
        picture = picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.BOX)
    return picture


class DigitScenes(Dataset[tuple[Image.Image, dict[str, Any]]]):
    """Photographs with 0 to 8 handwritten digits: a detection dataset of ten classes, generated on the fly.

    An item is ``(picture, annotation)``, just what the image processor takes: an RGB picture whose sides vary
    between 0.8 * size and size, and ``{"image_id": i, "annotations": [...]}`` with COCO boxes ``[x, y, w, h]`` in
    pixels. A box is the tight extent of the visible ink; ``area`` is the box's area.

    Args:
        split: ``"train"`` or ``"val"``: other scans, other photographs.
        num_scenes: length of the dataset; by default 8000 for train and 500 for val.
        seed: scenes of another seed are other scenes (of the same scans and photographs).
        size: longest side in pixels, at least 64. Digits grow with it: at 160 their ink is about 18 to 85 high.
        crowded: put up to 11 digits into a scene, twice as many as usual on average. For training, which learns from
            every digit at hardly more cost a scene; scores are of scenes that are not.

    Attributes:
        categories: label to name, ``{0: "0", ... 9: "9"}``; ``label_map`` says the same of ids, which are the labels.

    Raises:
        ValueError: if an argument is out of range.

    Built in chapter 2.
    """

    def __init__(
        self,
        split: str = "train",
        num_scenes: int | None = None,
        seed: int = 0,
        size: int = 160,
        crowded: bool = False,
    ) -> None:
        _check_split(split)
        num_scenes = _DEFAULT_SCENES[split] if num_scenes is None else num_scenes
        for name, value, least in (("num_scenes", num_scenes, 0), ("seed", seed, 0), ("size", size, 64)):
            if value < least:
                raise ValueError(f"{name} = {value}, but DigitScenes needs at least {least}")
        self.split = split
        self.num_scenes = num_scenes
        self.seed = seed
        self.size = size
        self.crowded = crowded
        self.label_map = LabelMap.from_names(str(digit) for digit in range(10))
        self.categories = self.label_map.names

    def __repr__(self) -> str:
        crowded = ", crowded=True" if self.crowded else ""
        return (
            f"DigitScenes(split={self.split!r}, num_scenes={self.num_scenes}, seed={self.seed}, "
            f"size={self.size}{crowded})"
        )

    def __len__(self) -> int:
        return self.num_scenes

    def __getitem__(self, index: int) -> tuple[Image.Image, dict[str, Any]]:
        """Draw scene ``index``; negative indices count from the end.

        Raises:
            IndexError: if the index is outside the dataset.
        """
        index = self._checked(index)
        (width, height), strokes = self._layout(index)
        # The paint has a generator of its own: the layout, and so the boxes, can be had without painting.
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index, 1])
        canvas = np.asarray(_background(rng, self.split, width, height), dtype=np.float32) / 255.0  # (H, W, 3)
        for stroke in strokes:
            _ink(rng, canvas, stroke)
        picture = Image.fromarray(np.rint(canvas * 255.0).clip(0, 255).astype(np.uint8))
        return picture, _annotation(index, strokes)

    def annotation(self, index: int) -> dict[str, Any]:
        """Return the annotation of scene ``index`` without painting it; equal to ``self[index][1]``."""
        index = self._checked(index)
        return _annotation(index, self._layout(index)[1])

    def coco_ground_truth(self) -> dict[str, Any]:
        """Return the whole dataset as a COCO dictionary; category ids are the labels 0 to 9.

        Annotation ids start at 1, because pycocotools takes an id of 0 for "not matched".
        """
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(self.num_scenes):
            (width, height), strokes = self._layout(index)
            images.append({"id": index, "file_name": f"{index:06d}.png", "width": width, "height": height})
            for entry in _annotation(index, strokes)["annotations"]:
                annotations.append({**entry, "id": len(annotations) + 1})
        categories = [{"id": label, "name": name} for label, name in self.categories.items()]
        return {
            "info": {"description": repr(self)},
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }

    def _checked(self, index: int) -> int:
        if not -self.num_scenes <= index < self.num_scenes:
            raise IndexError(f"scene {index} of {self!r}, which has {self.num_scenes} scenes")
        return index % self.num_scenes

    def _layout(self, index: int) -> tuple[tuple[int, int], list[_Stroke]]:
        """Choose the picture's (width, height), the digits and where they lie."""
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index, 0])
        width, height = (int(side) for side in rng.integers(round(0.8 * self.size), self.size + 1, size=2))
        chances = _CROWDED_COUNTS if self.crowded else _DIGIT_COUNTS
        count = int(rng.choice(len(chances), p=chances))
        scans = digit_scans(self.split)
        strokes: list[_Stroke] = []
        for _ in range(count):
            label = int(rng.integers(10))
            scan = scans[label][rng.integers(len(scans[label]))]
            # Sizes are uniform on a logarithmic scale: as many between 20 and 40 pixels as between 40 and 80.
            ink_height = self.size * math.exp(rng.uniform(math.log(0.12), math.log(0.5)))
            alpha = _enlarge(rng, scan, ink_height)
            place = _free_place(rng, alpha.shape[1], alpha.shape[0], width, height, strokes)
            if place is not None:  # a full picture simply holds one digit fewer
                strokes.append(_Stroke(label, *place, alpha))
        return (width, height), strokes


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split = {split!r}, but DigitScenes has 'train' and 'val'")


def _annotation(index: int, strokes: list[_Stroke]) -> dict[str, Any]:
    return {
        "image_id": index,
        "annotations": [
            {
                "image_id": index,
                "bbox": [float(side) for side in stroke.bbox],
                "category_id": stroke.label,
                "area": float(stroke.alpha.size),
                "iscrowd": 0,
            }
            for stroke in strokes
        ],
    }


def _enlarge(rng: np.random.Generator, scan: NDArray[np.float32], ink_height: float) -> NDArray[np.float32]:
    """Enlarge a (12, 12) scan with its margin to about ``ink_height`` pixels, slant it, and cut it to its ink.

    One affine map does size, slant and rotation together, so that the scan is interpolated only once.

    Returns:
        (h, w) float32 opacity in 0-1.
    """
    scale_y = ink_height / 8.0
    scale_x = scale_y * rng.uniform(0.85, 1.15)
    angle = math.radians(rng.uniform(-15.0, 15.0))
    shear = rng.uniform(-0.2, 0.2)
    rotate = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    forward = rotate @ np.array([[1.0, shear], [0.0, 1.0]]) @ np.diag([scale_x, scale_y])
    half = scan.shape[0] / 2.0
    # The canvas holds every corner of the scan and half a cell more, wherever the map sends it.
    half_w, half_h = np.abs(forward).sum(axis=1) * (half - _MARGIN + 0.5)
    width, height = math.ceil(2 * half_w), math.ceil(2 * half_h)
    inverse = np.linalg.inv(forward)
    offset = half - inverse @ np.array([width / 2.0, height / 2.0])
    coefficients = (*inverse[0], offset[0], *inverse[1], offset[1])
    smooth = Image.fromarray(scan).transform(
        (width, height), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC
    )
    # The scans' grey is the share of a cell that was inked. Steepening it brings back the edge of the pen; less so
    # for small digits, whose edge is a pixel wide anyway.
    softness = 0.5 / (1.0 + 0.25 * scale_y) + 0.1
    ramp = ((np.asarray(smooth) - 0.5) / softness + 0.5).clip(0.0, 1.0)
    alpha: NDArray[np.float32] = ramp * ramp * (3.0 - 2.0 * ramp)
    rows = np.flatnonzero(alpha.max(axis=1) > _INK_THRESHOLD)
    columns = np.flatnonzero(alpha.max(axis=0) > _INK_THRESHOLD)
    return alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _free_place(
    rng: np.random.Generator, w: int, h: int, width: int, height: int, strokes: list[_Stroke]
) -> tuple[int, int] | None:
    """Find a corner (x, y) where a (w, h) box lies inside the picture and hardly covers a box before it."""
    if w > width or h > height:
        return None
    for _ in range(_PLACEMENT_TRIALS):
        x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        for other in strokes:
            ox, oy, ow, oh = other.bbox
            shared = max(0, min(x + w, ox + ow) - max(x, ox)) * max(0, min(y + h, oy + oh) - max(y, oy))
            if shared > _MAX_COVER * min(w * h, ow * oh):
                break
        else:
            return x, y
    return None


def _background(rng: np.random.Generator, split: str, width: int, height: int) -> Image.Image:
    """Crop a photograph at a random place and magnification, mirrored half of the time."""
    photographs = PHOTOGRAPHS[split]
    photograph = _photograph(*photographs[rng.integers(len(photographs))])
    # Between the largest crop of this shape and half of it: from the whole scene to a detail.
    zoom = min(photograph.width / width, photograph.height / height) * rng.uniform(0.5, 1.0)
    crop_w, crop_h = width * zoom, height * zoom
    left = rng.uniform(0.0, photograph.width - crop_w)
    top = rng.uniform(0.0, photograph.height - crop_h)
    box = (left, top, left + crop_w, top + crop_h)
    crop = photograph.resize((width, height), Image.Resampling.BILINEAR, box=box)
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop


def _ink(rng: np.random.Generator, canvas: NDArray[np.float32], stroke: _Stroke) -> None:
    """Blend a digit into the (H, W, 3) canvas in a colour that stands out from what lies under it."""
    height, width = stroke.alpha.shape
    region = canvas[stroke.y : stroke.y + height, stroke.x : stroke.x + width]
    underneath = region[stroke.alpha > _INK_THRESHOLD][::3]  # (pixels, 3); a third of them judges as well
    light = [colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.0, 0.45), rng.uniform(0.9, 1.0)) for _ in range(2)]
    dark = [colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.0, 0.8), rng.uniform(0.02, 0.22)) for _ in range(2)]
    inks = np.array(light + dark, dtype=np.float32)
    # The legible ink is the one whose worst pixels, not whose average, stand out: half a digit is no digit.
    distance = np.linalg.norm(underneath[:, None] - inks, axis=-1)  # (pixels, 4)
    worst = len(underneath) // 6
    colour = inks[np.partition(distance, worst, axis=0)[worst].argmax()]
    alpha = (stroke.alpha * rng.uniform(0.85, 1.0))[..., None]  # (h, w, 1)
    region += alpha * (colour - region)
