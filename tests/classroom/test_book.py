"""Two quick chapters of the book: their solutions earn full marks, the class set none (`make classroom-check`: all)."""

import shutil
from pathlib import Path

from ddetr_lab.classroom.exercises import book_folder, read_book
from ddetr_lab.classroom.grading import grade_folder
from ddetr_lab.classroom.sandbox import Limits, can_seal
from ddetr_lab.classroom.student import write_student_set


def test_solutions_earn_everything_and_stubs_nothing(tmp_path: Path) -> None:
    chapters = read_book(book_folder(), [0, 13])
    write_student_set(chapters, tmp_path / "handed_in" / "student")
    (tmp_path / "handed_in" / "teacher").mkdir()
    for chapter in chapters:
        shutil.copy(chapter.path, tmp_path / "handed_in" / "teacher")
    results, remarks, _ = grade_folder(tmp_path / "handed_in", chapters, Limits(), can_seal())
    assert remarks == [] and len(results) == 4
    for one, graded, answered in results:
        states = {verdict.state for verdict in graded.verdicts}
        assert states == ({"passed"} if one.student == "teacher" else {"not written"}), one.path.name
        assert len(graded.verdicts) >= 3 and set(answered.values()) == {False}
