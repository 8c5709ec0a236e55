"""Every activation by name, against its formula in plain numbers."""

import math
from collections.abc import Callable

import pytest
import torch

from ddetr_lab.activations import ACTIVATIONS, activation_function


def gelu(x: float) -> float:
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def tanh_gelu(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


FORMULAS: dict[str, Callable[[float], float]] = {
    "relu": lambda x: max(x, 0.0),
    "gelu": gelu,
    "gelu_python": gelu,
    "gelu_new": tanh_gelu,
    "gelu_fast": tanh_gelu,
    "gelu_accurate": tanh_gelu,
    "gelu_pytorch_tanh": tanh_gelu,
    "gelu_10": lambda x: min(max(gelu(x), -10.0), 10.0),
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "relu2": lambda x: max(x, 0.0) ** 2,
    "relu6": lambda x: min(max(x, 0.0), 6.0),
    "laplace": lambda x: 0.5 * (1 + math.erf((x - 0.707107) / (0.282095 * math.sqrt(2)))),
    "linear": lambda x: x,
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
    "sigmoid": sigmoid,
    "silu": lambda x: x * sigmoid(x),
    "swish": lambda x: x * sigmoid(x),
    "tanh": math.tanh,
}


def test_every_name_has_a_formula_here() -> None:
    assert set(FORMULAS) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_activation_is_its_formula(name: str) -> None:
    points = [-20.0, -3.0, -1.0, -0.25, 0.0, 0.5, 1.0, 2.0, 7.0, 20.0]
    got = activation_function(name)(torch.tensor(points, dtype=torch.float64))
    torch.testing.assert_close(got, torch.tensor([FORMULAS[name](x) for x in points], dtype=torch.float64))


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'gelo' is unknown.*gelu, .*relu"):
        activation_function("gelo")
