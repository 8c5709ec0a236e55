"""Corners of the operator: places on and beyond the border, numbers that are none, and the same bits every time."""

from __future__ import annotations

import math

import pytest
import torch

from ddetr_lab.ops import available_backends
from tests.ops.problems import DTYPES, NAMES, Problem, errors_in_eps, exact_results, random_problem, results
from tests.ops.test_native import needs_native

BACKENDS = available_backends()
BOUNDS = {"grid_sample": 4.0}
# Powers of two, so that a cell's centre is a number that float32 holds exactly: W = 8 and 4, H = 4 and 2.
SHAPES = [(4, 8), (2, 4)]
NAN, INF = math.nan, math.inf
PLACES = {
    "the first centre": 0.5 / 8,
    "the last centre": 7.5 / 8,
    "a centre of both levels' borders": 3 / 4,
    "the border": 0.0,
    "the border, from below": -0.0,
    "the far border": 1.0,
    "half a cell outside": -0.5 / 8,
    "half a cell outside, beyond": 8.5 / 8,
    "the last place that sees a cell": -0.5 / 8 + 2**-20,
    "one map further": 2.0,
    "1e9": 1e9,
    "-1e30": -1e30,
    "1e30": 1e30,
    "a subnormal": 1e-42,
    "a subnormal below zero": -1e-42,
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_place_gives_what_the_formula_gives(backend: str, dtype: torch.dtype, place: float) -> None:
    for axes in ((0,), (1,), (0, 1)):
        problem = random_problem(SHAPES, 1, 3, 2, 5, 2, dtype)
        problem.locations[..., axes] = place
        got = results(problem, backend)
        assert all(tensor.isfinite().all() for tensor in got)
        # Slopes are left out where they jump: grid_sample's rounding may put a place on the other side.
        for name, units in zip(NAMES, errors_in_eps(problem, got), strict=True):
            assert units <= BOUNDS.get(backend, 1.0), (name, axes, units)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "grid_sample"])
def test_where_a_slope_jumps_it_is_that_of_the_cells_to_the_right_and_below(backend: str) -> None:
    problem = random_problem(SHAPES, 1, 3, 2, 5, 2)
    problem.locations = (torch.randint(1, 16, problem.locations.shape) / 16).double()  # centres and middles, both exact
    torch.testing.assert_close(results(problem, backend)[2], exact_results(problem)[0][2], rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_numbers_too_small_for_their_dtype_are_not_lost(backend: str, dtype: torch.dtype) -> None:
    """The smallest subnormal value, fetched from a cell's centre, comes back as it is."""
    problem = random_problem([(2, 4)], 1, 1, 1, 3, 1, dtype)
    problem.locations = torch.tensor([0.5 / 4, 0.5 / 2], dtype=problem.locations.dtype).view(1, 1, 1, 1, 1, 2)
    problem.weights = torch.ones_like(problem.weights)
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    problem.value[:] = tiny
    output = results(problem, backend)[0]
    assert tiny > 0 and output.eq(torch.tensor(tiny, dtype=dtype)).all()


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_read_does_not_leak(backend: str, bad: float) -> None:
    """All cells of level 0 are spoilt, and no sample reads them; at level 1, one that no sample is next to."""
    problem = random_problem([(4, 8), (3, 4)], 2, 3, 2, 5, 2)
    problem.locations[:, :, :, 0] = 1.0 + 0.5 / 4 + torch.rand(2, 3, 2, 2, 2)  # at least half a cell too far
    problem.locations[:, :, :, 1, :, 0] = 0.5 + 0.4 * torch.rand(2, 3, 2, 2)  # right of the centre of column 1
    expected = results(problem, backend)
    problem.value[:, :32] = bad
    problem.value[:, 32:44:4] = bad  # column 0
    for got, clean in zip(results(problem, backend), expected, strict=True):
        assert torch.equal(got, clean)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_read_with_weight_zero_is_read(backend: str) -> None:
    problem = random_problem([(3, 4)], 1, 2, 1, 5, 1)
    problem.value[:] = INF
    problem.locations = problem.locations.clamp(0.2, 0.8)
    problem.weights[0, 0] = 0.0
    problem.weights[0, 1] = 1.0
    output = results(problem, backend)[0]
    assert output[0, 0].isnan().all() and output[0, 1].eq(INF).all()


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_place_that_is_none_shows_in_its_query_and_head_and_nowhere_else(
    backend: str, dtype: torch.dtype, bad: float
) -> None:
    problem = random_problem(SHAPES, 2, 3, 2, 5, 2, dtype)
    far = problem.locations.clone()
    far[1, 2, 0, 1, 0, 1] = 1e6  # what is not finite reads nothing, and spreads nothing
    expected = results(Problem(SHAPES, problem.value, far, problem.weights, problem.grad_output), backend)
    problem.locations[1, 2, 0, 1, 0, 1] = bad
    output, of_value, of_locations, of_weights = results(problem, backend)
    spoilt = torch.zeros(2, 3, 2, 5, dtype=torch.bool)
    spoilt[1, 2, 0] = True
    assert torch.equal(output.isnan(), spoilt.flatten(2))
    assert torch.equal(output[~spoilt.flatten(2)], expected[0][~spoilt.flatten(2)])
    assert torch.equal(of_value, expected[1])
    assert of_weights[1, 2, 0, 1, 0].isnan() and of_weights.isnan().sum() == 1
    assert torch.equal(of_weights.nan_to_num(0.0), expected[3])
    at_fault = of_locations[1, 2, 0, 1, 0]
    assert (at_fault.isnan() | (at_fault == 0)).all()
    assert torch.equal(of_locations.nan_to_num(0.0), expected[2])


@needs_native
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "sizes",
    [(2, 100, 4, 16, 3), (1, 300, 1, 32, 2), (3, 50, 2, 13, 2)],
    ids=["many heads", "one head", "odd width"],
)
def test_a_hundred_repeats_with_one_and_with_two_threads_give_the_same_bits(
    sizes: tuple[int, int, int, int, int], dtype: torch.dtype
) -> None:
    """The maps are small, so that many queries add to the same cells: an order of sums that varied would show."""
    batch, queries, heads, channels, points = sizes
    problem = random_problem([(6, 7), (3, 4), (1, 2)], batch, queries, heads, channels, points, dtype)
    threads = torch.get_num_threads()
    first = results(problem, "native")
    assert first[0].any() and all(tensor.any() for tensor in first[1:])
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for _ in range(100):
                assert all(torch.equal(one, two) for one, two in zip(results(problem, "native"), first, strict=True))
    finally:
        torch.set_num_threads(threads)
