"""The chapters pass every gate, and the table of contents, the introduction and the folder tell the same story."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from tests.book import gates

BOOK = Path(__file__).resolve().parents[2] / "book"
CHAPTERS = sorted(BOOK.glob("*.ipynb"))


def toc_pages() -> list[dict[str, Any]]:
    """The entries below the root of the table of contents, in their order."""
    toc: dict[str, Any] = yaml.safe_load((BOOK / "_toc.yml").read_text(encoding="utf-8"))
    pages = [page for part in toc["parts"] for page in part["chapters"]]
    return [each for page in pages for each in (page, *page.get("sections", []))]


def toc_files() -> list[str]:
    """Every page that the book has, the introduction first."""
    return ["intro"] + [page["file"] for page in toc_pages()]


@pytest.mark.parametrize("gate", gates.GATES)
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_passes_gate(chapter: Path, gate: str) -> None:
    notebook = nbformat.read(chapter, as_version=nbformat.NO_CONVERT)
    assert gates.GATES[gate](notebook) == []


def test_toc_lists_what_exists_and_nothing_else() -> None:
    listed = toc_files()
    existing = [path.stem for path in BOOK.glob("*.md")] + [path.stem for path in CHAPTERS]
    assert len(listed) == len(set(listed))
    assert sorted(listed) == sorted(existing)


def test_chapters_stand_in_order_and_are_named_by_number() -> None:
    listed = [name for name in toc_files() if (BOOK / f"{name}.ipynb").exists()]
    assert listed == sorted(listed)
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+", name) for name in listed)


def test_chapters_are_called_the_same_everywhere() -> None:
    table = dict(re.findall(r"^\| (\d+) \| ([^|]*) \| \w+ \|", (BOOK / "intro.md").read_text("utf-8"), re.M))
    titles = {page["file"]: page.get("title") for page in toc_pages()}
    for path in CHAPTERS:
        number = str(int(path.stem[:2]))
        first = nbformat.read(path, as_version=nbformat.NO_CONVERT).cells[0].source.splitlines()[0]
        assert first == f"# {table[number]}"
        assert titles[path.stem] == f"{number}. {table[number]}"


def test_the_introduction_says_which_chapters_are_finished() -> None:
    rows = re.findall(r"^\| (\d+) \| [^|]* \| (finished|planned) \|", (BOOK / "intro.md").read_text("utf-8"), re.M)
    assert [int(number) for number, _ in rows] == list(range(20))
    finished = {int(number) for number, state in rows if state == "finished"}
    assert finished == {int(path.stem[:2]) for path in CHAPTERS}


def test_images_in_pages_have_alt_text() -> None:
    for page in BOOK.glob("*.md"):
        cell = nbformat.v4.new_markdown_cell(page.read_text(encoding="utf-8"))
        assert gates.figures_speak(nbformat.v4.new_notebook(cells=[cell])) == [], page.name


def test_the_glossary_defines_each_term_once_and_in_order() -> None:
    text = (BOOK / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^(?![#`{])(\S.*)\n  \S", text.split("```{glossary}")[1], re.M)
    assert len(terms) >= 40
    assert terms == sorted(set(terms), key=str.lower)


def test_every_reference_is_complete() -> None:
    entries = re.split(r"^@", (BOOK / "references.bib").read_text(encoding="utf-8"), flags=re.M)[1:]
    assert len(entries) >= 20
    for entry in entries:
        fields = set(re.findall(r"^\s+(\w+)\s*=", entry, re.M))
        assert {"title", "author", "year"} <= fields, entry
        assert fields & {"doi", "url"}, f"no way to find it: {entry}"
        assert fields & {"booktitle", "journal", "howpublished"}, f"no venue: {entry}"
