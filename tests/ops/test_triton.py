"""The Triton path: what is in its way, its place among the backends, its kernels compiled, and its results.

There may be no GPU here. The kernels' results are tested in Triton's interpreter, in a process of their own; that they
compile for real GPUs, and to what, needs none.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys

import pytest
import torch

import ddetr_lab.ops
from ddetr_lab.ops import available_backends, triton
from tests.conftest import ROOT

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (it comes with torch's CUDA packages)"
)


@needs_triton
def test_results_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops/triton_interpreted.py"]
    # Set and unset as by hand: pytest-xdist's variables would make the child a worker of this session.
    environment = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [*command, "-n", "0"],
        env={**environment, "TRITON_INTERPRET": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert re.search(r"^\d\d+ passed in", done.stdout, re.MULTILINE), done.stdout[-2000:]  # and none skipped


def pretend_triton(monkeypatch, installed: bool):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        triton.importlib.util,
        "find_spec",
        lambda name, *package: (installed or None) if name == "triton" else real(name, *package),
    )


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A machine that is looked at anew, with a GPU and all that Triton needs, until a test takes some of it away."""
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(triton.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(triton.torch.cuda, "is_available", lambda: True)
    pretend_triton(monkeypatch, installed=True)
    triton._missing_package.cache_clear()
    triton._gpu_problem.cache_clear()
    yield monkeypatch
    triton._missing_package.cache_clear()
    triton._gpu_problem.cache_clear()


def test_nothing_in_the_way_on_a_gpu(fresh):
    assert triton.triton_problem("cuda") is None
    assert triton.triton_problem(torch.device("cuda", 1)) is None


@pytest.mark.parametrize(
    ("device", "lacks", "message"),
    [
        ("cuda", "triton", "triton is not installed; on Linux `pip install triton`"),
        ("cuda", "GPU", "no GPU that torch can use; `ddetr-lab doctor` says why"),
        ("cuda", "compiler", "needs a C compiler .* apt install gcc"),
        ("cuda", "headers", r"needs Python's headers \(Python.h\).* apt install python3-dev"),
        ("cpu", "nothing", "run on a GPU; .* set TRITON_INTERPRET=1"),
        ("mps", "nothing", "for CUDA devices, not for 'mps'"),
    ],
)
def test_what_is_in_the_way_is_named_with_the_remedy(fresh, tmp_path, device, lacks, message):
    if lacks == "triton":
        pretend_triton(fresh, installed=False)
    elif lacks == "GPU":
        fresh.setattr(triton.torch.cuda, "is_available", lambda: False)
    elif lacks == "compiler":
        fresh.delenv("CC")
        fresh.setattr(triton.shutil, "which", lambda name: None)
    elif lacks == "headers":
        (tmp_path / "Python.h").unlink()
    assert re.search(message, triton.triton_problem(device))


@needs_triton
def test_the_interpreter_cannot_be_asked_for_too_late(fresh):
    import triton.language  # noqa: F401

    fresh.setenv("TRITON_INTERPRET", "1")
    assert re.search("imported before .* set it before Python starts", ddetr_lab.ops.triton_problem("cpu"))


def test_the_place_among_the_backends(fresh):
    assert "triton" not in available_backends("cpu")
    on_gpu = available_backends("cuda")
    assert set(on_gpu[: on_gpu.index("grid_sample")]) <= {"native", "triton"}
    assert on_gpu[on_gpu.index("triton") + 1] == "grid_sample"


def test_a_call_that_cannot_run_says_why(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    arguments = torch.zeros(1, 1, 1, 1), [(1, 1)], None, torch.zeros(1, 1, 1, 1, 1, 2), torch.zeros(1, 1, 1, 1, 1)
    with pytest.raises(ValueError, match="'triton' is not available on cpu, .*: .* set TRITON_INTERPRET=1"):
        ddetr_lab.ops.ms_deform_attn(*arguments, backend="triton")
    with pytest.raises(RuntimeError, match="ms_deform_attn_triton cannot run on cpu: .* set TRITON_INTERPRET=1"):
        triton.ms_deform_attn_triton(arguments[0], *arguments[1::2], arguments[4])


def compiled(name: str, capability: int, dtype: torch.dtype, folder) -> tuple[str, str]:
    """Compile a kernel for a GPU as a call of L = 4, P = 4, D = 32 would, and return its PTX and its resources."""
    import triton as real_triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ddetr_lab.ops import triton_kernels

    kernel = getattr(triton_kernels, name)
    real = torch.float64 if dtype == torch.float64 else torch.float32
    weights = torch.empty(2, 300, 8, 4, 4, dtype=real, device="meta")
    value = torch.empty(2, 85, 8, 32, dtype=dtype, device="meta")
    call = triton._Call(value, weights[..., None], weights, (8.0, 4.0, 2.0, 1.0), (8.0, 4.0, 2.0, 1.0))
    adds = triton.THREADS if capability < 90 else triton._adds(weights)
    rows, _ = call.blocks(adds if name == "value_gradient_kernel" else triton._loads(value))
    constants = {**call.constants, "BLOCK_Q": rows, "BLOCK_P": 4}
    names = {torch.float64: "*fp64", torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
    signature = {}
    for argument in kernel.arg_names:
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument in ("heights", "widths"):
            signature[argument] = ("fp32",) * 4
        elif argument in triton_kernels.CHANGING:
            signature[argument] = "i32"
        else:
            signature[argument] = names[dtype if argument in ("value", "output", "grad_output") else real]
    constants = {argument: number for argument, number in constants.items() if argument in signature}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, kind in enumerate(signature.values())
        if isinstance(kind, str) and kind.startswith("*")
    }
    warps = 1 if "in_order" in name else triton._warps(call)
    result = real_triton.compile(
        ASTSource(kernel, signature, constants, aligned),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps},
    )
    binary = folder / "kernel.cubin"
    binary.write_bytes(result.asm["cubin"])
    tool = real_triton.knobs.nvidia.cuobjdump.path
    listing = subprocess.run([tool, "-res-usage", str(binary)], capture_output=True, text=True, check=True)
    return result.asm["ptx"], listing.stdout


@needs_triton
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("forward_kernel", torch.float32),
        ("forward_kernel", torch.bfloat16),
        ("sample_gradients_kernel", torch.float32),
        ("value_gradient_kernel", torch.float32),
        ("value_gradient_in_order_kernel", torch.float32),
    ],
)
def test_kernels_compile_without_spills_and_with_wide_loads(name, dtype, capability, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    ptx, resources = compiled(name, capability, dtype, tmp_path)
    assert f".target sm_{capability}" in ptx
    assert re.search(r"STACK:0 .*LOCAL:0", resources), resources  # spilled registers would lie there
    wide = len(re.findall(r"ld\.global\.v4\.b32", ptx))
    if name in ("forward_kernel", "sample_gradients_kernel"):
        assert wide >= 4 * 4  # four points are under way at once, with four corners each
    if name == "value_gradient_kernel":
        adds = set(re.findall(r"atom\.global\.gpu\.relaxed\.add[.\w]*", ptx))
        assert adds == {"atom.global.gpu.relaxed.add" + (".v4.f32" if capability >= 90 else ".f32")}
    if name in ("forward_kernel", "value_gradient_kernel"):
        assert "shared" not in ptx and "bar.sync" not in ptx  # no tile is turned around between threads
    if name == "value_gradient_in_order_kernel":
        assert "bar.sync" in ptx or "bar.warp.sync" in ptx  # one sample's additions after the other's
