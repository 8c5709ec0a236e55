"""Timing: a clock that the test turns, rounds in rotating order, and what is restored afterwards."""

from __future__ import annotations

import gc

import pytest
import torch

from ddetr_lab.benchmark.timing import MOST_CALLS, SAMPLE_SECONDS, Contender, measure, quiet, rotated


class Clock:
    """A clock that moves only when a contender's work moves it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def contender(self, name: str, *seconds: float) -> Contender:
        """Work that takes the given seconds, call by call; the last of them again and again."""
        left = list(seconds)

        def call() -> None:
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return Contender(name, call)


def test_rotation_gives_everybody_every_place() -> None:
    orders = [rotated("abc", turn) for turn in range(3)]
    assert orders == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]
    assert rotated("abc", 4) == rotated("abc", 1)
    assert rotated([], 2) == []


def test_contenders_run_in_turn_and_the_first_calls_are_not_counted() -> None:
    clock = Clock()
    slow_start, steady = clock.contender("slow start", 9.0, 1.0), clock.contender("steady", 2.0)
    samples = measure([slow_start, steady], rounds=4, clock=clock)
    assert samples["slow start"].seconds == pytest.approx((1.0,) * 4)
    assert samples["steady"].seconds == pytest.approx((2.0,) * 4)
    assert clock.log[:4] == ["slow start", "slow start", "steady", "steady"]  # the warm-up
    assert clock.log[4:] == ["slow start", "steady", "steady", "slow start"] * 2


def test_a_short_call_is_repeated_and_averaged() -> None:
    clock = Clock()
    samples = measure([clock.contender("short", SAMPLE_SECONDS / 5)], rounds=2, clock=clock)["short"]
    assert samples.calls == 5
    assert samples.seconds == pytest.approx((SAMPLE_SECONDS / 5,) * 2)
    assert len(clock.log) == 1 + 5 + 2 * 5


def test_a_slow_first_call_does_not_make_samples_short() -> None:
    clock = Clock()
    samples = measure([clock.contender("slow start", 1.0, SAMPLE_SECONDS / 5)], rounds=2, clock=clock)["slow start"]
    assert samples.calls == 5


def test_work_that_takes_no_time_ends() -> None:
    clock = Clock()
    assert measure([clock.contender("nothing", 0.0)], rounds=1, clock=clock)["nothing"].calls == MOST_CALLS


@pytest.mark.parametrize(("names", "rounds", "word"), [("aa", 1, "a name of its own"), ("ab", 0, "at least 1")])
def test_what_cannot_be_measured_is_refused(names: str, rounds: int, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        measure([Contender(name, int) for name in names], rounds)


def test_the_garbage_collector_rests_and_comes_back() -> None:
    seen = []
    measure([Contender("look", lambda: seen.append(gc.isenabled()))], rounds=1)
    assert set(seen) == {False}
    assert gc.isenabled()
    gc.disable()
    try:
        with quiet():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_denormals_are_flushed_inside_only() -> None:
    tiny = torch.tensor([1e-40])
    if torch.set_flush_denormal(True):
        with quiet():
            assert float(tiny * 1.0) == 0.0
        assert float(tiny * 1.0) > 0.0
    torch.set_flush_denormal(False)


def test_what_went_wrong_in_a_contender_is_not_swallowed() -> None:
    def broken() -> None:
        raise RuntimeError("no kernel")

    with pytest.raises(RuntimeError, match="no kernel"):
        measure([Contender("broken", broken)], rounds=1)
    assert gc.isenabled()
