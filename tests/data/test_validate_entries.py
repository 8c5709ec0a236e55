"""A COCO file's entries: whatever JSON stands where one should, it is told and nothing fails."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddetr_lab.data.coco import CocoDataset
from ddetr_lab.data.findings import ValidationReport
from ddetr_lab.data.validate import validate_dataset
from ddetr_lab.data.validate_entries import check_content
from tests.data.corrupt_files import Case, check_told, put
from tests.data.good_folder import WIDTH, good

CORRUPT: dict[str, Case] = {
    "a list": (lambda _: [], "not-coco", None, None),
    "null": (lambda _: None, "not-coco", None, None),
    "no images": (put("images", ...), "not-coco", None, None),
    "images an object": (put("images", {}), "not-coco", None, None),
    "images empty": (put("images", []), "no-pictures", None, None),
    "annotations empty": (put("annotations", []), "no-boxes", None, None),
    "categories empty": (put("categories", []), "no-categories", None, None),
    "category no object": (put("categories", 0, "car"), "category-entry", None, None),
    "category id a string": (put("categories", 0, "id", "3"), "category-id", None, None),
    "category id twice": (put("categories", 1, "id", 3), "category-twice", None, None),
    "category without name": (put("categories", 0, "name", ...), "category-name", None, None),
    "two names the same": (put("categories", 1, "name", "A "), "category-same-name", None, None),
    "a hole in the ids": (put("categories", 1, "id", 9), "category-holes", None, None),
    "an unused category": (
        lambda c: put("categories", [*c["categories"], {"id": 5, "name": "c"}])(c),
        "category-unused",
        None,
        None,
    ),
    "image no object": (put("images", 1, 7), "image-entry", "images[1]", None),
    "image id a string": (put("images", 1, "id", "12"), "image-id", "12", None),
    "image id a float": (put("images", 1, "id", 12.0), "image-id", "12.0", None),
    "image id missing": (put("images", 1, "id", ...), "image-id", "images[1]", None),
    "image id twice": (put("images", 1, "id", 11), "image-twice", 11, None),
    "no file name": (put("images", 1, "file_name", ...), "file-name", 12, None),
    "file name a number": (put("images", 1, "file_name", 12), "file-name", 12, None),
    "file name twice": (put("images", 1, "file_name", "11.png"), "file-name-twice", 12, None),
    "file name of Windows": (put("images", 1, "file_name", "images\\12.png"), "file-name-path", 12, None),
    "width a string": (put("images", 1, "width", "64"), "image-size", 12, None),
    "height zero": (put("images", 1, "height", 0), "image-size", 12, None),
    "size missing": (
        lambda c: put("images", 1, "height", ...)(put("images", 1, "width", ...)(c)),
        "image-size-missing",
        12,
        None,
    ),
    "annotation no object": (put("annotations", 4, None), "annotation-entry", None, "annotations[4]"),
    "annotation without id": (put("annotations", 4, "id", ...), "annotation-id", 12, "annotations[4]"),
    "annotation id twice": (put("annotations", 4, "id", 103), "annotation-twice", 12, 103),
    "unknown picture": (put("annotations", 4, "image_id", 99), "annotation-image", 99, 104),
    "picture's id a string": (put("annotations", 4, "image_id", "12"), "annotation-image", "12", 104),
    "picture's id a list": (put("annotations", 4, "image_id", [12]), "annotation-image", "[12]", 104),
    "unknown category": (put("annotations", 4, "category_id", 5), "annotation-category", 12, 104),
    "category counted from 0": (put("annotations", 4, "category_id", 0), "annotation-category", 12, 104),
    "category an object": (put("annotations", 4, "category_id", {"id": 3}), "annotation-category", 12, 104),
    "no bbox": (put("annotations", 4, "bbox", ...), "box-form", 12, 104),
    "three numbers": (put("annotations", 4, "bbox", [1, 2, 3]), "box-form", 12, 104),
    "numbers as text": (put("annotations", 4, "bbox", ["1", "2", "3", "4"]), "box-form", 12, 104),
    "NaN": (put("annotations", 4, "bbox", [1, 2, float("nan"), 4]), "box-not-finite", 12, 104),
    "infinity": (put("annotations", 4, "bbox", [1, 2, float("inf"), 4]), "box-not-finite", 12, 104),
    "a number of 400 digits": (put("annotations", 4, "bbox", [1, 2, 10**400, 4]), "box-not-finite", 12, 104),
    "area negative": (put("annotations", 4, "area", -3), "area", 12, 104),
    "area too large": (put("annotations", 4, "area", 5000), "area", 12, 104),
    "area text": (put("annotations", 4, "area", "big"), "area-form", 12, 104),
    "crowd a word": (put("annotations", 4, "iscrowd", "yes"), "crowd-flag", 12, 104),
    "a crowd": (put("annotations", 4, "iscrowd", 1), "crowd", 12, 104),
}


@pytest.mark.parametrize("name", CORRUPT)
def test_a_corrupt_file_is_told_with_its_ids(tmp_path, name):
    check_told(tmp_path / "set", CORRUPT[name])


def test_what_is_usable_is_handed_on():
    content = put("images", 0, "width", ...)(put("annotations", 1, "bbox", [1, 2])(good()))
    report = ValidationReport()
    found = check_content(content, "f.json", report)
    assert found.names == {3: "a", 4: "b"} and [image.id for image in found.images] == [11, 12, 13, 14]
    assert [box.id for box in found.images[0].boxes] == [100, 102]
    assert (found.images[0].width, found.images[1].width) == (0, WIDTH)
    assert (report.pictures, report.boxes) == (4, 12)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
numbers = st.integers() | st.floats() | json_values
entry = st.fixed_dictionaries(
    {},
    optional={
        **{key: numbers for key in ("id", "image_id", "category_id", "width", "height", "area", "iscrowd")},
        "file_name": json_values,
        "name": json_values,
        "bbox": st.lists(numbers, max_size=5) | json_values,
    },
)


@given(
    st.fixed_dictionaries(
        {key: st.lists(entry | json_values, max_size=4) for key in ("images", "annotations", "categories")}
    )
)
@settings(max_examples=150, deadline=None)
def test_no_json_makes_it_fail(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("any")
    (folder / "annotations.json").write_text(json.dumps(content))
    report = validate_dataset(folder)
    "\n".join(report.lines()).encode()
    json.dumps(report.to_dict())
    if report.ok:  # no error is left out: the file can be opened for training
        assert len(CocoDataset(folder)) == report.pictures
