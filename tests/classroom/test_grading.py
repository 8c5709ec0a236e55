"""Hostile notebooks: each graded as far as it goes, reported, and the next one graded."""

import csv
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddetr_lab import cli
from ddetr_lab.classroom import grading
from ddetr_lab.classroom.exercises import Chapter, book_folder
from ddetr_lab.classroom.grading import Results, grade_folder, harmless, is_table, rows, write_csv
from ddetr_lab.classroom.referee import Graded
from ddetr_lab.classroom.sandbox import Limits, can_seal
from ddetr_lab.classroom.student import student_notebook
from ddetr_lab.classroom.submissions import Submission
from tests.classroom.conftest import Cell, chapter_cells, code, notebook

HandIn = Callable[[str, Any], Path]
SHORT = Limits(seconds=60, cell_seconds=2, grace=3, memory=3 * 2**30, file_size=2**20)
SLOW = Limits(seconds=200, cell_seconds=2, grace=60, memory=3 * 2**30, file_size=2**20)


def between(source: str, **changed: str) -> list[Cell]:
    """The chapter with one more cell between its two exercises, and some cells' sources changed."""
    cells = chapter_cells()
    for cell in cells:
        cell["source"] = changed.get(cell["id"].replace("-", "_"), cell["source"])
    cells.insert(4, code("more", source))
    return cells


def grade(folder: Path, chapter: Chapter, limits: Limits = SHORT, sealed: bool | None = None) -> Results:
    return grade_folder(folder, [chapter], limits, can_seal() if sealed is None else sealed)[0]


def states(results: Results) -> list[str]:
    ((_, graded, _),) = results
    return [verdict.state for verdict in graded.verdicts]


FORGED = """
import sys, gc
import ddetr_lab.checks.chapter00 as real
import ddetr_lab.checks.core as core
real.clip_boxes = lambda answer: core.Passed("clip_boxes: correct on 6 random inputs.")
core.check_function = lambda *a, **k: core.Passed("all right")
core._equal = core.same = lambda *a: True
torch.allclose = torch.equal = lambda *a, **k: True
"""
WRONG = "def clip_boxes(boxes_xyxy, height, width):\n    return boxes_xyxy"
CHILDREN = """
import glob, os, time
def pages():
    return glob.glob('/proc/[0-9]*/cmdline')
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp('sleep', ['sleep', 'MARK'])
        os._exit(0)
time.sleep(0.3)
"""

LEAVES_CHILDREN = CHILDREN.replace("MARK", "4000")
# One notebook, cell after cell: after all of them the process still answers, and both exercises are graded.
SURVIVED = {
    "prints": "for _ in range(1 << 6): print('x' * (1 << 20))",
    "prints_binary": "import os; os.write(1, bytes(range(256)) * 100)",
    "loops": "while True: pass",
    "loops_with_a_catch": "while True:\n    try:\n        while True: 0\n    except Exception: pass",
    "raises_exit": "raise SystemExit",
    "exits": "import sys; sys.exit(3)",
    "interrupts": "raise KeyboardInterrupt",
    "raises_what_cannot_be_told": "class E(BaseException):\n    def __str__(self): raise self\nraise E",
    "recurses": "def f(): f()\nf()",
    "reads": "input()",
    "forks": "import os\nif os.fork(): os.wait()",
    "leaves_children": LEAVES_CHILDREN,
    "signals_all_but_itself": "import signal\ntry: os.kill(-1, signal.SIGTERM)\nexcept OSError: pass",
    "starts_threads": (
        "import threading, time\nfor _ in range(8): threading.Thread(target=time.sleep, args=(600,)).start()"
    ),
    "takes_memory": "held = bytearray(64 << 30)",
    "writes_much": "open('big', 'wb').write(bytes(1 << 24))",
    "reaches_out": "import urllib.request as u; u.urlopen('http://192.0.2.1', timeout=1)",
    "goes_deep": "for _ in range(1500): os.mkdir('d'); os.chdir('d')",
    "goes_elsewhere": "os.chdir('/')",
    "deletes_its_folder": "import shutil, tempfile; shutil.rmtree(os.path.dirname(tempfile.gettempdir()), True)",
    "clears_the_checks": "del checks\nimport sys\nfor name in list(sys.modules):\n"
    "    if 'checks' in name: del sys.modules[name]",
}
# What ends the process: the state of the second exercise is "not reached", and the note says why.
ENDED = {
    "exits": ("import os; os._exit(0)", "ended itself"),
    "crashes": ("import ctypes; ctypes.string_at(0)", "ended itself"),
    "signals_its_parents": ("import os\nfor p in (os.getppid(), 0): os.kill(p, 9)", "ended itself"),
    "closes_everything": ("import os; os.closerange(0, 200)", "ended itself"),
    "breaks_builtins": ("import builtins; builtins.len = builtins.isinstance = None", "ended itself"),
    "breaks_the_wire": (
        "import os\nfor d in range(3, 40):\n  try: os.write(d, b'x' * 99)\n  except OSError: 0",
        "no answer looks like",
    ),
    "swallows": (
        "import time\nwhile True:\n  try: time.sleep(0.01)\n  except BaseException: pass",
        "could not be interrupted",
    ),
    "bomb": ("import os\nwhile True:\n  try: os.fork()\n  except OSError: pass", "stopped with more than"),
    "takes_memory_in_pieces": (
        "import os, time\nfor _ in range(6):\n  if not os.fork():\n    held = b'x' * (1 << 30)\n    time.sleep(60)\n"
        "time.sleep(60)",
        "stopped with more than 3.0 GB",
    ),
}


