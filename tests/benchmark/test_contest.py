"""A comparison: who disagrees is not timed, and a fault of ours ends it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ddetr_lab.benchmark.contest import Rules, compete
from ddetr_lab.benchmark.timing import Contender

RULES = Rules(rounds=2, tolerance=1e-3)


def giving(name: str, number: float, calls: list[str] | None = None, **fields: Any) -> Contender:
    """Return a contender that computes a number and writes its name down."""

    def call() -> torch.Tensor:
        if calls is not None:
            calls.append(name)
        return torch.tensor([number])

    return Contender(name, call, **fields)


def test_who_agrees_is_timed() -> None:
    case = compete("sum", "one number", [giving("ours", 1.0), giving("peer", 1.0005)], RULES)
    assert [row.contender for row in case.rows] == ["ours", "peer"]
    assert all(len(row.seconds) == 2 for row in case.rows)
    assert case.rows[1].difference == pytest.approx(5e-4, rel=1e-2)
    assert case.expected == "ours"


@pytest.mark.parametrize("number", [1.1, math.nan, math.inf])
def test_who_disagrees_is_reported_and_never_timed(number: float) -> None:
    calls: list[str] = []
    case = compete("sum", "one number", [giving("ours", 1.0), giving("wrong", number, calls)], RULES)
    row = case.rows[1]
    assert not row.timed and row.peak_bytes is None
    assert row.note.startswith("not timed: its numbers are off by")
    assert calls == ["wrong"]  # once, for the comparison
    assert row.difference is None or math.isfinite(row.difference)


def test_another_shape_disagrees() -> None:
    other = Contender("flat", lambda: torch.ones(2))
    case = compete("sum", "one number", [giving("ours", 1.0), other], RULES)
    assert "another shape" in case.rows[1].note


def test_a_peer_that_cannot_run_says_why() -> None:
    def no_kernel() -> None:
        raise RuntimeError("no kernel for this device\nand a long trace")

    case = compete("sum", "one number", [giving("ours", 1.0), Contender("peer", no_kernel)], RULES)
    assert case.rows[1].note == "not timed: it does not run here: no kernel for this device"
    assert case.rows[0].timed


def test_numbers_are_compared_with_what_is_expected() -> None:
    expected = ("the sum by hand", torch.tensor([2.0]))
    case = compete("sum", "one number", [giving("ours", 2.0), giving("peer", 1.0)], RULES, expected)
    assert case.expected == "the sum by hand"
    assert case.rows[1].difference == 1.0


def test_our_own_wrong_numbers_end_the_comparison() -> None:
    with pytest.raises(ValueError, match="nothing to time"):
        compete("sum", "x", [giving("ours", 1.0, trusted=True)], RULES, ("by hand", torch.tensor([2.0])))


def test_our_own_error_is_raised() -> None:
    def broken() -> None:
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError, match="a defect"):
        compete("sum", "x", [Contender("ours", broken, trusted=True)], RULES)


def test_a_contender_may_have_a_tolerance_of_its_own() -> None:
    case = compete("sum", "x", [giving("ours", 1.0), giving("peer", 1.1, tolerance=0.2)], RULES)
    assert case.rows[1].timed and case.rows[1].tolerance == 0.2


def test_what_is_compared_may_differ_from_what_is_timed() -> None:
    calls: list[str] = []
    stepping = giving("ours", 5.0, calls, check=lambda: torch.tensor([1.0]))
    case = compete("step", "x", [giving("first", 1.0), stepping], RULES)
    assert case.rows[1].timed and calls


def test_a_contender_keeps_its_note_and_is_still_timed() -> None:
    case = compete("sum", "x", [giving("ours", 1.0), giving("peer", 1.0, note="in float32")], RULES)
    assert case.rows[1].timed and case.rows[1].note == "in float32"
