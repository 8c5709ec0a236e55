"""What every exercise's check owes its reader; a chapter's test file brings its answers and imports these tests.

A file defines ``RIGHT``, pairs of a check and an answer that passes, and ``WRONG``, triples of a check, a typical wrong
answer, and a pattern that its hint must hold.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from ddetr_lab.checks import CheckError, Passed

__all__ = [
    "test_a_right_answer_passes",
    "test_a_wrong_answer_gets_the_intended_hint",
    "test_every_check_has_three_typical_wrong_answers",
    "test_the_untouched_stub_fails",
]

Answer = Callable[..., Any]


def stub(*_: Any) -> Any:
    raise NotImplementedError


def test_a_right_answer_passes(check: Answer, right_answer: Answer) -> None:
    assert isinstance(check(right_answer), Passed)


def test_the_untouched_stub_fails(checked: Answer) -> None:
    with pytest.raises(CheckError, match="not written yet"):
        checked(stub)


def test_a_wrong_answer_gets_the_intended_hint(check: Answer, wrong_answer: Answer, hint: str) -> None:
    with pytest.raises(CheckError) as caught:
        check(wrong_answer)
    assert re.search(hint, caught.value.hint, re.IGNORECASE), caught.value


def test_every_check_has_three_typical_wrong_answers(chapter: ModuleType) -> None:
    right, wrong = chapter.RIGHT, chapter.WRONG
    for check, _ in right:
        assert sum(other is check for other, _, _ in wrong) >= 3, check.__name__
    checks = sys.modules[right[0][0].__module__]
    offered = {name for name in checks.__all__ if callable(getattr(checks, name))}
    assert {check.__name__ for check, _ in right} == offered
