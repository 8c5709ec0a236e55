"""DigitScenes: reproducible, honest boxes, and two splits that share nothing."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from ddetr_lab.data.digits import PHOTOGRAPHS, DigitScenes, digit_scans


def pixels(picture):
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_same_arguments_give_the_same_scene(split):
    first, again = DigitScenes(split, num_scenes=20, seed=3), DigitScenes(split, num_scenes=20, seed=3)
    for index in (0, 7, 19):
        (picture, annotation), (picture_again, annotation_again) = first[index], again[index]
        assert np.array_equal(pixels(picture), pixels(picture_again))
        assert annotation == annotation_again


def test_a_scene_does_not_depend_on_the_scenes_before_it_nor_on_the_length():
    short, long = DigitScenes("train", num_scenes=6), DigitScenes("train", num_scenes=900)
    for _ in short:
        pass
    assert np.array_equal(pixels(short[5][0]), pixels(long[5][0]))


@pytest.mark.parametrize("other", [{"seed": 1}, {"split": "val"}, {"index": 1}])
def test_seed_split_and_index_each_change_the_scene(other):
    arguments = {"split": "train", "seed": 0, "index": 0} | other
    index = arguments.pop("index")
    picture, annotation = DigitScenes("train", seed=0)[0]
    other_picture, other_annotation = DigitScenes(**arguments)[index]
    assert annotation["annotations"] != other_annotation["annotations"]
    assert picture.size != other_picture.size or not np.array_equal(pixels(picture), pixels(other_picture))


def test_items_have_the_form_that_the_processor_takes():
    scenes = DigitScenes("train", num_scenes=30)
    picture, annotation = scenes[4]
    assert picture.mode == "RGB"
    assert annotation["image_id"] == 4
    for scene in range(30):
        for entry in scenes[scene][1]["annotations"]:
            assert entry["iscrowd"] == 0
            assert entry["area"] == entry["bbox"][2] * entry["bbox"][3]
            assert 0 <= entry["category_id"] <= 9


@pytest.mark.parametrize("size", [96, 160])
def test_sizes_and_boxes_stay_within_their_limits(size):
    scenes = DigitScenes("val", num_scenes=60, size=size)
    sides = []
    for picture, annotation in scenes:
        sides += picture.size
        for x, y, w, h in (entry["bbox"] for entry in annotation["annotations"]):
            assert x >= 0 and y >= 0 and x + w <= picture.width and y + h <= picture.height
            assert h >= 0.05 * size and w >= 2
    assert min(sides) >= round(0.8 * size) and max(sides) <= size
    assert len(set(sides)) > 5, "sides must vary, or padding is never exercised"


def test_the_box_is_the_extent_of_the_ink(monkeypatch):
    """Against a black ground, whatever differs from black is ink: its extent must be the box, to a blurred pixel."""
    from PIL import Image

    from ddetr_lab.data import digits

    monkeypatch.setattr(digits, "_background", lambda rng, split, width, height: Image.new("RGB", (width, height)))
    scenes = DigitScenes("train", num_scenes=80)
    checked = 0
    for picture, annotation in scenes:
        if len(annotation["annotations"]) != 1:
            continue
        # Light ink has a channel of at least 0.9 and opacity 0.85; the box begins at a tenth of the stroke's 0.3.
        inked = pixels(picture).max(axis=2) > 0.3 * 255
        rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
        found = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
        assert np.abs(np.array(found) - annotation["annotations"][0]["bbox"]).max() <= 2
        checked += 1
    assert checked >= 5


def test_counts_sizes_and_classes_over_many_scenes():
    truth = DigitScenes("train", num_scenes=400).coco_ground_truth()
    per_picture = np.bincount([entry["image_id"] for entry in truth["annotations"]], minlength=400)
    heights = np.array([entry["bbox"][3] for entry in truth["annotations"]])
    labels = np.bincount([entry["category_id"] for entry in truth["annotations"]], minlength=10)
    assert 10 <= (per_picture == 0).sum() <= 70, "some pictures are empty, most are not"
    assert per_picture.max() <= 8 and 2.5 < per_picture.mean() < 4.5
    assert 15 < heights.min() < 22 and heights.max() > 64 and heights.max() <= 100
    assert labels.min() > 0.5 * labels.mean(), "every digit is about as frequent as the others"


def test_crowded_scenes_hold_twice_as_many_digits_of_the_same_sizes():
    crowded = DigitScenes("train", num_scenes=400, crowded=True)
    truth, usual = crowded.coco_ground_truth(), DigitScenes("train", num_scenes=400).coco_ground_truth()
    per_picture = np.bincount([entry["image_id"] for entry in truth["annotations"]], minlength=400)
    assert 8 < per_picture.max() <= 11 and 6.5 < per_picture.mean() < 7.5 and 5 <= (per_picture == 0).sum() <= 35
    assert len(truth["annotations"]) > 1.9 * len(usual["annotations"])
    heights = np.array([entry["bbox"][3] for entry in truth["annotations"]])
    assert 15 < heights.min() < 22 and heights.max() > 64, "large digits find a place as well"
    assert "crowded=True" in repr(crowded) and "crowded" not in repr(DigitScenes())


@pytest.mark.parametrize("crowded", [False, True])
def test_boxes_hardly_cover_one_another(crowded):
    dataset = DigitScenes("val", crowded=crowded)
    for scene in range(100):
        boxes = np.array([a["bbox"] for a in dataset.annotation(scene)["annotations"]]).reshape(-1, 4)
        for i, (x, y, w, h) in enumerate(boxes):
            for ox, oy, ow, oh in boxes[:i]:
                shared = max(0, min(x + w, ox + ow) - max(x, ox)) * max(0, min(y + h, oy + oh) - max(y, oy))
                assert shared <= 0.12 * min(w * h, ow * oh)


def test_ink_stands_out_from_the_ground(monkeypatch):
    """Painting with and without ink must differ clearly on most of what a box claims is a digit."""
    from ddetr_lab.data import digits

    scenes = DigitScenes("val", num_scenes=40)
    inked = [pixels(picture) for picture, _ in scenes]
    monkeypatch.setattr(digits, "_ink", lambda rng, canvas, stroke: None)
    for index, painted in enumerate(inked):
        bare, annotation = scenes[index]
        change = np.abs(painted - pixels(bare)).max(axis=2)
        for x, y, w, h in (map(int, entry["bbox"]) for entry in annotation["annotations"]):
            assert (change[y : y + h, x : x + w] > 60).mean() > 0.12


def test_no_scan_and_no_photograph_is_in_both_splits():
    train = {scan.tobytes() for scans in digit_scans("train") for scan in scans}
    val = {scan.tobytes() for scans in digit_scans("val") for scan in scans}
    total = sum(len(scans) for split in ("train", "val") for scans in digit_scans(split))
    assert total == 1797
    assert not train & val
    assert not set(PHOTOGRAPHS["train"]) & set(PHOTOGRAPHS["val"])


def test_annotation_and_ground_truth_agree_with_the_items():
    scenes = DigitScenes("val", num_scenes=12)
    truth = scenes.coco_ground_truth()
    assert [entry["id"] for entry in truth["annotations"]] == list(range(1, len(truth["annotations"]) + 1))
    assert [(c["id"], c["name"]) for c in truth["categories"]] == [(d, str(d)) for d in range(10)]
    for index, image in enumerate(truth["images"]):
        picture, annotation = scenes[index]
        assert (image["id"], image["width"], image["height"]) == (index, *picture.size)
        assert scenes.annotation(index) == annotation
        mine = [entry for entry in truth["annotations"] if entry["image_id"] == index]
        assert [entry["bbox"] for entry in mine] == [entry["bbox"] for entry in annotation["annotations"]]


def test_indexing_ends_and_counts_from_the_end():
    scenes = DigitScenes("val", num_scenes=3)
    assert len(list(scenes)) == len(scenes) == 3
    assert scenes[-1][1] == scenes[2][1]
    for outside in (3, -4):
        with pytest.raises(IndexError, match="3 scenes"):
            scenes[outside]


def test_defaults_and_pickling():
    assert len(DigitScenes("val")) == 500
    scenes = pickle.loads(pickle.dumps(DigitScenes(num_scenes=5, seed=2)))
    assert scenes.split == "train" and scenes[1][1] == DigitScenes(num_scenes=5, seed=2)[1][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "split = 'test', but DigitScenes has 'train' and 'val'"),
        ({"num_scenes": -1}, "num_scenes = -1"),
        ({"seed": -5}, "seed = -5"),
        ({"size": 20}, "size = 20, but DigitScenes needs at least 64"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        DigitScenes(**arguments)


def test_a_missing_photograph_is_named_with_the_remedy():
    from ddetr_lab.data.digits import _photograph

    with pytest.raises(FileNotFoundError, match="data/none.png.*reinstall"):
        _photograph("skimage", "data", "none.png")
    with pytest.raises(ModuleNotFoundError, match="install scikit-learn and scikit-image"):
        _photograph("no_such_package_here", "data", "camera.png")
