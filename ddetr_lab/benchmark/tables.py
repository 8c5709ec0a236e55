"""Reports as text: one table a case, for a terminal and for a page of the book.

Used in chapter 9.
"""

from __future__ import annotations

from collections.abc import Sequence

from ddetr_lab.benchmark.ceilings import CEILINGS, shares
from ddetr_lab.benchmark.report import Case, Report, Row

__all__ = ["HEADINGS", "case_rows", "ceiling_rows", "format_seconds", "markdown_table", "share_line", "text_table"]

HEADINGS = ("contender", "median", "quartiles", "times ours", "peak memory", "difference")


def format_seconds(seconds: float) -> str:
    """Return a time with three significant digits in the unit that suits it."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= factor:
            return f"{_three_digits(seconds / factor)} {unit}"
    return f"{_three_digits(seconds / 1e-9)} ns"


def _three_digits(number: float) -> str:
    return f"{number:.0f}" if number >= 99.95 else f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"


def _format_bytes(count: int | None) -> str:
    if count is None:
        return "unknown"
    mebibytes = count / 2**20
    return f"{mebibytes:.0f} MiB" if mebibytes >= 9.95 else f"{mebibytes:.1f} MiB"


def case_rows(case: Case) -> list[tuple[str, ...]]:
    """Return a case's table without its headings, ours first; a contender that was not timed says why below it."""
    return [_cells(case, row) for row in case.rows]


def _cells(case: Case, row: Row) -> tuple[str, ...]:
    difference = "none known" if row.difference is None else f"{row.difference:.1e}"
    ratio = case.ratio(row)
    if not row.timed:
        return row.contender, "not timed", "", "", "", difference
    quartiles = " to ".join(format_seconds(seconds) for seconds in row.quartiles)
    times = "" if ratio is None else f"{ratio:.2f}"
    return row.contender, format_seconds(row.median), quartiles, times, _format_bytes(row.peak_bytes), difference


def share_line(report: Report, case: Case) -> str:
    """Return how much of each ceiling our time reaches, or an empty string where nothing was counted."""
    first = case.rows[0]
    if case.work is None or not report.ceilings or not first.timed:
        return ""
    found = shares(case.work, first.median, report.ceilings)
    parts = [f"{share:.1%} of the {CEILINGS[key][0]}" for key, share in found.items()]
    work = case.work
    counts = (
        (work.memory_bytes, f"{work.memory_bytes / 2**20:.0f} MiB to move"),
        (work.gathered_bytes, f"{work.gathered_bytes / 2**20:.0f} MiB to gather"),
        (work.flops, f"{work.flops / 1e9:.{2 if work.flops < 1e11 else 3}g} G operations"),
    )
    told = ", ".join(words for count, words in counts if count)
    return f"at least {told}: ours reaches {', '.join(parts)}"


def ceiling_rows(report: Report) -> list[tuple[str, str]]:
    """Return the machine's ceilings as they were measured."""
    return [
        (name, f"{report.ceilings[key] / factor:.1f} {unit}")
        for key, (name, unit, factor) in CEILINGS.items()
        if key in report.ceilings
    ]


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return columns that line up; the first is flush left, the others right."""
    lines = [tuple(headings), *[tuple(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, numbers flush right."""
    lines = [headings, ["---"] + ["--:"] * (len(headings) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
