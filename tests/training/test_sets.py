"""Which pictures: COCO folders in their three layouts, subsets, and labels that must agree."""

from __future__ import annotations

import json
import shutil

import pytest

from ddetr_lab.data import CocoDataset, DigitScenes, write_coco
from ddetr_lab.data.sampling import picture_sizes
from ddetr_lab.recipe import Recipe
from ddetr_lab.training.sets import PictureSubset, coco_split, common_labels, training_set, validation_set
from tests.training.conftest import changed

RECIPE = Recipe("own")


@pytest.fixture(scope="module")
def one_file(tmp_path_factory):
    """A folder with one COCO file for ten scenes."""
    folder = tmp_path_factory.mktemp("one")
    write_coco(DigitScenes("val", num_scenes=10, size=64), folder)
    return folder


def ids(dataset):
    return [dataset[index][1]["image_id"] for index in range(len(dataset))]


def test_one_file_is_split_every_fifth_picture_for_validation(one_file):
    train, val = coco_split(one_file, "train"), coco_split(one_file, "val")
    assert ids(val) == [4, 9] and ids(train) == [0, 1, 2, 3, 5, 6, 7, 8]
    truth = val.coco_ground_truth()
    assert [image["id"] for image in truth["images"]] == [4, 9]
    assert {entry["image_id"] for entry in truth["annotations"]} <= {4, 9}
    assert truth["categories"] == train.coco_ground_truth()["categories"]
    assert common_labels(train, val).names == {digit: str(digit) for digit in range(10)}


@pytest.mark.parametrize("held_out", ["val", "valid", "validation"])
def test_a_folder_for_each_split(tmp_path, held_out):
    write_coco(DigitScenes("train", num_scenes=3, size=64), tmp_path / "train")
    write_coco(DigitScenes("val", num_scenes=2, size=64), tmp_path / held_out)
    assert (len(coco_split(tmp_path, "train")), len(coco_split(tmp_path, "val"))) == (3, 2)


def test_coco_s_own_layout(one_file, tmp_path):
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        content = json.loads((one_file / "annotations.json").read_text())
        shutil.copytree(one_file / "images", tmp_path / f"{split}2017")
        for image in content["images"]:
            image["file_name"] = image["file_name"].removeprefix("images/")
        (tmp_path / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    assert len(coco_split(tmp_path, "val")) == 10
    assert coco_split(tmp_path, "train")[3][1]["image_id"] == 3


def test_what_is_missing_is_said(tmp_path, one_file):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        coco_split(tmp_path / "gone", "train")
    with pytest.raises(FileNotFoundError, match="has no train part: expected annotations/instances_train"):
        coco_split(tmp_path, "train")
    with pytest.raises(ValueError, match="split = 'test'"):
        coco_split(one_file, "test")
    with pytest.raises(ValueError, match="folder is empty: say where"):
        validation_set(changed(RECIPE, "data", dataset="coco"))


def test_other_categories_in_validation_are_refused():
    train, val = DigitScenes("train", 2, size=64), DigitScenes("val", 2, size=64)
    val.categories = {0: "zero"}
    val.label_map = type(common_labels(train, train)).from_names(["zero"])
    with pytest.raises(ValueError, match="give both files the same list of categories"):
        common_labels(train, val)


def test_digits_are_new_in_every_step_or_as_many_as_asked_for(one_file):
    assert len(training_set(RECIPE, steps=7, seed=1)) == 7 * 8
    assert len(training_set(changed(RECIPE, "data", pictures=8), steps=7, seed=1)) == 8
    crowded = changed(RECIPE, "data", crowded=True)
    assert training_set(crowded, steps=7, seed=1).crowded and not validation_set(crowded).crowded
    with pytest.raises(ValueError, match="epochs need a number of scenes"):
        training_set(RECIPE, steps=0, seed=1)
    own = changed(RECIPE, "data", dataset="coco", folder=str(one_file), pictures=3)
    subset = training_set(own, steps=7, seed=1)
    assert isinstance(subset, PictureSubset) and ids(subset) == [0, 1, 2]


def test_trees_are_asked_for_with_the_recipe_s_tile(monkeypatch):
    trees = pytest.importorskip("ddetr_lab.data.trees")
    asked = []
    monkeypatch.setattr(trees, "TreeCrowns", lambda split, tile: asked.append((split, tile)) or [0])
    recipe = changed(RECIPE, "data", dataset="trees", tile=200)
    training_set(recipe, 1, 0)
    validation_set(recipe)
    validation_set(recipe, "OSBS")
    assert asked == [("train", 200), ("val", 200), ("OSBS", 200)]


def test_too_few_pictures_leave_none_for_validation(tmp_path):
    path = write_coco(DigitScenes("val", num_scenes=4, size=64), tmp_path / "four")
    own = changed(RECIPE, "data", dataset="coco", folder=str(tmp_path / "four"))
    assert len(training_set(own, 1, 0)) == 4
    with pytest.raises(
        ValueError, match=r"4 pictures in .* leave none for validation: expected at least 5, or a folder"
    ):
        validation_set(own)
    write_coco(DigitScenes("train", num_scenes=2, size=64), tmp_path / "split" / "train")
    (tmp_path / "split" / "val").mkdir()
    empty = {**json.loads(path.read_text()), "images": [], "annotations": []}
    (tmp_path / "split" / "val" / "annotations.json").write_text(json.dumps(empty))
    with pytest.raises(ValueError, match="the val part of .* has no picture"):
        validation_set(changed(RECIPE, "data", dataset="coco", folder=str(tmp_path / "split")))


def test_a_subset_s_sizes_are_those_of_its_pictures(one_file):
    content = json.loads((one_file / "annotations.json").read_text())
    for entry in content["images"]:
        del entry["width"], entry["height"]
    (one_file / "unsized.json").write_text(json.dumps(content))
    subset = PictureSubset(CocoDataset(one_file / "unsized.json"), [2, 5])
    assert picture_sizes(subset).tolist() == [list(subset[index][0].size) for index in (0, 1)]
