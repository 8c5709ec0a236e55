"""Average precision: by hand, against pycocotools' own summary, and at the edges where it is undefined."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math

import numpy as np
import pytest

from ddetr_lab.evaluation_scores import EvaluationResult, evaluate_detections


def truth(boxes, categories=("cat", "dog"), images=1):
    """Ground truth out of (image_id, category_id, bbox) triples."""
    return {
        "images": [{"id": i, "width": 200, "height": 200} for i in range(images)],
        "annotations": [{"image_id": i, "category_id": c, "bbox": bbox} for i, c, bbox in boxes],
        "categories": [{"id": i, "name": name} for i, name in enumerate(categories)],
    }


def found(*rows):
    return [{"image_id": i, "category_id": c, "bbox": bbox, "score": score} for i, c, bbox, score in rows]


def random_case(seed=5, images=12, categories=3):
    rng = np.random.default_rng(seed)
    boxes, rows = [], []
    for image in range(images):
        for _ in range(rng.integers(0, 6)):
            x, y, w, h = (*rng.uniform(0, 80, 2), *rng.uniform(8, 115, 2))
            category = int(rng.integers(categories))
            boxes.append((image, category, [x, y, w, h]))
            for _ in range(rng.integers(0, 3)):
                moved = (np.array([x, y, w, h]) + rng.normal(0, 4, 4)).clip(1).tolist()
                guess = category if rng.random() < 0.8 else int(rng.integers(categories))
                rows.append((image, guess, moved, float(rng.random())))
    return truth(boxes, [f"c{i}" for i in range(categories)], images), found(*rows)


def test_two_of_three_boxes_by_hand():
    """Ranked: hit, miss, hit of three objects. Precision at recall 1/3 is 1, at 2/3 it is 2/3, beyond it 0."""
    boxes = [(0, 0, [0, 0, 20, 20]), (0, 0, [50, 50, 20, 20]), (0, 0, [100, 100, 20, 20])]
    rows = [(0, 0, boxes[0][2], 0.9), (0, 0, [150, 0, 20, 20], 0.8), (0, 0, boxes[1][2], 0.7)]
    result = evaluate_detections(truth(boxes), found(*rows))
    recalls = np.linspace(0, 1, 101)
    by_hand = np.where(recalls <= 1 / 3, 1.0, np.where(recalls <= 2 / 3, 2 / 3, 0.0)).mean()
    assert result.ap == pytest.approx(by_hand) and result.ap50 == pytest.approx(by_hand)
    assert result.ar100 == pytest.approx(2 / 3) and result.ar1 == pytest.approx(1 / 3)
    assert (result.num_images, result.num_ground_truth, result.num_detections) == (1, 3, 3)


def test_overlap_decides_between_ap50_and_ap75():
    """A box shifted so that its IoU is 0.6 counts at 0.50, 0.55 and 0.60 only: three of ten overlaps."""
    result = evaluate_detections(truth([(0, 0, [0, 0, 40, 40])]), found((0, 0, [0, 10, 40, 40], 0.5)))
    assert (result.ap50, result.ap75) == pytest.approx((1.0, 0.0))
    assert result.ap == pytest.approx(0.3)


def test_all_twelve_numbers_equal_pycocotools_summary():
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    ground_truth, detections = random_case()
    result = evaluate_detections(ground_truth, detections)
    reference = copy.deepcopy(ground_truth)
    for number, entry in enumerate(reference["annotations"], start=1):
        entry |= {"id": number, "iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3]}
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = reference
        coco.createIndex()
        scorer = COCOeval(coco, coco.loadRes(copy.deepcopy(detections)), "bbox")
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    assert result.stats == pytest.approx(tuple(scorer.stats))
    assert 0.2 < result.ap < 0.95 and len({round(value, 6) for value in result.stats}) > 8, "a case that tells apart"
    assert np.mean(list(result.per_class.values())) == pytest.approx(result.ap)


def test_per_class_goes_by_name_even_when_ids_are_out_of_order():
    boxes = [(0, 9, [0, 0, 20, 20]), (0, 2, [50, 50, 20, 20])]
    ground_truth = truth(boxes) | {"categories": [{"id": 9, "name": "late"}, {"id": 2, "name": "early"}]}
    result = evaluate_detections(ground_truth, found((0, 9, [0, 0, 20, 20], 0.9)))
    assert result.per_class == pytest.approx({"early": 0.0, "late": 1.0})
    twins = truth(boxes) | {"categories": [{"id": 9, "name": "x"}, {"id": 2, "name": "x"}]}
    assert evaluate_detections(twins, []).per_class == {"x (2)": 0.0, "x (9)": 0.0}


def test_perfect_detections_score_one_and_the_line_is_as_promised(capsys):
    boxes = [(0, 0, [0, 0, 20, 20]), (0, 1, [50, 50, 60, 60]), (1, 0, [10, 10, 120, 120])]
    result = evaluate_detections(truth(boxes, images=2), found(*((*box, 0.5) for box in boxes)))
    expected = "AP 1.000 AP50 1.000 AP75 1.000 APs 1.000 APm 1.000 APl 1.000 AR100 1.000"
    assert result.line() == expected
    assert result.notes == ()
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == "", "pycocotools must be kept quiet"


def test_no_detections_is_zero_not_a_crash():
    result = evaluate_detections(truth([(0, 0, [0, 0, 20, 20])]), [])
    assert result.ap == 0.0 and result.ar100 == 0.0
    assert math.isnan(result.ap_large) and "APl nan" in result.line()
    assert result.notes == (
        "no ground truth for dog: left out of the mean over classes",
        "there are no detections: average precision is 0",
    )


@pytest.mark.parametrize("images", [0, 2])
@pytest.mark.parametrize("detections", [False, True])
def test_no_ground_truth_is_undefined_and_said(images, detections):
    rows = found((0, 0, [0, 0, 9, 9], 0.5)) if detections and images else []
    result = evaluate_detections(truth([], images=images), rows)
    assert all(math.isnan(value) for value in result.stats)
    assert result.notes == ("the ground truth has no boxes: average precision is undefined (nan)",)
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["ap"] is None


def test_a_crowd_is_neither_object_nor_mistake():
    ground_truth = truth([(0, 0, [0, 0, 20, 20]), (0, 0, [50, 50, 100, 100])])
    ground_truth["annotations"][1]["iscrowd"] = 1
    rows = found((0, 0, [60, 60, 20, 20], 0.9), (0, 0, [0, 0, 20, 20], 0.5))
    result = evaluate_detections(ground_truth, rows)
    assert result.ap == pytest.approx(1.0) and result.num_ground_truth == 1


def test_ground_truth_ids_of_zero_do_not_lose_a_match():
    ground_truth = truth([(0, 0, [0, 0, 20, 20])])
    ground_truth["annotations"][0]["id"] = 0
    assert evaluate_detections(ground_truth, found((0, 0, [0, 0, 20, 20], 0.9))).ap == pytest.approx(1.0)


def test_the_cap_on_detections_can_be_raised():
    boxes = [(0, 0, [12 * (i % 12), 12 * (i // 12), 10, 10]) for i in range(140)]
    rows = found(*((*box, 0.9 - i / 1000) for i, box in enumerate(boxes)))
    capped = evaluate_detections(truth(boxes), rows)
    assert capped.ar100 == pytest.approx(100 / 140)
    raised = evaluate_detections(truth(boxes), rows, max_detections=150)
    assert raised.ar100 == 1.0 and raised.line().endswith("AR150 1.000")


def test_inputs_are_not_modified():
    ground_truth, detections = random_case(seed=1, images=3)
    before = copy.deepcopy((ground_truth, detections))
    evaluate_detections(ground_truth, detections)
    assert (ground_truth, detections) == before


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        ((0, 0, [0, 0, math.nan, 5], 0.5), ValueError, r"detections\[1\] of picture 0 has bbox .*NaN or infinity"),
        ((0, 0, [0, 0, 5, 5], math.nan), ValueError, r"score nan"),
        ((0, 0, [0, math.inf, 5, 5], 0.5), ValueError, r"NaN or infinity"),
        ((7, 0, [0, 0, 5, 5], 0.5), ValueError, r"image_id 7, which the ground truth does not have"),
        ((0, 2, [0, 0, 5, 5], 0.5), ValueError, r"category_id 2, but the ground truth has \[0, 1\]"),
    ],
)
def test_bad_detections_are_named(row, error, message):
    ground_truth = truth([(0, 0, [0, 0, 20, 20])])
    with pytest.raises(error, match=message):
        evaluate_detections(ground_truth, found((0, 0, [0, 0, 5, 5], 0.5), row))


def test_a_missing_key_and_a_zero_cap_are_named():
    with pytest.raises(KeyError, match="has no 'score'"):
        evaluate_detections(truth([]), [{"image_id": 0, "category_id": 0, "bbox": [0, 0, 1, 1]}])
    with pytest.raises(ValueError, match="max_detections = 0"):
        evaluate_detections(truth([]), [], max_detections=0)


def test_the_result_is_read_only():
    result = evaluate_detections(truth([(0, 0, [0, 0, 20, 20])]), [])
    assert isinstance(result, EvaluationResult)
    with pytest.raises(AttributeError):
        result.ap = 1.0
