"""Random views of a picture whose boxes stay on their objects.

Each transform takes an item of a dataset, ``(picture, annotation)``, and a generator that all of its random numbers
come from; it returns a new item and leaves the old one as it was. The arithmetic on picture and boxes is that of
``torchvision.transforms.v2``, which moves a ``tv_tensors.BoundingBoxes`` with the picture that it lies on.

What follows a box: its ``area``, in proportion. What does not: outlines and key points, so that ``segmentation`` and
``keypoints`` are left out of a transformed annotation rather than kept wrong. Boxes that a crop leaves nothing of go;
crowds are boxes like all others.

Built in chapter 18.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Generator, Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ddetr_lab.image_transforms import output_size

__all__ = [
    "TRANSFORMS",
    "Compose",
    "FromTorchvision",
    "MultiScaleResizeOrCrop",
    "RandomHorizontalFlip",
    "RandomQuarterTurn",
    "RandomScaleJitter",
    "Scene",
    "Transform",
    "training_transform",
]

Item = tuple[Image.Image, dict[str, Any]]

# The colour that a picture is laid on: ImageNet's mean, which normalisation turns into (almost) zero.
_GROUND = [124, 116, 104]
# Before a crop the recipe bounds no long side; this bound meets only strips, whose pixels would fill the memory.
_PANORAMA = 4
_LEFT_OUT = ("segmentation", "keypoints", "num_keypoints")


@dataclass(frozen=True)
class Scene:
    """What transforms hand on: a picture, its (N, 4) boxes xywh in _px, and each box's place in the annotation."""

    picture: Image.Image
    boxes: tv_tensors.BoundingBoxes
    places: Tensor


class Transform(ABC):
    """An item in, a random view of it out.

    Attributes:
        sets_size: True if the result has the size that the network shall see. The image processor must then be told
            ``do_resize=False``, or it undoes the transform.
    """

    sets_size = False

    @abstractmethod
    def apply(self, scene: Scene, generator: Generator) -> Scene:
        """Draw from the generator, and move the picture and its boxes."""

    def __call__(self, item: Item, generator: Generator) -> Item:
        """Transform an item.

        Args:
            item: RGB picture, and ``{"image_id", "annotations": [{"bbox": xywh in _px, ...}]}``.
            generator: of all random numbers, on the CPU.

        Returns:
            A new item; ``bbox`` and ``area`` are moved, other keys of an annotation are kept.

        Raises:
            TypeError: if ``generator`` is no ``torch.Generator``.
        """
        if not isinstance(generator, Generator):
            raise TypeError(
                f"generator is a {type(generator).__name__}: expected a torch.Generator, such as "
                "torch.Generator().manual_seed(0); ddetr_lab.data.views makes one for each item"
            )
        picture, target = item
        annotations = target["annotations"]
        before = _boxes([annotation["bbox"] for annotation in annotations], picture)
        scene = self.apply(Scene(picture, before, torch.arange(len(annotations))), generator)
        # By this much each box grew or was cut: its object's area is taken to have done so too.
        areas = before[:, 2:].prod(dim=1)[scene.places]
        factors = torch.where(areas > 0, scene.boxes[:, 2:].prod(dim=1) / areas, 0.0)
        moved = []
        for place, box, factor in zip(scene.places.tolist(), scene.boxes.tolist(), factors.tolist(), strict=True):
            kept = {key: value for key, value in annotations[place].items() if key not in _LEFT_OUT}
            if "area" in kept:
                kept["area"] = kept["area"] * factor
            moved.append({**kept, "bbox": box})
        return scene.picture, {**target, "annotations": moved}


class Compose(Transform):
    """One transform after the other; without any, the item as it is."""

    def __init__(self, *steps: Transform) -> None:
        self.steps = steps
        self.sets_size = any(step.sets_size for step in steps)

    def __repr__(self) -> str:
        return f"Compose({', '.join(map(repr, self.steps))})"

    def __call__(self, item: Item, generator: Generator) -> Item:
        return super().__call__(item, generator) if self.steps else item

    def apply(self, scene: Scene, generator: Generator) -> Scene:
        for step in self.steps:
            scene = step.apply(scene, generator)
        return scene


