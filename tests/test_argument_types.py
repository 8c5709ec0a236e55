"""Numbers on the command line: what is taken, and what is said to the rest."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from ddetr_lab.argument_types import positive_float, positive_int, probability, valid_seed

TAKEN = [
    (positive_int, "1", 1),
    (positive_float, "0.5", 0.5),
    (probability, "0", 0.0),
    (probability, "1", 1.0),
    (valid_seed, "0", 0),
    (valid_seed, str(2**63 - 1), 2**63 - 1),
]
REFUSED = [
    (positive_int, "0", "0 is not at least 1"),
    (positive_int, "1.5", "'1.5' is not a whole number"),
    (positive_float, "0", "is not a positive number"),
    (positive_float, "inf", "is not a positive number"),
    (positive_float, "nan", "is not a positive number"),
    (positive_float, "five", "'five' is not a number"),
    (probability, "1.1", "is not between 0 and 1"),
    (probability, "nan", "is not between 0 and 1"),
    (valid_seed, "-1", "expected 0 to"),
    (valid_seed, str(2**63), "expected 0 to"),
    (valid_seed, "1e3", "is not a whole number"),
]


@pytest.mark.parametrize(("kind", "text", "value"), TAKEN)
def test_a_number_in_range_is_taken(kind: Callable[[str], float], text: str, value: float) -> None:
    assert kind(text) == value and type(kind(text)) is type(value)


@pytest.mark.parametrize(("kind", "text", "words"), REFUSED)
def test_anything_else_is_refused_in_words(kind: Callable[[str], float], text: str, words: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=words):
        kind(text)
