"""Reports: medians and ratios, and JSON that comes back as it went."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from ddetr_lab.benchmark.report import Report, Row, read_report, write_report
from tests.benchmark.samples import a_report


def test_median_quartiles_and_ratio_are_those_of_the_samples() -> None:
    (case,) = a_report().cases
    ours, peer, wrong, absent = case.rows
    assert ours.median == 0.002
    assert ours.quartiles == pytest.approx((0.0015, 0.0025))
    assert case.ratio(peer) == pytest.approx(4.5)
    assert case.ratio(ours) == 1.0
    assert case.ratio(wrong) is None and case.ratio(absent) is None
    assert not wrong.timed


def test_one_sample_is_its_own_quartiles() -> None:
    assert Row("one", (0.5,)).quartiles == (0.5, 0.5)


def test_a_report_comes_back_from_json(tmp_path: Path) -> None:
    report = a_report()
    path = tmp_path / "new" / "report.json"
    write_report(report, path)
    assert read_report(path) == report


def test_json_is_strict_and_holds_what_other_programs_want(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    write_report(a_report(), tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    peer = written["cases"][0]["rows"][1]
    assert (peer["median"], peer["ratio"]) == (0.009, 4.5)
    assert written["machine"]["cpu"] == "Quick 9000"
    assert set(written) >= {field.name for field in dataclasses.fields(Report)}


def test_derived_numbers_are_not_believed_but_computed_again() -> None:
    written = json.loads(json.dumps(a_report().to_dict()))
    written["cases"][0]["rows"][1]["ratio"] = 1000.0
    assert Report.from_dict(written) == a_report()


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 0}', "{}"])
def test_what_is_no_report_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="other.json"):
        read_report(path)


def test_a_missing_field_is_named() -> None:
    written = a_report().to_dict()
    del written["date"]
    with pytest.raises(ValueError, match="date"):
        Report.from_dict(written)
