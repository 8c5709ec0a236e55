"""What a benchmark found, as records that go to JSON and come back unchanged.

Used in chapter 9.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddetr_lab.files import locked, write_atomically

__all__ = ["SCHEMA", "Case", "Report", "Row", "Work", "one_writer", "read_report", "rewrite_json", "write_report"]

SCHEMA = 1


@dataclass(frozen=True)
class Work:
    """What a case has to do at least; 0 stands for what was not counted.

    Attributes:
        memory_bytes: every input read once and every output written once.
        gathered_bytes: what the samples read and write at their four corners, wherever that lies.
        flops: multiplications and additions on channels; index arithmetic is left out.
    """

    memory_bytes: int = 0
    gathered_bytes: int = 0
    flops: int = 0


@dataclass(frozen=True)
class Row:
    """One contender in one case.

    Attributes:
        seconds: of one call, one number a round; empty if it was not timed.
        calls: how many calls each of them is the mean of.
        difference: from the expected numbers; None if it did not run at all.
        tolerance: up to which it counts as the same.
        peak_bytes: by how much memory rose in one call; None if unknown.
        note: why it was not timed, or what a reader must know.
    """

    contender: str
    seconds: tuple[float, ...] = ()
    calls: int = 1
    difference: float | None = None
    tolerance: float = 0.0
    peak_bytes: int | None = None
    note: str = ""

    @property
    def timed(self) -> bool:
        """Whether there is a time."""
        return bool(self.seconds)

    @property
    def median(self) -> float:
        """The median of the samples in seconds."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The samples' lower and upper quartile in seconds."""
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0]
        lower, _, upper = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return lower, upper


@dataclass(frozen=True)
class Case:
    """One comparison; the first row is ours, and ratios are to it.

    Attributes:
        expected: what the contenders' numbers were compared with.
    """

    name: str
    what: str
    expected: str
    rows: tuple[Row, ...]
    work: Work | None = None

    def ratio(self, row: Row) -> float | None:
        """Return how many times as long a contender takes as the first row; None if either has no time."""
        return row.median / self.rows[0].median if row.timed and self.rows[0].timed else None


@dataclass(frozen=True)
class Report:
    """Everything that one run of a subcommand found.

    Attributes:
        ceilings: the machine's limits as measured in this run: bytes and operations a second by name.
        notes: sentences for the reader.
    """

    benchmark: str
    command: str
    date: str
    machine: dict[str, Any]
    versions: dict[str, str]
    settings: dict[str, Any]
    cases: tuple[Case, ...]
    ceilings: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types. Medians, quartiles and ratios are written too, for other programs to read."""
        written = {"schema": SCHEMA, **dataclasses.asdict(self)}
        for case, entry in zip(self.cases, written["cases"], strict=True):
            for row, line in zip(case.rows, entry["rows"], strict=True):
                if row.timed:
                    line.update(median=row.median, quartiles=row.quartiles, ratio=case.ratio(row))
        return written

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Report:
        """Read what :meth:`to_dict` wrote; the derived numbers are computed again.

        Raises:
            ValueError: if it is of another schema, or lacks a field.
        """
        if written.get("schema") != SCHEMA:
            raise ValueError(
                f"schema = {written.get('schema')!r}, expected {SCHEMA}: "
                "this is no file of `ddetr-lab benchmark --json`, or one of another version; run the command again"
            )
        try:
            cases = tuple(
                Case(
                    name=case["name"],
                    what=case["what"],
                    expected=case["expected"],
                    rows=tuple(Row(**_fields(Row, row) | {"seconds": tuple(row["seconds"])}) for row in case["rows"]),
                    work=None if case["work"] is None else Work(**case["work"]),
                )
                for case in written["cases"]
            )
            return cls(**_fields(cls, written) | {"cases": cases, "notes": tuple(written["notes"])})
        except KeyError as error:
            raise ValueError(f"a report has no {error}: run the command again") from error


def _fields(record: type[Any], written: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: written[field.name] for field in dataclasses.fields(record)}


def write_report(report: Report, path: Path) -> None:
    """Write a report as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def one_writer(path: Path) -> Iterator[None]:
    """Let one process at a time read a file, add to it and write it again; the folder is made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Away from the file, for it stays: a lock that is removed locks nobody out.
    name = f"ddetr-lab-{hashlib.sha256(str(path.resolve()).encode()).hexdigest()}.lock"
    with locked(Path(tempfile.gettempdir()) / name):
        yield


def rewrite_json(content: Mapping[str, Any], path: Path) -> None:
    """Write a file that grows run by run, so that a reader or a crash never sees half of it."""
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(path, lambda target: target.write_text(text, encoding="utf-8"))


def read_report(path: Path) -> Report:
    """Read a report from JSON.

    Raises:
        ValueError: if the file is no report; the message names it.
    """
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        return Report.from_dict(written)
    except (ValueError, AttributeError) as error:  # JSON that is a list has no .get
        raise ValueError(f"{path}: {error}") from error
