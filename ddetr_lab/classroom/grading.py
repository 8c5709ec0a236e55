"""A folder of submissions graded, one after the other or several at a time, and the table that comes out.

Used in every chapter.
"""

from __future__ import annotations

import csv
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from ddetr_lab.classroom.exercises import RECORDS, Chapter, ClassroomError
from ddetr_lab.classroom.referee import STUMBLES, Graded, Verdict, grade_notebook
from ddetr_lab.classroom.sandbox import Limits
from ddetr_lab.classroom.submissions import Submission, find_submissions, plan

__all__ = [
    "COLUMNS",
    "GRADER_FAILED",
    "Grading",
    "grade_folder",
    "harmless",
    "is_table",
    "rows",
    "summary",
    "write_csv",
]

COLUMNS = ("student", "notebook", "exercise", "points", "max", "state", "first hint")
GRADER_FAILED = "grader failed"
LONGEST_HINT = 600
REPOSITORY = Path(__file__).resolve().parents[2]
Results = list[tuple[Submission, Graded, dict[str, bool]]]


class Grading(NamedTuple):
    """What came of a folder: the results in the order of the files, remarks, and how many notebooks are not graded."""

    results: Results
    remarks: list[str]
    missing: int


def grade_folder(
    folder: Path,
    chapters: Sequence[Chapter],
    limits: Limits,
    sealed: bool,
    jobs: int = 1,
    others: Sequence[Chapter] = (),
) -> Grading:
    """Grade every notebook of a folder and of its subfolders.

    Args:
        folder: with notebooks, or with one subfolder for each student.
        chapters: with solutions, from ``read_book``.
        limits: for each notebook.
        sealed: whether students' code runs in namespaces.
        jobs: notebooks at a time.
        others: chapters of the book whose notebooks are left out.

    An interrupt ends it after the notebooks that are being graded; what is graded by then is returned.

    Raises:
        ClassroomError: if there is nothing to grade, or the folder is one that the grading itself needs.
    """
    if not folder.is_dir():
        raise ClassroomError(f"{folder} is no folder. Name the folder that holds the notebooks to grade.")
    found, remarks = find_submissions(folder, chapters, others)
    if not found:
        which = f" of chapter {', '.join(str(chapter.number) for chapter in chapters)}" if others else ""
        raise ClassroomError(f"There is no notebook{which} in {folder} nor in its subfolders.")
    needed = [one for one in (REPOSITORY, Path(sys.prefix).resolve()) if one.is_relative_to(folder.resolve())]
    if needed:
        raise ClassroomError(
            f"{folder} also holds {needed[0]}, which the grading runs on, and it is hidden from students' code. "
            "Move the submissions into a folder of their own."
        )
    hidden = [*_answers(chapters[0].path.resolve().parent), folder.resolve()]

    shown = _records(folder.resolve())

    def graded(one: Submission) -> tuple[Submission, Graded, dict[str, bool]]:
        return one, *_grade(one, limits, sealed, hidden, shown)

    with ThreadPoolExecutor(max_workers=jobs) as pool:
        asked = [pool.submit(graded, one) for one in found]
        try:
            for one in tqdm(asked, desc="grading", unit="notebook"):
                one.result()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
    done = [one.result() for one in asked if not one.cancelled()]
    if len(done) < len(found):
        remarks.append(f"Interrupted: {len(found) - len(done)} of {len(found)} notebooks were not graded.")
    twice = Counter((one.student, one.chapter.path.stem) for one in found if one.chapter is not None)
    for (student, stem), times in twice.items():
        if times > 1:
            remarks.append(f"{student or 'no name'}: {times} notebooks of {stem}; the best one counts in the total.")
    return Grading(done, remarks, len(found) - len(done))


def _answers(book: Path) -> list[Path]:
    """Whatever holds an answer: solutions, their rendered pages, what the tests take for right, the history."""
    places = [root / name for root in (book.parent, REPOSITORY) for name in ("book", "_build", "tests/checks", ".git")]
    return list(dict.fromkeys([book, *places]))


def _records(handed_in: Path) -> list[Path]:
    """The folder of records of real runs, which chapters read and which hold no answers."""
    folder = REPOSITORY / "book" / RECORDS
    return [folder] if folder.is_dir() and not folder.is_symlink() and not handed_in.is_relative_to(folder) else []


