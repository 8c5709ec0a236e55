"""What was handed in is found and read without trust: names, links, sizes, formats, and where the checks go."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ddetr_lab.classroom import submissions
from ddetr_lab.classroom.exercises import Chapter, Exercise, read_book
from ddetr_lab.classroom.student import student_notebook
from ddetr_lab.classroom.submissions import find_submissions, plan
from tests.classroom.conftest import PROSE, RIGHT, chapter_cells, code, notebook, prose

HandIn = Callable[[str, Any], Path]


def written(path: Path, cells: list[dict[str, Any]] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook(chapter_cells() if cells is None else cells)), encoding="utf-8")
    return path


def found(folder: Path, chapter: Chapter) -> list[tuple[str, str, bool]]:
    given, remarks = find_submissions(folder, [chapter])
    assert remarks == []
    return [(one.student, one.path.name, one.chapter is chapter) for one in given]


def test_a_student_is_a_folder_or_what_stands_beside_the_chapters_name(chapter: Chapter, tmp_path: Path) -> None:
    folder = tmp_path / "handed_in"
    for name in (
        "00_small.ipynb",
        "ann_00_small.ipynb",
        "bob.ipynb",
        "cid/00_small (1).ipynb",
        "dan/set/00_small.ipynb",
    ):
        written(folder / name)
    written(folder / "eve" / "other.ipynb", [code("x", "1")])
    assert found(folder, chapter) == [
        ("", "00_small.ipynb", True),
        ("ann", "ann_00_small.ipynb", True),
        ("bob", "bob.ipynb", True),  # known by its cells
        ("cid", "00_small (1).ipynb", True),
        ("dan", "00_small.ipynb", True),
        ("eve", "other.ipynb", False),
    ]


def test_copies_that_editors_keep_in_hidden_folders_are_not_handed_in(chapter: Chapter, tmp_path: Path) -> None:
    written(tmp_path / "in" / "ann" / "00_small.ipynb")
    written(tmp_path / "in" / "ann" / ".ipynb_checkpoints" / "00_small-checkpoint.ipynb")
    assert [name for _, name, _ in found(tmp_path / "in", chapter)] == ["00_small.ipynb"]


def test_links_pipes_and_depths_are_left_out_with_a_remark(chapter: Chapter, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    written(folder / "ann" / "00_small.ipynb")
    (folder / "link.ipynb").symlink_to(chapter.path)
    (folder / "loop").symlink_to(folder)
    (folder / "nowhere.ipynb").symlink_to(tmp_path / "missing")
    os.mkfifo(folder / "pipe.ipynb")
    written(folder / "bob" / "1" / "2" / "3" / "4" / "5" / "00_small.ipynb")
    given, remarks = find_submissions(folder, [chapter])
    assert [one.student for one in given] == ["ann"]
    told = " ".join(remarks)
    assert len(remarks) == 5 and told.count("link") == 4 and "pipe.ipynb is no ordinary file" in told
    assert "too deep" in told


def test_a_folder_that_cannot_be_read_does_not_stop_the_rest(
    chapter: Chapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "in" / "ann" / "00_small.ipynb")
    written(tmp_path / "in" / "bob" / "00_small.ipynb")
    listed = Path.iterdir

    def iterdir(path: Path) -> Any:  # not by its mode: tests may run as root, who reads everything
        if path.name == "ann":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    given, remarks = find_submissions(tmp_path / "in", [chapter])
    assert [one.student for one in given] == ["bob"] and remarks == ["ann cannot be read: Permission denied."]


def test_a_huge_file_is_not_opened(chapter: Chapter, tmp_path: Path) -> None:
    path = tmp_path / "in" / "00_small.ipynb"
    path.parent.mkdir()
    path.touch()
    os.truncate(path, 2 << 30)  # a hole: no disk is used
    with pytest.raises(ValueError, match="2048 MB"):
        plan(path, chapter)
    path.rename(path.with_name("unknown.ipynb"))
    assert found(path.parent, chapter) == [("unknown", "unknown.ipynb", False)]


def test_many_cells_and_long_ones_are_not_run(chapter: Chapter, tmp_path: Path) -> None:
    long = written(tmp_path / "long.ipynb", [code("long", "x" * (submissions.LARGEST_CELL + 1)), *chapter_cells()])
    made = plan(long, chapter)
    assert "cell 1 has 1,048,577 characters" in made.notes[0]
    assert sum(isinstance(step, Exercise) for step in made.steps) == 2
    many = written(tmp_path / "many.ipynb", [code("", "")] * (submissions.MOST_CELLS + 1))
    with pytest.raises(ValueError, match="5,001 cells"):
        plan(many, chapter)


@pytest.mark.parametrize(
    "cells",
    [
        [7, None, "text", {}],
        [{"id": ["x"], "cell_type": {}, "source": {"a": 1}}],
        [{"id": None, "cell_type": "code", "source": [1, "x = 1", None]}],
        [code("\ud800", "'\ud800'")],
    ],
)
def test_cells_of_any_shape_are_read(cells: list[Any], chapter: Chapter, tmp_path: Path) -> None:
    path = tmp_path / "00_small.ipynb"
    path.write_text(json.dumps({"nbformat": 4, "cells": [{}, *cells]}), encoding="utf-8")
    made = plan(path, chapter)
    assert [step.label for step in made.steps if isinstance(step, Exercise)] == ["ex-00-centre", "ex-00-clip"]
    assert all(isinstance(step, (str, Exercise)) for step in made.steps)


def test_checks_stand_where_the_student_has_them_if_that_is_after_the_answer(chapter: Chapter, tmp_path: Path) -> None:
    cells = {cell["id"]: cell for cell in chapter_cells()}
    order = ["centre-check", "setup", "centre", "clip", "mine", "clip-check"]
    made = plan(
        written(tmp_path / "a.ipynb", [cells.get(name) or code(name, "mine = 1") for name in order]),
        chapter,
    )
    steps = [step.label if isinstance(step, Exercise) else step.split()[1] for step in made.steps]
    assert steps == [
        "torch",
        "xyxy_to_cxcywh(boxes_xyxy):",
        "ex-00-centre",
        "clip_boxes(boxes_xyxy,",
        "=",
        "ex-00-clip",
    ]
    assert made.notes == ["ex-00-centre: the check cell stood before the answer; it was put back."]


def student_cells(chapter: Chapter) -> list[dict[str, Any]]:
    """What a student has of it, with the first exercise and the question answered."""
    cells: list[dict[str, Any]] = student_notebook(chapter)["cells"]
    for cell in cells:
        cell["source"] = "".join(cell["source"])
        if cell["id"] == "centre":
            cell["source"] = RIGHT
        if cell["id"] == "why-answer":
            cell["source"] = "Because."
    return cells


@pytest.mark.parametrize("editor", ["drops ids", "makes ids", "splits the answer"])
def test_cells_are_known_without_their_ids(editor: str, chapter: Chapter, tmp_path: Path) -> None:
    cells = student_cells(chapter)
    for place, cell in enumerate(cells):
        del cell["id"]
        if editor != "drops ids":
            cell["id"] = f"new{place}"
    if editor == "splits the answer":
        cells[-1:] = [prose("a", "  "), prose("b", "Because.")]
    path = written(tmp_path / "in" / "homework (1).ipynb", cells)
    given, remarks = find_submissions(path.parent, [chapter])
    assert [(one.student, one.chapter is chapter) for one in given] == [("homework (1)", True)] and not remarks
    made = plan(path, chapter)
    assert made.notes == [] and made.answered == {"ex-00-why": True}
    steps = [step.label if isinstance(step, Exercise) else step.split()[1] for step in made.steps]
    assert steps == ["torch", "xyxy_to_cxcywh(boxes_xyxy):", "ex-00-centre", "clip_boxes(boxes_xyxy,", "ex-00-clip"]


def test_a_question_that_nobody_answered_stays_empty_without_ids(chapter: Chapter, tmp_path: Path) -> None:
    cells = [{**cell, "id": f"new{place}"} for place, cell in enumerate(student_cells(chapter)[:-1])]
    cells += [prose("x", submissions.PLACEHOLDER)]
    assert plan(written(tmp_path / "a.ipynb", cells), chapter).answered == {"ex-00-why": False}


def test_two_answers_are_told_apart_without_ids(chapter: Chapter, tmp_path: Path) -> None:
    second = PROSE.replace("ex-00-why", "ex-00-how").replace("Why?", "How?")
    path = chapter.path.with_name("00_two.ipynb")
    path.write_text(json.dumps(notebook([*chapter_cells(), prose("how", second)])), encoding="utf-8")
    both = read_book(path.parent, [0])[0]
    for answered in ("ex-00-why", "ex-00-how"):
        cells = student_notebook(both)["cells"]
        for place, cell in enumerate(cells):
            if cell["id"] == f"{answered[6:]}-answer":
                cell["source"] = "Because."
            cell["id"] = f"new{place}"
        made = plan(written(tmp_path / "a.ipynb", cells), both)
        assert made.answered == {label: label == answered for label in ("ex-00-why", "ex-00-how")}


def test_a_notebook_that_shares_no_check_is_not_recognised(chapter: Chapter, tmp_path: Path) -> None:
    written(tmp_path / "in" / "other.ipynb", [code("x", chapter_cells()[0]["source"])])
    assert found(tmp_path / "in", chapter) == [("other", "other.ipynb", False)]


def test_chapters_that_were_not_asked_for_are_left_out(chapter: Chapter, tmp_path: Path) -> None:
    other = replace(chapter, path=chapter.path.with_name("01_other.ipynb"))
    for name in ("00_small.ipynb", "01_other.ipynb"):
        written(tmp_path / "in" / "ann" / name)
    given, remarks = find_submissions(tmp_path / "in", [chapter], [other])
    assert [one.path.name for one in given] == ["00_small.ipynb"]
    assert remarks == ["1 notebooks of other chapters were left out, ann/01_other.ipynb first."]


def test_a_student_without_a_notebook_is_told(chapter: Chapter, tmp_path: Path) -> None:
    written(tmp_path / "in" / "ann" / "00_small.ipynb")
    (tmp_path / "in" / "bob").mkdir()
    (tmp_path / "in" / "bob" / "work.zip").touch()
    (tmp_path / "in" / "cid").mkdir()
    _, remarks = find_submissions(tmp_path / "in", [chapter])
    assert remarks == [
        "bob has no notebook (work.zip) and no row in the table.",
        "cid has no notebook (nothing) and no row in the table.",
    ]


@pytest.mark.parametrize(
    ("source", "noted"),
    [
        ("from ddetr_lab.checks.chapter00 import clip_boxes", True),
        ("clip_boxes = checks._reference", True),
        ("import torch, math\nfrom ddetr_lab.checks import chapter00 as checks", False),
        ("checks.clip_boxes(clip_boxes)  # again", False),
    ],
)
def test_code_that_reaches_into_the_checks_is_noted(source: str, noted: bool, chapter: Chapter, tmp_path: Path) -> None:
    made = plan(written(tmp_path / "a.ipynb", [*chapter_cells(), code("mine", source)]), chapter)
    told = "cell 9 reaches into the checks, which hold right answers: read it."
    assert made.notes == ([told] if noted else [])


def test_line_ends_of_another_system_are_no_edit(chapter: Chapter, tmp_path: Path) -> None:
    cells = [{**cell, "source": cell["source"].replace("\n", "\r\n") + "\r\n"} for cell in chapter_cells()]
    assert plan(written(tmp_path / "a.ipynb", cells), chapter).notes == []


def test_a_question_is_answered_if_something_else_than_the_placeholder_stands_there(
    chapter: Chapter, tmp_path: Path
) -> None:
    for text, expected in ((submissions.PLACEHOLDER, False), ("  ", False), ("Because.", True)):
        cells = [*chapter_cells(), prose("why-answer", text)]
        assert plan(written(tmp_path / "a.ipynb", cells), chapter).answered == {"ex-00-why": expected}
