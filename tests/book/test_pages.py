"""What nobody types is what the commands write: stated times, the introduction, the book in numbers, versions."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook, new_output
from packaging.specifiers import SpecifierSet

from tests.book import facts, gates, measure, pages
from tests.book.test_chapters import BOOK, CHAPTERS
from tests.book.test_gates import good_chapter

REMEDY = "run `make book-pages`, or `make book-table` to measure as well"


@pytest.fixture(scope="module")
def written() -> dict[Path, str]:
    """What the files should be."""
    return pages.written()


HELD = [BOOK / "numbers.md", BOOK / "versions.md", BOOK / "intro.md", *CHAPTERS]


@pytest.mark.parametrize("path", HELD, ids=lambda path: path.stem)
def test_what_is_committed_is_what_is_written(path: Path, written: dict[Path, str]) -> None:
    assert path.read_text(encoding="utf-8") == written[path], REMEDY


def test_every_chapter_was_measured_and_no_other() -> None:
    assert sorted(pages.measured()["chapters"]) == [path.stem for path in CHAPTERS], REMEDY


def test_the_pages_were_made_with_versions_that_are_supported() -> None:
    versions = pages.measured()["versions"]
    wanted = measure.distributions()
    assert {"torch", "jupyter-book", "nbval", "pycocotools"} <= set(wanted)
    for name, supported in wanted.items():
        if name in versions:
            assert SpecifierSet(supported).contains(versions[name], prereleases=True), name
    assert set(wanted) - set(versions) <= {"tomli"}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "5 seconds"),
        (5, "5 seconds"),
        (5.1, "10 seconds"),
        (54.9, "55 seconds"),
        (55.1, "1 minute"),
        (61, "1.5 minutes"),
        (119, "2 minutes"),
        (121, "2.5 minutes"),
    ],
)
def test_a_time_is_rounded_up(seconds: float, said: str) -> None:
    assert facts.running(seconds) == said


@pytest.mark.parametrize(
    ("stated", "counted", "expected"), [(20, 22.9, 20), (20, 23.1, 25), (20, 17.1, 20), (20, 16.9, 15), (13, 13, 15)]
)
def test_stated_minutes_stay_unless_they_are_off(stated: int, counted: float, expected: int) -> None:
    assert facts.stated_minutes(f"**Time.** {stated} minutes to read, 5 seconds to run", counted) == expected
    assert facts.stated_minutes("no such line", 12.4) == 10


def counted(notebook: NotebookNode) -> facts.Facts:
    return facts.count(notebook, "07_grid_sample", (1, 1))


def test_a_chapter_is_counted() -> None:
    found = counted(good_chapter())
    assert (found.number, found.title, found.figures, found.spoken) == (7, "A chapter", 3, 3)
    assert found.lengths == (2, 2, 2, 4, 1) and facts.middle(found) == 2
    assert found.checks == 1
    assert found.minutes == pytest.approx(found.words / 200 + 11 / 40 + 3 / 4)
    mute = good_chapter()
    del mute.cells[1].metadata["mystnb"]
    assert counted(mute).spoken == 2


def test_a_stale_time_is_written_anew() -> None:
    source = "1\n**Time.** 90 minutes to read, 3 hours to run on one core of a laptop, and an hour for the rest.\n"
    written = pages.timed(source, counted(good_chapter()), {"07_grid_sample": {"processor": 17.2}})
    assert written == source.replace("90", "10").replace("3 hours", "20 seconds")
    assert "3 hours" in pages.timed(source, counted(good_chapter()), {})  # not measured: left as it is


def test_the_introduction_tells_the_times_of_what_exists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "07_grid_sample.ipynb").write_text("**Time.** 10 minutes to read, 5 seconds to run", encoding="utf-8")
    monkeypatch.setattr(pages, "BOOK", tmp_path)
    table = "| 7 | The same | finished | 99 min | 1 s |\n| 19 | Why | planned |\n"
    written = pages.introduction(table, [counted(good_chapter())], {"07_grid_sample": {"processor": 61}})
    assert written == "| 7 | The same | finished | 10 min | 1.5 min |\n| 19 | Why | planned | | |\n"


def test_a_changed_range_changes_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "distributions", lambda: {"torch": ">=99"})
    assert "| torch | >=99 |" in pages.versions_page()


def test_ranges_are_those_of_pyproject() -> None:
    text = (BOOK.parent / "pyproject.toml").read_text(encoding="utf-8")
    for name, supported in measure.distributions().items():
        assert f'"{name}{supported}' in text


def test_the_numbers_are_sums_of_rows() -> None:
    rows = list(pages.table_rows(pages.all_facts(), pages.measured()["chapters"]))
    words = [int(row[1].replace(",", "")) for row in rows]
    assert words[-1] == sum(words[:-1]) and len(rows) == len(CHAPTERS) + 1


def cells(*texts: str) -> NotebookNode:
    """A notebook of cells that print."""
    made = new_notebook()
    for number, text in enumerate(texts):
        cell = new_code_cell("print()", id=f"cell-{number}")
        cell.outputs = [new_output("stream", name="stdout", text=text)]
        made.cells.append(cell)
    return made


def test_a_changed_output_is_noticed_and_a_changed_time_is_not() -> None:
    page = cells("AP 0.61", "took 1.2 s")
    assert measure.differing(page, cells("AP 0.61", "took 9.9 s")) == []
    assert measure.differing(page, cells("AP 0.62", "took 1.2 s")) == ["cell-0"]


def test_a_run_is_measured_and_one_that_prints_something_else_is_not_kept(tmp_path: Path) -> None:
    path, file = tmp_path / "07_grid_sample.ipynb", tmp_path / "kept.json"
    page = new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    page.cells = [new_code_cell("print(sum(range(5_000_000)))", execution_count=1, id="one")]
    page.cells[0].outputs = [new_output("stream", name="stdout", text="12499997500000\n")]
    nbformat.write(page, path)
    assert measure.measure([path], file) == []
    (kept,) = json.loads(file.read_text())["chapters"].items()
    assert kept[0] == path.stem and 0 < kept[1]["processor"] <= kept[1]["clock"] + 1
    page.cells[0].outputs[0]["text"] = "1\n"
    nbformat.write(page, path)
    file.unlink()
    assert "one" in measure.measure([path], file)[0]
    assert json.loads(file.read_text())["chapters"] == {}


def test_each_chapter_states_both_times_once() -> None:
    for path in CHAPTERS:
        notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
        assert len(re.findall(gates.TIME, gates.markdown(notebook))) == 1, path.stem
