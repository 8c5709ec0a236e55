"""The subcommand ``ddetr-lab classroom``: its arguments, and what it prints.

Importing this file loads nothing heavy: the command line builds its parser from it for every command.

Used in every chapter.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ddetr_lab.argument_types import positive_int
from ddetr_lab.files import check_writable

if TYPE_CHECKING:
    from ddetr_lab.classroom.exercises import Chapter

__all__ = ["add_arguments", "run"]

SEALED = "each notebook in namespaces of its own: no network, read-only disk, answers hidden"
OPEN = (
    "without namespaces, which this system does not offer: sockets are refused by a hook that malice gets around, and "
    "the disk is open. Grade code that you do not trust in a container (see the instructor guide)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the subcommands.

    Args:
        parser: of ``ddetr-lab classroom``.
    """
    book = argparse.ArgumentParser(add_help=False)
    book.add_argument("--book", type=Path, metavar="DIR", help="notebooks with solutions (default: the repository's)")
    book.add_argument("--chapters", type=_numbers, metavar="LIST", help="such as 5,6,10 (default: all)")
    actions = parser.add_subparsers(dest="classroom", required=True, metavar="WHAT")
    student = actions.add_parser("student", parents=[book], help="write a class set: no solutions, outputs or answers")
    student.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    grade = actions.add_parser("grade", parents=[book], help="grade notebooks, or subfolders of them by student")
    grade.add_argument("folder", type=Path, metavar="DIR", help="what was handed in")
    grade.add_argument(
        "--out", type=Path, required=True, metavar="CSV", help="points and first hints go here; a table there is kept"
    )
    grade.add_argument(
        "--timeout", type=positive_int, default=600, metavar="S", help="a notebook, a third for a cell (default 600)"
    )
    grade.add_argument("--memory", type=positive_int, default=4, metavar="GB", help="for a notebook (default 4)")
    grade.add_argument("--jobs", type=positive_int, default=1, metavar="N", help="notebooks at a time (default 1)")
    actions.add_parser("exercises", parents=[book], help="list the exercises with their checks")


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of chapters such as 5,6,10") from error


def run(arguments: argparse.Namespace, report: Callable[[str], None]) -> int:
    """Do what the arguments ask.

    Args:
        arguments: parsed by ``add_arguments``.
        report: takes lines to print.

    Returns:
        the exit code: 0 unless the command itself failed, whatever the grades.
    """
    from ddetr_lab.classroom.exercises import book_folder, read_book

    chapters = read_book(arguments.book or book_folder(), arguments.chapters)
    if arguments.classroom == "student":
        from ddetr_lab.classroom.student import write_student_set

        written = write_student_set(chapters, arguments.out)
        report(f"{len(chapters)} notebooks and {len(written) - len(chapters)} other files in {arguments.out}")
    elif arguments.classroom == "exercises":
        for chapter in chapters:
            for exercise in chapter.exercises:
                report(f"{chapter.number:2}  {exercise.label:20} {exercise.module}.{exercise.name:20} {exercise.title}")
            for prose in chapter.prose:
                report(f"{chapter.number:2}  {prose.label:20} {'read by a person':30} {prose.title}")
        code, questions = sum(len(one.exercises) for one in chapters), sum(len(one.prose) for one in chapters)
        report(f"{code} exercises in code, each with a check, and {questions} questions in {len(chapters)} chapters")
    else:
        return _grade(arguments, chapters, report)
    return 0


def _others(chapters: list[Chapter]) -> list[Chapter]:
    """The chapters of the same book that were not asked for, as far as they can be read."""
    from ddetr_lab.classroom.exercises import ClassroomError, read_book

    asked, folder = {chapter.number for chapter in chapters}, chapters[0].path.parent
    others = []
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        if (number := int(path.name[:2])) not in asked:
            with suppress(ClassroomError):
                others += read_book(folder, [number])
    return others


def _grade(arguments: argparse.Namespace, chapters: list[Chapter], report: Callable[[str], None]) -> int:
    import torch

    from ddetr_lab.classroom.exercises import ClassroomError
    from ddetr_lab.classroom.grading import (
        GRADER_FAILED,
        grade_folder,
        harmless,
        is_table,
        rows,
        summary,
        write_csv,
    )
    from ddetr_lab.classroom.sandbox import Limits, can_seal

    if not arguments.out.absolute().parent.is_dir() or arguments.out.is_dir():
        raise ClassroomError(f"--out {arguments.out} cannot be written: name a file in a folder that exists.")
    if arguments.out.exists() and not is_table(arguments.out):
        raise ClassroomError(f"--out {arguments.out} is there and is no table of grades: name another file.")
    check_writable(arguments.out, "--out")
    torch.set_num_threads(1)
    sealed = can_seal()
    report(f"Running {SEALED if sealed else OPEN}.")
    limits = Limits(arguments.timeout, max(1.0, arguments.timeout / 3), memory=arguments.memory * 2**30)
    others = _others(chapters) if arguments.chapters else []
    results, remarks, missing = grade_folder(arguments.folder, chapters, limits, sealed, arguments.jobs, others)
    out = arguments.out.with_name(f"interrupted-{arguments.out.name}") if missing else arguments.out
    for line in (*map(harmless, remarks), *summary(results)):
        report(line)
    kept = write_csv(out, rows(results))  # what is told stays, even if the disk is full
    report(f"{len(results)} notebooks graded, in {out}")
    if kept is not None:
        report(f"The table that was there is now {kept}: points that you added to it by hand are in that one alone.")
    if missing:
        raise KeyboardInterrupt(f"with {missing} notebooks to go; nothing was written to {arguments.out}")
    return int(any(verdict.state == GRADER_FAILED for _, graded, _ in results for verdict in graded.verdicts))
