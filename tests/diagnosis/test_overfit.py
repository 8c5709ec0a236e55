"""The test on a few pictures: what it is made of, what it reports, and that it learns."""

import json
from dataclasses import replace

import pytest
import torch

from ddetr_lab.data.digits import DigitScenes
from ddetr_lab.diagnosis.overfit import class_blind, overfit_recipe, prepare, run_test


def test_it_trains_and_scores_on_the_same_pictures() -> None:
    test = prepare(pictures=2)
    assert test.pictures.coco_ground_truth() == DigitScenes("train", num_scenes=2, seed=0, size=96).coco_ground_truth()
    assert [annotation["image_id"] for _, annotation in test.items] == [0, 1]


def test_a_run_lowers_the_loss_and_reports_it() -> None:
    told: list[str] = []
    run = run_test(prepare(pictures=1), steps=10, report=told.append)
    assert [line["step"] for line in run.curve] == list(range(1, 11))
    assert run.curve[-1]["loss"] < run.curve[0]["loss"]
    assert told == [f"step 10: loss {run.curve[-1]['loss']:.3f}"]
    record = json.loads(json.dumps(run.to_dict(picture=0)))
    assert {found["image_id"] for found in record["detections"]} == {0}
    assert record["ap50"] == run.result.ap50


def test_two_runs_are_equal() -> None:
    one, two = (run_test(prepare(pictures=1), steps=2) for _ in range(2))
    assert one.curve == two.curve


def test_the_loss_of_other_pictures_is_watched_without_changing_the_run() -> None:
    plain, watched = prepare(pictures=1), prepare(pictures=1)
    watched.watch_others(pictures=1)
    one, two = run_test(plain, steps=10), run_test(watched, steps=10)
    assert [line["loss"] for line in one.curve] == [line["loss"] for line in two.curve]
    assert [line["step"] for line in two.curve if "held_out_loss" in line] == [10]


def test_without_classes_a_wrong_name_counts_as_right() -> None:
    box = [1.0, 2.0, 30.0, 40.0]
    truth = {
        "images": [{"id": 3}],
        "categories": [{"id": 5, "name": "five"}, {"id": 6, "name": "six"}],
        "annotations": [{"id": 1, "image_id": 3, "category_id": 5, "bbox": box}],
    }
    found = [{"image_id": 3, "category_id": 6, "bbox": box, "score": 0.5}]
    blind, detections = class_blind(truth, found)
    assert [entry["category_id"] for entry in blind["annotations"]] == [0]
    assert [entry["category_id"] for entry in detections] == [0]
    assert truth["annotations"][0]["category_id"] == 5 and found[0]["category_id"] == 6


def test_no_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="pictures = 0, expected at least 1"):
        prepare(pictures=0)


def test_the_recipe_is_the_shipped_detectors_with_a_higher_rate() -> None:
    recipe = overfit_recipe(side=64, learning_rate=0.002)
    assert (recipe.data.size, recipe.optimization.learning_rate) == (64, 0.002)
    assert recipe.model.preset == "digits"


def test_a_frozen_model_runs_and_stands_still() -> None:
    test = prepare(pictures=1)
    test.model.requires_grad_(False)
    before = {name: value.clone() for name, value in test.model.state_dict().items()}
    run = run_test(replace(test), steps=2)
    assert [line["grad_norm"] for line in run.curve] == [0.0, 0.0]
    assert run.curve[0]["loss"] == run.curve[1]["loss"]
    assert all(torch.equal(before[name], value) for name, value in test.model.state_dict().items())
