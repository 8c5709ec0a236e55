"""What goes wrong, picture by picture: found, missed, and each wrong detection with the kind of its mistake.

Average precision is one number for a whole dataset. Here every detection above a score meets the objects of its picture
once, and what does not match is sorted by what would have made it match (after Bolya et al., "TIDE", 2020):

* matched: the right class on an object that was free;
* confused: in place on an object that nobody else found, and the wrong class;
* duplicate: in place on an object that is found already;
* poorly localised: the right class near an object, and overlapping too little;
* false positive: all others.

Built in chapter 15.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ddetr_lab.boxes import box_iou, xywh_to_xyxy

__all__ = [
    "BACKGROUND",
    "KINDS",
    "Confusion",
    "DetectionReport",
    "ImageReport",
    "ObjectReport",
    "confusion",
    "confusion_of",
    "per_image_report",
    "totals",
]

KINDS = ("matched", "confused", "duplicate", "poorly localised", "false positive")
BACKGROUND = "background"
LOOSE_OVERLAP = 0.1  # from here on a box is near its object, as in TIDE


@dataclass(frozen=True)
class DetectionReport:
    """One detection: ``kind`` is one of ``KINDS``, ``overlap`` its IoU with the object that decided (or 0).

    ``partner`` is that object's position in :attr:`ImageReport.objects`, None for a false positive.
    """

    category_id: int
    bbox: tuple[float, float, float, float]  # x, y, w, h in _px
    score: float
    kind: str
    overlap: float
    partner: int | None


@dataclass(frozen=True)
class ObjectReport:
    """One object: ``kind`` is "matched", or why it was missed: "confused", "poorly localised" or "unseen"."""

    category_id: int
    bbox: tuple[float, float, float, float]  # x, y, w, h in _px
    kind: str


@dataclass(frozen=True)
class ImageReport:
    """One picture.

    Attributes:
        image_id: from the ground truth, where it stands at ``position``.
        objects: those that are no crowds.
        detections: best first; those that lie in a crowd of their class are left out.
    """

    image_id: int
    position: int
    objects: tuple[ObjectReport, ...]
    detections: tuple[DetectionReport, ...]

    def count(self, kind: str) -> int:
        """Return the number of detections of a kind."""
        return sum(entry.kind == kind for entry in self.detections)

    @property
    def missed(self) -> int:
        """Objects without a detection that matches."""
        return sum(entry.kind != "matched" for entry in self.objects)

    @property
    def mistakes(self) -> int:
        """Objects that were missed and detections that match none."""
        return self.missed + len(self.detections) - self.count("matched")

    def line(self) -> str:
        """Return the picture in a line: its id, and what is not 0."""
        counts = {"missed": self.missed} | {kind: self.count(kind) for kind in KINDS[1:]}
        told = [f"{number} {kind}" for kind, number in counts.items() if number]
        return f"picture {self.image_id}: {self.count('matched')} matched" + "".join(f", {text}" for text in told)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, with the counts."""
        return {**asdict(self), "missed": self.missed, **{kind: self.count(kind) for kind in KINDS}}


def per_image_report(
    ground_truth: Mapping[str, Any],
    detections: Iterable[Mapping[str, Any]],
    score_threshold: float = 0.5,
    overlap: float = 0.5,
) -> list[ImageReport]:
    """Sort every detection and object of every picture by what became of it.

    The best detection chooses first: as in COCO's protocol, the free object of its class that it overlaps most. Then
    what is left over is confused, if it lies on a free object, and takes it; and so on in the order of ``KINDS``.

    Args:
        ground_truth: a COCO dictionary.
        detections: in COCO's result form; see :func:`~ddetr_lab.evaluation.detect_dataset`.
        score_threshold: detections at or below it are left out.
        overlap: the IoU from which on a detection is in place.

    Returns:
        A report for each picture, the one with the most mistakes first.

    Raises:
        ValueError: if a detection names a picture that the ground truth does not have.

    Built in chapter 15.
    """
    objects, found = defaultdict(list), defaultdict(list)
    for entry in ground_truth["annotations"]:
        objects[entry["image_id"]].append(entry)
    for entry in detections:
        if entry["score"] > score_threshold:
            found[entry["image_id"]].append(entry)
    known = {image["id"] for image in ground_truth["images"]}
    if foreign := sorted(set(found) - known):
        raise ValueError(f"detections name picture {foreign[0]}, which the ground truth does not have")
    reports = [
        _of_picture(image["id"], position, objects[image["id"]], found[image["id"]], overlap)
        for position, image in enumerate(ground_truth["images"])
    ]
    return sorted(reports, key=lambda report: -report.mistakes)


def _of_picture(image_id: int, position: int, annotations: list[Any], found: list[Any], overlap: float) -> ImageReport:
    truth = [entry for entry in annotations if not entry.get("iscrowd")]
    crowds = [entry for entry in annotations if entry.get("iscrowd")]
    ranked = sorted(found, key=lambda entry: -entry["score"])
    overlaps = _overlaps(ranked, truth)  # (detections, objects)
    same = _classes(ranked)[:, None] == _classes(truth)[None, :]
    kinds, partners, fates = _kinds(overlaps, same, overlap)
    return ImageReport(
        image_id,
        position,
        tuple(ObjectReport(entry["category_id"], _box(entry), kind) for entry, kind in zip(truth, fates, strict=True)),
        tuple(
            DetectionReport(
                entry["category_id"],
                _box(entry),
                float(entry["score"]),
                kind,
                0.0 if partner is None else float(overlaps[row, partner]),
                partner,
            )
            for row, (entry, kind, partner) in enumerate(zip(ranked, kinds, partners, strict=True))
            if kind != "false positive" or not _lies_in(entry, crowds, overlap)
        ),
    )


