"""The chapters' exercises and their checks fit together: each solution passes, and without it each check says so."""

import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from ddetr_lab import checks
from tests.book.gates import BEGIN, END
from tests.conftest import ROOT

Exercise = tuple[str, str]  # the cell with the solution, the cell with the check
STUB = "raise NotImplementedError"


def exercises(path: Path) -> list[Exercise]:
    """Each code cell with a solution, and the code cell after it, which calls the check."""
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return [(cell, after) for cell, after in zip(cells, cells[1:], strict=False) if BEGIN in cell]


def module_of(path: Path) -> object:
    """The checks that a chapter imports as `checks`."""
    number = path.stem[:2]
    return getattr(__import__(f"ddetr_lab.checks.chapter{number}").checks, f"chapter{number}")


CASES = [
    pytest.param(path, exercise, id=f"{path.stem[:2]}-{exercise[1].split('(')[0]}")
    for path in sorted((ROOT / "book").glob("*.ipynb"))
    for exercise in exercises(path)
]


def run(path: Path, solution: str, check: str) -> object:
    """Run both cells as the notebook does, and return what the check returns."""
    names: dict[str, object] = {"torch": torch, "np": np, "checks": module_of(path)}
    exec(compile(solution, path.name, "exec"), names)
    return eval(compile(check, path.name, "eval"), names)


@pytest.mark.parametrize(("path", "exercise"), CASES)
def test_the_solution_on_the_page_passes(path: Path, exercise: Exercise) -> None:
    assert isinstance(run(path, *exercise), checks.Passed)


@pytest.mark.parametrize(("path", "exercise"), CASES)
def test_without_its_solution_the_exercise_fails(path: Path, exercise: Exercise) -> None:
    solution, check = exercise
    stub = re.sub(rf"{BEGIN}.*{END}", STUB, solution, flags=re.S)
    assert STUB in stub
    with pytest.raises(checks.CheckError, match="is not written yet"):
        run(path, stub, check)


def test_every_chapter_has_three_exercises_in_code() -> None:
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        assert len(exercises(path)) >= 3, path.name
