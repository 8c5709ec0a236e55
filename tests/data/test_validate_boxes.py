"""Boxes against their pictures, one by one and all together."""

from __future__ import annotations

import pytest

from ddetr_lab.data.findings import ValidationReport
from ddetr_lab.data.validate import validate_dataset
from ddetr_lab.data.validate_boxes import check_box_format, check_boxes
from ddetr_lab.data.validate_entries import Box, ImageEntry
from tests.data.corrupt_files import Case, all_boxes, check_told, put
from tests.data.good_folder import good, write

CORRUPT: dict[str, Case] = {
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
    "corners": (all_boxes(lambda n: [30 + n, 20 + n, 50 + n, 36 + n]), "boxes-xyxy", 11, 100),
    "middle and size": (all_boxes(lambda n: [44 + n / 2, 24, 38 - n, 30]), "boxes-cxcywh", 11, 100),
    "from 0 to 1": (all_boxes(lambda n: [0.1 + n / 100, 0.2, 0.3, 0.4]), "boxes-normalised", 11, 100),
}


@pytest.mark.parametrize("name", CORRUPT)
def test_a_corrupt_file_is_told_with_its_ids(tmp_path, name):
    check_told(tmp_path / "set", CORRUPT[name])


@pytest.mark.parametrize("convert", [lambda n: [n, n, n + 40, n + 30], lambda n: [20 + n, 15 + n, 12, 9]])
def test_good_boxes_are_not_suspected(tmp_path, convert):
    """Three boxes to twelve, large ones from the corner too: no format is cried without cause."""
    content = all_boxes(convert)(good())
    for image in content["images"]:
        image["width"], image["height"] = 640, 480
    kinds = {finding.kind for finding in validate_dataset(write(tmp_path / "s", content)).findings}
    assert not {"boxes-xyxy", "boxes-cxcywh", "boxes-normalised", "boxes-maybe-xyxy"} & kinds


def test_numbers_near_the_largest_there_is_are_outside_and_no_warning():
    report = ValidationReport()
    image = ImageEntry(1, "a.png", 64, 48, [Box(n, (1e308, 1e308, 1e308, 1e308), 3, False) for n in range(5)])
    check_boxes(image, 64, 48, "f", report)
    check_box_format([(image, box, 64, 48) for box in image.boxes], "f", report)
    assert {finding.kind for finding in report.findings} == {"box-outside", "box-twice"}


def test_where_nobody_knows_the_picture_s_size_nothing_is_outside():
    report = ValidationReport()
    check_boxes(ImageEntry(1, "a.png", boxes=[Box(5, (900.0, 0.0, 9.0, 9.0), 3, False)]), 0, 0, "f", report)
    assert report.findings == [] and report.sizes == [(9.0, 9.0)]
