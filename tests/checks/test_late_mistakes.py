"""Chapters 0 to 9: an answer that is wrong on some inputs only still gets a CheckError, on whichever input it is wrong.

A check computes what known mistakes give on the first input that fails. That must work on each of its inputs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ddetr_lab.checks import CheckError, Passed

Answer = Callable[..., Any]

# The two whose answer is no function from numbers to numbers, so that no number of theirs can be spoilt.
OTHER = {"freeze", "fools_one_example"}


def spoilt(value: Any) -> Any:
    """Return a result of the same kind with other numbers in it."""
    if isinstance(value, dict):
        return {key: spoilt(one) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(spoilt(one) for one in value)
    if not isinstance(value, Tensor):
        return value + 7
    return value + 7 if not value.is_floating_point() else value * 1.75 + torch.arange(value.numel()).view(value.shape)


def wrong_from(answer: Answer, first: int) -> tuple[Answer, list[int]]:
    """Make an answer that is right on its first calls and spoilt on later ones, and a list that counts its calls."""
    calls: list[int] = []

    def late(*arguments: Any) -> Any:
        calls.append(1)
        got = answer(*arguments)
        return spoilt(got) if len(calls) > first else got

    return late, calls


PAIRS = [
    pytest.param(check, right, id=f"{number:02}-{check.__name__}")
    for number in range(10)
    for check, right in importlib.import_module(f"tests.checks.test_chapter{number:02}").RIGHT
    if check.__name__ not in OTHER
]


@pytest.mark.parametrize(("check", "right"), PAIRS)
def test_a_mistake_on_any_input_is_a_check_error(check: Answer, right: Answer) -> None:
    counted, calls = wrong_from(right, 10**6)
    assert isinstance(check(counted), Passed)
    for first in range(len(calls)):
        late, _ = wrong_from(right, first)
        try:
            check(late)
        except CheckError:
            continue
        # A result without a number in it, of a picture without objects, cannot be spoilt.
        assert check.__name__ in {"target_boxes", "batch_targets"} and first == len(calls) - 1
