"""The largest difference of two results, and everything that counts as infinitely different."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ddetr_lab.benchmark.agreement import largest_difference, numbers


def test_nested_results_are_flattened_in_order() -> None:
    result = {"a": (torch.ones(2), [3, np.float32(4)]), "b": torch.tensor(5, dtype=torch.bfloat16)}
    assert [array.tolist() for array in numbers(result)] == [[1, 1], 3, 4, 5]


def test_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match="holds a str"):
        numbers(["text"])


def test_the_largest_of_all_differences_is_found() -> None:
    expected = [torch.zeros(3), torch.tensor([1.0, 100.0])]
    actual = [torch.tensor([0.0, -0.5, 0.25]), torch.tensor([1.0, 98.0])]
    assert largest_difference(actual, expected) == 2.0
    assert largest_difference(actual[1:], expected[1:], relative=True) == pytest.approx(0.02)


def test_a_relative_difference_has_its_own_scale_in_each_tensor() -> None:
    expected, actual = [torch.tensor([1.0]), torch.tensor([1000.0])], [torch.tensor([1.1]), torch.tensor([1001.0])]
    assert largest_difference(actual, expected, relative=True) == pytest.approx(0.1)


def test_something_beside_nothing_is_infinitely_far_in_relation() -> None:
    assert largest_difference(torch.tensor([1e-9]), torch.zeros(1), relative=True) == math.inf
    assert largest_difference(torch.zeros(1), torch.zeros(1), relative=True) == 0.0


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (torch.zeros(2), torch.zeros(3)),
        ([torch.zeros(2)], [torch.zeros(2), torch.zeros(2)]),
        (torch.tensor([math.nan]), torch.tensor([1.0])),
        (torch.tensor([1.0]), torch.tensor([math.nan])),
        (torch.tensor([math.inf]), torch.tensor([1.0])),
        (torch.tensor([-math.inf]), torch.tensor([math.inf])),
    ],
)
def test_what_is_infinitely_different(actual: object, expected: object) -> None:
    assert largest_difference(actual, expected) == math.inf


def test_equal_infinities_and_nans_in_the_same_place_agree() -> None:
    both = torch.tensor([math.nan, math.inf, 1.0])
    assert largest_difference(both, both.clone()) == 0.0
    assert largest_difference(torch.zeros(0), torch.zeros(0)) == 0.0