def test_after_every_other_hostile_cell_both_exercises_are_graded(chapter: Chapter, hand_in: HandIn) -> None:
    cells = chapter_cells()
    cells[4:4] = [code(name, cell) for name, cell in SURVIVED.items()]
    results = grade(hand_in("all", cells), chapter, SLOW)
    assert states(results) == ["passed", "passed"], results
    notes = " ".join(results[0][1].notes)
    assert "the output was cut" in notes and "first error: TimeoutError" in notes


@pytest.mark.parametrize("kind", ENDED)
def test_a_cell_that_ends_its_process_costs_what_comes_after_it(kind: str, chapter: Chapter, hand_in: HandIn) -> None:
    cell, note = ENDED[kind]
    results = grade(hand_in(kind, between(cell)), chapter)
    assert states(results) == ["passed", "not reached"], results
    assert note in " ".join(results[0][1].notes)


@pytest.mark.parametrize("cell", ["for n in range(10**9): open(str(n), 'wb').write(bytes(1 << 18))"])
def test_a_full_disk_ends_the_process_where_no_namespace_limits_it(
    cell: str, chapter: Chapter, hand_in: HandIn
) -> None:
    results = grade(hand_in("disk", between(cell)), chapter, SLOW, sealed=False)
    assert states(results) == ["passed", "not reached"], results
    assert "stopped with more than 2 MB" in results[0][1].notes[0]
    if can_seal():  # there the folder in memory is full, and the rest is graded
        results = grade(hand_in("disk", between(cell)), chapter)
        assert states(results) == ["passed", "passed"] and "No space left" in results[0][1].notes[0]


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are counted in /proc")
@pytest.mark.parametrize("sealed", [True, False])
def test_no_child_is_left(sealed: bool, chapter: Chapter, hand_in: HandIn, tmp_path: Path) -> None:
    if sealed and not can_seal():
        pytest.skip("this system lets no user make namespaces")
    mark = f"{os.getpid()}{int(sealed)}.{abs(hash(tmp_path)) % 10**9:09}"  # tells our children from all others
    leaving = CHILDREN.replace("MARK", mark)
    started = between(leaving + f"assert any({mark!r}.encode() in open(p, 'rb').read() for p in pages())")
    results = grade(hand_in("one", started), chapter, sealed=sealed)
    assert states(results) == ["passed", "passed"]
    assert results[0][1].notes == []  # the children were there while the notebook ran
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if mark in read(path)]
    assert left == []


def read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""


def test_no_submission_writes_its_own_verdict(chapter: Chapter, hand_in: HandIn) -> None:
    edited = between(FORGED, clip=WRONG, clip_check="print('clip_boxes: correct on 6 random inputs.')")
    results = grade(hand_in("forger", edited), chapter)
    assert states(results) == ["passed", "failed"]
    assert "edited" in " ".join(results[0][1].notes)


@pytest.mark.parametrize("gone", [{"clip-check"}, {"clip-check", "centre-check"}])
def test_a_check_that_was_deleted_is_put_back(gone: set[str], chapter: Chapter, hand_in: HandIn) -> None:
    cells = [cell for cell in between("0", clip=WRONG) if cell["id"] not in gone]
    results = grade(hand_in("deleter", cells), chapter)
    assert states(results) == ["passed", "failed"]
    assert sum("put back" in note for note in results[0][1].notes) == len(gone)


