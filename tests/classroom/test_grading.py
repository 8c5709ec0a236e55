"""Hostile notebooks: each graded as far as it goes, reported, and the next one graded."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddetr_lab import cli
from ddetr_lab.classroom.exercises import Chapter
from ddetr_lab.classroom.grading import Results, grade_folder, rows, write_csv
from ddetr_lab.classroom.sandbox import Limits, can_seal
from ddetr_lab.classroom.student import student_notebook
from tests.classroom.conftest import Cell, chapter_cells, code, notebook

HandIn = Callable[[str, Any], Path]
SHORT = Limits(seconds=20, cell_seconds=2, memory=3 * 2**30, file_size=2**20)


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

# what the student adds between the exercises, the state of the second exercise, a word of the notes
HOSTILE: dict[str, tuple[str, str, str]] = {
    "loops": ("while True: pass", "passed", "TimeoutError"),
    "prints": ("for _ in range(1 << 10): print('x' * (1 << 20))", "passed", "output was cut"),
    "exits": ("import os; os._exit(0)", "not reached", "ended itself"),
    "raises_exit": ("raise SystemExit", "passed", "SystemExit"),
    "forks": ("import os; os.fork()", "passed", ""),
    "leaves_children": (CHILDREN.replace("MARK", "4000"), "passed", ""),
    "takes_memory": ("held = bytearray(64 << 30)", "passed", "MemoryError"),
    "writes_much": ("open('big', 'wb').write(bytes(1 << 24))", "passed", "File too large"),
    "reaches_out": ("import urllib.request as u; u.urlopen('http://192.0.2.1', timeout=1)", "passed", "Error"),
    "prints_binary": ("import os; os.write(1, bytes(range(256)) * 100)", "passed", ""),
    "breaks_the_wire": (
        "import os\nfor d in range(3, 40):\n  try: os.write(d, b'x' * 99)\n  except OSError: 0",
        "not",
        "",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_cell_costs_what_comes_after_it_at_most(
    kind: str, chapter: Chapter, hand_in: HandIn, capfd: pytest.CaptureFixture[str]
) -> None:
    cell, second, note = HOSTILE[kind]
    results = grade(hand_in(kind, between(cell)), chapter)
    first, last = states(results)
    assert first == "passed"
    assert last.startswith(second), results
    assert note in " ".join(results[0][1].notes)


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
    with out.open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    totals = {row["student"]: row["points"] for row in table if row["notebook"] == "all"}
    assert totals == {"a": "0", "b": "1", "'=cmd()": "0", "c": "2"}
    assert [row["state"] for row in table if row["student"] == "'=cmd()"][:3] == ["not written", "not written", "empty"]


def test_a_table_holds_no_formula(chapter: Chapter, hand_in: HandIn, tmp_path: Path) -> None:
    raising = "def clip_boxes(boxes_xyxy, height, width):\n    raise ValueError('\\n=1+1\\x00')"
    write_csv(tmp_path / "out.csv", rows(grade(hand_in("+x", between("0", clip=raising)), chapter)))
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not any(cell[:1] in ("=", "+", "-", "@") or not cell.isprintable() for cell in cells)


@pytest.mark.skipif(not can_seal(), reason="this system lets no user make namespaces")
def test_a_sealed_process_reads_no_answers_and_writes_nowhere(chapter: Chapter, hand_in: HandIn) -> None:
    book = chapter.path.parent
    cell = f"""
import os, subprocess
assert os.listdir({str(book)!r}) == []
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
    results = grade(hand_in("curious", between(cell)), chapter)
    assert states(results) == ["passed", "passed"] and results[0][1].notes == []
    assert not (book.parent / "made").exists()
