"""The Triton kernels' results, in Triton's interpreter: `test_triton.py` runs this file with TRITON_INTERPRET=1.

Triton looks at that variable once, when it is imported, so that the tests are a process of their own; pytest does not
collect them by themselves. By hand: `TRITON_INTERPRET=1 python -m pytest tests/ops/triton_interpreted.py`.
"""

from __future__ import annotations

import sys

import pytest
import torch

from ddetr_lab.ops import available_backends, default_backend, ms_deform_attn
from ddetr_lab.ops.triton import triton_problem
from tests.ops.problems import DTYPES, errors_in_eps, random_problem, results, with_strides

IMPORTED_WITH_THE_PACKAGE = "triton" in sys.modules

SHAPES = [(3, 4), (1, 2)]


def small(channels=4, dtype=torch.float64, batch=1, queries=3, heads=1, points=1, shapes=SHAPES, **others):
    return random_problem(shapes, batch, queries, heads, channels, points, dtype, **others)


def test_the_package_does_not_import_triton_and_never_prefers_it_on_a_cpu():
    assert not IMPORTED_WITH_THE_PACKAGE
    assert triton_problem("cpu") is None
    assert available_backends("cpu")[-1] == "triton"
    assert default_backend("cpu") != "triton"


@pytest.mark.parametrize(
    ("dtype", "channels"),
    # A width decides the tile, a dtype how many of them fit: every width, every dtype, one width in all dtypes.
    [*((torch.float32, channels) for channels in (1, 3, 8, 13, 32, 64)), *((dtype, 70) for dtype in DTYPES)]
    + [(torch.float64, 32), (torch.float16, 13), (torch.bfloat16, 32)],
)
def test_forward_and_gradients_are_exact_to_rounding(dtype, channels):
    batch, heads = (1, 2) if channels % 2 else (2, 1)  # both at once: in the next test
    problem = small(channels, dtype, batch=batch, queries=5, heads=heads)
    got = results(problem, "triton")
    assert [tensor.dtype for tensor in got] == [dtype, dtype, problem.locations.dtype, problem.weights.dtype]
    assert max(errors_in_eps(problem, got)) < 4


@pytest.mark.parametrize("points", [2, 5])
def test_points_that_are_no_power_of_two_nor_a_multiple_of_four(points):
    batch, heads = (2, 2) if points == 2 else (1, 1)
    problem = small(8, torch.float32, batch, 2, heads, points, shapes=[(2, 3), (4, 1), (1, 1)])
    assert max(errors_in_eps(problem, results(problem, "triton"))) < 4


@pytest.mark.parametrize("how", ["permuted", "sliced", "offset"])
def test_any_strides(how):
    problem = small(batch=2, queries=2)
    plain = results(problem, "triton")
    for name in ("value", "locations", "weights", "grad_output"):
        setattr(problem, name, with_strides(getattr(problem, name), how))
    assert all(torch.equal(a, b) for a, b in zip(results(problem, "triton"), plain, strict=True))


@pytest.mark.parametrize(("batch", "queries"), [(0, 3), (2, 0), (0, 0)])
def test_nothing_to_do_gives_nothing(batch, queries):
    output, *gradients = results(small(batch=batch, queries=queries), "triton")
    assert output.shape == (batch, queries, 4)
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.filterwarnings("ignore:overflow encountered in multiply:RuntimeWarning")  # numpy's, at 3e38
def test_borders_and_far_outside():
    # A row of locations through each border, by tenths of a cell, on the kinks, and as far as float32 goes.
    pixels = [-1.6, -1.0, -0.9, -0.5, 0.0, 0.1, 2.5, 3.0, 3.1, 3.5, 3.9, 4.0, 4.1]
    places = [(pixel + 0.5) / 4 for pixel in pixels] + [1e30, -1e30, 3e38]
    problem = small(3, torch.float32, queries=len(places) ** 2, shapes=[(4, 4)])
    grid = torch.tensor(places)
    problem.locations = torch.cartesian_prod(grid, grid).view(1, -1, 1, 1, 1, 2)
    got = results(problem, "triton")
    assert all(tensor.isfinite().all() for tensor in got)
    assert max(errors_in_eps(problem, got)) < 4


@pytest.mark.filterwarnings(
    "ignore:invalid value encountered in subtract:RuntimeWarning"
)  # numpy's: infinity less itself
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_location_that_is_not_finite_shows_in_its_query_and_head_alone(bad, deterministic):
    torch.use_deterministic_algorithms(deterministic)
    problem = small(queries=2, heads=2)
    problem.weights[0, 1, 0, 1] = 0  # such a sample counts even if its weight is 0
    clean = results(problem, "triton")
    problem.locations[0, 1, 0, 1, 0, 0] = bad
    output, grad_value, grad_locations, grad_weights = results(problem, "triton")
    wrong = torch.zeros(1, 2, 2, 4, dtype=torch.bool)
    wrong[0, 1, 0] = True
    assert torch.equal(output.isnan(), wrong.flatten(2))
    assert torch.equal(output[~wrong.flatten(2)], clean[0][~wrong.flatten(2)])
    assert torch.equal(grad_value, clean[1])  # its weight was 0 before
    faults = torch.zeros(1, 2, 2, 2, 1, dtype=torch.bool)
    faults[0, 1, 0, 1] = True
    for gradient, before, fault in ((grad_locations, clean[2], faults[..., None]), (grad_weights, clean[3], faults)):
        fault = fault.expand(gradient.shape)
        assert torch.equal(gradient.isnan(), fault)
        assert torch.equal(gradient[~fault], before[~fault])


