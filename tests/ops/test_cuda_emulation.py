"""The CUDA kernels' sources, run on the CPU block by block, against the float64 formula and under sanitizers.

No GPU is needed: tests/ops/cuda_emulation compiles csrc/cuda/kernels.cu with the C++ compiler. What only a GPU can show
is in test_cuda.py.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from ddetr_lab.attention import sampling_locations
from ddetr_lab.ops import ms_deform_attn
from ddetr_lab.ops.build import compiler_command
from tests.conftest import compiler_version
from tests.ops.cuda_emulation import emulator as emulation

COMPILER = compiler_version()
pytestmark = pytest.mark.skipif(
    not COMPILER or sys.platform != "linux", reason="the emulation needs a C++ compiler and Linux"
)

CHANNELS = [1, 2, 3, 4, 8, 13, 16, 20, 32, 70, 130]


@pytest.fixture(scope="module")
def emulator():
    return emulation.Emulator()


def draw(seed, dtype, channels, **sizes):
    return emulation.random_call(torch.Generator().manual_seed(seed), dtype, channels, **sizes)


def exact(value, shapes, points, weights, grad_output, references=None):
    """The result and the gradients by name, in float64, from the vectorised path."""
    inputs = [tensor.double().requires_grad_() for tensor in (value, points, weights)]
    locations, attention = inputs[1:]
    names = ["value", "points", "weights"]
    if references is not None:
        inputs.append(references.double().requires_grad_())
        names.append("references")
        locations = sampling_locations(inputs[3], inputs[1], shapes)
        attention = inputs[2].flatten(3).softmax(-1).view_as(inputs[2])
    output = ms_deform_attn(inputs[0], shapes, None, locations, attention, backend="grid_sample")
    gradients = torch.autograd.grad(output, inputs, grad_output.double())
    return {"output": output.detach(), **dict(zip(names, gradients, strict=True))}


def assert_close(got, right, eps=32):
    """Compare in units of the dtype's rounding of the largest number."""
    assert torch.isfinite(right).all()
    tolerance = eps * torch.finfo(got.dtype).eps * float(right.abs().max())
    assert float((got.double() - right).abs().max()) <= tolerance


def references_for(kind, points, levels, seed=7):
    if kind == "given":
        return None
    last = {"points": 2, "boxes": 4}[kind]
    return torch.rand(*points.shape[:2], levels, last, generator=torch.Generator().manual_seed(seed)).to(points)


@pytest.mark.parametrize("kind", ["given", "points", "boxes"])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", emulation.DTYPES)
def test_every_kernel_equals_the_float64_formula(emulator, dtype, channels, kind):
    value, shapes, points, weights, grad_output = draw(channels, dtype, channels)
    references = references_for(kind, points, len(shapes))
    if references is not None:
        points = points * 3 - 1.5  # offsets, in cells
    right = exact(value, shapes, points, weights, grad_output, references)
    assert_close(emulator.forward(value, shapes, points, weights, references), right["output"])
    for deterministic in (False, True):
        got = emulator.backward(value, shapes, points, weights, grad_output, references, deterministic)
        assert got.keys() == right.keys() - {"output"}
        for name, gradient in got.items():
            assert_close(gradient, right[name])


def test_the_loops_agree(emulator):
    value, shapes, locations, weights, _ = draw(0, torch.float64, 5)
    loops = ms_deform_attn(value, shapes, None, locations, weights, backend="loops")
    assert torch.allclose(emulator.forward(value, shapes, locations, weights), loops, rtol=0, atol=1e-14)


@pytest.mark.parametrize("channels", [1, 5, 8])
def test_the_ladder_s_kernels_are_slow_and_right(emulator, channels):
    value, shapes, locations, weights, grad_output = draw(1, torch.float32, channels)
    right = exact(value, shapes, locations, weights, grad_output)
    output, gradients = emulator.ladder(value, shapes, locations, weights, grad_output)
    for name, got in {"output": output, **gradients}.items():
        assert_close(got, right[name])


