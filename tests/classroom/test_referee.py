"""The referee's stand-in for a student's function: gradients, witnesses, changed modules, and answers of no use."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ddetr_lab.checks import CheckError, chapter00
from ddetr_lab.classroom.exercises import Chapter, book_folder, read_book
from ddetr_lab.classroom.referee import IN_PLACE, STUMBLES, RemoteAnswer, Verdict, _judge, grade_notebook
from ddetr_lab.classroom.sandbox import Limits
from ddetr_lab.classroom.submissions import plan
from tests.classroom.conftest import code, notebook, prose


def verdict(module: str, name: str, cells: list[str], tmp_path: Path) -> Verdict:
    """Grade one exercise whose answer is the last of some cells."""
    *before, answer = cells
    solved = f"### BEGIN SOLUTION\n{answer}\n### END SOLUTION"
    chapter_cells = [
        code("setup", f"from ddetr_lab.checks import {module} as checks"),
        *(code(f"before{place}", source) for place, source in enumerate(before)),
        prose("ask", "```{exercise} Do it\n:label: ex-99-it\n\nDo it.\n```"),
        code("it", solved),
        code("it-check", f"checks.{name}({name})"),
    ]
    (tmp_path / "99_one.ipynb").write_text(json.dumps(notebook(chapter_cells)), encoding="utf-8")
    (chapter,) = read_book(tmp_path)
    graded = grade_notebook(plan(chapter.path, chapter), chapter.exercises, Limits(), False, [])
    assert graded.notes == []
    return graded.verdicts[0]


FREEZER = """
from torch import nn
from ddetr_lab.backbone import FrozenBatchNorm2d
def freeze(module):
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d.from_batch_norm(child))
        else:
            freeze(child)
    return module
"""


@pytest.mark.parametrize(
    ("answer", "state", "hint"),
    [
        (FREEZER, "passed", ""),
        ("def freeze(module):\n    return module.eval()", "failed", "lasts until the next train"),
        ("freeze = 7", "failed", "without calling it"),
        ("def thaw(module): 0", "failed", "freeze is not defined"),
    ],
)
def test_a_module_that_is_changed_in_place_is_looked_at_where_it_is(
    answer: str, state: str, hint: str, tmp_path: Path
) -> None:
    got = verdict("chapter03", "freeze", [answer], tmp_path)
    assert got.state == state and hint in got.hint, got


def test_a_failure_tells_what_came_before_its_hint(chapter: Chapter, tmp_path: Path) -> None:
    got = verdict("chapter00", "clip_boxes", ["def clip_boxes(boxes_xyxy, height, width):\n    return 7"], tmp_path)
    assert got.state == "failed" and got.hint.startswith("clip_boxes is wrong for ")
    assert "got a int, expected a tensor. Hint: stay in PyTorch" in got.hint


def test_every_exception_for_a_check_is_one_of_the_book() -> None:
    asked = {(one.module, one.name) for chapter in read_book(book_folder()) for one in chapter.exercises}
    assert asked >= IN_PLACE


class Forger:
    """A process that answers whatever it is asked with the same frame."""

    def __init__(self, header: dict[str, Any], buffers: Sequence[bytes] = ()) -> None:
        self.frame, self.asked = (header, list(buffers)), 0

    def ask(self, header: dict[str, Any], buffers: Sequence[bytes] = ()) -> tuple[dict[str, Any], list[bytes]]:
        self.asked += 1
        return self.frame[0], list(self.frame[1])


TENSOR = {"tensor": 0, "dtype": "float32", "shape": [9], "graph": True}


@pytest.mark.parametrize(
    "header",
    [
        {"op": "result", "value": 1},
        {"op": "result", "value": {"list": [1, 2]}},
        {"op": "result", "value": {"list": [1, {"dict": [["x", 2]]}]}},
        {"op": "result", "value": {"list": [1, {"dict": [["99", 2]]}]}},
        {"op": "result", "value": {"list": [TENSOR, {"dict": []}]}},
        {"op": "result", "value": {"pickle": 1}},
        {"op": "result"},
        {"op": 7, "value": []},
        {"op": "raised", "kind": "SystemExit", "text": 1},
        {"op": "raised", "kind": "__import__", "text": "os"},
        {"op": "raised", "kind": ["x"]},
        {"op": "raised", "kind": "UnicodeDecodeError", "text": "needs five arguments"},
    ],
)
def test_an_answer_that_was_made_by_hand_is_a_wrong_one(header: dict[str, Any], chapter: Chapter) -> None:
    exercise = chapter.exercises[1]
    with pytest.raises((CheckError, *STUMBLES)):
        chapter00.clip_boxes(RemoteAnswer(Forger(header), exercise))


def test_questions_without_end_to_a_witness_come_to_one(chapter: Chapter, monkeypatch: pytest.MonkeyPatch) -> None:
    forger = Forger({"op": "ask", "witness": 0, "value": {"list": [{"list": []}, {"dict": []}]}})
    monkeypatch.setattr("ddetr_lab.classroom.referee.MOST_QUESTIONS", 50)
    with pytest.raises((CheckError, *STUMBLES)):
        chapter00.clip_boxes(RemoteAnswer(forger, chapter.exercises[1]))
    assert forger.asked == 51


@pytest.mark.parametrize("slope", [1, {"list": []}, {"list": [TENSOR]}, {"list": [{"float": "0x1p+0"}]}])
def test_a_slope_that_was_made_by_hand_is_a_wrong_one(slope: Any, chapter: Chapter) -> None:
    answer = RemoteAnswer(Forger({"op": "result", "value": slope}, [bytes(36)]), chapter.exercises[1])
    with pytest.raises(ValueError, match="gradient"):
        answer.slopes(torch.ones(3), [torch.ones(3, requires_grad=True)])


def test_a_name_that_is_told_in_another_kind_is_not_defined(chapter: Chapter) -> None:
    for kind in (None, 7, ["function"]):
        got = _judge(chapter.exercises[1], Forger({"op": "named", "kind": kind}), "an error")
        assert (got.state, got.hint) == ("failed", "clip_boxes is not defined; before it: an error")
