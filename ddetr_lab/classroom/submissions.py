"""What was handed in: found without following links, read without trusting it, and laid out as steps to run.

Used in every chapter.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddetr_lab.classroom.exercises import Chapter, Exercise
from ddetr_lab.classroom.student import PLACEHOLDER, student_notebook

__all__ = ["Plan", "Submission", "find_submissions", "plan"]

LARGEST_FILE = 25 * 2**20  # bytes of a notebook; one with many pictures has a few million
MOST_CELLS = 5_000
LARGEST_CELL = 2**20  # characters of code
DEEPEST = 5  # folders below the one that is graded
OWN_CHECKS = re.compile(r"from\s+ddetr_lab\.checks\s+import\s+chapter\d\d\s+as\s+checks")
PEEKS = re.compile(r"ddetr_lab\.checks|\bchecks\._\w")  # into the modules that compute the right answers


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


def find_submissions(
    folder: Path, chapters: Sequence[Chapter], others: Sequence[Chapter] = ()
) -> tuple[list[Submission], list[str]]:
    """List the notebooks of a folder: in a subfolder for each student, or side by side as ``NAME_05_sampling.ipynb``.

    Args:
        folder: with what was handed in.
        chapters: that are graded.
        others: of the book; their notebooks are left out.

    Returns:
        the submissions in order, and remarks on what was left out.
    """
    paths, remarks = _notebooks(folder, folder, [])
    found, left = [], []
    for path in paths:
        chapter, named = _chapter_of(path, [*chapters, *others])
        if any(chapter is other for other in others):
            left.append(path)
            continue
        inside = path.relative_to(folder).parts[:-1]
        student = inside[0] if inside else named
        found.append(Submission(student, path, chapter))
    if left:
        remarks.append(f"{len(left)} notebooks of other chapters were left out, {left[0].relative_to(folder)} first.")
    return found, [*remarks, *_empty_handed(folder, paths, remarks)]


def _empty_handed(folder: Path, paths: Sequence[Path], told: Sequence[str]) -> list[str]:
    """Name students' folders without a notebook, of which nothing is told yet: they have no row in the table."""
    known = {path.relative_to(folder).parts[0] for path in paths}
    remarks: list[str] = []
    if not folder.is_dir():
        return remarks
    for entry in sorted(folder.iterdir()):
        if _kind(entry) != "folder" or entry.name.startswith(".") or entry.name in known:
            continue
        if not any(remark.startswith((f"{entry.name}/", f"{entry.name} cannot")) for remark in told):
            held = ", ".join(sorted(one.name for one in entry.iterdir())[:3]) or "nothing"
            remarks.append(f"{entry.name} has no notebook ({held}) and no row in the table.")
    return remarks


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
        cells = _cells(_read(path), [])
    except (ValueError, OSError):
        return None, path.stem
    ids, texts = {cell["id"] for cell in cells}, {_words(cell["source"]) for cell in cells}
    shared = [len(ids & _ids(chapter)) for chapter in chapters]
    if not any(shared):  # an editor that drops ids or makes its own
        shared = [
            len(texts & {text for _, text in _texts(chapter)})
            if any(_words(exercise.source) in texts for exercise in chapter.exercises)
            else 0
            for chapter in chapters
        ]
    best = max(range(len(chapters)), key=lambda place: shared[place], default=None)
    return (chapters[best] if best is not None and shared[best] else None), path.stem


def _ids(chapter: Chapter) -> set[str]:
    return {one for exercise in chapter.exercises for one in (exercise.solution, exercise.check)}


def _texts(chapter: Chapter) -> dict[tuple[str, str], str]:
    """Return the id of each cell of a chapter's student version that no other equals, by its kind and its words."""
    cells = [_plain(cell) for cell in student_notebook(chapter)["cells"]]
    found = [((cell["cell_type"], _words(cell["source"])), cell["id"]) for cell in cells]
    times = Counter(text for text, _ in found)
    return {text: id_ for text, id_ in found if times[text] == 1 and text[1] not in ("", PLACEHOLDER)}


def _words(source: str) -> str:
    return " ".join(source.split())


def _renamed(cells: list[dict[str, Any]], chapter: Chapter) -> None:
    """Give cells their ids back that an editor dropped or replaced: by their text, an answer by its question."""
    texts, present = _texts(chapter), {cell["id"] for cell in cells}
    known = {*texts.values(), *_ids(chapter)}
    for cell in cells:
        id_ = texts.get((cell["cell_type"], _words(cell["source"])))
        if cell["id"] not in known and id_ is not None and id_ not in present:
            cell["id"] = id_
            present.add(id_)
    for prose in chapter.prose:
        if prose.answer in present:
            continue
        asked = next((place for place, cell in enumerate(cells) if cell["id"] == prose.cell), len(cells))
        for cell in cells[asked + 1 :]:
            if cell["cell_type"] != "markdown" or cell["id"] in known:
                break
            cell["id"] = prose.answer


def plan(path: Path, chapter: Chapter) -> Plan:
    """Read a notebook, and put the chapter's checks in their places.

    A check stands where the student has it, if that is after the cell of the solution; otherwise right after that cell;
    at the end, if both are gone. What the student's check cells say is never run. Cells whose ids an editor dropped or
    replaced are known by their text.

    Raises:
        ValueError: if the file is no notebook; the message is the hint for the teacher.
    """
    made = Plan()
    cells = _cells(_read(path), made.notes)
    _renamed(cells, chapter)
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
    given = {text for kind, text in _texts(chapter) if kind == "code"}
    for place, cell in enumerate(cells):
        if cell["cell_type"] == "code" and cell["id"] not in checks:
            if len(cell["source"]) > LARGEST_CELL:
                made.notes.append(f"cell {place + 1} has {len(cell['source']):,} characters and was not run.")
            else:
                made.steps.append(cell["source"])
                if PEEKS.search(OWN_CHECKS.sub("", cell["source"])) and _words(cell["source"]) not in given:
                    made.notes.append(f"cell {place + 1} reaches into the checks, which hold right answers: read it.")
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
