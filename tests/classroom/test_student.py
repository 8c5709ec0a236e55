"""The class set holds what students need and nothing that answers a question."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from ddetr_lab.checks import CheckError
from ddetr_lab.classroom import exercises
from ddetr_lab.classroom.exercises import (
    MANIFEST,
    RECORDS,
    Chapter,
    ClassroomError,
    book_folder,
    read_book,
    source_of,
)
from ddetr_lab.classroom.student import READ, student_notebook, write_student_set
from tests.book.gates import BEGIN, END


def secrets(path: Path) -> Counter[str]:
    """Lines of solutions and sentences of answers, read here by other means than the command's."""
    found: list[str] = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = source_of(cell)
        if cell["cell_type"] == "code":
            found += [line for part in source.split(BEGIN)[1:] for line in part.split(END)[0].splitlines()]
        else:
            for answer in re.findall(r"^```\{solution\}[^\n]*\n(.*?)^```$", source, re.S | re.M):
                found += [line for line in answer.splitlines() if not line.startswith(":")]
    return Counter(line.strip() for line in found if len(line.strip()) >= 12)


def count_lines(path: Path) -> Counter[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return Counter(line.strip() for cell in cells for line in source_of(cell).splitlines())


def test_no_answer_of_the_book_is_left_in_any_file(tmp_path: Path) -> None:
    chapters = read_book(book_folder())
    out = tmp_path / "set"
    write_student_set(chapters, out)
    hidden = {chapter.path.name: secrets(chapter.path) for chapter in chapters}
    assert all(sum(lines.values()) >= 10 for lines in hidden.values())
    others = [path.read_text("utf-8") for path in out.rglob("*") if path.is_file() and path.suffix != ".ipynb"]
    for chapter in chapters:
        left, before = count_lines(out / chapter.path.name), count_lines(chapter.path)
        whole = (out / chapter.path.name).read_text(encoding="utf-8")
        for line, times in hidden[chapter.path.name].items():
            assert left[line] == before[line] - times, line
            assert not any(line in text for text in others), line
            if before[line] == times:  # it stands nowhere else in the chapter: not in a longer line or metadata either
                shown = "\n".join(other for other in before if other != line)
                assert line in shown or json.dumps(line, ensure_ascii=False)[1:-1] not in whole, line


def test_outputs_metadata_and_answers_are_gone_and_checks_are_kept(chapter: Chapter) -> None:
    made = student_notebook(chapter)
    text = json.dumps(made)
    assert "high - low" not in text and "low + high" not in text and "hide-input" not in text
    assert "forgives" not in text and "dropdown" not in text
    cells = {cell["id"]: source_of(cell) for cell in made["cells"]}
    assert cells["centre-check"] == "checks.xyxy_to_cxcywh(xyxy_to_cxcywh)"
    assert "Why?" in cells["why"] and "Your answer" in cells["why-answer"]
    assert all(cell.get("outputs", []) == [] and cell.get("execution_count") is None for cell in made["cells"])


def test_a_stub_names_its_exercise_and_the_check_says_that_it_is_not_written(chapter: Chapter) -> None:
    cells = {cell["id"]: source_of(cell) for cell in student_notebook(chapter)["cells"]}
    names: dict[str, object] = {}
    for cell in ("setup", "centre"):
        exec(cells[cell], names)
    with pytest.raises(NotImplementedError, match="Write it: centre"):
        names["xyxy_to_cxcywh"](None)  # type: ignore[operator]
    with pytest.raises(CheckError, match="not written yet"):
        exec(cells["centre-check"], names)


def test_a_set_never_overwrites(tmp_path: Path, chapter: Chapter) -> None:
    (tmp_path / "out").mkdir()
    write_student_set([chapter], tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text(encoding="utf-8"))
    assert [one["check"] for one in manifest["notebooks"]["00_small.ipynb"]["exercises"]] == [
        "chapter00.xyxy_to_cxcywh",
        "chapter00.clip_boxes",
    ]
    with pytest.raises(ClassroomError, match="is not empty"):
        write_student_set([chapter], tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ClassroomError, match="is not empty"):
        write_student_set([chapter], tmp_path / "link")


@pytest.mark.parametrize("number", [99])
def test_a_chapter_that_is_not_there_is_named(number: int) -> None:
    with pytest.raises(ClassroomError, match="no chapter 99"):
        read_book(book_folder(), [number])


def test_a_set_has_the_records_that_its_chapters_read(tmp_path: Path) -> None:
    chapters = read_book(book_folder(), [16, 17, 18, 19])
    write_student_set(chapters, tmp_path / "set")
    made = {path.relative_to(tmp_path / "set").as_posix() for path in (tmp_path / "set" / RECORDS).rglob("*.json")}
    assert {"_data/training/digits-seed0.json", "_data/training/faults.json"} <= made
    assert {"_data/benchmarks/learning.json", "_data/benchmarks/fine-tuning.json"} <= made
    assert "_data/benchmarks/op.json" not in made
    for chapter in read_book(book_folder()):  # no notebook reads them in another way
        code = "\n".join(source_of(cell) for cell in chapter.notebook["cells"] if cell["cell_type"] == "code")
        assert code.count(f'"{RECORDS}"') == len(READ.findall(code)), chapter.path.name


def test_without_the_repository_a_class_set_is_the_book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exercises, "__file__", str(tmp_path / "site-packages" / "ddetr_lab" / "classroom" / "x.py"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ClassroomError, match="the chapters are not installed"):
        book_folder()
    (tmp_path / MANIFEST).touch()
    assert book_folder() == tmp_path
