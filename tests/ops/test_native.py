"""The compiled kernel against the definition: every dtype and width, every corner, gradients of both orders."""

from __future__ import annotations

import itertools
import os
import shutil

import pytest
import torch

from ddetr_lab.ops import available_backends, default_backend, ms_deform_attn
from ddetr_lab.ops.native import native_problem

SHAPES = [(5, 7), (3, 4), (1, 2)]

# With a compiler of the user's choice that does not work (CXX=false), the vectorised path is what is to be tested.
needs_native = pytest.mark.skipif(
    native_problem() is not None and ("CXX" in os.environ or shutil.which("c++") is None),
    reason="there is no working compiler here",
)
pytestmark = needs_native


def problem(channels=8, dtype=torch.float32, batch=2, queries=9, heads=3, points=2, spread=0.3, shapes=SHAPES):
    real = torch.float64 if dtype == torch.float64 else torch.float32
    tokens = sum(height * width for height, width in shapes)
    value = torch.randn(batch, tokens, heads, channels, dtype=torch.float64).to(dtype)
    locations = torch.rand(batch, queries, heads, len(shapes), points, 2, dtype=real) * (1 + 2 * spread) - spread
    weights = torch.rand(batch, queries, heads, len(shapes), points, dtype=real)
    return value, locations, weights


def test_where_a_compiler_is_the_kernel_runs():
    """Fails rather than skips: a kernel that is silently not there is what this project is against."""
    assert native_problem() is None, f"{native_problem()} (make test does it)"
    assert default_backend() == "native"
    assert "native" not in available_backends("meta")


@pytest.mark.parametrize("channels", [1, 3, 8, 13, 16, 32, 64, 70])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_forward_and_gradients_equal_the_float64_formula(dtype, channels):
    value, locations, weights = problem(channels, dtype)
    inputs = [tensor.clone().requires_grad_() for tensor in (value, locations, weights)]
    exact = [tensor.double().requires_grad_() for tensor in (value, locations, weights)]
    output = ms_deform_attn(inputs[0], SHAPES, None, *inputs[1:], backend="native")
    wanted = ms_deform_attn(exact[0], SHAPES, None, *exact[1:], backend="grid_sample")
    upstream = torch.randn_like(output)
    gradients = torch.autograd.grad(output, inputs, upstream)
    wanted_gradients = torch.autograd.grad(wanted, exact, upstream.double())
    assert output.dtype == dtype
    assert [gradient.dtype for gradient in gradients] == [tensor.dtype for tensor in inputs]
    for got, right in zip((output.detach(), *gradients), (wanted.detach(), *wanted_gradients), strict=True):
        # A rounding of the result, and of the sums before it, in units of the dtype's eps.
        tolerance = 32 * torch.finfo(got.dtype).eps * float(right.abs().max())
        assert float((got.double() - right).abs().max()) <= tolerance


def test_the_loops_agree():
    value, locations, weights = problem(3, torch.float64, queries=3)
    native, loops = (
        ms_deform_attn(value, SHAPES, None, locations, weights, backend=name) for name in ("native", "loops")
    )
    assert torch.allclose(native, loops, rtol=0, atol=1e-14)


@pytest.mark.parametrize("place", [0.0, 1.0, -1.0, 2.0, 0.5 / 7, 6.5 / 7, -0.5 / 7, 7.5 / 7, 1e30, -1e30])
def test_borders_and_far_outside(place):
    value, locations, weights = problem(8, torch.float64)
    for axis in (0, 1):
        moved = locations.clone()
        moved[..., axis] = place
        native, loops = (
            ms_deform_attn(value, SHAPES, None, moved, weights, backend=name) for name in ("native", "loops")
        )
        assert torch.allclose(native, loops, rtol=0, atol=1e-13)
        assert torch.isfinite(native).all()


@pytest.mark.parametrize(("batch", "queries"), [(0, 5), (2, 0), (0, 0)])
def test_nothing_to_do_gives_nothing(batch, queries):
    value, locations, weights = (tensor.requires_grad_() for tensor in problem(batch=batch, queries=queries))
    output = ms_deform_attn(value, SHAPES, None, locations, weights, backend="native")
    assert output.shape == (batch, queries, 24)
    output.sum().backward()
    assert value.grad is not None and not value.grad.any()


def test_any_strides():
    value, locations, weights = problem()
    strided = value.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    slanted = locations.flip(1).transpose(1, 2).contiguous().transpose(1, 2).flip(1)
    wide = weights[..., None].expand(*weights.shape, 2)[..., 1]
    assert not strided.is_contiguous() and not slanted.is_contiguous()
    plain = ms_deform_attn(value, SHAPES, None, locations, weights, backend="native")
    assert torch.equal(ms_deform_attn(strided, SHAPES, None, slanted, wide, backend="native"), plain)


