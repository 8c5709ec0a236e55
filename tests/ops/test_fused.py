"""The fused operator against its parts: locations from references, weights by softmax, then the operator."""

from __future__ import annotations

import pytest
import torch

from ddetr_lab.ops import available_backends, ms_deform_attn, ms_deform_attn_fused
from ddetr_lab.ops.reference import sampling_locations
from tests.ops.test_native import needs_native

SHAPES = [(5, 7), (3, 4), (1, 2)]


def problem(coordinates=2, channels=8, dtype=torch.float32, batch=2, queries=9, heads=3, points=2, shapes=SHAPES):
    real = torch.float64 if dtype == torch.float64 else torch.float32
    tokens = sum(height * width for height, width in shapes)
    value = torch.randn(batch, tokens, heads, channels, dtype=torch.float64).to(dtype)
    reference = torch.rand(batch, queries, len(shapes), coordinates, dtype=real)
    offsets = torch.randn(batch, queries, heads, len(shapes), points, 2, dtype=real)
    logits = 3 * torch.randn(batch, queries, heads, len(shapes), points, dtype=real)
    return value, reference, offsets, logits


def in_parts(value, reference, offsets, logits, shapes=SHAPES, backend="grid_sample"):
    weights = logits.flatten(-2).softmax(-1).view_as(logits)
    return ms_deform_attn(value, shapes, None, sampling_locations(reference, offsets, shapes), weights, backend=backend)


@pytest.mark.parametrize("backend", [name for name in available_backends() if name != "triton"])
@pytest.mark.parametrize("coordinates", [2, 4])
def test_every_backend_gives_what_the_parts_give(backend, coordinates):
    given = problem(coordinates, dtype=torch.float64, queries=3)
    fused = ms_deform_attn_fused(given[0], SHAPES, *given[1:], backend=backend)
    torch.testing.assert_close(fused, in_parts(*given, backend="gather"), rtol=0, atol=1e-13)