def test_infinity_in_a_cell_that_is_not_read_does_not_leak():
    problem = small(queries=1, shapes=[(3, 3)])
    problem.locations[:] = -0.1  # reads the first cell, and three cells outside
    clean = results(problem, "triton")
    problem.value[:, 1:] = float("inf")
    assert all(torch.equal(a, b) for a, b in zip(results(problem, "triton"), clean, strict=True))


def test_under_deterministic_algorithms_no_atomic_addition_meets_another(monkeypatch):
    problem = small(3, torch.float32, batch=2, queries=3, heads=2)
    free = results(problem, "triton")
    from ddetr_lab.ops import triton_kernels

    monkeypatch.setattr(triton_kernels, "value_gradient_kernel", None)
    torch.use_deterministic_algorithms(True)
    in_order = results(problem, "triton")
    assert max(errors_in_eps(problem, in_order)) < 4
    assert all(torch.equal(a, b) for a, b in zip(in_order, results(problem, "triton"), strict=True))
    assert all(torch.equal(free[i], in_order[i]) for i in (0, 2, 3))
    torch.use_deterministic_algorithms(False)
    with pytest.raises(TypeError, match="NoneType"):  # so that it was the other kernel indeed
        results(problem, "triton")


@pytest.mark.parametrize(("channels", "shapes"), [(1, [(2, 2)]), (3, [(1, 1), (1, 2)])])
def test_gradcheck_away_from_kinks(channels, shapes):
    problem = small(channels, queries=1, shapes=shapes)
    sizes = torch.tensor(shapes, dtype=torch.float64).flip(-1).view(-1, 1, 2)
    pixel = problem.locations * sizes - 0.5
    # A tenth of a pixel from where the slope jumps: no difference quotient crosses it.
    problem.locations = (pixel.floor() + (pixel - pixel.floor()).clamp(0.1, 0.9) + 0.5) / sizes
    inputs = tuple(t.requires_grad_() for t in (problem.value, problem.locations, problem.weights))

    def function(value, locations, weights):
        return ms_deform_attn(value, shapes, None, locations, weights, backend="triton")

    assert torch.autograd.gradcheck(function, inputs)
    if channels == 1:  # the second derivative is the gather formula's, whatever the shapes
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # opcheck's own
def test_opcheck_of_both_operators():
    problem = small(2, queries=2, shapes=[(2, 3)])
    value, locations, weights, grad = (
        tensor.requires_grad_() for tensor in (problem.value, problem.locations, problem.weights, problem.grad_output)
    )
    inputs = (value, *problem.level_tensors, locations, weights)
    forward = torch.ops.ddetr_lab.ms_deform_attn_triton.default
    backward = torch.ops.ddetr_lab.ms_deform_attn_triton_backward.default
    for operator, arguments in ((forward, inputs), (backward, (*inputs, grad, False))):
        assert set(torch.library.opcheck(operator, arguments).values()) == {"SUCCESS"}


def test_a_compiled_graph_holds_the_operator_whole():
    problem = small(2, queries=2, shapes=[(2, 3)])
    inputs = tuple(t.requires_grad_() for t in (problem.value, problem.locations, problem.weights))

    def function(value, locations, weights):
        return ms_deform_attn(value, [(2, 3)], None, locations, weights, backend="triton").sin()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for one, other in zip(
        torch.autograd.grad(compiled(*inputs).sum(), inputs),
        torch.autograd.grad(function(*inputs).sum(), inputs),
        strict=True,
    ):
        assert torch.equal(one, other)


def raw(value, shapes, starts, locations, weights):
    return torch.ops.ddetr_lab.ms_deform_attn_triton(value, shapes, starts, locations, weights)


def test_a_bad_call_of_the_raw_operators_is_named():
    problem = small()
    shapes, starts = problem.level_tensors
    value, locations, weights = problem.value, problem.locations, problem.weights
    for arguments, message in (
        ((value[:, :-1], shapes, starts, locations, weights), "S = 13 tokens"),
        ((value, shapes, starts + 1, locations, weights), r"level_start_index\[0\] = 1"),
        ((value, shapes, starts, locations, weights[:, :-1]), "attention_weights has shape"),
        ((value.long(), shapes, starts, locations, weights), "value has dtype torch.int64"),
    ):
        with pytest.raises(ValueError, match=message):
            raw(*arguments)
    with pytest.raises(ValueError, match=r"grad_output has shape \(1, 3, 3\) and is on cpu, expected \(1, 3, 4\)"):
        torch.ops.ddetr_lab.ms_deform_attn_triton_backward(
            value, shapes, starts, locations, weights, problem.grad_output[..., :-1], False
        )


@pytest.mark.parametrize(("height", "width", "heads"), [(2**14, 2**14, 8), (1, 2**24, 1)])
def test_a_level_beyond_32_bits_is_refused_before_memory_is_touched(height, width, heads):
    problem = small(1, torch.float32, queries=1, heads=heads, shapes=[(1, 1)])
    value = torch.zeros(1).expand(1, height * width, heads, 1)
    with pytest.raises(ValueError, match="fewer than 2\\^31, and sides below 2\\^24: backend='grid_sample'"):
        ms_deform_attn(value, [(height, width)], None, problem.locations, problem.weights, backend="triton")
