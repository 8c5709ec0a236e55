"""Tables: digits, columns, and contenders without a time."""

from __future__ import annotations

import dataclasses

import pytest

from ddetr_lab.benchmark.report import Work
from ddetr_lab.benchmark.tables import (
    HEADINGS,
    case_rows,
    ceiling_rows,
    format_seconds,
    markdown_table,
    share_line,
    text_table,
)
from tests.benchmark.samples import a_report


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (12.345, "12.3 s"),
        (1.0, "1.00 s"),
        (0.12345, "123 ms"),
        (0.0099961, "10.0 ms"),
        (0.00123, "1.23 ms"),
        (45.6e-6, "45.6 µs"),
        (7e-9, "7.00 ns"),
    ],
)
def test_times_have_three_digits(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_rows_have_median_ratio_memory_and_difference() -> None:
    (case,) = a_report().cases
    ours, peer, wrong, absent = case_rows(case)
    assert ours == ("ours (native)", "2.00 ms", "1.50 ms to 2.50 ms", "1.00", "3.0 MiB", "1.0e-07")
    assert peer == ("peer", "9.00 ms", "8.50 ms to 11.0 ms", "4.50", "200 MiB", "2.0e-07")
    assert wrong == ("wrong", "not timed", "", "", "", "5.0e-01")
    assert absent == ("absent", "not timed", "", "", "", "none known")
    assert {len(row) for row in case_rows(case)} == {len(HEADINGS)}


def test_shares_of_the_ceilings_are_told_where_work_was_counted() -> None:
    report = a_report()
    line = share_line(report, report.cases[0])
    assert "5.2% of the memory bandwidth" in line  # 1 MiB in 2 ms at 10 GB/s
    assert "50.0% of the multiply-add rate" in line  # 0.1 G in 2 ms at 100 G/s
    alone = share_line(report, dataclasses.replace(report.cases[0], work=Work(flops=10**8)))
    assert alone == "at least 0.1 G operations: ours reaches 50.0% of the multiply-add rate"
    assert share_line(report, dataclasses.replace(report.cases[0], work=None)) == ""
    assert share_line(a_report(ceilings={}), report.cases[0]) == ""


def test_ceilings_have_units() -> None:
    assert ceiling_rows(a_report())[0] == ("memory bandwidth", "10.0 GB/s")
    assert ceiling_rows(a_report(ceilings={})) == []


def test_text_columns_line_up() -> None:
    assert text_table(("name", "n"), [("a", "10"), ("long name", "5")]) == "name        n\na          10\nlong name   5"


def test_markdown_escapes_what_would_split_a_cell() -> None:
    assert markdown_table(("a", "b"), [("x|y", "1")]) == "| a | b |\n| --- | --: |\n| x\\|y | 1 |"
