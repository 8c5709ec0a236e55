"""What was handed in: found without following links, read without trusting it, and laid out as steps to run.

Used in every chapter.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddetr_lab.classroom.exercises import Chapter, Exercise
from ddetr_lab.classroom.student import PLACEHOLDER

__all__ = ["Plan", "Submission", "find_submissions", "plan"]

LARGEST_FILE = 25 * 2**20  # bytes of a notebook; one with many pictures has a few million
MOST_CELLS = 5_000
LARGEST_CELL = 2**20  # characters of code
DEEPEST = 5  # folders below the one that is graded


@dataclass(frozen=True)
class Submission:
    """A file that was handed in.

    Attributes:
        student: the topmost folder it lay in; for a file that lay in none, what its name says beside the chapter's.
        path: of the notebook.
        chapter: that it answers, or None if nothing tells.
    """

    student: str
    path: Path
    chapter: Chapter | None


@dataclass
class Plan:
    """What is to be run of one notebook.

    Attributes:
        steps: code of the student's, and exercises to check, in their order.
        answered: label of each question, and whether something was written.
        notes: what the teacher should know.
    """

    steps: list[str | Exercise] = field(default_factory=list)
    answered: dict[str, bool] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def find_submissions(folder: Path, chapters: Sequence[Chapter]) -> tuple[list[Submission], list[str]]:
    """List the notebooks of a folder: in a subfolder for each student, or side by side as ``NAME_05_sampling.ipynb``.

    Returns:
        the submissions in order, and remarks on what was left out.
    """
    paths, remarks = _notebooks(folder, folder, [])
    found = []
    for path in paths:
        chapter, named = _chapter_of(path, chapters)
        inside = path.relative_to(folder).parts[:-1]
        student = inside[0] if inside else named
        found.append(Submission(student, path, chapter))
    return found, remarks


def _notebooks(folder: Path, top: Path, remarks: list[str]) -> tuple[list[Path], list[str]]:
    """Collect notebooks below a folder, its own before those further down; hidden folders hold editors' copies."""
    found, folders = [], []
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        return [], [*remarks, f"{folder.relative_to(top)} cannot be read: {error.strerror}."]
    for entry in entries:
        kind = _kind(entry)
        if kind == "folder" and not entry.name.startswith("."):
            folders.append(entry)
        elif kind == "link" and (entry.suffix == ".ipynb" or os.path.isdir(entry)):
            remarks.append(f"{entry.relative_to(top)} is a link and was not followed.")
        elif entry.suffix == ".ipynb" and kind == "file":
            found.append(entry)
        elif entry.suffix == ".ipynb" and kind == "other":
            remarks.append(f"{entry.relative_to(top)} is no ordinary file and was not opened.")
    for entry in folders:
        if len(entry.relative_to(top).parts) > DEEPEST:
            remarks.append(f"{entry.relative_to(top)} lies too deep and was not looked into.")
            continue
        further, remarks = _notebooks(entry, top, remarks)
        found += further
    return found, remarks


def _kind(path: Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return "link"
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def _chapter_of(path: Path, chapters: Sequence[Chapter]) -> tuple[Chapter | None, str]:
    """Recognise a chapter by its name inside the file's name, else by the cells that it shares.

    Returns:
        the chapter, and what else the file's name says: whose it is, where there are no folders.
    """
    for chapter in chapters:
        before, found, _ = path.stem.partition(chapter.path.stem)
        if found:
            return chapter, before.strip(" _-")
    try:
        ids = {cell["id"] for cell in _cells(_read(path), [])}
    except (ValueError, OSError):
        return None, path.stem
    shared = {place: len(ids & _ids(chapter)) for place, chapter in enumerate(chapters)}
    best = max(shared, key=lambda place: shared[place], default=None)
    return (chapters[best] if best is not None and shared[best] else None), path.stem


def _ids(chapter: Chapter) -> set[str]:
    return {one for exercise in chapter.exercises for one in (exercise.solution, exercise.check)}


def plan(path: Path, chapter: Chapter) -> Plan:
    """Read a notebook, and put the chapter's checks in their places.

    A check stands where the student has it, if that is after the cell of the solution; otherwise right after that cell;
    at the end, if both are gone. What the student's check cells say is never run.

    Raises:
        ValueError: if the file is no notebook; the message is the hint for the teacher.
    """
    made = Plan()
    cells = _cells(_read(path), made.notes)
    places: dict[str, int] = {}
    for place, cell in enumerate(cells):
        places.setdefault(cell["id"], place)
    due: dict[int, list[Exercise]] = {}
    for exercise in chapter.exercises:
        solution, check = places.get(exercise.solution), places.get(exercise.check)
        if check is not None and cells[check]["source"].split() != exercise.source.split():
            made.notes.append(f"{exercise.label}: the check cell was edited; the original was used.")
        if check is None or (solution is not None and check < solution):
            what = "is missing" if check is None else "stood before the answer"
            made.notes.append(f"{exercise.label}: the check cell {what}; it was put back.")
            check = solution if solution is not None else len(cells)
        due.setdefault(check, []).append(exercise)
    checks = {exercise.check for exercise in chapter.exercises}
    for place, cell in enumerate(cells):
        if cell["cell_type"] == "code" and cell["id"] not in checks:
            if len(cell["source"]) > LARGEST_CELL:
                made.notes.append(f"cell {place + 1} has {len(cell['source']):,} characters and was not run.")
            else:
                made.steps.append(cell["source"])
        made.steps += due.pop(place, [])
    made.steps += due.pop(len(cells), [])
    for prose in chapter.prose:
        written = [cell["source"].strip() for cell in cells if cell["id"] == prose.answer]
        made.answered[prose.label] = any(text not in ("", PLACEHOLDER) for text in written)
    return made


def _read(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise ValueError(f"the file has {size / 2**20:.0f} MB, more than {LARGEST_FILE // 2**20}: it was not opened.")
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = re.sub(r"\s+", " ", str(error))[:200]
        raise ValueError(f"the file is not a notebook, since it is not JSON: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError("the file is not a notebook: its JSON is no object.")
    return content


def _cells(content: dict[str, Any], notes: list[str]) -> list[dict[str, Any]]:
    """Return the cells of any version of the format that has them, each with strings where strings belong."""
    if content.get("nbformat") != 4:
        notes.append(f"the notebook's format is {str(content.get('nbformat'))[:20]}, not 4.")
    cells = content.get("cells")
    if cells is None and isinstance(content.get("worksheets"), list):  # format 3
        sheets = [sheet for sheet in content["worksheets"] if isinstance(sheet, dict)]
        cells = [cell for sheet in sheets for cell in sheet.get("cells") or []]
    if not isinstance(cells, list) or not cells:
        raise ValueError("the notebook has no cells.")
    if len(cells) > MOST_CELLS:
        raise ValueError(f"the notebook has {len(cells):,} cells, more than {MOST_CELLS:,}: none was run.")
    return [_plain(cell) for cell in cells if isinstance(cell, dict)]


def _plain(cell: dict[str, Any]) -> dict[str, Any]:
    source = cell.get("source", cell.get("input", ""))
    lines = source if isinstance(source, list) else [source]
    text = "".join(line for line in lines if isinstance(line, str))
    return {"id": str(cell.get("id")), "cell_type": str(cell.get("cell_type")), "source": text}
