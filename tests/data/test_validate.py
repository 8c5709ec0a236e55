"""A data set looked over: corrupt COCO files, made here one by one, each told with the ids of its entries."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ddetr_lab.cli import main
from ddetr_lab.data.findings import KINDS, ValidationReport
from ddetr_lab.data.validate import validate_dataset
from ddetr_lab.data.validate_entries import check_content
from tests.data.good_folder import HEIGHT, WIDTH, good, pixels, write


def put(*path_and_value):
    """Return a change: walk the path, and set (or, with no value, remove) what stands there."""
    *path, value = path_and_value

    def change(content):
        entry = content
        for key in path[:-1]:
            entry = entry[key]
        if value is ...:
            del entry[path[-1]]
        else:
            entry[path[-1]] = copy.deepcopy(value)
        return content

    return change


def all_boxes(convert):
    def change(content):
        for n, entry in enumerate(content["annotations"]):
            entry["bbox"] = convert(n)
            entry.pop("area")
        return content

    return change


def text(change):
    return lambda content: change(json.dumps(content))


# name: (what is done to the good file, kind of finding, picture's id, annotation's id)
CORRUPT = {
    "no JSON": (lambda _: "{not json", "not-json", None, None),
    "cut short": (text(lambda whole: whole[:200]), "not-json", None, None),
    "empty file": (lambda _: "", "not-json", None, None),
    "binary": (lambda _: "\x00\x01\x02", "not-json", None, None),
    "nested too deep": (lambda _: "[" * 100_000, "not-json", None, None),
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
    "file name absolute": (put("images", 1, "file_name", "/data/12.png"), "picture-missing", 12, None),
    "file missing": (put("images", 1, "file_name", "nowhere.png"), "picture-missing", 12, None),
    "file name too long": (put("images", 1, "file_name", "x" * 5000), "picture-missing", 12, None),
    "half a character": (put("images", 1, "file_name", "\ud800.png"), "picture-missing", 12, None),
    "width a string": (put("images", 1, "width", "64"), "image-size", 12, None),
    "height zero": (put("images", 1, "height", 0), "image-size", 12, None),
    "another size": (put("images", 1, "width", 63), "picture-size", 12, None),
    "sides exchanged": (
        lambda c: put("images", 1, "height", WIDTH)(put("images", 1, "width", HEIGHT)(c)),
        "picture-size",
        12,
        None,
    ),
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
    "reversed": (put("annotations", 4, "bbox", [30, 20, -10, 5]), "box-reversed", 12, 104),
    "no width": (put("annotations", 4, "bbox", [30, 20, 0, 5]), "box-empty", 12, 104),
    "under a pixel": (put("annotations", 4, "bbox", [30, 20, 0.4, 5]), "box-tiny", 12, 104),
    "outside": (put("annotations", 4, "bbox", [70, 20, 5, 5]), "box-outside", 12, 104),
    "partly outside": (put("annotations", 4, "bbox", [50, 20, 30, 5]), "box-overhang", 12, 104),
    "the same box twice": (
        lambda c: put("annotations", 4, {**c["annotations"][3], "id": 104})(c),
        "box-twice",
        12,
        104,
    ),
    "area negative": (put("annotations", 4, "area", -3), "area", 12, 104),
    "area too large": (put("annotations", 4, "area", 5000), "area", 12, 104),
    "area text": (put("annotations", 4, "area", "big"), "area", 12, 104),
    "crowd a word": (put("annotations", 4, "iscrowd", "yes"), "crowd-flag", 12, 104),
    "a crowd": (put("annotations", 4, "iscrowd", 1), "crowd", 12, 104),
    "no box in a picture": (lambda c: put("annotations", c["annotations"][3:])(c), "picture-no-boxes", 11, None),
    "corners": (all_boxes(lambda n: [30 + n, 20 + n, 50 + n, 36 + n]), "boxes-xyxy", 11, 100),
    "middle and size": (all_boxes(lambda n: [44 + n / 2, 24, 38 - n, 30]), "boxes-cxcywh", 11, 100),
    "from 0 to 1": (all_boxes(lambda n: [0.1 + n / 100, 0.2, 0.3, 0.4]), "boxes-normalised", 11, 100),
}


def ids(found):
    return [(finding.image_id, finding.annotation_id) for finding in found]


def test_a_good_data_set_has_nothing_to_tell(tmp_path):
    report = validate_dataset(write(tmp_path / "set", good()))
    assert report.findings == [] and report.ok
    assert (report.pictures, report.boxes, report.decoded) == (4, 12, 4)
    assert report.boxes_of == {"a": 6, "b": 6} and len(report.sizes) == 12


def test_there_are_at_least_40_corrupt_files():
    print(f"{len(CORRUPT)} corrupt COCO files")
    assert len(CORRUPT) >= 40


@pytest.mark.parametrize("name", CORRUPT)
def test_a_corrupt_file_is_told_with_its_ids(tmp_path, name):
    change, kind, image_id, annotation_id = CORRUPT[name]
    report = validate_dataset(write(tmp_path / "set", change(good())))
    assert (image_id, annotation_id) in ids(report.of(kind)), [finding.line() for finding in report.findings]
    text = "\n".join(report.lines())
    assert KINDS[kind][1] in text and text.encode()
    assert report.ok is not any(KINDS[finding.kind][0] == "error" for finding in report.findings)
    json.dumps(report.to_dict())


def test_a_picture_without_entry_is_named(tmp_path):
    folder = write(tmp_path / "set", good())
    Image.fromarray(pixels(9)).save(folder / "forgotten.png")
    (finding,) = validate_dataset(folder).findings
    assert (finding.kind, finding.file) == ("picture-unlisted", "forgotten.png")


def test_a_picture_in_two_splits_is_leakage_even_in_another_format(tmp_path):
    write(tmp_path / "set" / "train", good())
    valid = good()
    valid["images"][2]["file_name"] = "13.bmp"
    folder = write(tmp_path / "set" / "valid", valid, "_annotations.coco.json", seed=50)
    (folder / "13.png").unlink()
    Image.fromarray(pixels(0)).save(folder / "13.bmp")
    report = validate_dataset(tmp_path / "set")
    (finding,) = report.findings
    assert (finding.kind, finding.image_id) == (
        "leakage",
        13,
    ) and "picture 11 of train/annotations.json" in finding.message


def test_coco_s_own_layout_and_splits_of_other_classes(tmp_path):
    root = tmp_path / "coco"
    for name, seed in (("train2017", 0), ("val2017", 30)):
        write(root / name, good(), "away.json", seed=seed)
        (root / name / "away.json").unlink()
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(good()))
    other = put("categories", 1, "name", "z")(good())
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(other))
    report = validate_dataset(root)
    assert [finding.kind for finding in report.findings] == ["categories-differ"]
    assert report.decoded == 8


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        validate_dataset(tmp_path / "nowhere")
    assert [finding.kind for finding in validate_dataset(tmp_path).findings] == ["no-coco-file"]


@pytest.mark.parametrize("convert", [lambda n: [n, n, n + 40, n + 30], lambda n: [20 + n, 15 + n, 12, 9]])
def test_good_boxes_are_not_suspected(tmp_path, convert):
    """Three boxes to twelve, large ones from the corner too: no format is cried without cause."""
    content = all_boxes(convert)(good())
    for image in content["images"]:
        image["width"], image["height"] = 640, 480
    report = ValidationReport()
    check_content(content, "f", report)
    kinds = {finding.kind for finding in validate_dataset(write(tmp_path / "s", content)).findings}
    assert not {"boxes-xyxy", "boxes-cxcywh", "boxes-normalised", "boxes-maybe-xyxy"} & kinds


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


def test_the_command(tmp_path, capsys):
    folder = write(tmp_path / "set", good())
    assert main(["validate", str(folder)]) == 0
    assert "0 errors, 0 warnings, 0 notes in 4 pictures and 12 boxes" in capsys.readouterr().out
    write(folder, put("annotations", 4, "bbox", [30, 20, 0, 5])(good()))
    assert main(["validate", str(folder), "--figures", str(tmp_path / "figures")]) == 1
    out = capsys.readouterr().out
    assert "error box-empty (1): remove it" in out and "picture 12, annotation 104: bbox is [30, 20, 0, 5]" in out
    for name in ("contact_sheet", "class_counts", "box_sizes"):
        with Image.open(tmp_path / "figures" / f"{name}.png") as figure:
            assert min(figure.size) > 150 and len(figure.convert("RGB").getcolors(2**20)) > 3
    assert main(["validate", str(folder), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["annotation_id"] == 104
    write(folder, put("annotations", 4, "bbox", [30, 20, 0.5, 5])(good()))
    assert main(["validate", str(folder)]) == 0
    assert main(["validate", str(tmp_path / "nowhere")]) == 1


def test_figures_stand_odd_names_and_boxes(tmp_path):
    content = put("categories", 0, "name", "cost in $ and $^")(good())
    content = put("annotations", 4, "bbox", [1e300, -1e300, -5, 1e308])(content)
    content = put("annotations", 5, "category_id", ["x"])(content)
    folder = write(tmp_path / "set", content)
    assert main(["validate", str(folder), "--figures", str(tmp_path / "figures")]) == 1


def test_long_lists_are_cut_but_counted(tmp_path):
    content = all_boxes(lambda n: [20, 10, 0, n])(good())
    lines = list(validate_dataset(write(tmp_path / "set", content)).lines(most=2))
    assert "error box-empty (12): remove it" in lines[0] and lines[3] == "  ... and 10 more"
    with pytest.raises(KeyError, match="kind = 'nonsense'"):
        ValidationReport().of("nonsense")
