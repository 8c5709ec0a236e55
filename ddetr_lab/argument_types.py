"""What the command line takes for a count, a time, a probability and a seed, with errors that say so.

Each function turns a word into a number and is the ``type`` of an argument in :mod:`argparse`.

Used in chapter 0.
"""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["positive_float", "positive_int", "probability", "valid_seed"]


def _number(text: str, kind: type[float] | type[int]) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        expected = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}") from error


def probability(text: str) -> float:
    """Read a number from 0 to 1."""
    value: float = _number(text, float)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def positive_float(text: str) -> float:
    """Read a number above 0."""
    value: float = _number(text, float)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def positive_int(text: str) -> int:
    """Read a whole number from 1 on."""
    value: int = _number(text, int)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def valid_seed(text: str) -> int:
    """Read a seed: what PyTorch's generators take, from 0 on."""
    value: int = _number(text, int)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text}, expected 0 to 2^63 - 1")
    return value
