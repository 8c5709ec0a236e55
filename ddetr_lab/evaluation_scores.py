"""Average precision: how good a detector is, in the numbers that the field compares.

AP is the area under the precision-recall curve, averaged over the classes and over ten overlaps from 0.50 to 0.95.
The matching and the curves are pycocotools', so that a number printed here can stand beside a published one; around
it, this module does what pycocotools leaves to its user: it refuses NaN, survives a detector that finds nothing,
keeps its printing to itself, and says when a number is undefined instead of returning -1.

Built in chapter 15.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["EvaluationResult", "evaluate_detections"]

# COCO's twelve numbers in COCO's order: (kind, overlap or None for the mean over all, size, position in max_dets).
_STATS: dict[str, tuple[str, float | None, str, int]] = {
    "ap": ("precision", None, "all", 2),
    "ap50": ("precision", 0.5, "all", 2),
    "ap75": ("precision", 0.75, "all", 2),
    "ap_small": ("precision", None, "small", 2),
    "ap_medium": ("precision", None, "medium", 2),
    "ap_large": ("precision", None, "large", 2),
    "ar1": ("recall", None, "all", 0),
    "ar10": ("recall", None, "all", 1),
    "ar100": ("recall", None, "all", 2),
    "ar_small": ("recall", None, "small", 2),
    "ar_medium": ("recall", None, "medium", 2),
    "ar_large": ("recall", None, "large", 2),
}


@dataclass(frozen=True)
class EvaluationResult:
    """COCO's twelve numbers in 0-1, the AP of each class, and what was counted.

    A number is NaN where it is undefined: no ground truth of that class or size. ``notes`` then says so.

    Attributes:
        ap: mean over the overlaps 0.50, 0.55, ... 0.95 and over the classes; ``ap50`` and ``ap75`` at one overlap.
        ap_small: boxes under 32x32 pixels of area; ``ap_medium`` up to 96x96; ``ap_large`` above.
        ar1: mean best recall with 1 detection a picture and label; ``ar10`` with 10, ``ar100`` with
            ``max_detections``.
        per_class: class name to AP.
        max_detections: detections of one label in one picture that counted, best first; COCO's protocol is 100.
        notes: sentences for the reader, e.g. why a number is NaN.

    Built in chapter 15.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    per_class: dict[str, float]
    num_images: int
    num_ground_truth: int
    num_detections: int
    max_detections: int = 100
    notes: tuple[str, ...] = ()

    @property
    def stats(self) -> tuple[float, ...]:
        """The twelve numbers in the order in which pycocotools prints them."""
        return tuple(getattr(self, name) for name in _STATS)

    def line(self) -> str:
        """Return the one-line summary: ``AP 0.xxx AP50 0.xxx ... AR100 0.xxx``, ``nan`` where undefined."""
        names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
        parts = [f"{name} {value:.3f}" for name, value in zip(names, self.stats, strict=False)]
        return " ".join([*parts, f"AR{self.max_detections} {self.ar100:.3f}"])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types; an undefined number is None, because JSON has no NaN."""
        numbers = {name: _none_for_nan(getattr(self, name)) for name in _STATS}
        return {
            **numbers,
            "per_class": {name: _none_for_nan(value) for name, value in self.per_class.items()},
            "num_images": self.num_images,
            "num_ground_truth": self.num_ground_truth,
            "num_detections": self.num_detections,
            "max_detections": self.max_detections,
            "notes": list(self.notes),
        }


def evaluate_detections(
    ground_truth: Mapping[str, Any], detections: Iterable[Mapping[str, Any]], max_detections: int = 100
) -> EvaluationResult:
    """Score detections against a COCO dictionary.

    Args:
        ground_truth: ``images``, ``annotations``, ``categories`` in COCO's form; it is not modified. A missing
            ``area`` is the box's, a missing ``iscrowd`` is 0.
        detections: dictionaries with ``image_id``, ``category_id``, ``bbox`` [x, y, w, h] in pixels, and ``score``.
        max_detections: how many of one label in one picture count, best first. COCO's protocol is 100.

    Raises:
        ValueError: if a detection is NaN or infinite, or names a picture or category that the ground truth does not
            have; the message names the detection.
        KeyError: if a detection lacks a key.

    Built in chapter 15.
    """
    if max_detections < 1:
        raise ValueError(f"max_detections = {max_detections}, expected at least 1")
    found = list(detections)
    images = [dict(entry) for entry in ground_truth["images"]]
    categories = [dict(entry) for entry in ground_truth["categories"]]
    image_ids = {entry["id"] for entry in images}
    category_ids = [entry["id"] for entry in categories]
    results = [
        _scorable(detection, number, image_ids, set(category_ids)) for number, detection in enumerate(found, start=1)
    ]
    truth = [_complete(entry, number) for number, entry in enumerate(ground_truth["annotations"], start=1)]
    objects = sum(not entry["iscrowd"] for entry in truth)

    curves = _curves(images, categories, truth, results, max_detections)
    # pycocotools orders classes by id; the names follow that order.
    names = _class_names(categories)
    per_class = {
        names[category_id]: _mean(curves["precision"][:, :, position, 0, 2])
        for position, category_id in enumerate(sorted(category_ids))
    }
    return EvaluationResult(
        **{name: _stat(curves, *selection) for name, selection in _STATS.items()},
        per_class=per_class,
        num_images=len(images),
        num_ground_truth=objects,
        num_detections=len(results),
        max_detections=max_detections,
        notes=tuple(_notes(objects, per_class, results)),
    )


def _curves(
    images: list[dict[str, Any]],
    categories: list[dict[str, Any]],
    truth: list[dict[str, Any]],
    results: list[dict[str, Any]],
    max_detections: int,
) -> dict[str, Any]:
    """Run pycocotools; return precision (T, R, K, A, 3), recall (T, K, A, 3), overlaps (T,) and size names (A,)."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "average precision is computed by pycocotools: install it, or ddetr-lab with its extra 'train'"
        ) from error

    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for annotations in (truth, results):
            side = COCO()
            side.dataset = {"images": images, "categories": categories, "annotations": annotations}
            side.createIndex()
            sides.append(side)
        scorer = COCOeval(*sides, iouType="bbox")
        scorer.params.maxDets = [1, 10, max_detections]
        scorer.evaluate()
        scorer.accumulate()
    overlaps, sizes = scorer.params.iouThrs, scorer.params.areaRngLbl
    return {**{key: scorer.eval[key] for key in ("precision", "recall")}, "overlaps": overlaps, "sizes": sizes}