@pytest.mark.parametrize("place", [0.0, 1.0, -1.0, 2.0, 0.5 / 6, 5.5 / 6, -0.5 / 6, 6.5 / 6, 1e30, -1e30])
@pytest.mark.parametrize("axis", [0, 1])
def test_borders_and_far_outside(emulator, axis, place):
    value, _, locations, weights, grad_output = draw(3, torch.float64, 8, levels=1, queries=5)
    shapes = [(6, 6)]
    value = torch.randn(value.shape[0], 36, *value.shape[2:], dtype=torch.float64)
    locations[..., axis] = place
    loops = ms_deform_attn(value, shapes, None, locations, weights, backend="loops")
    assert torch.allclose(emulator.forward(value, shapes, locations, weights), loops, rtol=0, atol=1e-13)
    right = exact(value, shapes, locations, weights, grad_output)
    for deterministic in (False, True):
        got = emulator.backward(value, shapes, locations, weights, grad_output, deterministic=deterministic)
        assert torch.allclose(got["value"], right["value"], rtol=0, atol=1e-13)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_a_location_that_is_not_finite_shows_in_its_own_results_only(emulator, wrong):
    value, shapes, locations, weights, grad_output = draw(4, torch.float32, 8, batch=2, queries=5, heads=2)
    clean = emulator.forward(value, shapes, locations, weights)
    clean_gradients = emulator.backward(value, shapes, locations, weights, grad_output, deterministic=True)
    locations[1, 2, 1, 0, 0, 0] = wrong
    output = emulator.forward(value, shapes, locations, weights)
    broken = torch.zeros_like(output, dtype=torch.bool).unflatten(2, (2, 8))
    broken[1, 2, 1] = True
    assert output.isnan().equal(broken.flatten(2))
    assert output[~broken.flatten(2)].equal(clean[~broken.flatten(2)])
    for deterministic in (False, True):
        got = emulator.backward(value, shapes, locations, weights, grad_output, deterministic=deterministic)
        assert got["value"].isfinite().all()
        assert got["weights"].isnan().sum() == 1 and got["weights"][1, 2, 1, 0, 0].isnan()
        assert got["points"].isnan().sum() == 2 and got["points"][1, 2, 1, 0, 0].isnan().all()
        kept = ~got["weights"].isnan()
        assert got["weights"][kept].equal(clean_gradients["weights"][kept])


def test_a_value_is_read_where_it_lies(emulator):
    """Heads before tokens, and a slice of a wider tensor: strides, and addresses that no 16-byte vector fits."""
    value, shapes, locations, weights, grad_output = draw(5, torch.float32, 8, heads=2)
    plain = emulator.forward(value, shapes, locations, weights)
    heads_first = value.transpose(1, 2).contiguous().transpose(1, 2)
    wider = torch.cat((value, value[..., :3]), dim=3)[..., :8]
    shifted = torch.cat((value[..., :1], value), dim=3)[..., 1:]
    right = emulator.backward(value, shapes, locations, weights, grad_output, deterministic=True)
    for other in (heads_first, wider, shifted):
        assert not other.is_contiguous()
        assert torch.allclose(emulator.forward(other, shapes, locations, weights), plain, rtol=0, atol=1e-6)
        got = emulator.backward(other, shapes, locations, weights, grad_output, deterministic=True)
        for name, gradient in got.items():
            assert torch.allclose(gradient, right[name], rtol=0, atol=1e-5)


def test_more_levels_than_a_kernel_s_parameters_hold(emulator):
    value, shapes, locations, weights, grad_output = draw(6, torch.float64, 4, levels=40, points=1, queries=3)
    right = exact(value, shapes, locations, weights, grad_output)
    assert_close(emulator.forward(value, shapes, locations, weights), right["output"])
    got = emulator.backward(value, shapes, locations, weights, grad_output, deterministic=True)
    for name, gradient in got.items():
        assert_close(gradient, right[name])


def test_no_points_give_zeros(emulator):
    value, shapes, locations, weights, grad_output = draw(8, torch.float32, 8, points=0)
    assert emulator.forward(value, shapes, locations, weights).eq(0).all()
    for deterministic in (False, True):
        got = emulator.backward(value, shapes, locations, weights, grad_output, deterministic=deterministic)
        assert got["value"].eq(0).all()


@pytest.mark.parametrize("kind", ["given", "boxes"])
def test_the_deterministic_gradient_has_the_same_bits_however_pictures_are_grouped(emulator, kind):
    value, shapes, points, weights, grad_output = draw(9, torch.float32, 8, batch=5, queries=9)
    references = references_for(kind, points, len(shapes))
    results = [
        emulator.backward(value, shapes, points, weights, grad_output, references, True, pictures)["value"]
        for pictures in (1, 2, 5, 1)
    ]
    assert all(result.equal(results[0]) for result in results[1:])


def test_sanitizers_find_nothing():
    runtime = [
        subprocess.run([*compiler_command(), f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        for name in ("libasan.so", "libubsan.so")
    ]
    libraries = [done.stdout.strip() for done in runtime]
    if not all(os.path.isabs(path) for path in libraries):
        pytest.skip("this compiler brings no sanitizers")
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, emulation.__file__, "--calls", "40"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "40 calls of each kernel, no finding" in done.stdout
