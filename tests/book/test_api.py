"""The reference pages: every module finds its page, and docstrings come out as Sphinx wants them."""

import ast
import re

import pytest

from tests.book.extension import extension
from tests.book.test_chapters import BOOK

api = extension("ddetr_api")
FOUND = api.read_modules()
PAGES = {5: "05_sampling", 6: "06_loops"}


def test_every_module_is_on_one_page() -> None:
    placed = []
    for page in BOOK.glob("api_*.md"):
        for words in re.findall(r"^```\{api-modules\}(.*)$", page.read_text(encoding="utf-8"), re.M):
            placed += re.findall(r"^## `(.*)`$", api.modules_section(words, FOUND), re.M)
    assert sorted(placed) == sorted(module.name for module in FOUND)


@pytest.mark.parametrize(
    ("docstring", "chapters"),
    [
        ("Boxes.\n\nBuilt in chapter 2.", (2,)),
        ("Ops.\n\nBuilt in chapters 6 to 8.", (6, 7, 8)),
        ("Two.\n\nBuilt in chapter 2 (formats) and chapter 14 (overlaps).", (2, 14)),
        ("Figures.\n\nUsed in every chapter.", ()),
        ("Nothing. 12 of 13.", ()),
    ],
)
def test_chapters_are_read_from_a_docstring(docstring: str, chapters: tuple[int, ...]) -> None:
    assert api.chapters_named(docstring) == chapters


def test_a_misspelt_page_is_refused() -> None:
    with pytest.raises(api.ExtensionError, match="99"):
        api.modules_section("2 99", FOUND)


@pytest.mark.parametrize(
    ("line", "ready"),
    [
        ("Built in chapter 6.", "Built in chapter :doc:`6 </06_loops>`."),
        ("Built in chapters 5 to 6.", "Built in chapters :doc:`5 </05_sampling>` to :doc:`6 </06_loops>`."),
        ("Built in chapter 19.", "Built in chapter 19."),
        ("Reads 6 of 5.", "Reads 6 of 5."),
        ("a `name` and ``code`` and :func:`link`", "a ``name`` and ``code`` and :func:`link`"),
        ("|queries - objects| and ``a | b``", r"\|queries - objects\| and ``a | b``"),
        ("Returns:\n    For each map: a tensor.", "Returns:\n    : For each map: a tensor."),
    ],
)
def test_docstrings_are_made_ready(line: str, ready: str) -> None:
    assert "\n".join(api.ready(line.split("\n"), PAGES)) == ready


def test_what_is_passed_on_is_linked_and_not_described_twice() -> None:
    tree = ast.parse(
        "from ddetr_lab.boxes import area as surface\nfrom torch import Tensor\n__all__ = ['surface', 'Tensor', 'own']"
    )
    assert api.passed_on(tree) == ("ddetr_lab.boxes.area",)
    section = api.module_section(api.Module("ddetr_lab.x", "X.", (), "every", api.passed_on(tree)))
    assert "{py:obj}`~ddetr_lab.boxes.area`" in section and ":exclude-members: area" in section


def test_the_overview_has_a_row_for_each_module_with_links_to_chapters() -> None:
    text = api.overview(FOUND, api.chapter_pages())
    rows = re.findall(r"^\| \{py:mod\}`\S+ <(\S+)>` \| (.*?) \| (.+) \|$", text, re.M)
    assert len(rows) == len(FOUND)
    assert dict((name, chapters) for name, chapters, _ in rows)["ddetr_lab.encoder"] == "[10](/10_encoder.ipynb)"


@pytest.mark.parametrize(
    ("signature", "readable"),
    [
        ("(a: int, b: list[str] = <factory>, c: int = 3)", "(a: int, b: list[str] = ..., c: int = 3)"),
        ("(report: Callable[[int], None] = <function Plan.<lambda>>)", "(report: Callable[[int], None] = ...)"),
        ("(a: float = -1.0) -> None", "(a: float = -1.0) -> None"),
    ],
)
def test_defaults_that_are_not_python_become_dots(signature: str, readable: str) -> None:
    assert api.readable_defaults(signature) == readable
