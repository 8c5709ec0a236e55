"""The subcommand: lists, sets and tables, and mistakes of the teacher's that are told before any work is done."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddetr_lab import cli
from ddetr_lab.classroom.exercises import Chapter
from ddetr_lab.classroom.grading import Grading
from tests.classroom.conftest import chapter_cells, notebook

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(chapter: Chapter, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command on the small book, and return its exit code and what it printed."""

    def ran(*words: object) -> tuple[int, str, str]:
        status = cli.main(["classroom", *map(str, words), "--book", str(chapter.path.parent)])
        return status, *capsys.readouterr()

    return ran


def test_exercises_are_listed_and_counted(run: Run) -> None:
    status, printed, _ = run("exercises")
    assert status == 0 and "chapter00.clip_boxes" in printed and "read by a person" in printed
    assert printed.splitlines()[-1] == "2 exercises in code, each with a check, and 1 questions in 1 chapters"


def test_a_set_is_written_and_counted(run: Run, tmp_path: Path) -> None:
    status, printed, _ = run("student", "--out", tmp_path / "set")
    assert (status, printed) == (0, f"1 notebooks and 2 other files in {tmp_path / 'set'}\n")
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == [
        "00_small.ipynb",
        "README.md",
        "classroom.json",
    ]


def test_mistakes_are_told_before_anything_is_graded(
    run: Run, tmp_path: Path, hand_in: Callable[[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_grading(*_: object) -> None:
        pytest.fail("a notebook was graded")

    monkeypatch.setattr("ddetr_lab.classroom.grading._grade", no_grading)
    folder = hand_in("ann", chapter_cells())
    (tmp_path / "empty").mkdir()
    submission = next(folder.rglob("*.ipynb"))
    before = submission.read_bytes()
    for words, told in (
        ((folder, "--out", tmp_path / "no" / "such.csv"), "folder that exists"),
        ((folder, "--out", tmp_path), "folder that exists"),
        ((tmp_path / "missing", "--out", tmp_path / "a.csv"), "is no folder"),
        ((tmp_path / "empty", "--out", tmp_path / "a.csv"), "no notebook in"),
        ((folder, "--chapters", "7", "--out", tmp_path / "a.csv"), "no chapter 7"),
        ((folder, "--out", submission), "no table of grades"),
    ):
        status, printed, error = run("grade", *words)
        assert status == 1 and told in error, (words, printed, error)
    assert not list(tmp_path.glob("*.csv")) and submission.read_bytes() == before


def test_a_second_grading_tells_where_the_first_table_is(
    run: Run, tmp_path: Path, hand_in: Callable[[str, Any], Path]
) -> None:
    folder, out = hand_in("ann", "no JSON"), tmp_path / "marks.csv"
    assert "earlier" not in run("grade", folder, "--out", out)[1]
    status, printed, _ = run("grade", folder, "--out", out)
    assert status == 0 and f"is now {tmp_path / 'marks-earlier.csv'}" in printed.splitlines()[-1]


def test_what_cannot_be_written_is_told_before_anything_is_graded(
    run: Run, tmp_path: Path, hand_in: Callable[[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError("--out cannot be written")

    monkeypatch.setattr("ddetr_lab.classroom.command.check_writable", refused)
    monkeypatch.setattr("ddetr_lab.classroom.grading._grade", lambda *_: pytest.fail("a notebook was graded"))
    folder = hand_in("ann", chapter_cells())
    assert run("grade", folder, "--out", tmp_path / "a.csv")[2].endswith("--out cannot be written\n")
    (tmp_path / "file").touch()
    status, _, error = run("student", "--out", tmp_path / "file" / "set")
    assert status == 1 and "cannot be made (Not a directory)" in error


def test_a_full_disk_at_the_end_does_not_lose_what_was_graded(
    run: Run, tmp_path: Path, hand_in: Callable[[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ddetr_lab.classroom.grading.write_csv", full)
    status, printed, error = run("grade", hand_in("ann", "no JSON"), "--out", tmp_path / "a.csv")
    assert status == 1 and "No space left" in error and "ann/00_small.ipynb" in printed and "0 of   2" in printed


def test_one_chapter_of_many_is_graded(
    run: Run, chapter: Chapter, tmp_path: Path, hand_in: Callable[[str, Any], Path]
) -> None:
    (chapter.path.parent / "01_more.ipynb").write_text(chapter.path.read_text())
    (chapter.path.parent / "02_unfinished.ipynb").write_text(json.dumps(notebook([])))
    folder = hand_in("ann", "no JSON")
    (folder / "ann" / "01_more.ipynb").write_text("no JSON")
    status, printed, _ = run("grade", folder, "--chapters", "1", "--out", tmp_path / "a.csv")
    assert status == 0 and "1 notebooks of other chapters were left out, ann/00_small.ipynb" in printed
    assert "1 notebooks graded" in printed
    (folder / "ann" / "01_more.ipynb").unlink()
    status, _, error = run("grade", folder, "--chapters", "1", "--out", tmp_path / "a.csv")
    assert status == 1 and "There is no notebook of chapter 1 in" in error


def test_an_interrupt_leaves_the_earlier_table(
    run: Run, tmp_path: Path, hand_in: Callable[[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = hand_in("ann", "no JSON"), tmp_path / "marks.csv"
    assert run("grade", folder, "--out", out)[0] == 0
    complete = out.read_text()
    monkeypatch.setattr("ddetr_lab.classroom.grading.grade_folder", lambda *_: Grading([], [], 3))
    status, printed, error = run("grade", folder, "--out", out)
    assert status == 130 and "3 notebooks to go" in error and "interrupted-marks.csv" in printed
    assert out.read_text() == complete and (tmp_path / "interrupted-marks.csv").is_file()


def test_the_folder_that_holds_the_package_is_not_graded(run: Run, chapter: Chapter, tmp_path: Path) -> None:
    from tests.conftest import ROOT

    status, _, error = run("grade", ROOT, "--out", tmp_path / "a.csv")
    assert status == 1 and "folder of their own" in error


@pytest.mark.parametrize("words", [["--chapters", "5;6"], ["--timeout", "0"], ["--jobs", "x"]])
def test_wrong_usage_is_told(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["classroom", "grade", str(tmp_path), "--out", "a.csv", *words])
    assert caught.value.code == 2 and words[1] in capsys.readouterr().err