def test_cells_without_ids_are_checked_at_the_end(chapter: Chapter, hand_in: HandIn) -> None:
    old = {**notebook([{**cell, "id": None} for cell in chapter_cells()]), "nbformat": 99}
    results = grade(hand_in("old", json.dumps(old)), chapter)
    assert states(results) == ["passed", "passed"]
    assert "format is 99" in results[0][1].notes[0]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("<html>", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no object"),
        (json.dumps(notebook([])), "no cells"),
        (json.dumps({"nbformat": 4, "cells": 7}), "no cells"),
    ],
)
def test_what_is_no_notebook_is_told(text: str, hint: str, chapter: Chapter, hand_in: HandIn) -> None:
    results = grade(hand_in("broken", text), chapter)
    assert states(results) == ["unreadable", "unreadable"]
    assert hint in results[0][1].verdicts[0].hint


def test_one_bad_notebook_does_not_stop_the_rest_and_links_are_not_followed(
    chapter: Chapter, hand_in: HandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hand_in("a", "no JSON")
    hand_in("b", between("import os; os._exit(0)"))
    hand_in("=cmd()", student_notebook(chapter)["cells"])
    folder = hand_in("c", between("why = 1"))
    (folder / "d").symlink_to(folder / "c")
    out = tmp_path / "grades.csv"
    given = ["classroom", "grade", str(folder), "--book", str(chapter.path.parent), "--out", str(out)]
    assert cli.main([*given, "--timeout", "30", "--jobs", "2"]) == 0
    printed = capsys.readouterr()
    assert "d is a link" in printed.out and "grading" in printed.err
    with out.open(newline="", encoding="utf-8-sig") as file:
        table = list(csv.DictReader(file))
    totals = {row["student"]: row["points"] for row in table if row["notebook"] == "all"}
    assert totals == {"a": "0", "b": "1", "'=cmd()": "0", "c": "2"}
    assert [row["state"] for row in table if row["student"] == "'=cmd()"][:3] == ["not written", "not written", "empty"]


def test_a_table_holds_no_formula(chapter: Chapter, hand_in: HandIn, tmp_path: Path) -> None:
    raising = "def clip_boxes(boxes_xyxy, height, width):\n    raise ValueError('\\n=1+1\\x00')"
    write_csv(tmp_path / "out.csv", rows(grade(hand_in("+x", between("0", clip=raising)), chapter)))
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8-sig") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not any(cell[:1] in ("=", "+", "-", "@") or not cell.isprintable() for cell in cells)


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1", "'=1"),
        (" @x", "' @x"),
        ("\t=1", "' =1"),
        ("a;=1", "a;'=1"),
        ("\uff1d1", "'\uff1d1"),
        ("a\nb\x1b[2J", "a b [2J"),
        ("\udcff", " "),
        ("3 of 4, -1", "3 of 4, -1"),
    ],
)
def test_text_from_a_submission_is_made_harmless(text: str, cell: str) -> None:
    assert harmless(text) == cell and len(harmless("x" * 10**6)) == 600


def test_of_two_notebooks_for_one_chapter_the_best_counts_whatever_they_are_called(
    chapter: Chapter, hand_in: HandIn, tmp_path: Path
) -> None:
    folder = hand_in("ann,\n=x", between("0", clip=WRONG)) / "ann,\n=x"
    (folder / "00_small (1).ipynb").write_text(json.dumps(notebook(chapter_cells())), encoding="utf-8")
    results, remarks, _ = grade_folder(folder.parent, [chapter], SHORT, can_seal())
    assert remarks == ["ann,\n=x: 2 notebooks of 00_small; the best one counts in the total."]
    write_csv(tmp_path / "out.csv", rows(results))
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8-sig") as file:
        table = list(csv.DictReader(file))
    assert {row["student"] for row in table} == {"ann, =x"}
    totals = [(row["notebook"], row["points"], row["max"]) for row in table if row["exercise"] == "total"]
    assert totals == [("00_small (1).ipynb", "2", "2"), ("00_small.ipynb", "1", "2"), ("all", "2", "2")]


