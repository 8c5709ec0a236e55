"""What went wrong, by hand: each kind of mistake alone, who chooses first, crowds, and the matrix's sums."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from ddetr_lab.evaluation_report import (
    KINDS,
    Confusion,
    ImageReport,
    confusion,
    per_image_report,
    totals,
)
from tests.test_evaluation_scores import found, random_case, truth

HERE = [10, 10, 40, 40]
NEAR = [30, 10, 40, 40]  # IoU 1/3
FAR = [120, 120, 40, 40]


def report_of(boxes: Any, rows: Any, **options: Any) -> ImageReport:
    (report,) = per_image_report(truth(boxes), found(*rows), **options)
    return report


@pytest.mark.parametrize(
    ("row", "kind", "missed"),
    [
        ((0, 0, HERE, 0.9), "matched", "matched"),
        ((0, 1, HERE, 0.9), "confused", "confused"),
        ((0, 0, NEAR, 0.9), "poorly localised", "poorly localised"),
        ((0, 1, NEAR, 0.9), "false positive", "unseen"),
        ((0, 0, FAR, 0.9), "false positive", "unseen"),
    ],
)
def test_each_kind_alone(row: Any, kind: str, missed: str) -> None:
    report = report_of([(0, 0, HERE)], [row])
    (detection,), (thing,) = report.detections, report.objects
    assert (detection.kind, thing.kind) == (kind, missed)
    assert detection.partner == (None if kind == "false positive" else 0)
    assert report.mistakes == (0 if kind == "matched" else 2)
    expected = {"matched": 1.0, "confused": 1.0, "poorly localised": 1 / 3, "false positive": 0.0}
    assert detection.overlap == pytest.approx(expected[kind])


@pytest.mark.parametrize("category", [0, 1])
def test_a_second_detection_on_a_found_object_is_a_duplicate_whatever_its_class(category: int) -> None:
    report = report_of([(0, 0, HERE)], [(0, 0, HERE, 0.7), (0, category, [11, 10, 40, 40], 0.9)])
    kinds = {entry.score: entry.kind for entry in report.detections}
    # Of the right class the better score wins; of another class it does not take the object away.
    assert kinds == ({0.9: "matched", 0.7: "duplicate"} if category == 0 else {0.9: "duplicate", 0.7: "matched"})
    assert (report.missed, report.mistakes) == (0, 1)


def test_a_detection_takes_the_object_that_it_overlaps_most() -> None:
    report = report_of([(0, 0, [10, 10, 40, 40]), (0, 0, [20, 10, 40, 40])], [(0, 0, [19, 10, 40, 40], 0.9)])
    assert [thing.kind for thing in report.objects] == ["unseen", "matched"]
    assert report.detections[0].partner == 1


def test_thresholds_of_score_and_overlap() -> None:
    rows = [(0, 0, NEAR, 0.5)]
    assert report_of([(0, 0, HERE)], rows).detections == ()
    assert report_of([(0, 0, HERE)], rows, score_threshold=0.4).detections[0].kind == "poorly localised"
    assert report_of([(0, 0, HERE)], rows, score_threshold=0.4, overlap=0.3).detections[0].kind == "matched"


def test_what_lies_in_a_crowd_is_no_mistake() -> None:
    ground_truth = truth([(0, 0, [0, 0, 150, 150])])
    ground_truth["annotations"][0]["iscrowd"] = 1
    rows = [(0, 0, HERE, 0.9), (0, 1, HERE, 0.8), (0, 0, [140, 140, 40, 40], 0.7)]
    (report,) = per_image_report(ground_truth, found(*rows))
    assert report.objects == ()
    assert [(entry.category_id, entry.kind) for entry in report.detections] == [
        (1, "false positive"),
        (0, "false positive"),
    ]


def test_worst_pictures_come_first_and_empty_ones_are_there() -> None:
    boxes = [(1, 0, HERE), (2, 0, HERE), (2, 1, FAR)]
    reports = per_image_report(truth(boxes, images=4), found((1, 0, HERE, 0.9), (3, 0, FAR, 0.9)))
    assert [(report.image_id, report.mistakes) for report in reports] == [(2, 2), (3, 1), (0, 0), (1, 0)]
    assert [report.position for report in reports] == [2, 3, 0, 1]
    assert reports[0].line() == "picture 2: 0 matched, 2 missed"
    assert reports[1].line() == "picture 3: 0 matched, 1 false positive"


def test_a_detection_of_an_unknown_picture_is_named() -> None:
    with pytest.raises(ValueError, match="detections name picture 9, which the ground truth does not have"):
        per_image_report(truth([]), found((9, 0, HERE, 0.9)))


def test_the_matrix_by_hand() -> None:
    boxes = [(0, 0, HERE), (0, 1, FAR), (1, 1, HERE), (1, 0, FAR)]
    rows = [(0, 0, HERE, 0.9), (0, 0, FAR, 0.8), (1, 1, HERE, 0.9), (1, 1, HERE, 0.7), (1, 0, [60, 60, 9, 9], 0.6)]
    matrix = confusion(truth(boxes, images=2), found(*rows))
    assert matrix.names == ("cat", "dog", "background")
    np.testing.assert_array_equal(matrix.counts, [[1, 0, 1], [1, 1, 0], [1, 1, 0]])
    assert matrix.worst() == [("dog", "cat", 1)]


def test_classes_go_by_id_even_when_they_are_out_of_order() -> None:
    ground_truth = truth([(0, 9, HERE)]) | {"categories": [{"id": 9, "name": "late"}, {"id": 2, "name": "early"}]}
    matrix = confusion(ground_truth, found((0, 2, HERE, 0.9)))
    assert matrix.worst() == [("late", "early", 1)]


def test_rows_add_up_to_objects_and_columns_to_detections() -> None:
    ground_truth, detections = random_case(images=40)
    shown = [entry for entry in detections if entry["score"] > 0.3]
    matrix = confusion(ground_truth, detections, score_threshold=0.3)
    for place in range(3):
        objects = sum(entry["category_id"] == place for entry in ground_truth["annotations"])
        assert matrix.counts[place].sum() == objects > 0
        assert matrix.counts[:, place].sum() == sum(entry["category_id"] == place for entry in shown)
    reports = per_image_report(ground_truth, detections, score_threshold=0.3)
    counted = totals(reports)
    assert counted["objects"] == len(ground_truth["annotations"]) and counted["detections"] == len(shown)
    assert sum(counted[kind] for kind in KINDS) == len(shown)
    assert all(counted[kind] for kind in KINDS), "a case that has every kind"
    assert counted["matched"] == np.trace(matrix.counts[:3, :3])
    missed = sum(counted[f"missed, {why}"] for why in ("confused", "poorly localised", "unseen"))
    assert missed == sum(report.missed for report in reports) == counted["objects"] - counted["matched"]


def test_matches_are_those_of_cocos_protocol() -> None:
    """As many detections match as pycocotools matches at that overlap."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    ground_truth, detections = random_case(seed=8, images=30)
    shown = [entry for entry in detections if entry["score"] > 0.5]
    for number, entry in enumerate(ground_truth["annotations"], start=1):
        entry |= {"id": number, "iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3]}
    coco = COCO()
    coco.dataset = ground_truth
    coco.createIndex()
    scorer = COCOeval(coco, coco.loadRes([dict(entry) for entry in shown]), "bbox")
    scorer.params.iouThrs = np.array([0.5])
    scorer.evaluate()
    all_sizes = [entry for entry in scorer.evalImgs if entry and entry["aRng"] == scorer.params.areaRng[0]]
    matches = sum(int((entry["dtMatches"][0] > 0).sum()) for entry in all_sizes)
    assert totals(per_image_report(ground_truth, detections))["matched"] == matches > 20


def test_all_of_it_is_json() -> None:
    ground_truth, detections = random_case()
    reports = [report.to_dict() for report in per_image_report(ground_truth, detections)]
    first = json.loads(json.dumps(reports, allow_nan=False))[0]
    assert first["missed"] + sum(first[kind] for kind in KINDS[1:]) > 0
    assert set(KINDS) < set(first) and first["detections"][0]["kind"] in KINDS
    matrix = Confusion(("a", "background"), np.array([[1, 2], [3, 0]]))
    assert json.loads(json.dumps(matrix.to_dict())) == {"names": ["a", "background"], "counts": [[1, 2], [3, 0]]}