def _grade(
    one: Submission, limits: Limits, sealed: bool, hidden: Sequence[Path], shown: Sequence[Path]
) -> tuple[Graded, dict[str, bool]]:
    if one.chapter is None:
        hint = "neither its name nor its cells belong to a chapter of the book; name it like NAME_05_sampling.ipynb"
        verdict = Verdict("", 0, 0, "not recognised", hint)
        return Graded([verdict]), {}
    try:
        planned = plan(one.path, one.chapter)
    except (ValueError, OSError) as error:
        empty = [Verdict(each.label, 0, each.points, "unreadable", str(error)) for each in one.chapter.exercises]
        return Graded(empty), {}
    try:
        return grade_notebook(planned, one.chapter.exercises, limits, sealed, hidden, shown), planned.answered
    except (*STUMBLES, OSError, ImportError) as error:  # a defect of ours: told, and the next notebook is graded
        hint = f"{type(error).__name__}: {error}"
        failed = [Verdict(each.label, 0, each.points, GRADER_FAILED, hint) for each in one.chapter.exercises]
        return Graded(failed), planned.answered


def rows(results: Results) -> Iterator[tuple[str, ...]]:
    """Yield the table's rows: each exercise, question and note of a notebook, its total, and each student's total.

    Of several notebooks of one student for one chapter, the best counts in the student's total.
    """
    best: dict[str, dict[str, tuple[int, int]]] = {}
    for one, graded, answered in results:
        start = (one.student, one.path.name)
        for verdict in graded.verdicts:
            yield (*start, verdict.label, str(verdict.points), str(verdict.most), verdict.state, verdict.hint)
        for label, written in answered.items():
            yield (*start, label, "", "", "to read" if written else "empty", "")
        for note in graded.notes:
            yield (*start, "note", "", "", "", note)
        points, most = _sums(graded)
        yield (*start, "total", str(points), str(most), f"{graded.seconds:.0f} s", "")
        own, name = best.setdefault(one.student, {}), one.chapter.path.stem if one.chapter else ""
        own[name] = max(own.get(name, (0, 0)), (points, most))
    for student, own in best.items():
        points, most = (sum(numbers) for numbers in zip(*own.values(), strict=True))
        yield student, "all", "total", str(points), str(most), "", ""


def _sums(graded: Graded) -> tuple[int, int]:
    return sum(one.points for one in graded.verdicts), sum(one.most for one in graded.verdicts)


def write_csv(path: Path, table: Iterator[tuple[str, ...]]) -> Path | None:
    """Write the table in one step, with nothing in it that a spreadsheet would take for a formula.

    A mark at the beginning says that it is UTF-8: Excel reads umlauts wrong without it. A table that is there already
    is moved beside, since points may have been added to it by hand.

    Returns:
        where the earlier table lies now, or None if there was none.

    Raises:
        OSError: if the table cannot be written; an earlier one is where it was.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows([harmless(cell) for cell in row] for row in table)
        kept = _beside(path) if path.exists() else None
        if kept is not None:
            path.rename(kept)
        beside.replace(path)
        return kept
    finally:
        beside.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    numbers = (f"-{number}" if number > 1 else "" for number in count(1))
    places = (path.with_name(f"{path.stem}-earlier{number}{path.suffix}") for number in numbers)
    return next(place for place in places if not place.exists())


def is_table(path: Path) -> bool:
    """Tell whether a file is a table of grades, which another may replace."""
    header = ",".join(COLUMNS)
    with path.open(encoding="utf-8-sig", errors="replace") as file:  # whatever it is: no more than a header is read
        return file.readline(len(header) + 2).rstrip("\r\n") == header


def harmless(text: str) -> str:
    """Make text from a submission fit for one cell of a spreadsheet: no control characters, no formula, not too long.

    Where a spreadsheet separates cells by semicolons, what follows one is the start of a cell, too.
    """
    plain = "".join(letter if letter.isprintable() else " " for letter in text)[:LONGEST_HINT]
    return re.sub(r"(^|;)(\s*[=+\-@\uff1d\uff0b\uff0d\uff20])", r"\1'\2", plain)


def summary(results: Results) -> Iterator[str]:
    """Yield a line for each notebook: points, seconds and the first thing to know."""
    for one, graded, _ in results:
        points, most = _sums(graded)
        failed = next((f"{v.label}: {v.state}" for v in graded.verdicts if v.points < v.most), "")
        name = harmless(f"{one.student}/{one.path.name}" if one.student else one.path.name)
        remark = harmless(failed or "; ".join(graded.notes))[:70]
        yield f"{name:40} {points:3} of {most:3}  {graded.seconds:6.1f} s  {remark}".rstrip()
