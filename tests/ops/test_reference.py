"""Deformable attention twice: as loops, which define it, and vectorised. They must agree in values and in gradients."""

import pytest
import torch
from torch import Tensor

from ddetr_lab.ops import available_backends, ms_deform_attn
from ddetr_lab.ops.reference import ms_deform_attn_grid_sample, ms_deform_attn_loops

SHAPES = [(3, 4), (2, 1)]


def inputs(
    shapes: list[tuple[int, int]] = SHAPES,
    batch: int = 2,
    queries: int = 3,
    heads: int = 2,
    channels: int = 3,
    points: int = 2,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw value, locations (some of them outside the map) and weights."""
    draw = torch.Generator().manual_seed(11)
    tokens = sum(h * w for h, w in shapes)
    value = torch.randn(batch, tokens, heads, channels, generator=draw, dtype=dtype)
    grid = (batch, queries, heads, len(shapes), points)
    locations = torch.rand(*grid, 2, generator=draw, dtype=dtype) * 1.6 - 0.3
    weights = torch.rand(grid, generator=draw, dtype=dtype)
    return value, locations, weights


def test_the_centre_of_a_cell_reads_that_cell() -> None:
    value = torch.arange(6.0).view(1, 6, 1, 1)  # a map of 2 x 3
    locations = torch.tensor([[(column + 0.5) / 3, (row + 0.5) / 2] for row in range(2) for column in range(3)])
    locations = locations.view(1, 6, 1, 1, 1, 2)
    for attention in (ms_deform_attn_loops, ms_deform_attn_grid_sample):
        result = attention(value, [(2, 3)], locations, torch.ones(1, 6, 1, 1, 1))
        torch.testing.assert_close(result.flatten(), torch.arange(6.0))


def test_between_cells_and_over_the_rim_by_hand() -> None:
    value = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)  # a map of 2 x 2
    # The middle of the map; its left rim (half of each left cell); half a cell outside the corner; far away.
    locations = torch.tensor([[0.5, 0.5], [0.0, 0.5], [-0.25, -0.25], [3.0, 0.5]]).view(1, 4, 1, 1, 1, 2)
    for attention in (ms_deform_attn_loops, ms_deform_attn_grid_sample):
        result = attention(value, [(2, 2)], locations, torch.ones(1, 4, 1, 1, 1))
        torch.testing.assert_close(result.flatten(), torch.tensor([2.5, 1.0, 0.0, 0.0]))


def test_x_comes_before_y_and_levels_follow_each_other() -> None:
    value = torch.tensor([10.0, 20.0, 1.0, 2.0]).view(1, 4, 1, 1)  # a row of two cells, then a column of two
    locations = torch.tensor([[[0.75, 0.5]], [[0.5, 0.75]]]).view(1, 1, 1, 2, 1, 2)
    weights = torch.tensor([1.0, 0.5]).view(1, 1, 1, 2, 1)
    for attention in (ms_deform_attn_loops, ms_deform_attn_grid_sample):
        assert attention(value, [(1, 2), (2, 1)], locations, weights).item() == pytest.approx(20 + 0.5 * 2)


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"shapes": [(1, 1)], "points": 1},
        {"shapes": [(5, 3), (1, 4), (2, 2), (1, 1)]},
        {"heads": 1, "channels": 1, "batch": 1, "queries": 1},
        {"channels": 7, "points": 5},
    ],
    ids=["two levels", "one cell", "four levels", "ones", "odd"],
)
def test_the_vectorised_path_is_the_loops_in_values_and_gradients(sizes: dict[str, int]) -> None:
    results = []
    for attention in (ms_deform_attn_loops, ms_deform_attn_grid_sample):
        value, locations, weights = (tensor.requires_grad_() for tensor in inputs(**sizes))  # type: ignore[arg-type]
        output = attention(value, sizes.get("shapes", SHAPES), locations, weights)  # type: ignore[arg-type]
        upstream = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)
        results.append((output, *torch.autograd.grad(output, (value, locations, weights), upstream)))
    for loops, vectorised in zip(*results, strict=True):
        assert loops.abs().max() > 0
        torch.testing.assert_close(loops, vectorised, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("attention", [ms_deform_attn_loops, ms_deform_attn_grid_sample])
def test_gradients_are_the_slopes_of_the_values(attention) -> None:
    arguments = inputs(shapes=[(2, 3)], batch=1, queries=2, heads=1, channels=2)
    value, locations, weights = (tensor.requires_grad_() for tensor in arguments)
    assert torch.autograd.gradcheck(lambda *args: attention(args[0], [(2, 3)], *args[1:]), (value, locations, weights))


@pytest.mark.parametrize("attention", [ms_deform_attn_loops, ms_deform_attn_grid_sample])
def test_strides_do_not_matter(attention) -> None:
    value, locations, weights = inputs()
    expected = attention(value, SHAPES, locations, weights)
    scattered = (
        value.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        locations.transpose(1, 4).contiguous().transpose(1, 4),
        torch.stack((weights, weights), dim=-1)[..., 0],
    )
    assert not any(tensor.is_contiguous() for tensor in scattered)
    torch.testing.assert_close(attention(scattered[0], SHAPES, *scattered[1:]), expected)


@pytest.mark.parametrize("attention", [ms_deform_attn_loops, ms_deform_attn_grid_sample])
@pytest.mark.parametrize(("batch", "queries"), [(0, 3), (2, 0), (0, 0)])
def test_nothing_in_nothing_out(attention, batch: int, queries: int) -> None:
    value, locations, weights = inputs(batch=batch, queries=queries)
    assert attention(value, SHAPES, locations, weights).shape == (batch, queries, 6)


def test_an_empty_batch_can_be_trained() -> None:
    value, locations, weights = (tensor.requires_grad_() for tensor in inputs(batch=0))
    ms_deform_attn_grid_sample(value, SHAPES, locations, weights).sum().backward()
    assert value.grad is not None and value.grad.shape == value.shape


@pytest.mark.parametrize("attention", [ms_deform_attn_loops, ms_deform_attn_grid_sample])
@pytest.mark.parametrize("far", [1e9, -1e9, 1e30])
def test_locations_far_outside_add_nothing(attention, far: float) -> None:
    value, locations, weights = inputs(dtype=torch.float32)
    removed = weights.clone()
    removed[0, 0, 0, 0, 0] = 0
    expected = attention(value, SHAPES, locations, removed)
    locations[0, 0, 0, 0, 0, 1] = far
    torch.testing.assert_close(attention(value, SHAPES, locations, weights), expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("backend", available_backends())
def test_a_location_that_is_not_finite_shows_in_its_query_and_head_alone(backend: str, bad: float) -> None:
    value, locations, weights = inputs()
    clean = ms_deform_attn(value, SHAPES, None, locations, weights, backend=backend)
    locations[0, 1, 1, 0, 1, 0] = bad
    result = ms_deform_attn(value, SHAPES, None, locations.requires_grad_(), weights, backend=backend)
    touched = torch.isnan(result)
    assert touched[0, 1, 3:].all() and touched.sum() == 3  # that picture's query and head, all of its channels
    torch.testing.assert_close(result[~touched], clean[~touched])
    (gradient,) = torch.autograd.grad(result.nan_to_num(0.0).sum(), locations)
    assert gradient[1].isfinite().all()  # the other picture learns on


@pytest.mark.parametrize("attention", [ms_deform_attn_loops, ms_deform_attn_grid_sample])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_values_are_summed_in_float32_and_rounded_once(attention, dtype: torch.dtype) -> None:
    value, locations, weights = inputs(dtype=torch.float32, points=8)
    value = value.to(dtype)
    exact = ms_deform_attn_loops(value.double(), SHAPES, locations.double(), weights.double())
    got = attention(value, SHAPES, locations, weights)
    assert got.dtype == dtype
    rounding = torch.finfo(dtype).eps / 2 * exact.abs() + 1e-6
    assert ((got.double() - exact).abs() <= rounding).all()
