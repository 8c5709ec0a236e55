"""What holds for every call of the operator, searched by hypothesis over sizes, dtypes and strides."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ddetr_lab.ops import available_backends, ms_deform_attn
from tests.ops.problems import DTYPES, NAMES, Problem, errors_in_eps, random_problem, random_strides, results

BACKENDS = available_backends()
# In units of eps (see errors_in_eps). grid_sample wants locations in -1..1: two more roundings on the way to a pixel.
BOUNDS = {"grid_sample": 4.0}
BOUND = 1.0


@st.composite
def problems(
    draw: st.DrawFn, dtypes: tuple[torch.dtype, ...] = (torch.float64,), smallest: int = 1, most_channels: int = 9
) -> Problem:
    """Draw sizes through hypothesis, which shrinks them, and numbers from a seed."""
    side = st.integers(1, 6)
    shapes = draw(st.lists(st.tuples(side, side), min_size=1, max_size=3))
    dtype = draw(st.sampled_from(dtypes))
    torch.manual_seed(draw(st.integers(0, 2**20)))
    return random_problem(
        shapes,
        batch=draw(st.integers(smallest, 2)),
        queries=draw(st.integers(smallest, 4)),
        heads=draw(st.integers(smallest, 3)),
        channels=draw(st.integers(smallest, most_channels)),
        points=draw(st.integers(smallest, 3)),
        dtype=dtype,
        location_dtype=None if dtype == torch.float64 else draw(st.sampled_from((torch.float32, torch.float64))),
        weight_dtype=None if dtype == torch.float64 else draw(st.sampled_from((torch.float32, dtype))),
        spread=draw(st.sampled_from((0.0, 0.3, 2.0))),
    )


def outputs(problem: Problem, **changes: Tensor) -> list[Tensor]:
    """Return every backend's output, with some tensors exchanged."""
    tensors = {"value": problem.value, "sampling_locations": problem.locations, "attention_weights": problem.weights}
    return [
        ms_deform_attn(spatial_shapes=problem.shapes, level_start_index=None, **(tensors | changes), backend=backend)
        for backend in BACKENDS
    ]


def assert_all_close(got: list[Tensor], expected: list[Tensor]) -> None:
    for backend, one, other in zip(BACKENDS, got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10, msg=lambda text, name=backend: f"{name}: {text}")


@settings(max_examples=60)
@given(problems(DTYPES, smallest=0, most_channels=70), st.integers(0, 2**20))
def test_every_backend_is_exact_to_a_few_eps(problem: Problem, seed: int) -> None:
    """Values, and the gradients of all three inputs, for sizes down to 0, odd widths up to 70, and any strides."""
    problem = random_strides(problem, random.Random(seed))
    for backend in BACKENDS:
        got = results(problem, backend)
        assert got[0].dtype == problem.value.dtype
        expected = [problem.value.shape, problem.locations.shape, problem.weights.shape]
        assert [gradient.shape for gradient in got[1:]] == expected
        for name, units in zip(NAMES, errors_in_eps(problem, got), strict=True):
            assert units <= BOUNDS.get(backend, BOUND), (backend, name, units)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_errors_in_units_of_eps(backend: str, dtype: torch.dtype) -> None:
    """Many samples at once; ``pytest -s`` prints the largest error of each result."""
    sizes = (2, 4, 2, 5, 3) if backend == "loops" else (2, 150, 3, 37, 4)
    problem = random_problem([(16, 21), (9, 7), (3, 1)], *sizes, dtype=dtype)
    units = dict(zip(NAMES, errors_in_eps(problem, results(problem, backend)), strict=True))
    print(f"\n{backend}, {dtype}: " + ", ".join(f"{name} {error:.2f} eps" for name, error in units.items()))
    assert max(units.values()) <= BOUNDS.get(backend, BOUND)
    assert min(units.values()) > 0  # an error of exactly 0 would mean that something compares itself with itself


@settings(max_examples=25)
@given(problems(), st.floats(-3, 3), st.floats(-3, 3))
def test_it_is_linear_in_values_and_in_weights(problem: Problem, a: float, b: float) -> None:
    value, weights = torch.randn_like(problem.value), torch.randn_like(problem.weights)
    first = outputs(problem)
    for name, mixed, other in (
        ("value", a * problem.value + b * value, value),
        ("attention_weights", a * problem.weights + b * weights, weights),
    ):
        second = outputs(problem, **{name: other})
        mixture = [a * one + b * two for one, two in zip(first, second, strict=True)]
        assert_all_close(outputs(problem, **{name: mixed}), mixture)


