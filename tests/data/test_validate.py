"""A data set looked over: files, pictures and splits; entries and boxes have test files of their own."""

from __future__ import annotations

import json
import os

import pytest
from PIL import Image

from ddetr_lab.data.validate import validate_dataset
from tests.data.corrupt_files import Case, check_told, put, text
from tests.data.good_folder import HEIGHT, WIDTH, good, pixels, write
from tests.data.test_validate_boxes import CORRUPT as CORRUPT_BOXES
from tests.data.test_validate_entries import CORRUPT as CORRUPT_ENTRIES

CORRUPT: dict[str, Case] = {
    "no JSON": (lambda _: "{not json", "not-json", None, None),
    "cut short": (text(lambda whole: whole[:200]), "not-json", None, None),
    "empty file": (lambda _: "", "not-json", None, None),
    "a list twice": (text(lambda whole: '{"images": [], ' + whole[1:]), "json-key-twice", None, None),
    "a key twice in an entry": (
        text(lambda whole: whole.replace('"bbox"', '"id": 5, "bbox"', 1)),
        "json-key-twice",
        None,
        None,
    ),
    "UTF-16": (lambda _: "\x00{\x00}", "not-json", None, None),
    "binary": (lambda _: "\x00\x01\x02", "not-json", None, None),
    "nested too deep": (lambda _: "[" * 100_000, "not-json", None, None),
    "file name absolute": (put("images", 1, "file_name", "/data/12.png"), "picture-missing", 12, None),
    "file missing": (put("images", 1, "file_name", "nowhere.png"), "picture-missing", 12, None),
    "file name too long": (put("images", 1, "file_name", "x" * 5000), "picture-missing", 12, None),
    "half a character": (put("images", 1, "file_name", "\ud800.png"), "picture-missing", 12, None),
    "another size": (put("images", 1, "width", 63), "picture-size", 12, None),
    "sides exchanged": (
        lambda c: put("images", 1, "height", WIDTH)(put("images", 1, "width", HEIGHT)(c)),
        "picture-size",
        12,
        None,
    ),
    "no box in a picture": (lambda c: put("annotations", c["annotations"][3:])(c), "picture-no-boxes", 11, None),
}


def test_a_good_data_set_has_nothing_to_tell(tmp_path):
    report = validate_dataset(write(tmp_path / "set", good()))
    assert report.findings == [] and report.ok
    assert (report.pictures, report.boxes, report.decoded) == (4, 12, 4)
    assert report.boxes_of == {"a": 6, "b": 6} and len(report.sizes) == 12


def test_there_are_at_least_40_corrupt_files():
    count = len(CORRUPT) + len(CORRUPT_ENTRIES) + len(CORRUPT_BOXES)
    print(f"{count} corrupt COCO files")
    assert count >= 40


@pytest.mark.parametrize("name", CORRUPT)
def test_a_corrupt_file_is_told_with_its_ids(tmp_path, name):
    check_told(tmp_path / "set", CORRUPT[name])


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


def hostile(folder):
    """Add to a good folder what no data set should hold; on a file system that takes it."""
    secret = folder.parent / "secret.png"
    Image.fromarray(pixels(70)).save(secret)
    (folder / "12.png").unlink()
    (folder / "12.png").symlink_to(secret)
    (folder / "round.png").symlink_to("in_circles.png")
    (folder / "in_circles.png").symlink_to("round.png")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "\x1b[31mred\n.png").touch()
    (folder / "folder.png").mkdir()
    with open(os.fsencode(folder) + b"/\xff\xfe.png", "wb"):
        pass
    os.mkfifo(folder / "pipe.png")


@pytest.mark.skipif(os.name != "posix", reason="names and links that only POSIX has")
def test_links_pipes_devices_and_names_that_no_terminal_can_show(tmp_path):
    content = good()
    for place, name in ((0, "round.png"), (2, "device.png"), (3, "pipe.png")):
        content["images"][place]["file_name"] = name
    folder = write(tmp_path / "set", content)
    hostile(folder)
    report = validate_dataset(folder)
    assert [finding.image_id for finding in report.of("picture-missing")] == [11, 13, 14], "none is waited for"
    (finding,) = report.of("picture-link")
    assert finding.image_id == 12 and "secret.png" in finding.message
    text = "\n".join(report.lines(None))
    assert text.encode() and all(line.isprintable() for line in text.splitlines())
    assert {"\\udcff\\udcfe.png", "\\x1b[31mred\\n.png"} <= {finding.file for finding in report.of("picture-unlisted")}


def test_a_name_that_only_differs_in_how_its_accent_is_written(tmp_path):
    content = put("images", 1, "file_name", "caf\u00e9 \u6a39.png")(good())
    folder = write(tmp_path / "set", content)
    (folder / "12.png").rename(folder / "caf\u00e9 \u6a39.png")
    assert validate_dataset(folder).findings == []
    (folder / "caf\u00e9 \u6a39.png").rename(folder / "cafe\u0301 \u6a39.png")
    (finding,) = validate_dataset(folder).of("picture-missing")
    assert finding.message == r"'caf\xe9 \u6a39.png' is not there, but 'cafe\u0301 \u6a39.png' is"
