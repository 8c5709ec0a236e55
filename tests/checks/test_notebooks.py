"""The chapters' exercises and their checks fit together: each solution passes, and without it each check says so."""

import __future__

import ast
import re
from pathlib import Path

import nbformat
import pytest

from ddetr_lab import checks
from tests.book.gates import BEGIN, END
from tests.conftest import ROOT

Exercise = tuple[str, str, str]  # what stands above, the cell with the solution, the cell with the check
STUB = "raise NotImplementedError"
CONSTANT = (ast.Constant, ast.Tuple, ast.expr_context)  # and what holds several of them


def exercises(path: Path) -> list[Exercise]:
    """Each code cell with a solution, the code cell after it, which calls the check, and the definitions before it."""
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    places = [place for place, cell in enumerate(cells) if BEGIN in cell]
    return [(definitions(cells[:place]), cells[place], cells[place + 1]) for place in places]


def definitions(cells: list[str]) -> str:
    """The imports, functions and constants of some cells: all that an exercise may use of what stands above it."""
    nodes = [node for cell in cells for node in ast.parse(cell).body]
    kept = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    return "\n".join(ast.unparse(node) for node in nodes if isinstance(node, kept) or is_constant(node))


def is_constant(node: ast.stmt) -> bool:
    """Whether a statement gives numbers or texts names in capitals, as in WARP = 32."""
    if not isinstance(node, ast.Assign) or not all(isinstance(part, CONSTANT) for part in ast.walk(node.value)):
        return False
    names = [part for target in node.targets for part in ast.walk(target) if not isinstance(part, CONSTANT)]
    return all(isinstance(name, ast.Name) and name.id.isupper() for name in names)


CASES = [
    pytest.param(path, exercise, id=f"{path.stem[:2]}-{exercise[2].split('(')[0]}")
    for path in sorted((ROOT / "book").glob("*.ipynb"))
    for exercise in exercises(path)
]


def run(path: Path, above: str, solution: str, check: str) -> object:
    """Run both cells as the notebook does, and return what the check returns.

    Annotations stay text: one may name a constant of the notebook, which is no definition and was not kept.
    """
    names: dict[str, object] = {}
    exec(compile(above + "\n" + solution, path.name, "exec", __future__.annotations.compiler_flag), names)
    return eval(compile(check, path.name, "eval"), names)


@pytest.mark.parametrize(("path", "exercise"), CASES)
def test_the_solution_on_the_page_passes(path: Path, exercise: Exercise) -> None:
    assert isinstance(run(path, *exercise), checks.Passed)


@pytest.mark.parametrize(("path", "exercise"), CASES)
def test_without_its_solution_the_exercise_fails(path: Path, exercise: Exercise) -> None:
    above, solution, check = exercise
    stub = re.sub(rf"{BEGIN}.*{END}", STUB, solution, flags=re.S)
    assert STUB in stub
    with pytest.raises(checks.CheckError, match="is not written yet"):
        run(path, above, stub, check)


def test_every_chapter_has_three_exercises_in_code() -> None:
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        assert len(exercises(path)) >= 3, path.name