@settings(max_examples=25)
@given(problems(DTYPES), st.integers(0, 2**20))
def test_queries_heads_and_pictures_are_strangers_to_each_other(problem: Problem, seed: int) -> None:
    """Exchanging them exchanges the results, bit by bit."""
    generator = torch.Generator().manual_seed(seed)
    heads, plain = problem.value.shape[2], outputs(problem)
    for axis, size in enumerate(problem.weights.shape[:3]):
        order = torch.randperm(size, generator=generator)
        changes = {"sampling_locations": problem.locations, "attention_weights": problem.weights}
        changes = {name: tensor.index_select(axis, order) for name, tensor in changes.items()}
        if axis != 1:
            changes["value"] = problem.value.index_select(axis, order)
        for got, expected in zip(outputs(problem, **changes), plain, strict=True):
            expected = expected.unflatten(2, (heads, -1)).index_select(axis, order).flatten(2)
            assert torch.equal(got, expected)


@settings(max_examples=25)
@given(problems(), st.integers(0, 2**20))
def test_the_order_of_points_does_not_matter(problem: Problem, seed: int) -> None:
    order = torch.randperm(problem.weights.shape[4], generator=torch.Generator().manual_seed(seed))
    moved = outputs(
        problem,
        sampling_locations=problem.locations.index_select(4, order),
        attention_weights=problem.weights.index_select(4, order),
    )
    assert_all_close(moved, outputs(problem))


@settings(max_examples=25)
@given(problems(), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2), st.integers(0, 2))
def test_maps_moved_by_whole_cells_give_the_same_where_locations_move_along(
    problem: Problem, left: int, top: int, right: int, bottom: int
) -> None:
    """What surrounds a map is zero: a frame of zeros around it changes nothing but the unit of its locations."""
    batch, _, heads, channels = problem.value.shape
    shapes, maps, locations, start = [], [], problem.locations.clone(), 0
    for level, (height, width) in enumerate(problem.shapes):
        framed = problem.value.new_zeros(batch, top + height + bottom, left + width + right, heads, channels)
        level_map = problem.value[:, start : start + height * width].unflatten(1, (height, width))
        framed[:, top : top + height, left : left + width] = level_map
        maps.append(framed.flatten(1, 2))
        shapes.append((top + height + bottom, left + width + right))
        for axis, before, size, framed_size in ((0, left, width, shapes[-1][1]), (1, top, height, shapes[-1][0])):
            here = locations[:, :, :, level, :, axis]
            locations[:, :, :, level, :, axis] = (here * size + before) / framed_size
        start += height * width
    moved = Problem(shapes, torch.cat(maps, dim=1), locations, problem.weights, problem.grad_output)
    assert_all_close(outputs(moved), outputs(problem))


@settings(max_examples=25)
@given(problems())
def test_on_a_constant_map_the_weights_add_up(problem: Problem) -> None:
    """Half a cell inside the border and further in, no sample sees the zeros outside."""
    sizes = torch.tensor(problem.shapes, dtype=torch.float64).flip(-1)[:, None]  # (L, 1, 2), (W, H)
    inside = problem.locations.clamp(0, 1) * (1 - 1 / sizes) + 0.5 / sizes
    ones = torch.ones_like(problem.value)
    total = problem.weights.sum((3, 4))[..., None].expand(-1, -1, -1, problem.value.shape[3]).flatten(2)
    assert_all_close(outputs(problem, value=ones, sampling_locations=inside), [total] * len(BACKENDS))
    for result in outputs(problem, attention_weights=torch.zeros_like(problem.weights)):
        assert not result.any()


@settings(max_examples=25)
@given(problems())
def test_two_half_weights_at_one_place_are_one_weight(problem: Problem) -> None:
    twice = outputs(
        problem,
        sampling_locations=torch.cat((problem.locations, problem.locations), dim=4),
        attention_weights=torch.cat((problem.weights, problem.weights), dim=4) / 2,
    )
    assert_all_close(twice, outputs(problem))


def assert_same_results(problem: Problem, other: Problem) -> None:
    for backend in BACKENDS:
        for got, expected in zip(results(problem, backend), results(other, backend), strict=True):
            if backend == "native":
                assert torch.equal(got, expected)
            else:  # PyTorch may sum other strides in another order
                atol = 100 * max(torch.finfo(problem.value.dtype).eps, torch.finfo(torch.float32).eps)
                torch.testing.assert_close(got, expected, rtol=0, atol=atol * (1 + float(expected.abs().sum())))


@settings(max_examples=25)
@given(problems(DTYPES), st.integers(0, 2**20))
def test_strides_change_nothing_and_of_the_kernel_no_bit(problem: Problem, seed: int) -> None:
    """Rearranged, with gaps, off alignment, and expanded: one number in memory that stands for many."""
    assert_same_results(random_strides(problem, random.Random(seed)), problem)
    expanded = (
        problem.value[:, :1].expand_as(problem.value),
        problem.locations[:, :, :, :, :1].expand_as(problem.locations),
        problem.weights[:, :1].expand_as(problem.weights),
        problem.grad_output[..., :1].expand_as(problem.grad_output),
    )
    dense = (tensor.contiguous() for tensor in expanded)
    assert_same_results(Problem(problem.shapes, *expanded), Problem(problem.shapes, *dense))