def _kinds(
    overlaps: NDArray[np.float64], same: NDArray[np.bool_], overlap: float
) -> tuple[list[str], list[int | None], list[str]]:
    """Sort a picture's detections, best first, and its objects.

    Args:
        overlaps: (detections, objects) IoU.
        same: (detections, objects), whether their classes are the same.
        overlap: the IoU from which on a detection is in place.

    Returns:
        The kind of each detection, the object that decided it or None, and the kind of each object.
    """
    kinds: list[str] = [""] * len(overlaps)
    partners: list[int | None] = [None] * len(overlaps)
    fates = ["unseen"] * overlaps.shape[1]
    for kind, allowed in (("matched", same), ("confused", ~same)):
        for row in range(len(overlaps)):
            free = np.array([fate == "unseen" for fate in fates], dtype=bool)
            candidates = np.where(allowed[row] & free, overlaps[row], 0.0)
            if not kinds[row] and candidates.size and candidates.max() >= overlap:
                kinds[row], partners[row] = kind, int(candidates.argmax())
                fates[int(candidates.argmax())] = kind
    for row in range(len(overlaps)):
        if kinds[row]:
            continue
        near = np.where(same[row], overlaps[row], 0.0)
        if overlaps[row].size and overlaps[row].max() >= overlap:
            kinds[row], partners[row] = "duplicate", int(overlaps[row].argmax())
        elif near.size and near.max() >= LOOSE_OVERLAP:
            kinds[row], partners[row] = "poorly localised", int(near.argmax())
            if fates[int(near.argmax())] == "unseen":
                fates[int(near.argmax())] = "poorly localised"
        else:
            kinds[row] = "false positive"
    return kinds, partners, fates


def _box(entry: Mapping[str, Any]) -> tuple[float, float, float, float]:
    x, y, width, height = (float(side) for side in entry["bbox"])
    return x, y, width, height


def _corners(entries: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    boxes = torch.tensor([entry["bbox"] for entry in entries], dtype=torch.float64).view(-1, 4)
    return xywh_to_xyxy(boxes)


def _classes(entries: Sequence[Mapping[str, Any]]) -> NDArray[np.int64]:
    return np.array([entry["category_id"] for entry in entries], dtype=np.int64)


def _overlaps(found: Sequence[Mapping[str, Any]], truth: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    return box_iou(_corners(found), _corners(truth))[0].numpy()


def _lies_in(detection: Mapping[str, Any], crowds: Sequence[Mapping[str, Any]], overlap: float) -> bool:
    """Tell whether enough of a detection's own area lies in a crowd of its class: no mistake, and no match."""
    x, y, width, height = _box(detection)
    for crowd in crowds:
        left, top, wide, high = _box(crowd)
        w = min(x + width, left + wide) - max(x, left)
        h = min(y + height, top + high) - max(y, top)
        if crowd["category_id"] == detection["category_id"] and w > 0 and h > 0 and w * h >= overlap * width * height:
            return True
    return False


def totals(reports: Iterable[ImageReport]) -> dict[str, int]:
    """Return how many objects there are, how many were missed and why, and how many detections are of each kind."""
    objects: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for report in reports:
        objects.update(entry.kind for entry in report.objects)
        found.update(entry.kind for entry in report.detections)
    missed = {f"missed, {kind}": objects[kind] for kind in ("confused", "poorly localised", "unseen")}
    return {"objects": objects.total(), **missed, "detections": found.total(), **{kind: found[kind] for kind in KINDS}}


@dataclass(frozen=True)
class Confusion:
    """Which class was taken for which.

    Attributes:
        names: of the classes in the order of their ids, and "background" at the end.
        counts: (K + 1, K + 1) integers. Row: what an object is; column: what it was taken for. The last column holds
            the objects that nothing was found on, the last row the detections on nothing (or on what was found
            before): each row adds up to the objects of a class, each column to its detections.
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]

    def worst(self, count: int = 5) -> list[tuple[str, str, int]]:
        """Return the pairs of classes (what it is, what it was taken for, how often) that are confused most."""
        inner = self.counts[:-1, :-1] * (1 - np.eye(len(self.names) - 1, dtype=np.int64))
        pairs = sorted(zip(*np.nonzero(inner), strict=True), key=lambda pair: -inner[pair])
        return [(self.names[row], self.names[column], int(inner[row, column])) for row, column in pairs[:count]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"names": list(self.names), "counts": self.counts.tolist()}


def confusion(
    ground_truth: Mapping[str, Any],
    detections: Iterable[Mapping[str, Any]],
    score_threshold: float = 0.5,
    overlap: float = 0.5,
) -> Confusion:
    """Count which class was taken for which, with the background as a class of its own.

    The arguments are those of :func:`per_image_report`, whose matches are counted.

    Built in chapter 15.
    """
    return confusion_of(per_image_report(ground_truth, detections, score_threshold, overlap), ground_truth)


def confusion_of(reports: Iterable[ImageReport], ground_truth: Mapping[str, Any]) -> Confusion:
    """Count the same from reports that are there already."""
    categories = sorted(ground_truth["categories"], key=lambda entry: entry["id"])
    place = {entry["id"]: row for row, entry in enumerate(categories)}
    nothing = len(categories)
    counts = np.zeros((nothing + 1, nothing + 1), dtype=np.int64)
    for report in reports:
        for entry in report.detections:
            row = nothing
            if entry.partner is not None and entry.kind in ("matched", "confused"):
                row = place[report.objects[entry.partner].category_id]
            counts[row, place[entry.category_id]] += 1
        for thing in report.objects:
            if thing.kind not in ("matched", "confused"):
                counts[place[thing.category_id], nothing] += 1
    return Confusion((*(str(entry.get("name", entry["id"])) for entry in categories), BACKGROUND), counts)
