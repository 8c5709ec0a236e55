"""The report: its kinds, its lines, its counts, and text that no terminal stumbles over."""

from __future__ import annotations

import pytest

from ddetr_lab.data.findings import KINDS, ValidationReport
from ddetr_lab.data.validate import validate_dataset
from tests.data.corrupt_files import all_boxes
from tests.data.good_folder import good, write


def test_long_lists_are_cut_but_counted(tmp_path):
    content = all_boxes(lambda n: [20, 10, 0, n])(good())
    lines = list(validate_dataset(write(tmp_path / "set", content)).lines(most=2))
    assert "error box-empty (12): remove it" in lines[0] and lines[3] == "  ... and 10 more"
    with pytest.raises(KeyError, match="kind = 'nonsense'"):
        ValidationReport().of("nonsense")


def test_every_kind_has_a_severity_and_a_remedy():
    assert {severity for severity, _ in KINDS.values()} == {"error", "warning", "note"}
    assert all(remedy and remedy[0].islower() and not remedy.endswith(".") for _, remedy in KINDS.values())


def test_errors_come_first_and_are_counted():
    report = ValidationReport(pictures=3, boxes=7, decoded=3, seconds=2.5, decoding=1.5)
    report.add("picture-grey", "is grey", "f.json", 1)
    report.add("box-tiny", "small", "f.json", 1, 5)
    assert report.ok
    report.add("box-empty", "flat", "f.json", 2, 6)
    assert not report.ok and report.count("error") == report.count("warning") == report.count("note") == 1
    assert [line.split()[0] for line in report.lines() if line[0] != " "] == ["error", "warning", "note"]
    assert report.summary() == "1 errors, 1 warnings, 1 notes in 3 pictures and 7 boxes (2.5 s, 2 pictures/s)"
    assert report.to_dict()["findings"][2] == {
        "severity": "error",
        "kind": "box-empty",
        "file": "f.json",
        "image_id": 2,
        "annotation_id": 6,
        "message": "flat",
        "remedy": KINDS["box-empty"][1],
    }


@pytest.mark.parametrize("odd", ["\x1b[31mred", "two\nlines", "half \ud800", "not UTF-8 \udcff", "\u202egnp.exe"])
def test_names_cannot_command_the_terminal(odd):
    report = ValidationReport()
    report.add("picture-unlisted", odd, odd, odd, odd)
    line = report.findings[0].line()
    assert line.isprintable() and line.encode() and "\\" in line


def test_ids_may_be_anything_and_are_written_short():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    report = ValidationReport()
    report.add("annotation-image", "x", "f", deep, 10**5000)
    report.add("annotation-image", "x", "f", True, [1.5])
    assert report.findings[0].image_id == "a list too large to write"
    assert (report.findings[1].image_id, report.findings[1].annotation_id) == ("True", "[1.5]")