@needs_native
@pytest.mark.parametrize("channels", [1, 8, 13, 32, 70])
@pytest.mark.parametrize("coordinates", [2, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_result_and_all_four_gradients_equal_the_float64_parts(dtype, coordinates, channels):
    given = [tensor.requires_grad_() for tensor in problem(coordinates, channels, dtype)]
    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    output = ms_deform_attn_fused(given[0], SHAPES, *given[1:], backend="native")
    wanted = in_parts(*exact)
    upstream = torch.randn_like(output)
    gradients = torch.autograd.grad(output, given, upstream)
    wanted_gradients = torch.autograd.grad(wanted, exact, upstream.double())
    assert output.dtype == dtype
    assert [gradient.dtype for gradient in gradients] == [tensor.dtype for tensor in given]
    for got, right in zip((output.detach(), *gradients), (wanted.detach(), *wanted_gradients), strict=True):
        tolerance = 64 * torch.finfo(got.dtype).eps * max(1.0, float(right.abs().max()))
        assert float((got.double() - right).abs().max()) <= tolerance


@needs_native
@pytest.mark.parametrize("coordinates", [2, 4])
def test_gradcheck_of_both_orders(coordinates):
    shapes = [(4, 5), (2, 3)]
    given = problem(coordinates, 3, torch.float64, 1, 2, 2, 2, shapes)
    sizes_wh = torch.tensor(shapes, dtype=torch.float64).flip(-1)
    # Move each offset so that its sample lies at least a tenth of a pixel from where the slope jumps.
    pixel = sampling_locations(given[1], given[2], shapes) * sizes_wh[:, None] - 0.5
    moved = pixel.floor() + (pixel - pixel.floor()).clamp(0.1, 0.9)
    cells = moved - pixel
    if coordinates == 4:  # an offset of 1 is half a side over P
        cells = cells / sizes_wh[:, None] / (given[1][:, :, None, :, None, 2:] * 0.5 / 2)
    inputs = tuple(t.requires_grad_() for t in (given[0], given[1], given[2] + cells, given[3]))

    def function(value, reference, offsets, logits):
        return ms_deform_attn_fused(value, shapes, reference, offsets, logits, backend="native")

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@needs_native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # opcheck's own
def test_opcheck_of_both_operators():
    value, reference, offsets, logits = (tensor.requires_grad_() for tensor in problem(4, 4, torch.float64))
    levels = (torch.tensor(SHAPES), torch.tensor([0, 35, 47]))
    grad = torch.randn(2, 9, 12, dtype=torch.float64, requires_grad=True)
    operators = torch.ops.ddetr_lab
    for operator, more in (
        (operators.ms_deform_attn_fused.default, ()),
        (operators.ms_deform_attn_fused_backward.default, (grad, True)),
    ):
        arguments = (value, *levels, reference, offsets, logits, *more)
        assert set(torch.library.opcheck(operator, arguments).values()) == {"SUCCESS"}


@needs_native
def test_logits_far_apart_are_weighed_as_softmax_weighs_them():
    value, reference, offsets, logits = problem()
    logits = logits * 100
    logits[0, 0] = 1e30
    logits[0, 1, ..., 0] = -torch.inf
    for given in (logits, logits.masked_fill(torch.rand_like(logits) < 0.01, torch.nan)):
        fused = ms_deform_attn_fused(value, SHAPES, reference, offsets, given, backend="native")
        torch.testing.assert_close(fused, in_parts(value, reference, offsets, given), equal_nan=True)


@needs_native
def test_the_bits_do_not_depend_on_threads():
    given = [tensor.requires_grad_() for tensor in problem(4, 16, queries=200, heads=4)]
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            output = ms_deform_attn_fused(given[0], SHAPES, *given[1:], backend="native")
            results.append((output, *torch.autograd.grad(output.square().sum(), given)))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda v, r, o, a: (v, r[..., :1], o, a),
            r"reference_points has shape \(2, 9, 3, 1\), expected \(2, 9, 3, 2\)",
        ),
        (lambda v, r, o, a: (v, r[:, :-1], o, a), r"reference_points has shape \(2, 8, 3, 2\)"),
        (lambda v, r, o, a: (v, r.half(), o, a), "reference_points has dtype torch.float16"),
        (lambda v, r, o, a: (v, r.to("meta"), o, a), "reference_points is on meta, expected cpu"),
        (lambda v, r, o, a: (v, r, o[..., 0], a), "sampling_offsets has"),
        (lambda v, r, o, a: (v, r, o, a[..., :1]), "attention_logits has shape"),
        (lambda v, r, o, a: (v[:, :-1], r, o, a), "value has S = 48 tokens"),
        (lambda v, r, o, a: (v[:1], r, o, a), "value has B = 1 and M = 3, but sampling_offsets has B = 2"),
    ],
)
def test_bad_calls_are_named(change, message):
    value, reference, offsets, logits = change(*problem())
    with pytest.raises(ValueError, match=message):
        ms_deform_attn_fused(value, SHAPES, reference, offsets, logits)


@needs_native
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_nothing_to_do_gives_nothing(axis):
    sizes = {0: {"batch": 0}, 1: {"queries": 0}, 2: {"heads": 1, "queries": 1}}[axis]
    given = [tensor.requires_grad_() for tensor in problem(**sizes)]
    output = ms_deform_attn_fused(given[0], SHAPES, *given[1:], backend="native")
    assert all(
        gradient.shape == tensor.shape
        for gradient, tensor in zip(torch.autograd.grad(output.sum(), given), given, strict=True)
    )


@needs_native
@pytest.mark.parametrize("coordinates", [2, 4])
def test_no_points_give_zeros(coordinates):
    given = [tensor.requires_grad_() for tensor in problem(coordinates, points=1)]
    given[2] = given[2].detach()[..., :0, :].requires_grad_()
    given[3] = given[3].detach()[..., :0].requires_grad_()
    output = ms_deform_attn_fused(given[0], SHAPES, *given[1:], backend="native")
    assert not output.any()
    for gradient, tensor in zip(torch.autograd.grad(output.sum(), given), given, strict=True):
        assert gradient.shape == tensor.shape and not gradient.any()


@needs_native
def test_a_weight_that_is_nan_is_told_even_where_its_sample_lies_outside():
    value, reference, offsets, logits = problem()
    logits[0, 0, 0] = torch.nan
    offsets[0, 0, 0] = 1e4
    fused = ms_deform_attn_fused(value, SHAPES, reference, offsets, logits, backend="native")
    torch.testing.assert_close(fused, in_parts(value, reference, offsets, logits), equal_nan=True)
    assert fused[0, 0, :8].isnan().all() and not fused[0, 0, 8:].isnan().any()
