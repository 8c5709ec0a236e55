"""Figures of a data set that was looked over: whatever its names and boxes are."""

from __future__ import annotations

import pytest

from ddetr_lab.data.figures import box_sizes, class_counts, contact_sheet, write_figures
from ddetr_lab.data.findings import ValidationReport
from ddetr_lab.data.validate import Looked, validate_dataset
from tests.data.corrupt_files import put
from tests.data.good_folder import good, pixels, write


def look(folder):
    looked: list[Looked] = []
    return validate_dataset(folder, keep=looked), looked


def test_figures_stand_odd_names_and_boxes(tmp_path):
    content = put("categories", 0, "name", "cost in $ and $^")(good())
    content = put("annotations", 4, "bbox", [1e300, -1e300, -5, 1e308])(content)
    content = put("annotations", 5, "category_id", ["x"])(content)
    paths = write_figures(*look(write(tmp_path / "set", content)), tmp_path / "figures")
    assert [path.name for path in paths] == ["contact_sheet.png", "class_counts.png", "box_sizes.png"]
    assert all(path.stat().st_size > 1000 for path in paths)


def test_the_contact_sheet_shows_a_suspect_first_and_leaves_out_what_cannot_be_read(tmp_path):
    folder = write(tmp_path / "set", put("annotations", 9, "bbox", [30, 20, 0, 5])(good()))
    (folder / "11.png").write_bytes(b"no picture")
    sheet = contact_sheet(*look(folder))
    assert sheet.size == (1200, 864)
    corner = sheet.getpixel((1, 1))
    assert corner == tuple(int(value) for value in scaled_corner(3)), "picture 14 has the empty box"
    assert sheet.getpixel((3 * 200 + 5, 5)) == (255, 255, 255), "three of four pictures can be read"


def scaled_corner(seed):
    from PIL import Image, ImageOps

    return ImageOps.contain(Image.fromarray(pixels(seed)), (196, 196)).getpixel((1, 1))


def test_counts_are_of_the_most_frequent_classes_and_sizes_of_all_boxes(tmp_path):
    report, _ = look(write(tmp_path / "set", good()))
    (axes,) = class_counts(report).axes
    assert [bar.get_width() for bar in axes.patches] == [6, 6]
    (axes,) = box_sizes(report).axes
    assert sum(bar.get_height() for bar in axes.patches) == 12
    report.boxes_of.update({f"class {n}": n for n in range(1, 60)})
    (axes,) = class_counts(report).axes
    assert len(axes.patches) == 40 and "21 rarer classes" in axes.get_xlabel()


@pytest.mark.parametrize("draw", [class_counts, box_sizes])
def test_no_box_at_all_still_draws(draw):
    assert draw(ValidationReport()).axes
