"""The package can be read in one direction, and every module has a chapter: the map of `module_map.py`, enforced."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

import ddetr_lab
from tests.book.module_map import BUILDS, EVERY_CHAPTER, MODULES
from tests.conftest import ROOT

PACKAGE = ROOT / "ddetr_lab"
ORDER = {module: place for place, (module, _) in enumerate(MODULES)}
CHAPTERS = dict(MODULES)
NOTEBOOKS = {int(path.stem[:2]): path for path in sorted((ROOT / "book").glob("*.ipynb"))}


def module_name(path: Path) -> str:
    """The name below `ddetr_lab` of a file: ops/__init__.py is "ops", the package itself is ""."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported_modules(source: str, package: str = "") -> set[str]:
    """The modules of ddetr_lab that code imports, at the top or inside a function.

    A name taken from `ddetr_lab` itself is followed to its home; the version, which has none, stands for no module.

    Args:
        source: the code.
        package: the dotted package that the code's file belongs to, to resolve relative imports.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).strip(".")
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                if base == "ddetr_lab":
                    found.add(ddetr_lab._HOME.get(alias.name, whole))
                else:
                    found.add(whole if whole.removeprefix("ddetr_lab.") in FILES else base)
    names = {name.removeprefix("ddetr_lab.") for name in found if name.startswith("ddetr_lab.")}
    return names - {"__version__"}


def test_imports_are_found_wherever_they_stand() -> None:
    code = """
import ddetr_lab.boxes
from ddetr_lab import DeformableDetrConfig, ops, __version__
from ddetr_lab.ops import reference
from ddetr_lab.matcher import HungarianMatcher
import torch
def late():
    from .digits import DigitScenes
    from ..losses import DetectionLoss
"""
    assert imported_modules(code, "ddetr_lab.data") == {
        "boxes",
        "config",
        "ops",
        "ops.reference",
        "matcher",
        "data.digits",
        "losses",
    }


def test_the_map_names_every_module_and_no_other() -> None:
    assert sorted(ORDER) == sorted(set(FILES) - {""})


@pytest.mark.parametrize("module", [name for name in ORDER if name in FILES])
def test_imports_only_go_down(module: str) -> None:
    path = FILES[module]
    package = ".".join(["ddetr_lab", *path.relative_to(PACKAGE).parts[:-1]])
    imported = imported_modules(path.read_text(encoding="utf-8"), package)
    later = {name for name in imported if ORDER.get(name, len(ORDER)) >= ORDER[module]}
    assert later == set(), f"{module} imports what is explained after it"


@pytest.mark.parametrize("module", [name for name in ORDER if name in FILES])
def test_a_module_says_which_chapter_explains_it(module: str) -> None:
    docstring = ast.get_docstring(ast.parse(FILES[module].read_text(encoding="utf-8"))) or ""
    built = " ".join(re.findall(r"(?:Built|Used) in ([^.]*)", docstring))
    numbers = set(EVERY_CHAPTER) if "every chapter" in built else {int(number) for number in re.findall(r"\d+", built)}
    assert numbers, f"the docstring of {module} names no chapter"
    assert numbers <= set(CHAPTERS[module]), f"{module} names chapters {numbers}, the map has {CHAPTERS[module]}"


@pytest.mark.parametrize("module", [name for name in FILES if name])
def test_a_file_holds_one_idea(module: str) -> None:
    assert len(FILES[module].read_text(encoding="utf-8").splitlines()) <= 400


def test_every_chapter_builds_something_that_exists() -> None:
    assert sorted(BUILDS) == list(EVERY_CHAPTER)
    for modules in BUILDS.values():
        assert modules and set(modules) <= set(ORDER)


@pytest.mark.parametrize("chapter", NOTEBOOKS)
def test_a_chapter_imports_what_it_builds(chapter: int) -> None:
    notebook = nbformat.read(NOTEBOOKS[chapter], as_version=nbformat.NO_CONVERT)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    missing = [
        module
        for module in BUILDS[chapter]
        if not any(name == module or name.startswith(module + ".") for name in imported_modules(code))
    ]
    assert missing == []
