"""COCO folders: ids become labels, pictures stay upright, contradictions are named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from ddetr_lab.data.coco import CocoDataset, write_coco
from ddetr_lab.data.digits import DigitScenes
from tests.data.test_coco_table import content


@pytest.fixture
def folder(tmp_path):
    def make(entries=None, name="annotations.json"):
        entries = content() if entries is None else entries
        (tmp_path / name).write_text(json.dumps(entries))
        Image.new("RGB", (30, 20), (200, 10, 10)).save(tmp_path / "a.png")
        Image.new("L", (12, 16), 77).save(tmp_path / "b.png")
        return tmp_path

    return make


def test_ids_become_contiguous_labels_in_the_order_of_the_ids(folder):
    dataset = CocoDataset(folder())
    assert dataset.categories == {0: "car", 1: "toothbrush"}
    assert dataset.label_map.label_of == {3: 0, 90: 1} and dataset.label_map.id_of == {0: 3, 1: 90}
    picture, annotation = dataset[0]
    assert annotation["image_id"] == 40 and picture.size == (30, 20)
    crowd, car = annotation["annotations"]
    assert (crowd["category_id"], crowd["iscrowd"], crowd["area"]) == (1, 1, 33.0)
    assert (car["category_id"], car["iscrowd"], car["area"]) == (0, 0, 48.0)
    assert car["bbox"] == [4.5, 3.0, 6.0, 8.0]


def test_ids_can_stay(folder):
    dataset = CocoDataset(folder(), contiguous=False)
    assert dataset.categories == {3: "car", 90: "toothbrush"}
    assert [a["category_id"] for a in dataset[0][1]["annotations"]] == [90, 3]


def test_a_picture_without_boxes_is_an_item_and_grey_becomes_rgb(folder):
    picture, annotation = CocoDataset(folder())[1]
    assert picture.mode == "RGB" and picture.getpixel((0, 0)) == (77, 77, 77)
    assert annotation == {"image_id": 7, "annotations": []}


def test_items_are_copies(folder):
    dataset = CocoDataset(folder())
    dataset[0][1]["annotations"][0]["category_id"] = 55
    assert dataset[0][1]["annotations"][0]["category_id"] == 1


def test_ground_truth_speaks_of_labels_and_numbers_from_one(folder):
    truth = CocoDataset(folder()).coco_ground_truth()
    assert [a["id"] for a in truth["annotations"]] == [1, 2]
    assert [a["category_id"] for a in truth["annotations"]] == [1, 0]
    assert truth["categories"] == [{"id": 0, "name": "car"}, {"id": 1, "name": "toothbrush"}]


def test_pictures_are_found_in_images_or_where_one_says(folder, tmp_path_factory):
    root = folder()
    (root / "images").mkdir()
    (root / "a.png").rename(root / "images" / "a.png")
    assert CocoDataset(root)[0][0].size == (30, 20)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (root / "images" / "a.png").rename(elsewhere / "a.png")
    assert CocoDataset(root, image_folder=elsewhere)[0][0].size == (30, 20)
    with pytest.raises(FileNotFoundError, match="a.png.*pass image_folder"):
        CocoDataset(root)[0]


@pytest.mark.parametrize("declared", [(20, 30), (30, 20), None])
def test_a_rotated_photograph_takes_the_side_of_its_boxes(folder, declared):
    """The file's size says whether boxes were drawn on the stored or on the upright picture."""
    entries = content()
    for key, side in zip(("width", "height"), declared or (None, None), strict=True):
        if side is None:
            del entries["images"][0][key]
        else:
            entries["images"][0][key] = side
    entries["images"][0]["file_name"] = "turned.jpg"
    root = folder(entries)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    stored = np.zeros((20, 30, 3), dtype=np.uint8)
    stored[:, :10] = 255
    Image.fromarray(stored).save(root / "turned.jpg", exif=exif, quality=95)
    picture = CocoDataset(root)[0][0]
    assert picture.size == (declared or (20, 30))
    corner = picture.getpixel((1, picture.height - 2))  # the white left edge becomes the top edge
    assert (corner[0] > 200) == (picture.size == (30, 20))


def test_a_picture_of_another_size_or_a_broken_one_is_named(folder):
    entries = content()
    entries["images"][0]["width"] = 31
    root = folder(entries)
    (root / "b.png").write_bytes((root / "b.png").read_bytes()[:40])
    dataset = CocoDataset(root)
    with pytest.raises(ValueError, match=r"a.png is 30x20, but annotations.json says 31x20"):
        dataset[0]
    with pytest.raises(ValueError, match=r"b.png is (not a picture|truncated)"):
        dataset[1]
    with pytest.raises(IndexError):
        dataset[2]


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a COCO file nor a folder"):
        CocoDataset(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds none of annotations.json"):
        CocoDataset(tmp_path)


def test_written_scenes_read_back_exactly(tmp_path):
    scenes = DigitScenes("val", num_scenes=6)
    path = write_coco(scenes, tmp_path / "digits", indices=[0, 2, 5])
    dataset = CocoDataset(path.parent)
    assert dataset.categories == scenes.categories and len(dataset) == 3
    for position, index in enumerate((0, 2, 5)):
        (picture, annotation), (read, read_annotation) = scenes[index], dataset[position]
        assert np.array_equal(np.asarray(picture), np.asarray(read))
        assert read_annotation["image_id"] == index
        keys = ("bbox", "category_id", "area", "iscrowd")
        assert [[a[k] for k in keys] for a in read_annotation["annotations"]] == [
            [a[k] for k in keys] for a in annotation["annotations"]
        ]
    assert not list(path.parent.glob(".*.part"))


def test_writing_does_not_overwrite_unasked(tmp_path):
    scenes = DigitScenes("val", num_scenes=1)
    write_coco(scenes, tmp_path)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_coco(scenes, tmp_path)
    write_coco(DigitScenes("val", num_scenes=2), tmp_path, overwrite=True)
    assert len(CocoDataset(tmp_path)) == 2
