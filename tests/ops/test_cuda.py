"""The compiled operator on a GPU: everything here is skipped where there is none. `make cuda-check` says what to run.

What needs no GPU, all arithmetic among it, is in test_cuda_emulation.py.
"""

from __future__ import annotations

import pytest
import torch

from ddetr_lab.attention import sampling_locations
from ddetr_lab.ops.build import library_path
from ddetr_lab.ops.native import native_problem
from ddetr_lab.ops.reference import ms_deform_attn_grid_sample

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

SHAPES = [(20, 30), (10, 15), (5, 8), (3, 4)]


def operator(name):
    assert native_problem() is None, native_problem()
    assert "-sm" in library_path().name, "the library is built for the CPU alone: `ddetr-lab build-ops`"
    return getattr(torch.ops.ddetr_lab, name)


def levels():
    shapes = torch.tensor(SHAPES)
    sizes = shapes.prod(1)
    return shapes, sizes.cumsum(0) - sizes


def draw(dtype, channels, batch=2, queries=150, heads=4, points=4):
    real = torch.float64 if dtype == torch.float64 else torch.float32
    tokens = sum(height * width for height, width in SHAPES)
    grid = (batch, queries, heads, len(SHAPES), points)
    value = torch.randn(batch, tokens, heads, channels, device="cuda", dtype=torch.float64).to(dtype)
    locations = torch.rand(*grid, 2, device="cuda", dtype=real) * 1.6 - 0.3
    weights = torch.rand(grid, device="cuda", dtype=real)
    grad_output = torch.randn(batch, queries, heads * channels, device="cuda", dtype=torch.float64).to(dtype)
    return value, locations, weights, grad_output


def assert_close(got, right, eps=64):
    tolerance = eps * torch.finfo(got.dtype).eps * float(right.abs().max())
    assert float((got.double() - right).abs().max()) <= tolerance


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("kind", ["given", "points", "boxes"])
@pytest.mark.parametrize("channels", [1, 3, 8, 20, 32, 64, 130])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_results_and_gradients_equal_the_float64_formula(dtype, channels, kind, deterministic):
    value, points, weights, grad_output = draw(dtype, channels)
    exact = [tensor.double().requires_grad_() for tensor in (value, points, weights)]
    locations, attention = exact[1:]
    arguments = [value, *levels()]
    name = "ms_deform_attn"
    order = [0, 1, 2]
    if kind != "given":
        name = "ms_deform_attn_fused"
        references = torch.rand(*points.shape[:2], len(SHAPES), 2 if kind == "points" else 4, device="cuda").to(points)
        exact.append(references.double().requires_grad_())
        arguments.append(references)
        locations = sampling_locations(exact[3], exact[1], SHAPES)
        attention = exact[2].flatten(3).softmax(-1).view_as(exact[2])
        order = [0, 3, 1, 2]
    arguments += [points, weights]
    right = ms_deform_attn_grid_sample(exact[0], SHAPES, locations, attention)
    assert_close(operator(name)(*arguments), right.detach())
    gradients = torch.autograd.grad(right, [exact[index] for index in order], grad_output.double())
    for got, wanted in zip(
        operator(f"{name}_backward")(*arguments, grad_output, deterministic), gradients, strict=True
    ):
        assert_close(got, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_hundred_deterministic_passes_have_the_same_bits(dtype):
    value, locations, weights, grad_output = draw(dtype, 32)
    backward = operator("ms_deform_attn_backward")
    first = backward(value, *levels(), locations, weights, grad_output, True)
    for _ in range(99):
        again = backward(value, *levels(), locations, weights, grad_output, True)
        assert all(one.equal(other) for one, other in zip(first, again, strict=True))


def test_work_goes_to_the_current_stream():
    value, locations, weights, _ = draw(torch.float32, 32)
    forward = operator("ms_deform_attn")
    right = forward(value, *levels(), locations, weights)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        late = torch.zeros_like(value)
        torch.cuda._sleep(100_000_000)  # a kernel on another stream would read the zeros
        late.copy_(value)
        output = forward(late, *levels(), locations, weights)
    stream.synchronize()
    assert output.equal(right)


def test_no_call_waits_for_the_gpu():
    value, locations, weights, grad_output = draw(torch.float32, 32)
    shapes, starts = levels()
    operator("ms_deform_attn")(value, shapes, starts, locations, weights)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        operator("ms_deform_attn")(value, shapes, starts, locations, weights)
        for deterministic in (False, True):
            operator("ms_deform_attn_backward")(value, shapes, starts, locations, weights, grad_output, deterministic)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_ladder_agrees():
    value, locations, weights, grad_output = draw(torch.float32, 32)
    arguments = (value, *levels(), locations, weights)
    assert torch.allclose(
        operator("ladder_ms_deform_attn")(*arguments), operator("ms_deform_attn")(*arguments), rtol=0, atol=1e-5
    )
    pairs = zip(
        operator("ladder_ms_deform_attn_backward")(*arguments, grad_output),
        operator("ms_deform_attn_backward")(*arguments, grad_output, False),
        strict=True,
    )
    for slow, fast in pairs:
        assert torch.allclose(slow, fast, rtol=1e-4, atol=1e-4 * float(fast.abs().max()))


def test_shapes_on_the_gpu_are_copied_and_a_tensor_elsewhere_is_named():
    value, locations, weights, _ = draw(torch.float32, 8)
    shapes, starts = levels()
    forward = operator("ms_deform_attn")
    right = forward(value, shapes, starts, locations, weights)
    assert forward(value, shapes.cuda(), starts.cuda(), locations, weights).equal(right)
    with pytest.raises(RuntimeError, match="sampling_locations is on cpu, but value is on cuda:0"):
        forward(value, shapes, starts, locations.cpu(), weights)
    with pytest.raises(RuntimeError, match="value is on the CPU"):
        forward(value.cpu(), shapes.cuda(), starts, locations.cpu(), weights.cpu())


@pytest.mark.parametrize("empty", ["batch", "queries", "heads", "points"])
def test_empty_calls(empty):
    value, locations, weights, grad_output = draw(torch.float32, 8, **{empty: 0})
    arguments = (value, *levels(), locations, weights)
    assert operator("ms_deform_attn")(*arguments).eq(0).all()
    for deterministic in (False, True):
        for gradient in operator("ms_deform_attn_backward")(*arguments, grad_output, deterministic):
            assert gradient.eq(0).all()