def _stat(curves: Mapping[str, Any], kind: str, overlap: float | None, size: str, cap: int) -> float:
    values = curves[kind][..., curves["sizes"].index(size), cap]  # precision (T, R, K), recall (T, K)
    if overlap is not None:
        values = values[np.isclose(curves["overlaps"], overlap)]
    return _mean(values)


def _mean(values: Any) -> float:
    """Average what is defined; pycocotools marks the rest with -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else math.nan


def _none_for_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


def _scorable(detection: Mapping[str, Any], number: int, images: set[int], categories: set[int]) -> dict[str, Any]:
    """Return a copy that pycocotools can work on, or say what is wrong with the detection."""
    where = f"detections[{number - 1}]"
    try:
        image_id, category_id = detection["image_id"], detection["category_id"]
        x, y, width, height = (float(side) for side in detection["bbox"])
        score = float(detection["score"])
    except KeyError as error:
        raise KeyError(f"{where} has no {error}: expected image_id, category_id, bbox and score") from error
    if not all(map(math.isfinite, (x, y, width, height, score))):
        raise ValueError(
            f"{where} of picture {image_id} has bbox {[x, y, width, height]} and score {score}: NaN or infinity cannot "
            "be ranked; look for NaN in the model's weights or logits"
        )
    if image_id not in images:
        raise ValueError(f"{where} has image_id {image_id!r}, which the ground truth does not have")
    if category_id not in categories:
        raise ValueError(
            f"{where} has category_id {category_id!r}, but the ground truth has {sorted(categories)}: "
            "are these labels (from 0) on one side and COCO ids on the other?"
        )
    bbox, area = [x, y, width, height], width * height
    # Ids start at 1: pycocotools takes an id of 0 for "not matched".
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        "area": area,
        "score": score,
        "iscrowd": 0,
    }


def _complete(annotation: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Copy a ground-truth annotation, numbered from 1, with the keys that pycocotools needs."""
    _, _, width, height = annotation["bbox"]
    defaults = {"area": width * height, "iscrowd": 0}
    return {**defaults, **annotation, "id": number}


def _class_names(categories: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Name each category id; two categories of one name are told apart by their ids."""
    names = {entry["id"]: str(entry.get("name", entry["id"])) for entry in categories}
    shared = Counter(names.values())
    return {id_: name if shared[name] == 1 else f"{name} ({id_})" for id_, name in names.items()}


def _notes(objects: int, per_class: Mapping[str, float], results: Sequence[Any]) -> Iterator[str]:
    if objects == 0:
        yield "the ground truth has no boxes: average precision is undefined (nan)"
        return
    absent = [name for name, value in per_class.items() if math.isnan(value)]
    if absent:
        yield f"no ground truth for {', '.join(absent)}: left out of the mean over classes"
    if not results:
        yield "there are no detections: average precision is 0"