def test_an_interrupt_keeps_what_is_graded(chapter: Chapter, hand_in: HandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    for student in ("a", "b", "c", "d"):
        folder = hand_in(student, "no JSON")

    def interrupted(futures: list[Any], **_: object) -> Any:
        yield futures[0]
        raise KeyboardInterrupt

    graded = threading.Event()

    def slow(one: Submission, *_: object) -> tuple[Graded, dict[str, bool]]:
        graded.wait(0.2)
        return Graded(), {}

    monkeypatch.setattr(grading, "tqdm", interrupted)
    monkeypatch.setattr(grading, "_grade", slow)
    results, remarks, missing = grade_folder(folder, [chapter], SHORT, False)
    assert 1 <= len(results) < 4 and missing == 4 - len(results) and results[0][0].student == "a"
    assert remarks == [f"Interrupted: {4 - len(results)} of 4 notebooks were not graded."]


def test_a_defect_of_ours_is_told_and_the_rest_is_graded(
    chapter: Chapter, hand_in: HandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise NameError("a defect")

    hand_in("a", chapter_cells())
    monkeypatch.setattr(grading, "grade_notebook", broken)
    results = grade(hand_in("b", "no JSON"), chapter)
    assert [[one.state for one in graded.verdicts][0] for _, graded, _ in results] == ["grader failed", "unreadable"]
    assert "NameError: a defect" in results[0][1].verdicts[0].hint


@pytest.mark.skipif(not can_seal(), reason="this system lets no user make namespaces")
def test_a_sealed_process_reads_no_answers_writes_nowhere_and_speaks_to_nobody(
    chapter: Chapter, hand_in: HandIn, tmp_path: Path
) -> None:
    book = chapter.path.parent
    cell = f"""
import os, socket, subprocess
for answers in ({str(book)!r}, {str(book_folder().parent / "tests" / "checks")!r}):
    assert os.listdir(answers) == [], answers
records = {str(book_folder() / "_data")!r}
assert os.listdir(os.path.dirname(records)) == os.listdir(os.path.join(records, '..')) == ['_data']
assert os.path.getsize(os.path.join(records, 'training', 'faults.json'))
for place in (records, os.path.dirname(records)):
    try:
        open(os.path.join(place, 'made'), 'w')
    except OSError:
        continue
    raise RuntimeError('records can be written')
for handle in os.listdir('/proc/self/fd'):
    assert '/book' not in os.path.realpath('/proc/self/fd/' + handle), handle
listening = {str(tmp_path / "socket")!r}
try:
    socket.socket(socket.AF_UNIX).connect(listening)
except PermissionError:
    pass
else:
    raise RuntimeError("a program outside listens")
assert subprocess.run(['umount', {str(book)!r}], capture_output=True).returncode
try:
    open({str(book.parent / "made")!r}, 'w')
except OSError:
    open('here', 'w').write('x')
else:
    raise RuntimeError('the disk is open')
assert set(os.environ) <= {{'PATH', 'HOME', 'TMPDIR', 'LANG', 'PYTHONPATH', 'PYTHONDONTWRITEBYTECODE',
    'DDETR_LAB_CACHE', 'MPLBACKEND', 'HF_HUB_OFFLINE', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS',
    'LC_CTYPE', 'PYTHONUNBUFFERED', 'CLICOLOR', 'FORCE_COLOR', 'CLICOLOR_FORCE', 'PAGER', 'GIT_PAGER', 'TERM',
    'KMP_DUPLICATE_LIB_OK', 'KMP_INIT_AT_FORK', 'COLUMNS', 'LINES'}}, set(os.environ)
"""
    with socket.socket(socket.AF_UNIX) as program:
        program.bind(str(tmp_path / "socket"))
        program.listen()
        results = grade(hand_in("curious", between(cell)), chapter, SLOW)
    assert states(results) == ["passed", "passed"] and results[0][1].notes == []
    assert not (book.parent / "made").exists()


def test_an_earlier_table_is_kept_since_points_may_have_been_added_by_hand(tmp_path: Path) -> None:
    out = tmp_path / "grades.csv"
    assert write_csv(out, iter([("Müller",) * 7])) is None
    assert out.read_bytes().startswith(b"\xef\xbb\xbfstudent,")  # without the mark, Excel reads "MÃ¼ller"
    out.write_text(out.read_text(encoding="utf-8-sig") + "ann,a,ex-00-why,3,3,to read,\n", encoding="utf-8")
    assert is_table(out)
    assert write_csv(out, iter([])) == tmp_path / "grades-earlier.csv"
    assert write_csv(out, iter([])) == tmp_path / "grades-earlier-2.csv"
    assert "ex-00-why,3,3" in (tmp_path / "grades-earlier.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [b"", b"\0" * 200_000, b'{"cells": "' + b"x" * 200_000, b"student,notebook\n"])
def test_only_a_table_of_grades_is_one(content: bytes, tmp_path: Path) -> None:
    write_csv(tmp_path / "grades.csv", iter([]))
    assert is_table(tmp_path / "grades.csv")
    (tmp_path / "other").write_bytes(content)
    assert not is_table(tmp_path / "other")
