"""The activation functions that a configuration can name.

Built in chapter 12.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ACTIVATIONS", "activation_function"]


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _clipped_gelu(x: Tensor) -> Tensor:
    return F.gelu(x).clamp(-10, 10)


def _relu_squared(x: Tensor) -> Tensor:
    return F.relu(x).square()


def _laplace(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf((x - 0.707107) / (0.282095 * 2**0.5)))


def _identity(x: Tensor) -> Tensor:
    return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_python": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_fast": partial(F.gelu, approximate="tanh"),
    "gelu_accurate": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "gelu_10": _clipped_gelu,
    "quick_gelu": _quick_gelu,
    "relu2": _relu_squared,
    "relu6": F.relu6,
    "laplace": _laplace,
    "linear": _identity,
    "mish": F.mish,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


def activation_function(name: str, in_place: bool = False) -> Callable[[Tensor], Tensor]:
    """Return an activation by its name in a configuration.

    Args:
        name: its name.
        in_place: it may write over its argument, where that saves memory: for what nobody else looks at.

    Raises:
        ValueError: if there is none of that name; the message lists those there are.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation_function = {name!r} is unknown, expected one of {', '.join(sorted(ACTIVATIONS))}")
    return F.relu_ if in_place and name == "relu" else ACTIVATIONS[name]
