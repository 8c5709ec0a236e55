"""Transforms: a box marked by painted pixels is found at the transformed box; crops drop what they emptied."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from ddetr_lab.data.transforms import (
    TRANSFORMS,
    Compose,
    FromTorchvision,
    MultiScaleResizeOrCrop,
    RandomHorizontalFlip,
    RandomQuarterTurn,
    RandomScaleJitter,
    training_transform,
)

SMALL_PAPER = {"short_sides": (48, 64, 80), "longest": 133, "before_crop": (40, 50, 60), "crop_sides": (38, 60)}
GEOMETRIC = {
    "flip": lambda: RandomHorizontalFlip(),
    "turn": lambda: RandomQuarterTurn(),
    "jitter": lambda: RandomScaleJitter(0.6, 1.7, min_visible=0),
    "paper": lambda: MultiScaleResizeOrCrop(**SMALL_PAPER),
    "all": lambda: Compose(
        RandomQuarterTurn(), RandomScaleJitter(min_visible=0), MultiScaleResizeOrCrop(**SMALL_PAPER)
    ),
    "torchvision": lambda: FromTorchvision(v2.RandomResizedCrop((60, 70), scale=(0.3, 1.0))),
}


# How far the painted edge may lie from the box's, in pixels: nothing where no pixel is resampled; half a pixel of the
# edge and half of the whole pixel that it is read from; and with a second resampling that half pixel enlarged.
TOLERANCE = {"flip": 0, "turn": 0, "jitter": 1, "torchvision": 1, "paper": 2, "all": 2}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def painted(width, height, box):
    """A black picture whose box (whole pixels, xywh) is white, with a second box elsewhere that is not painted."""
    x, y, w, h = box
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[y : y + h, x : x + w] = 255
    annotations = [
        {"image_id": 7, "id": 70, "bbox": [float(v) for v in box], "category_id": 2, "area": w * h / 2, "iscrowd": 1},
        {"image_id": 7, "id": 71, "bbox": [0.0, 0.0, 3.0, 2.0], "category_id": 1, "iscrowd": 0},
    ]
    return Image.fromarray(pixels), {"image_id": 7, "annotations": annotations}


@pytest.mark.parametrize("name", GEOMETRIC)
@given(data=st.data(), seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_the_box_lies_on_the_pixels_that_it_marked(name, data, seed):
    width, height = data.draw(st.integers(40, 110)), data.draw(st.integers(40, 110))
    w, h = data.draw(st.integers(6, width)), data.draw(st.integers(6, height))
    box = (data.draw(st.integers(0, width - w)), data.draw(st.integers(0, height - h)), w, h)
    item = painted(width, height, box)
    before = (np.asarray(item[0]).copy(), [dict(annotation) for annotation in item[1]["annotations"]])
    picture, annotation = GEOMETRIC[name]()(item, seeded(seed))

    assert picture.mode == "RGB" and annotation["image_id"] == 7
    marked = [one for one in annotation["annotations"] if one["id"] == 70]
    # The ground that a smaller picture is laid on is grey, of at most 124; white that was resampled passes 128 up to
    # half a pixel from its edge.
    white = np.asarray(picture).min(axis=2) > 128
    if not marked:
        assert white.sum() <= max(picture.size)  # at most a line of half pixels is left of what went
        return
    (one,) = marked
    x, y, w, h = one["bbox"]
    assert min(x, y) >= 0 and x + w <= picture.width + 1e-4 and y + h <= picture.height + 1e-4
    assert (one["category_id"], one["iscrowd"], one["image_id"]) == (2, 1, 7)
    assert one["area"] == pytest.approx(w * h / 2)
    if min(w, h) > 2:
        rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
        found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert np.abs(np.subtract(found, (x, y, x + w, y + h))).max() <= TOLERANCE[name]
    assert np.array_equal(before[0], np.asarray(item[0])) and before[1] == item[1]["annotations"]


@pytest.mark.parametrize("name", GEOMETRIC)
def test_the_generator_alone_decides(name):
    item = painted(64, 48, (10, 8, 20, 30))
    transform = GEOMETRIC[name]()
    views = [transform(item, seeded(seed)) for seed in (1, 1, *range(2, 12))]
    torch.manual_seed(5)
    again = transform(item, seeded(1))
    assert views[0][1] == views[1][1] == again[1]
    assert np.array_equal(np.asarray(views[0][0]), np.asarray(again[0]))
    assert any(view[1] != views[0][1] for view in views)


def test_a_flip_twice_is_exact_and_so_are_four_turns():
    item = painted(61, 47, (3, 5, 20, 11))
    item[1]["annotations"][0]["bbox"] = [3.1, 5.7, 20.3, 11.9]
    flip = RandomHorizontalFlip(p=1)
    once = flip(item, seeded(0))
    assert once[1]["annotations"][0]["bbox"] == pytest.approx([61 - 3.1 - 20.3, 5.7, 20.3, 11.9], abs=1e-12)
    assert flip(once, seeded(0))[1]["annotations"][0]["bbox"] == pytest.approx([3.1, 5.7, 20.3, 11.9], abs=1e-12)
    assert RandomHorizontalFlip(p=0)(item, seeded(0))[0] is item[0]


def test_chances_are_as_said():
    item = painted(40, 30, (1, 2, 10, 20))
    generator = seeded(0)
    flips = sum(RandomHorizontalFlip(0.3)(item, generator)[1] != item[1] for _ in range(1000))
    assert 250 < flips < 350
    turns = [tuple(RandomQuarterTurn()(item, generator)[1]["annotations"][0]["bbox"]) for _ in range(1000)]
    counts = [turns.count(kind) for kind in set(turns)]
    assert len(counts) == 4 and min(counts) > 200


def test_boxes_that_a_crop_cuts_too_far_go_and_crowds_stay():
    zoom = RandomScaleJitter(4, 4, min_visible=0.5)
    for seed in range(40):
        picture, annotation = zoom(painted(64, 64, (20, 20, 30, 30)), seeded(seed))
        assert picture.size == (64, 64)
        for one in annotation["annotations"]:
            whole = (30 * 30 if one["id"] == 70 else 6) * 16
            assert one["bbox"][2] * one["bbox"][3] >= 0.5 * whole - 1e-6
    kept = RandomScaleJitter(4, 4, min_visible=0)
    seen = [
        one for seed in range(40) for one in kept(painted(64, 64, (20, 20, 30, 30)), seeded(seed))[1]["annotations"]
    ]
    assert {one["iscrowd"] for one in seen if one["id"] == 70} == {1}


def test_what_cannot_be_moved_is_left_out():
    picture, annotation = painted(40, 40, (4, 4, 20, 20))
    annotation["annotations"][0] |= {"segmentation": [[4, 4, 24, 4, 24, 24]], "keypoints": [1, 2, 2], "note": "mine"}
    _, moved = RandomHorizontalFlip(1)((picture, annotation), seeded(0))
    assert moved["annotations"][0]["note"] == "mine"
    assert not {"segmentation", "keypoints"} & moved["annotations"][0].keys()


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("size", [(640, 480), (333, 500), (90, 1200), (1, 1)])
def test_every_named_transform_takes_pictures_of_any_shape_without_boxes_too(name, size):
    transform = training_transform(name)
    for seed in range(4):
        picture, annotation = transform((Image.new("RGB", size), {"image_id": 1, "annotations": []}), seeded(seed))
        assert annotation == {"image_id": 1, "annotations": []} and min(picture.size) >= 1
        if transform.sets_size:
            assert max(picture.size) <= 1333


def test_the_papers_sizes():
    transform = training_transform("paper")
    assert transform.sets_size and not training_transform("jitter").sets_size
    short, shapes = set(), set()
    for seed in range(150):
        picture, _ = transform(painted(640, 480, (5, 5, 50, 50)), seeded(seed))
        short.add(min(picture.size))
        shapes.add(picture.size[0] / picture.size[1] == pytest.approx(4 / 3, abs=0.01))
        assert max(picture.size) <= 1333
    assert short & set(range(480, 801, 32)) == set(range(480, 801, 32))
    assert shapes == {True, False}  # whole pictures and parts


def test_none_is_the_item_itself():
    item = painted(40, 40, (4, 4, 20, 20))
    assert training_transform("none")(item, seeded(0)) is item


def test_torchvision_draws_from_the_generator_and_leaves_the_global_one():
    colour = FromTorchvision(v2.ColorJitter(brightness=0.5))
    item = painted(40, 40, (4, 4, 20, 20))
    state = torch.get_rng_state()
    one, two, other = (colour(item, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(np.asarray(one[0]), np.asarray(two[0]))
    assert not np.array_equal(np.asarray(one[0]), np.asarray(other[0]))
    assert one[1] == item[1]
    assert "ColorJitter" in repr(colour)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: training_transform("papers"), "transform = 'papers', expected one of none, flip"),
        (lambda: RandomHorizontalFlip(2), "p = 2, expected 0 to 1"),
        (lambda: RandomScaleJitter(0, 1), "smallest = 0"),
        (lambda: RandomScaleJitter(2, 1), "smallest = 2"),
        (lambda: RandomScaleJitter(min_visible=1.5), "min_visible = 1.5"),
        (lambda: MultiScaleResizeOrCrop(short_sides=()), "short_sides"),
        (lambda: MultiScaleResizeOrCrop(longest=500), "longest = 500, expected at least .* 800"),
        (lambda: MultiScaleResizeOrCrop(crop_sides=(6, 5)), r"crop_sides = \(6, 5\)"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_transform_without_a_generator_is_refused():
    with pytest.raises(TypeError, match="expected a torch.Generator"):
        RandomHorizontalFlip()(painted(40, 40, (4, 4, 20, 20)), 3)


def test_a_zero_box_does_not_divide_by_zero():
    picture, annotation = painted(40, 40, (4, 4, 20, 20))
    annotation["annotations"][0] |= {"bbox": [4.0, 4.0, 0.0, 5.0], "area": 0.0}
    _, moved = RandomHorizontalFlip(1)((picture, annotation), seeded(0))
    assert moved["annotations"][0]["area"] == 0.0
