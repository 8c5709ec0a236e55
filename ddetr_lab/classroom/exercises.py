"""What the book asks: each notebook's exercises, with the cells that hold them and the checks that judge them.

Used in every chapter.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "BEGIN",
    "END",
    "MANIFEST",
    "RECORDS",
    "Chapter",
    "ClassroomError",
    "Exercise",
    "Prose",
    "book_folder",
    "read_book",
    "source_of",
]

MANIFEST = "classroom.json"  # in a class set
RECORDS = "_data"  # of real runs, which chapters show: a folder of the book and of a class set
BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
DIRECTIVE = re.compile(r"^\s*(?:`{3,}|:{3,})\{exercise\} *(?P<title>.*)\n:label: *(?P<label>\S+)", re.M)
SOLUTION = re.compile(r"^\s*(?:`{3,}|:{3,})\{solution\} *(?P<label>\S+)", re.M)


class ClassroomError(ValueError):
    """The book or a folder is not as the command needs it; the message says which, and what to do."""


@dataclass(frozen=True)
class Exercise:
    """An exercise in code.

    Attributes:
        label: of its directive, such as ``ex-05-map``.
        title: as the page shows it.
        solution: id of the cell to write in.
        check: id of the cell that calls the check.
        module: of ``ddetr_lab.checks``, such as ``chapter05``.
        name: of the check in that module.
        answer: name of the function that the check is given.
        source: the check cell's code.
        points: what it earns.
    """

    label: str
    title: str
    solution: str
    check: str
    module: str
    name: str
    answer: str
    source: str
    points: int = 1


@dataclass(frozen=True)
class Prose:
    """A question that a person grades.

    Attributes:
        label: of its directive.
        title: as the page shows it.
        cell: id of the cell with the question.
    """

    label: str
    title: str
    cell: str

    @property
    def answer(self) -> str:
        """Id of the cell that the student set adds for the answer."""
        return f"{self.cell}-answer"


@dataclass(frozen=True)
class Chapter:
    """One notebook of the book.

    Attributes:
        path: of the notebook with its solutions.
        notebook: its content.
        exercises: in code, in their order.
        prose: the questions.
    """

    path: Path
    notebook: dict[str, Any]
    exercises: tuple[Exercise, ...]
    prose: tuple[Prose, ...]

    @property
    def number(self) -> int:
        """The chapter's number, from its file's name."""
        return int(self.path.stem[:2])

    @property
    def points(self) -> int:
        """What the exercises in code earn together."""
        return sum(exercise.points for exercise in self.exercises)


def book_folder() -> Path:
    """Return the folder of the chapters beside the package; without one, the class set that a notebook runs in.

    Raises:
        ClassroomError: if the package was installed without its repository, and this is no class set.
    """
    folder = Path(__file__).resolve().parents[2] / "book"
    if not folder.is_dir():
        if Path(MANIFEST).is_file():
            return Path.cwd()
        raise ClassroomError(f"There is no {folder}: the chapters are not installed. Say --book FOLDER.")
    return folder


def read_book(folder: Path, numbers: Sequence[int] | None = None) -> list[Chapter]:
    """Read the chapters of a book.

    Args:
        folder: with notebooks ``NN_name.ipynb`` that hold the solutions.
        numbers: of the chapters wanted; by default all.

    Raises:
        ClassroomError: if a chapter is missing, or an exercise has no check of the usual form.
    """
    paths = {int(path.name[:2]): path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    wanted = list(paths) if numbers is None else list(dict.fromkeys(numbers))
    if missing := [number for number in wanted if number not in paths]:
        raise ClassroomError(f"There is no chapter {missing[0]} in {folder}. There are: {', '.join(map(str, paths))}.")
    if not wanted:
        raise ClassroomError(f"There are no chapters (NN_name.ipynb) in {folder}.")
    return [_read_chapter(paths[number]) for number in wanted]


def source_of(cell: dict[str, Any]) -> str:
    """Return a cell's text, which a file may hold as one string or as a list of lines."""
    source = cell.get("source", "")
    return "".join(source) if isinstance(source, list) else str(source)


def _read_chapter(path: Path) -> Chapter:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = notebook["cells"]
    exercises, prose, title, label = [], [], "", ""
    module = _checks_module(path, cells)
    for place, cell in enumerate(cells):
        source = source_of(cell)
        if cell["cell_type"] == "markdown":
            solved = {found["label"] for found in SOLUTION.finditer(source)}
            for found in DIRECTIVE.finditer(source):
                title, label = found["title"], found["label"]
                if label in solved:
                    prose.append(Prose(label, title, cell["id"]))
        elif BEGIN in source:
            following = cells[place + 1] if place + 1 < len(cells) else {}
            name, answer = _called(path, cell["id"], source_of(following))
            exercises.append(
                Exercise(label, title, cell["id"], following["id"], module, name, answer, source_of(following))
            )
    return Chapter(path, notebook, tuple(exercises), tuple(prose))


def _checks_module(path: Path, cells: list[dict[str, Any]]) -> str:
    """Return which module of ``ddetr_lab.checks`` a notebook imports."""
    code = "\n".join(source_of(cell) for cell in cells if cell["cell_type"] == "code")
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module == "ddetr_lab.checks":
            modules = [alias.name for alias in node.names if re.fullmatch(r"chapter\d\d", alias.name)]
            if modules:
                return modules[0]
    raise ClassroomError(f"{path.name} imports nothing from ddetr_lab.checks: its exercises cannot be graded.")


def _called(path: Path, solution: str, source: str) -> tuple[str, str]:
    """Return the check and the function of a check cell ``checks.check(function)``."""
    try:
        (statement,) = ast.parse(source).body
    except (SyntaxError, ValueError):
        statement = ast.Pass()
    match statement:
        case ast.Expr(ast.Call(ast.Attribute(ast.Name("checks"), name), [ast.Name(answer)], [])):
            return name, answer
    raise ClassroomError(f"{path.name}: the cell after {solution} is no check of the form checks.name(function).")
