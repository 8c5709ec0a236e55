"""One comparison: check that contenders give the same numbers, weigh them, then time those that do.

Used in chapter 9.
"""

from __future__ import annotations

import dataclasses
import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ddetr_lab.benchmark.agreement import largest_difference
from ddetr_lab.benchmark.memory import peak_memory
from ddetr_lab.benchmark.report import Case, Row, Work
from ddetr_lab.benchmark.timing import Contender, measure

__all__ = ["Plan", "Rules", "compete"]

# What a peer may raise because it cannot run here: a missing kernel, an unsupported type, too little memory.
PEER_ERRORS = (RuntimeError, ValueError, TypeError, NotImplementedError, ImportError, AttributeError, AssertionError)


@dataclass(frozen=True)
class Plan:
    """What every benchmark is asked to do.

    Attributes:
        quick: small sizes, to see that everything runs.
        rounds: samples of each contender.
        against: the peers that take part, by distribution.
        device: "cpu" or a GPU.
        report: is handed each case when it is done.
    """

    quick: bool
    rounds: int
    against: tuple[str, ...] = ()
    device: str = "cpu"
    report: Callable[[Case], None] = lambda case: None


@dataclass(frozen=True)
class Rules:
    """How a comparison is run.

    Attributes:
        rounds: samples of each contender.
        tolerance: the largest difference with which two results count as the same.
        relative: differences are shares of each tensor's largest entry.
        device: where the contenders compute.
    """

    rounds: int
    tolerance: float
    relative: bool = False
    device: str = "cpu"


def compete(
    name: str,
    what: str,
    contenders: Sequence[Contender],
    rules: Rules,
    expected: tuple[str, Any] | None = None,
    work: Work | None = None,
) -> Case:
    """Compare contenders in results, memory and time.

    Args:
        name: of the case.
        what: its sizes, for the reader.
        contenders: ours first.
        rules: rounds, tolerance, device.
        expected: what the numbers are compared with, in words and as a result; None takes the first contender's.
        work: what the case has to do at least.

    Raises:
        ValueError: if one of our own contenders disagrees: then there is nothing to time.
    """
    words, wanted = (f"{contenders[0].name}", None) if expected is None else expected
    rows: dict[str, Row] = {}
    for contender in contenders:
        row, result = _tried(contender, wanted, rules)
        rows[contender.name] = row
        if wanted is None:
            wanted = result
    sound = [contender for contender in contenders if not rows[contender.name].note]
    gc.collect()  # what a comparison left behind is no contender's memory
    peaks = {contender.name: peak_memory(contender.call, rules.device) for contender in sound}
    samples = measure(sound, rules.rounds, rules.device)
    for contender in sound:
        taken = samples[contender.name]
        rows[contender.name] = dataclasses.replace(
            rows[contender.name],
            seconds=taken.seconds,
            calls=taken.calls,
            peak_bytes=peaks[contender.name],
            note=contender.note,
        )
    return Case(name, what, words, tuple(rows.values()), work)


def _tried(contender: Contender, wanted: Any, rules: Rules) -> tuple[Row, Any]:
    """Run a contender once; return its row, with a note if it cannot be timed, and its result."""
    tolerance = rules.tolerance if contender.tolerance is None else contender.tolerance
    try:
        result = (contender.check or contender.call)()
        difference = 0.0 if wanted is None else largest_difference(result, wanted, rules.relative)
    except PEER_ERRORS as error:
        if contender.trusted:
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Row(contender.name, tolerance=tolerance, note=f"not timed: it does not run here: {reason}"), None
    if difference <= tolerance:
        return Row(contender.name, difference=difference, tolerance=tolerance), result
    gap = f"{difference:.1e}" if math.isfinite(difference) else "NaN or another shape"
    if contender.trusted:
        raise ValueError(
            f"{contender.name} is off by {gap}, expected at most {tolerance:.1e}: "
            "the numbers are wrong, so there is nothing to time; `ddetr-lab build-ops --force` builds the operator anew"
        )
    # JSON has no infinity.
    known = difference if math.isfinite(difference) else None
    note = f"not timed: its numbers are off by {gap}, allowed is {tolerance:.1e}"
    return Row(contender.name, difference=known, tolerance=tolerance, note=note), None