@pytest.mark.parametrize("channels", [1, 3, 8])
@pytest.mark.parametrize("shapes", [[(2, 3)], [(1, 1), (2, 2)]])
def test_gradcheck_of_both_orders_away_from_kinks(shapes, channels):
    checked = 0
    for points, heads, queries in itertools.product((1, 2), (1, 2), (1, 2)):
        value, locations, weights = problem(channels, torch.float64, 1, queries, heads, points, shapes=shapes)
        sizes = torch.tensor([(width, height) for height, width in shapes], dtype=torch.float64).view(1, 1, 1, -1, 1, 2)
        pixel = locations * sizes - 0.5
        # A tenth of a pixel from where the slope jumps: no difference quotient crosses it.
        pixel = pixel.floor() + (pixel - pixel.floor()).clamp(0.1, 0.9)
        locations = (pixel + 0.5) / sizes
        inputs = tuple(tensor.requires_grad_() for tensor in (value, locations, weights))

        def function(v, a, w):
            return ms_deform_attn(v, shapes, None, a, w, backend="native")

        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)
        checked += 1
    assert checked == 8


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # opcheck's own
def test_opcheck_of_both_operators():
    value, locations, weights = (tensor.requires_grad_() for tensor in problem(4, torch.float64))
    shapes = torch.tensor(SHAPES)
    starts = torch.tensor([0, 35, 47])
    grad = torch.randn(2, 9, 12, dtype=torch.float64, requires_grad=True)
    forward = torch.ops.ddetr_lab.ms_deform_attn.default
    backward = torch.ops.ddetr_lab.ms_deform_attn_backward.default
    for operator, arguments in (
        (forward, (value, shapes, starts, locations, weights)),
        (backward, (value, shapes, starts, locations, weights, grad, True)),
    ):
        assert set(torch.library.opcheck(operator, arguments).values()) == {"SUCCESS"}


def test_the_bits_do_not_depend_on_threads_or_repetition():
    value, locations, weights = problem(16, queries=200, heads=4)
    upstream = torch.randn(2, 200, 64)
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 2, 3):
            torch.set_num_threads(count)
            inputs = [tensor.clone().requires_grad_() for tensor in (value, locations, weights)]
            output = ms_deform_attn(inputs[0], SHAPES, None, *inputs[1:], backend="native")
            results.append((output, *torch.autograd.grad(output, inputs, upstream)))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, s, i, a, w: (v[0], s, i, a, w), "value has 3 dimensions"),
        (lambda v, s, i, a, w: (v.long(), s, i, a, w), "float64, float32, float16 or bfloat16"),
        (lambda v, s, i, a, w: (v[:, :-1], s, i, a, w), "S = 48 tokens"),
        (lambda v, s, i, a, w: (v[:1], s, i, a, w), "B = 1"),
        (lambda v, s, i, a, w: (v, s[:2], i, a, w), "spatial_shapes is not"),
        (lambda v, s, i, a, w: (v, s * 0, i, a, w), r"spatial_shapes\[0\] = \(0, 0\)"),
        (lambda v, s, i, a, w: (v, s, i + 1, a, w), r"level_start_index\[0\] = 1"),
        (lambda v, s, i, a, w: (v, s, i[:2], a, w), "level_start_index is not"),
        (lambda v, s, i, a, w: (v, s, i, a[..., 0], w), "sampling_locations is not"),
        (lambda v, s, i, a, w: (v, s, i, a, w[..., 0]), "attention_weights has 4 dimensions"),
        (lambda v, s, i, a, w: (v, s, i, a, w[:, :-1]), "differ in axis 1: 8 and 9"),
    ],
)
def test_a_bad_call_of_the_raw_operator_is_named_and_reads_nothing(change, message):
    value, locations, weights = problem()
    arguments = (value, torch.tensor(SHAPES), torch.tensor([0, 35, 47]), locations, weights)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.ddetr_lab.ms_deform_attn(*change(*arguments))


def test_the_gradient_s_shape_is_checked():
    value, locations, weights = problem()
    with pytest.raises(RuntimeError, match="grad_output is not"):
        torch.ops.ddetr_lab.ms_deform_attn_backward(
            value, torch.tensor(SHAPES), torch.tensor([0, 35, 47]), locations, weights, torch.randn(2, 9, 23), True
        )
