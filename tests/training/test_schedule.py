"""The schedule: each kind rises, falls and ends where it should."""

from __future__ import annotations

import pytest

from ddetr_lab.training.schedule import learning_rate_factor

SHARES = [number / 100 for number in range(101)]


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_rates_climb_fall_and_end_at_zero(schedule):
    factors = [learning_rate_factor(share, 0.1, schedule) for share in SHARES]
    assert factors[0] == pytest.approx({"cosine": 0, "one_cycle": 1 / 25}[schedule])
    assert factors[10] == pytest.approx(1)
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] == pytest.approx(0, abs=1e-12)
    assert learning_rate_factor(1.5, 0.1, schedule) == pytest.approx(0, abs=1e-12)


def test_the_step_schedule_drops_to_a_tenth_each_time():
    factors = [learning_rate_factor(share, 0.0, "step", (0.5, 0.8)) for share in (0, 0.49, 0.5, 0.79, 0.8, 1)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert learning_rate_factor(0.05, 0.1, "step", (0.8,)) == pytest.approx(0.5)


def test_a_warm_up_over_the_whole_run_is_no_division_by_zero():
    assert learning_rate_factor(0.5, 1.0) == pytest.approx(0.5)
    assert learning_rate_factor(1.0, 1.0) == pytest.approx(1.0)


def test_an_unknown_schedule_is_named():
    with pytest.raises(ValueError, match="schedule = 'linear'"):
        learning_rate_factor(0.5, 0.1, "linear")
