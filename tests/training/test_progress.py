"""How far a run has come, and when something is due."""

from __future__ import annotations

import pytest

from ddetr_lab.training.progress import RunProgress, is_due


def test_the_share_is_that_of_steps_or_of_minutes_whichever_is_further():
    assert RunProgress(0, total=100, step=25).share == 0.25
    assert RunProgress(0, total=100, minutes=2, step=25, seconds=60).share == 0.5
    assert RunProgress(0, total=100, minutes=60, step=25, seconds=60).share == 0.25
    assert RunProgress(0, total=100, step=25, seconds=50).seconds_left == pytest.approx(150)
    assert RunProgress(0, total=100).seconds_left == 0
    assert RunProgress(0, total=100, step=100, seconds=50).seconds_left == 0


def test_something_is_due_when_a_multiple_was_passed_or_the_time_is_over():
    progress = RunProgress(0, total=100, step=21, seconds=200.0)
    assert is_due(progress, 10, 0.0, last_step=19, last_seconds=0.0)
    assert not is_due(progress, 10, 0.0, last_step=20, last_seconds=0.0)
    assert is_due(progress, 0, 2.0, last_step=20, last_seconds=80.0)
    assert not is_due(progress, 0, 2.0, last_step=20, last_seconds=81.0)
    assert not is_due(progress, 0, 0.0, last_step=0, last_seconds=0.0)
