"""What the check of a call lets through, and what it costs: the calls that it refuses are in test_bad_calls.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ddetr_lab.ops.arguments import check_arguments, level_sizes
from tests.ops.test_bad_calls import SHAPES, VALUE, arguments


@pytest.mark.parametrize(
    "shapes",
    [
        [[2, 3], [1, 2]],
        ((2, 3), (1, 2)),
        [torch.zeros(2, 3).shape, torch.Size([1, 2])],
        np.array(SHAPES, dtype=np.int32),
        [(np.int64(2), np.uint8(3)), (1, 2)],
        *(torch.tensor(SHAPES, dtype=dtype) for dtype in (torch.int64, torch.int32, torch.int16, torch.uint8)),
        torch.tensor([(2, 9, 3), (1, 9, 2)])[:, ::2],
    ],
    ids=str,
)
def test_spatial_shapes_in_any_dress(shapes) -> None:
    assert level_sizes(shapes) == SHAPES


def test_a_check_runs_nothing_on_a_tensor() -> None:
    """What runs nothing cannot wait for a GPU."""

    class Forbid(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            raise AssertionError(f"the check called {function}")

    given = arguments()
    with Forbid():
        check_arguments(**given)
        with pytest.raises(AssertionError, match="the check called"):  # this net does catch
            given[VALUE] + 1
