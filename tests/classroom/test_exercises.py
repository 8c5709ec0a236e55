"""What the book asks is read from its notebooks; a chapter that cannot be graded is told before term."""

import json
from pathlib import Path

import pytest

from ddetr_lab.classroom.exercises import Chapter, ClassroomError, book_folder, read_book, source_of
from tests.classroom.conftest import chapter_cells, code, notebook


def test_exercises_and_questions_are_found_with_their_cells(chapter: Chapter) -> None:
    first, second = chapter.exercises
    assert (first.label, first.title) == ("ex-00-centre", "Write it: centre")
    assert (first.solution, first.check) == ("centre", "centre-check")
    assert (second.module, second.name, second.answer) == ("chapter00", "clip_boxes", "clip_boxes")
    assert [(one.label, one.cell, one.answer) for one in chapter.prose] == [("ex-00-why", "why", "why-answer")]
    assert (chapter.number, chapter.points) == (0, 2)


def test_every_chapter_of_the_book_has_three_exercises_in_code_and_a_question() -> None:
    chapters = read_book(book_folder())
    numbers = [chapter.number for chapter in chapters]
    assert numbers == sorted(set(numbers)) and numbers[:16] == list(range(16))
    assert all(len(chapter.exercises) >= 3 and chapter.prose for chapter in chapters)
    labels = [one.label for chapter in chapters for one in (*chapter.exercises, *chapter.prose)]
    assert len(labels) == len(set(labels))


def test_chapters_are_chosen_by_number_in_the_order_asked_for() -> None:
    assert [chapter.number for chapter in read_book(book_folder(), [5, 0, 5])] == [5, 0]
    with pytest.raises(ClassroomError, match="no chapter 99"):
        read_book(book_folder(), [99])


def test_a_folder_without_chapters_is_told(tmp_path: Path) -> None:
    with pytest.raises(ClassroomError, match="no chapters"):
        read_book(tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("checks.clip_boxes(clip_boxes, 1)", "cell after clip is no check"),
        ("checks.clip_boxes(lambda: 0)", "cell after clip is no check"),
        ("check = 1; checks.clip_boxes(clip_boxes)", "cell after clip is no check"),
        ("def", "cannot be graded|cell after clip is no check|invalid syntax"),
    ],
)
def test_a_check_of_another_form_is_told(source: str, message: str, tmp_path: Path) -> None:
    cells = [code("clip-check", source) if cell["id"] == "clip-check" else cell for cell in chapter_cells()]
    (tmp_path / "00_small.ipynb").write_text(json.dumps(notebook(cells)), encoding="utf-8")
    with pytest.raises((ClassroomError, SyntaxError), match=message):
        read_book(tmp_path)


def test_a_chapter_without_checks_is_told(tmp_path: Path) -> None:
    cells = [code("setup", "import torch") if cell["id"] == "setup" else cell for cell in chapter_cells()]
    (tmp_path / "00_small.ipynb").write_text(json.dumps(notebook(cells)), encoding="utf-8")
    with pytest.raises(ClassroomError, match="imports nothing from ddetr_lab.checks"):
        read_book(tmp_path)


@pytest.mark.parametrize(("source", "text"), [("a\nb", "a\nb"), (["a\n", "b"], "a\nb"), ([], ""), (7, "7")])
def test_a_source_may_be_text_or_lines(source: object, text: str) -> None:
    assert source_of({"source": source}) == text