class RandomHorizontalFlip(Transform):
    """Mirror left and right with probability ``p``. Not for what reads differently in a mirror, such as digits."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = _probability(p)

    def __repr__(self) -> str:
        return f"RandomHorizontalFlip(p={self.p})"

    def apply(self, scene: Scene, generator: Generator) -> Scene:
        if not _happens(self.p, generator):
            return scene
        return Scene(F.horizontal_flip(scene.picture), F.horizontal_flip(scene.boxes), scene.places)


class RandomQuarterTurn(Transform):
    """Turn by 0, 90, 180 or 270 degrees, each as likely: for pictures from above, which have no upright."""

    def __repr__(self) -> str:
        return "RandomQuarterTurn()"

    def apply(self, scene: Scene, generator: Generator) -> Scene:
        turns = _whole(0, 3, generator)
        picture, boxes = scene.picture, scene.boxes
        for _ in range(turns):
            # Transposed and mirrored: a quarter turn to the left in whole pixels, with nothing interpolated.
            width = picture.width
            x, y, w, h = boxes.unbind(dim=1)
            picture = picture.transpose(Image.Transpose.ROTATE_90)
            boxes = _boxes(torch.stack([y, width - x - w, h, w], dim=1), picture)
        return Scene(picture, boxes, scene.places)


class RandomScaleJitter(Transform):
    """Show the scene larger or smaller, in a picture of the same size as before.

    Enlarged by ``s``, a random part of the scene fills the picture; made smaller, it lies at a random place on a plain
    ground. ``s`` is drawn uniformly on a logarithmic scale, so that halving is as likely as doubling.

    Args:
        smallest, largest: range of ``s``, above 0.
        min_visible: boxes of which a smaller part than this is left go, 0 to 1; with 0 those of which nothing is left.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, smallest: float = 0.7, largest: float = 1.4, min_visible: float = 0.3) -> None:
        if not 0 < smallest <= largest:
            raise ValueError(f"smallest = {smallest} and largest = {largest}: expected 0 < smallest <= largest")
        self.smallest, self.largest = smallest, largest
        self.min_visible = _probability(min_visible, "min_visible")

    def __repr__(self) -> str:
        return f"RandomScaleJitter({self.smallest}, {self.largest}, min_visible={self.min_visible})"

    def apply(self, scene: Scene, generator: Generator) -> Scene:
        width, height = scene.picture.size
        scale = self.smallest * (self.largest / self.smallest) ** torch.rand((), generator=generator).item()
        scene = _resized(scene, max(1, round(height * scale)), max(1, round(width * scale)))
        spare_w, spare_h = scene.picture.width - width, scene.picture.height - height
        left, top = (_whole(0, abs(spare), generator) for spare in (spare_w, spare_h))
        if spare_w < 0 or spare_h < 0:
            padding = [left, top, -spare_w - left, -spare_h - top]
            return Scene(F.pad(scene.picture, padding, fill=_GROUND), F.pad(scene.boxes, padding), scene.places)
        return _cropped(scene, top, left, height, width, self.min_visible)


class MultiScaleResizeOrCrop(Transform):
    """The paper's view: a random scale, and half of the time a random part at a random scale.

    Half of the time the short side is resized to one of ``short_sides``. The other half, it is resized to one of
    ``before_crop``, a part with sides drawn between the two ``crop_sides`` is cut out, and that is resized to one of
    ``short_sides``. No long side passes ``longest``.

    Source: the recipe of DETR, kept by Deformable DETR (datasets/coco.py of both).
    """

    sets_size = True

    def __init__(
        self,
        short_sides: Sequence[int] = tuple(range(480, 801, 32)),
        longest: int = 1333,
        before_crop: Sequence[int] = (400, 500, 600),
        crop_sides: tuple[int, int] = (384, 600),
        min_visible: float = 0.0,
    ) -> None:
        for name, sides in (("short_sides", short_sides), ("before_crop", before_crop), ("crop_sides", crop_sides)):
            if len(sides) == 0 or min(sides) < 1:
                raise ValueError(f"{name} = {tuple(sides)}, expected at least one length in pixels")
        if longest < max(short_sides):
            raise ValueError(f"longest = {longest}, expected at least the largest of short_sides, {max(short_sides)}")
        if crop_sides[0] > crop_sides[1]:
            raise ValueError(f"crop_sides = {crop_sides}, expected the smaller one first")
        self.short_sides, self.longest = tuple(short_sides), longest
        self.before_crop, self.crop_sides = tuple(before_crop), crop_sides
        self.min_visible = _probability(min_visible, "min_visible")

    def __repr__(self) -> str:
        return f"MultiScaleResizeOrCrop({self.short_sides}, longest={self.longest})"

    def apply(self, scene: Scene, generator: Generator) -> Scene:
        if _happens(0.5, generator):
            scene = self._to_short_side(scene, self.before_crop, _PANORAMA * self.longest, generator)
            width, height = (
                _whole(min(self.crop_sides[0], side), min(self.crop_sides[1], side), generator)
                for side in scene.picture.size
            )
            left = _whole(0, scene.picture.width - width, generator)
            top = _whole(0, scene.picture.height - height, generator)
            scene = _cropped(scene, top, left, height, width, self.min_visible)
        return self._to_short_side(scene, self.short_sides, self.longest, generator)

    def _to_short_side(self, scene: Scene, sides: Sequence[int], longest: int, generator: Generator) -> Scene:
        edges = {"shortest_edge": sides[_whole(0, len(sides) - 1, generator)], "longest_edge": longest}
        return _resized(scene, *output_size(scene.picture.height, scene.picture.width, edges))


