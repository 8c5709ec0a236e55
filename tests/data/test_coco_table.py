"""A COCO file as arrays: what is read, and that contradictions are named."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from ddetr_lab.data.coco_table import is_integer, is_number, read_json, read_table, short


def content():
    return {
        "images": [
            {"id": 40, "file_name": "a.png", "width": 30, "height": 20},
            {"id": 7, "file_name": "b.png", "width": 12, "height": 16},
        ],
        "annotations": [
            {"id": 0, "image_id": 40, "category_id": 90, "bbox": [1, 2, 10, 5], "area": 33.0, "iscrowd": 1},
            {"id": 1, "image_id": 40, "category_id": 3, "bbox": [4.5, 3, 6, 8]},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}],
    }


def written(folder, entries):
    path = folder / "annotations.json"
    path.write_text(json.dumps(entries))
    return path


def test_boxes_lie_by_picture_in_the_order_of_the_file(tmp_path):
    entries = content()
    entries["annotations"] += [
        {"id": 9, "image_id": 7, "category_id": 3, "bbox": [0, 0, 1, 1], "segmentation": [[0, 0, 1, 1, 1, 0]]},
        {"image_id": 40, "category_id": 3, "bbox": [2, 2, 2, 2], "iscrowd": None},
    ]
    table = read_table(written(tmp_path, entries))
    assert table.image_ids.tolist() == [40, 7] and table.file_names == ["a.png", "b.png"]
    assert table.sizes.tolist() == [[30, 20], [12, 16]]
    assert table.offsets.tolist() == [0, 3, 4]
    assert table.annotation_ids.tolist() == [0, 1, 4, 9], "an entry without id has its place, counted from 1"
    assert table.labels.tolist() == [1, 0, 0, 0] and table.areas.tolist() == [33.0, 48.0, 4.0, 1.0]
    assert table.crowds.tolist() == [True, False, False, False]
    assert [entry["id"] for entry in table.annotations(0)] == [0, 1, 4]
    (last,) = table.annotations(1)
    assert last == {"id": 9, "image_id": 7, "bbox": [0.0, 0.0, 1.0, 1.0], "category_id": 0, "area": 1.0, "iscrowd": 0}
    assert not any(isinstance(value, np.generic) for value in last.values()), "JSON can hold it"


def test_a_file_without_pictures_is_an_empty_table(tmp_path):
    table = read_table(written(tmp_path, {"images": [], "annotations": [], "categories": []}))
    assert table.sizes.shape == (0, 2) and table.boxes.shape == (0, 4) and table.offsets.tolist() == [0]


def test_outlines_are_not_kept_and_keys_that_stand_twice_are_counted(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('\ufeff{"a": [{"segmentation": [1], "keypoints": [2], "id": 3, "id": 4}], "a": {}, "b": {"id": 1}}')
    twice = Counter()
    assert read_json(path, twice) == {"a": {}, "b": {"id": 1}}
    assert twice == {"id": 1, "a": 1}
    assert read_json(path) == {"a": {}, "b": {"id": 1}}


@pytest.mark.parametrize("spoilt", [b"{not json", b"", b"\xff\xfe{\x00}\x00", b"[" * 100_000, b"1" * 5000])
def test_what_is_no_json_is_said_to_be_none(tmp_path, spoilt):
    (tmp_path / "annotations.json").write_bytes(spoilt)
    with pytest.raises(ValueError, match="annotations.json is not JSON"):
        read_table(tmp_path / "annotations.json")


def spoil(path, value):
    def apply(entries):
        *parents, last = path
        for key in parents:
            entries = entries[key]
        if value is None:
            del entries[last]
        else:
            entries[last] = value

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoil(["annotations", 1, "category_id"], 4), r"annotations\[1\] has category_id 4, .* \[3, 90\]"),
        (spoil(["annotations", 0, "image_id"], 1), r"annotations\[0\] has image_id 1"),
        (spoil(["annotations", 0, "bbox"], [1, 2, 3]), r"bbox \[1, 2, 3\], expected four"),
        (spoil(["annotations", 0, "bbox"], [1, 2, 3, float("nan")]), r"four finite numbers"),
        (spoil(["annotations", 0, "bbox"], "1 2 3 4"), r"expected four"),
        (spoil(["annotations", 0, "bbox"], None), r"needs the keys image_id, category_id and bbox"),
        (spoil(["images", 1, "id"], 40), r"images\[1\] has the id 40"),
        (spoil(["images", 1, "file_name"], None), r"images\[1\] has no file_name"),
        (spoil(["categories", 0, "id"], "90"), r"categories\[0\] needs an integer id"),
        (spoil(["annotations", 1, "area"], float("inf")), r"area inf, expected a finite number"),
        (spoil(["annotations", 0, "iscrowd"], "0"), r"annotations\[0\] has iscrowd '0', expected 0 or 1"),
        (spoil(["images", 1, "width"], 12.5), r"width and height \(12.5, 16\), expected whole numbers"),
        (spoil(["images", 1, "id"], 2**63), r"images\[1\] needs an integer id"),
        (spoil(["categories"], None), r"needs the lists images, annotations, categories"),
    ],
)
def test_contradictions_in_the_file_are_named(tmp_path, change, message):
    entries = content()
    change(entries)
    with pytest.raises(ValueError, match=message):
        read_table(written(tmp_path, entries))


def test_numbers_are_told_from_everything_else():
    assert is_integer(-(2**63) + 1) and not any(map(is_integer, (True, 1.0, "1", None, 2**63)))
    assert is_number(1.5) and is_number(3) and not any(map(is_number, (float("nan"), float("inf"), True, "1", 10**400)))


def test_any_value_is_written_in_80_characters():
    assert short("x") == "'x'" and len(short("x" * 500)) == 80
    assert short(10**5000) == "a int too large to write"
