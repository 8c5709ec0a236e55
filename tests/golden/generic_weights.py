"""Weights that hide nothing: deterministic, dense, and different for every name and shape.

A fresh Deformable DETR has zero attention weights, whole-cell offsets and equal biases, so that a swapped axis or a
forgotten term leaves its outputs unchanged. These weights come from the parameter's name alone; two implementations
with the same names get the same numbers, without a checkpoint file.

Only ``Generator.random`` is used: it is a fixed function of raw PCG64 bits, unlike numpy's other distributions.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np
import torch
from torch import nn

__all__ = ["canonical_names", "fill_with_generic_weights", "generic_values", "uniform"]


def uniform(key: str, shape: tuple[int, ...], low: float, high: float, seed: int = 0) -> np.ndarray:
    """Return float32 numbers between ``low`` and ``high`` that depend on ``key``, ``shape`` and ``seed`` only."""
    generator = np.random.default_rng([zlib.crc32(key.encode()), seed])
    return (low + (high - low) * generator.random(shape)).astype(np.float32)


def _range_of(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Choose a range that keeps activations near 1 and every mechanism at work."""
    leaf = name.rpartition(".")[2]
    if leaf == "running_var":
        return 0.5, 1.5
    if leaf == "running_mean":
        return -0.3, 0.3
    if name.endswith("sampling_offsets.bias"):
        return -2.5, 2.5  # cells: far enough to leave small maps, and never whole
    if name.endswith("class_embed.bias") or (leaf == "bias" and "class_embed." in name):
        return -2.5, 0.5  # most queries say "nothing", as in training
    if leaf == "bias":
        return -0.3, 0.3
    if len(shape) == 1:
        return 0.6, 1.2  # the scale of a norm
    if leaf == "level_embed" or "_embeddings." in name:
        return -1.0, 1.0
    fan_in = int(np.prod(shape[1:]))
    gain = 1.4 if len(shape) == 4 else 1.0  # convolutions are followed by ReLU, which halves the power
    if name.endswith("sampling_offsets.weight"):
        gain = 1.5
    if ".reference_points." in f".{name}":
        gain = 2.0  # spread over the picture
    bound = gain * (3.0 / fan_in) ** 0.5
    return -bound, bound


@lru_cache(maxsize=1024)
def generic_values(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return the float32 values of one tensor; do not write to them, they are shared.

    The bare model has no ``model.`` in front of its names and still gets the detector's numbers.
    """
    name = name.removeprefix("model.")
    low, high = _range_of(name, shape)
    return uniform(name, shape, low, high, seed)


def canonical_names(state_dict: dict[str, torch.Tensor]) -> dict[str, str]:
    """Map each name to the one that stands for its storage: the shortest, then the first in the alphabet.

    Box refinement lists the same heads as ``bbox_embed.0`` and as ``model.decoder.bbox_embed.0``; without refinement
    ``class_embed.0`` and ``class_embed.1`` are one layer.
    """
    by_storage: dict[int, list[str]] = {}
    for name, tensor in state_dict.items():
        by_storage.setdefault(tensor.data_ptr(), []).append(name)
    return {
        name: min(aliases, key=lambda alias: (len(alias), alias)) for aliases in by_storage.values() for name in aliases
    }


def fill_with_generic_weights(model: nn.Module, seed: int = 0) -> None:
    """Overwrite every parameter and buffer of ``model`` in place, whatever its dtype."""
    state_dict = model.state_dict()
    canonical = canonical_names(state_dict)
    with torch.no_grad():
        for name, tensor in state_dict.items():
            if canonical[name] == name and tensor.is_floating_point():
                tensor.copy_(torch.from_numpy(generic_values(name, tuple(tensor.shape), seed)))
