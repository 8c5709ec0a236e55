"""Timing contenders in turn: warm-up, rounds in rotating order, and medians.

Used in chapter 9.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["HOW", "Contender", "Samples", "measure", "quiet", "rotated"]

SAMPLE_SECONDS = 0.02  # a shorter call is repeated until a sample lasts this long
MOST_CALLS = 1000

HOW = (
    "All contenders of a case run in one process. First each runs once and its numbers are compared; one that "
    "disagrees is reported and not timed. Then each runs once for its peak memory, and a few times to warm up. Then "
    "come the rounds: in each, every contender gives one sample, and the order moves on by one place from round "
    f"to round, so that nobody always runs first. A call shorter than {SAMPLE_SECONDS * 1000:.0f} ms is repeated "
    "until a sample lasts that long, and the sample is the mean of its calls. A time is the median of the "
    "samples, its spread their quartiles; a ratio is one median over another. Python's garbage collector runs "
    "between rounds only, and numbers too small for their format are flushed to zero, for everybody; on a GPU "
    "the clock stops when the device has finished."
)


@dataclass(frozen=True)
class Contender:
    """Something that can be timed.

    Attributes:
        name: as the tables call it.
        call: does the work once and returns its results: tensors, arrays or numbers, nested as they come.
        check: what is compared with the others' results, if that is not what ``call`` returns: a training step, say,
            changes weights.
        tolerance: the largest difference with which it still counts as the same; None takes the case's.
        trusted: an error of it is ours, and is raised; an error of a peer is reported in its row.
        note: what a reader must know about it.
    """

    name: str
    call: Callable[[], Any]
    check: Callable[[], Any] | None = None
    tolerance: float | None = None
    trusted: bool = False
    note: str = ""


@dataclass(frozen=True)
class Samples:
    """Seconds of one call, one number a round; each the mean of ``calls`` calls."""

    seconds: tuple[float, ...]
    calls: int


def rotated(items: Sequence[Any], turn: int) -> list[Any]:
    """Return the items in their order, starting ``turn`` places on."""
    start = turn % len(items) if items else 0
    return [*items[start:], *items[:start]]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the garbage collector and denormal numbers out of a measurement, and restore both.

    What is alive at the start is set aside, so that a collection between two rounds looks at what is new only.
    """
    collecting = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        gc.unfreeze()
        if collecting:
            gc.enable()


def measure(
    contenders: Sequence[Contender],
    rounds: int,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Samples]:
    """Time contenders in turn.

    Args:
        contenders: with names of their own.
        rounds: samples of each.
        device: where they compute; a GPU is waited for before the clock is read.
        clock: returns seconds.

    Returns:
        The samples by the contender's name.

    Raises:
        ValueError: if two contenders share a name, or there are no rounds.
    """
    names = [contender.name for contender in contenders]
    if len(set(names)) < len(names):
        raise ValueError(f"contenders are named {names}, expected a name of its own for each")
    if rounds < 1:
        raise ValueError(f"rounds = {rounds}, expected at least 1")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    calls: dict[str, int] = {}
    with quiet():
        for contender in contenders:
            calls[contender.name] = _calls(contender.call, device, clock)
        for turn in range(rounds):
            gc.collect()
            for contender in rotated(contenders, turn):
                seconds[contender.name].append(_sample(contender.call, calls[contender.name], device, clock))
    return {name: Samples(tuple(seconds[name]), calls[name]) for name in names}


def _calls(call: Callable[[], Any], device: str, clock: Callable[[], float]) -> int:
    """Return how many calls make a sample: estimated from a first one, which may be slow, and again from that many."""
    calls = 1
    for _ in range(2):
        seconds = _sample(call, calls, device, clock)
        calls = min(MOST_CALLS, max(1, round(SAMPLE_SECONDS / max(seconds, 1e-9))))
    return calls


def _sample(call: Callable[[], Any], calls: int, device: str, clock: Callable[[], float]) -> float:
    _wait(device)
    start = clock()
    for _ in range(calls):
        call()
    _wait(device)
    return (clock() - start) / calls


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