class FromTorchvision(Transform):
    """Any transform of ``torchvision.transforms.v2`` on picture and boxes, with the generator's random numbers.

    Boxes of which it leaves nothing go. A transform that gives boxes an angle, or a picture that is no Pillow image,
    has no place here.

    Args:
        transform: called as ``transform(picture, boxes)``.
        sets_size: see :class:`Transform`.
    """

    def __init__(self, transform: Callable[..., Any], sets_size: bool = False) -> None:
        self.transform = transform
        self.sets_size = sets_size

    def __repr__(self) -> str:
        return f"FromTorchvision({self.transform})"

    def apply(self, scene: Scene, generator: Generator) -> Scene:
        # torchvision draws from the global generators: they are set from ours for this call, and put back.
        seed = _whole(0, 2**31 - 1, generator)
        python_state = random.getstate()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.seed(seed)
            try:
                picture, boxes = self.transform(scene.picture, scene.boxes)
            finally:
                random.setstate(python_state)
        keep = (boxes[:, 2:] > 0).all(dim=1)
        return Scene(picture, _boxes(boxes[keep], picture), scene.places[keep])


def _boxes(xywh: Any, picture: Image.Image) -> tv_tensors.BoundingBoxes:
    """Lay (N, 4) boxes xywh in _px, N = 0 too, on a picture, in float64: a flip and its flip back are exact."""
    return tv_tensors.BoundingBoxes(
        torch.as_tensor(xywh, dtype=torch.float64).reshape(-1, 4),
        format="XYWH",
        canvas_size=(picture.height, picture.width),
    )


def _resized(scene: Scene, height: int, width: int) -> Scene:
    if scene.picture.size == (width, height):
        return scene
    size = [height, width]
    return Scene(F.resize(scene.picture, size), F.resize(scene.boxes, size), scene.places)


def _cropped(scene: Scene, top: int, left: int, height: int, width: int, min_visible: float) -> Scene:
    """Cut a part out, and each box to it; leave out boxes of which too little, or nothing, is in it."""
    boxes = F.crop(scene.boxes, top, left, height, width)
    there = (boxes[:, 2:] > 0).all(dim=1)
    keep = there & (boxes[:, 2:].prod(dim=1) >= min_visible * scene.boxes[:, 2:].prod(dim=1))
    picture = F.crop(scene.picture, top, left, height, width)
    return Scene(picture, _boxes(boxes[keep], picture), scene.places[keep])


def _whole(low: int, high: int, generator: Generator) -> int:
    """Draw a whole number, both ends included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _happens(p: float, generator: Generator) -> bool:
    return torch.rand((), generator=generator).item() < p


def _probability(value: float, name: str = "p") -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} = {value}, expected 0 to 1")
    return value


def _from_above() -> Transform:
    colours = v2.ColorJitter(brightness=0.25, contrast=0.25, saturation=0.25, hue=0.02)
    return Compose(RandomHorizontalFlip(), RandomQuarterTurn(), RandomScaleJitter(), FromTorchvision(colours))


# What recipes write under [data] transform.
TRANSFORMS: dict[str, Callable[[], Transform]] = {
    "none": Compose,  # pictures as they are: generated scenes, where every item is new anyway
    "flip": RandomHorizontalFlip,  # small sets of photographs
    "jitter": lambda: Compose(RandomHorizontalFlip(), RandomScaleJitter()),  # objects of sizes that were not shown
    "aerial": _from_above,  # pictures from above of many sites: no side is up, and the light is another at each
    "paper": lambda: Compose(RandomHorizontalFlip(), MultiScaleResizeOrCrop()),  # COCO; see MultiScaleResizeOrCrop
}


def training_transform(name: str) -> Transform:
    """Return the transform that recipes call by this name; see ``TRANSFORMS`` for what each is for.

    Raises:
        ValueError: if there is none; the message lists the names.

    Built in chapter 18.
    """
    if name not in TRANSFORMS:
        raise ValueError(f"transform = {name!r}, expected one of {', '.join(TRANSFORMS)}")
    return TRANSFORMS[name]()
