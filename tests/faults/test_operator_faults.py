"""Faults around the operator: what it needs is broken, memory runs out, threads and processes come in its way."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ddetr_lab.ops import ms_deform_attn
from ddetr_lab.ops.build import library_path
from tests.ops.problems import random_problem, results
from tests.ops.test_native import needs_native

SHAPES = [(6, 7), (3, 4)]


def run(code: str, **environment: str) -> str:
    """Run Python code in a process of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("content", [b"", b"no library"], ids=["empty", "text"])
def test_a_library_that_does_not_load_is_named_and_the_vectorised_path_runs(
    tmp_path, monkeypatch, content: bytes
) -> None:
    monkeypatch.setenv("DDETR_LAB_CACHE", str(tmp_path))
    library_path().write_bytes(content)
    printed = run(
        "import torch\n"
        "from ddetr_lab.ops import default_backend, ms_deform_attn\n"
        "from ddetr_lab.ops.native import native_problem\n"
        "print(native_problem())\n"
        "value, weights = torch.ones(1, 6, 1, 2), torch.ones(1, 1, 1, 1, 1)\n"
        "middle = torch.full((1, 1, 1, 1, 1, 2), 0.5)\n"
        "print(default_backend(), ms_deform_attn(value, [(2, 3)], None, middle, weights))\n"
    )
    assert "does not load" in printed and "`ddetr-lab build-ops --force` builds it anew" in printed
    assert "grid_sample tensor([[[1., 1.]]])" in printed


@needs_native
def test_a_result_that_does_not_fit_in_memory_is_an_error_and_no_end() -> None:
    channels = 2**45  # 128 TiB of result, from one number in memory
    one = torch.zeros(())
    with pytest.raises(RuntimeError, match="memory"):
        torch.ops.ddetr_lab.ms_deform_attn(
            one.expand(1, 1, 1, channels),
            torch.tensor([(1, 1)]),
            torch.tensor([0]),
            one.expand(1, 1, 1, 1, 1, 2),
            one.expand(1, 1, 1, 1, 1),
        )
    problem = random_problem(SHAPES, 1, 3, 2, 5, 2)
    output = ms_deform_attn(problem.value, SHAPES, None, problem.locations, problem.weights, backend="native")
    assert output.isfinite().all()


@needs_native
def test_threads_that_call_it_at_once_do_not_meet() -> None:
    problems = [random_problem(SHAPES, 2, 40, 2, channels, 3, torch.float32) for channels in (8, 13, 32, 64)]
    alone = [results(problem, "native") for problem in problems]
    with ThreadPoolExecutor(len(problems)) as pool:
        for _ in range(10):
            together = pool.map(lambda problem: results(problem, "native"), problems)
            for one, other in zip(together, alone, strict=True):
                assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@needs_native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_may_call_it_as_a_data_loader_s_worker_would() -> None:
    """After the parent has used two threads: a child inherits the pool's memory, but none of its threads."""
    printed = run(
        "import os, torch\n"
        "from tests.ops.problems import random_problem, results\n"
        "torch.set_num_threads(2)\n"
        "problem = random_problem([(6, 7)], 2, 200, 4, 16, 2, torch.float32)\n"
        "expected = results(problem, 'native')\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    torch.set_num_threads(1)\n"
        "    got = results(problem, 'native')[0]\n"
        "    os._exit(0 if torch.equal(got, expected[0]) else 3)\n"
        "print('the child ended with', os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n",
        PYTHONPATH=os.pathsep.join(sys.path),
    )
    assert "the child ended with 0" in printed
