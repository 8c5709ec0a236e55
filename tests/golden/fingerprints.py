"""Store a tensor whole when it is small, and otherwise as a sample and a fingerprint.

The fingerprint of n numbers is their sum, their length, and their products with two fixed vectors of signs, all divided
by sqrt(n). A change of one number by d moves it by d / sqrt(n), and a change of all numbers by d each moves it by about
d: the same tolerance therefore fits sample and fingerprint.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch

__all__ = ["FULL_SIZE", "SAMPLE_SIZE", "decompose", "decompose_all", "largest_difference", "summary"]

FULL_SIZE = 1500
SAMPLE_SIZE = 400


@lru_cache(maxsize=64)
def _signs(count: int) -> np.ndarray:
    """Return two rows of ``count`` signs that depend on ``count`` only."""
    return np.where(np.random.default_rng(count).random((2, count)) < 0.5, -1.0, 1.0)


def summary(values: np.ndarray) -> np.ndarray:
    """Return the four float64 numbers of a fingerprint; numbers that are not finite count as zero."""
    flat = np.where(np.isfinite(values), values, 0).astype(np.float64).ravel()
    if flat.size == 0:
        return np.zeros(4)
    return np.array([flat.sum(), np.linalg.norm(flat), *(_signs(flat.size) @ flat)]) / flat.size**0.5


def decompose(name: str, tensor: torch.Tensor | np.ndarray) -> dict[str, np.ndarray]:
    """Return what is stored of one tensor: ``name`` alone, or ``name:sample``, ``name:print`` and ``name:infinite``."""
    values = tensor.detach().cpu().numpy() if isinstance(tensor, torch.Tensor) else tensor
    if values.size <= FULL_SIZE:
        return {name: np.asarray(values, order="C")}
    stride = (values.size // SAMPLE_SIZE) | 1  # odd: no even axis is always met at the same place
    parts = {f"{name}:sample": np.asarray(values.ravel()[::stride], order="C"), f"{name}:print": summary(values)}
    infinite = values.size - int(np.isfinite(values).sum())
    if infinite:
        parts[f"{name}:infinite"] = np.array([infinite])
    return parts


def decompose_all(tensors: Mapping[str, torch.Tensor | np.ndarray]) -> dict[str, np.ndarray]:
    """Return the stored parts of all tensors."""
    return {part: values for name, tensor in tensors.items() for part, values in decompose(name, tensor).items()}


def largest_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest absolute difference; equal infinities do not differ, and a NaN differs infinitely."""
    if actual.shape != expected.shape:
        return float("inf")
    if actual.size == 0:
        return 0.0
    wide_actual, wide_expected = actual.astype(np.float64), expected.astype(np.float64)
    same = wide_actual == wide_expected
    with np.errstate(invalid="ignore"):
        differences = np.where(same, 0.0, np.abs(wide_actual - wide_expected))
    return float(np.nan_to_num(differences, nan=np.inf, posinf=np.inf).max())
