"""A signal is noted once and obeyed the second time; afterwards everything is as before."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from ddetr_lab.training.interrupts import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_noted_and_the_second_obeyed(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.name == ""
        os.kill(os.getpid(), number)
        assert stop.name == number.name
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
            signal.pthread_sigmask(signal.SIG_BLOCK, ())  # gives Python the time to see it
    assert signal.getsignal(number) is before


def test_another_thread_leaves_signals_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def inside():
        with StopRequest() as stop:
            seen.append((stop.name, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [("", before)]
