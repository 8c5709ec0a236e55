"""Whether two contenders computed the same: the largest difference between nested results.

Used in chapter 9.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

__all__ = ["largest_difference", "numbers"]


def numbers(result: Any) -> list[np.ndarray]:
    """Return every tensor, array and number of a nested result as float64 arrays, in their order.

    Raises:
        TypeError: if there is something else in it.
    """
    if isinstance(result, torch.Tensor):
        return [result.detach().cpu().to(torch.float64).numpy()]
    if isinstance(result, (np.ndarray, np.generic, int, float)):
        return [np.asarray(result, dtype=np.float64)]
    if isinstance(result, Mapping):
        return [array for value in result.values() for array in numbers(value)]
    if isinstance(result, (tuple, list)):
        return [array for value in result for array in numbers(value)]
    raise TypeError(f"a result holds a {type(result).__name__}, expected tensors, arrays and numbers")


def largest_difference(actual: Any, expected: Any, relative: bool = False) -> float:
    """Return the largest difference between two results.

    Args:
        actual: nested tensors, arrays and numbers.
        expected: the same structure.
        relative: divide each tensor's difference by the largest entry of the expected one: a gradient with respect to
            locations is hundreds of times larger than one with respect to values.

    Returns:
        The difference; infinite if the structures or shapes differ, or one has a NaN where the other has none.
    """
    ours, theirs = numbers(actual), numbers(expected)
    if [array.shape for array in ours] != [array.shape for array in theirs]:
        return math.inf
    return max((_difference(a, b, relative) for a, b in zip(ours, theirs, strict=True)), default=0.0)


def _difference(actual: np.ndarray, expected: np.ndarray, relative: bool) -> float:
    if not expected.size:
        return 0.0
    undefined = np.isnan(expected)
    if not np.array_equal(undefined, np.isnan(actual)):
        return math.inf
    with np.errstate(invalid="ignore"):  # inf - inf
        apart = np.abs(np.where(undefined, 0.0, actual - expected))
    apart = np.where(actual == expected, 0.0, apart)
    largest = float(apart.max())
    if not relative or largest == 0:
        return math.inf if math.isnan(largest) else largest
    scale = float(np.abs(np.where(undefined, 0.0, expected)).max())
    return largest / scale if scale else math.inf
