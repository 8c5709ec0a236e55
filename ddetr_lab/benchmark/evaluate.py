"""``benchmark evaluate``: COCO's twelve numbers from made-up detections.

Used in chapter 9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ddetr_lab.benchmark import peers
from ddetr_lab.benchmark.contest import Plan, Rules, compete
from ddetr_lab.benchmark.report import Case
from ddetr_lab.benchmark.timing import Contender
from ddetr_lab.evaluation import evaluate_detections

__all__ = ["evaluate_cases", "make_detections"]

PICTURES, QUICK_PICTURES = 500, 12
CLASSES, OBJECTS, DETECTIONS = 80, 7, 100  # a picture, as in COCO; a detector keeps its best hundred
SIZE = 640.0
SEED = 20201004
TOLERANCE = 1e-9
# torchmetrics hands its numbers out in float32.
SINGLE = 1e-6


def evaluate_cases(plan: Plan) -> list[Case]:
    """Compare evaluations of the same detections."""
    pictures = QUICK_PICTURES if plan.quick else PICTURES
    truth, found = make_detections(pictures)
    contenders = [Contender("ours", lambda: list(evaluate_detections(truth, found).stats), trusted=True)]
    for peer in plan.against:
        for name, function in peers.evaluators(peer).items():
            tolerance = SINGLE if name == "torchmetrics" else None
            contenders.append(Contender(name, _call(function, truth, found), tolerance=tolerance))
    what = f"{pictures} pictures, {CLASSES} classes, {len(truth['annotations'])} objects, {len(found)} detections"
    case = compete("COCO's twelve numbers", what, contenders, Rules(plan.rounds, TOLERANCE))
    plan.report(case)
    return [case]


def make_detections(pictures: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return ground truth and detections in COCO's forms, from a seed.

    Each object is found with a jittered box; the rest of a picture's hundred detections are random boxes, with lower
    scores on the whole.
    """
    rng = np.random.default_rng(SEED)
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for image_id in range(1, pictures + 1):
        boxes, labels = _boxes(rng, OBJECTS), rng.integers(1, CLASSES + 1, OBJECTS)
        for box, label in zip(boxes, labels, strict=True):
            annotations.append(_entry(image_id, label, box) | {"id": len(annotations) + 1, "iscrowd": 0})
        seen = boxes * rng.uniform(0.9, 1.1, boxes.shape)
        noise = _boxes(rng, DETECTIONS - OBJECTS)
        scores = np.concatenate((rng.beta(5, 2, OBJECTS), rng.beta(1, 5, len(noise))))
        kinds = np.concatenate((labels, rng.integers(1, CLASSES + 1, len(noise))))
        for box, label, score in zip(np.concatenate((seen, noise)), kinds, scores, strict=True):
            detections.append(_entry(image_id, label, box) | {"score": float(score)})
    truth = {
        "images": [{"id": number, "width": SIZE, "height": SIZE} for number in range(1, pictures + 1)],
        "categories": [{"id": number, "name": str(number)} for number in range(1, CLASSES + 1)],
        "annotations": annotations,
    }
    return truth, detections


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return boxes (count, 4) x, y, w, h of all of COCO's sizes."""
    sides = np.exp(rng.uniform(np.log(8), np.log(300), (count, 2)))
    return np.concatenate((rng.uniform(0, SIZE - sides), sides), axis=1)


def _entry(image_id: int, label: Any, box: np.ndarray) -> dict[str, Any]:
    x, y, width, height = (float(side) for side in box)
    return {"image_id": image_id, "category_id": int(label), "bbox": [x, y, width, height], "area": width * height}


def _call(function: peers.Evaluator, truth: dict[str, Any], found: list[dict[str, Any]]) -> Callable[[], Any]:
    return lambda: list(function(truth, found))
