"""Building the operator: cached, locked, atomic, and clear about what is in the way."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ddetr_lab.ops import build
from ddetr_lab.ops.cuda_toolkit import Toolkit


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A compiler that writes its target and counts its calls: the real one takes too long to call this often."""
    compiler = tmp_path / "toy-c++"
    log = tmp_path / "calls"
    compiler.write_text(
        f'#!/bin/sh\necho x >> "{log}"\nsleep "${{TOY_SLEEP:-0}}"\n'
        'while [ $# -gt 0 ]; do [ "$1" = -o ] && echo built > "$2"; shift; done\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("DDETR_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "gpu_architectures", lambda: ())  # also where there is a GPU
    return log


def calls(log) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_a_library_is_built_once_and_its_commands_are_reported(toy):
    lines: list[str] = []
    first = build.build_library(report=lines.append)
    assert first.read_text() == "built\n"
    assert calls(toy) == len(lines) > 3
    assert "-shared" in lines[-1]
    assert build.build_library(report=lines.append) == first
    assert calls(toy) == len(lines)
    build.build_library(force=True)
    assert calls(toy) == 2 * len(lines)


def test_nothing_is_left_but_the_library_and_the_lock(toy):
    library = build.build_library()
    assert sorted(path.name for path in library.parent.iterdir()) == [
        library.with_suffix(".lock").name,
        library.name,
    ]


def test_the_name_follows_the_sources_and_torch(tmp_path, monkeypatch):
    sources = tmp_path / "csrc"
    sources.mkdir()
    (sources / "registration.cpp").write_text("one")
    monkeypatch.setattr(build, "source_folder", lambda: sources)
    first = build.library_path()
    assert build.library_path() == first
    (sources / "registration.cpp").write_text("two")
    second = build.library_path()
    monkeypatch.setattr(build.torch, "__version__", "99.0")
    assert len({first, second, build.library_path()}) == 3


@pytest.mark.parametrize(
    ("value", "message"), [("no-such-compiler-here", "is no command here"), ("false", "failed with exit code 1")]
)
def test_a_compiler_that_does_not_work_is_named_with_the_remedy(value, message, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", value)
    monkeypatch.setenv("DDETR_LAB_CACHE", str(tmp_path))
    with pytest.raises(build.BuildError, match=message):
        build.build_library()
    assert not list(tmp_path.glob("*.so"))


def test_no_compiler_at_all_names_packages_to_install(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DDETR_LAB_CACHE", str(tmp_path))
    with pytest.raises(build.BuildError, match="apt install g"):
        build.build_library()


def test_without_sources_the_way_to_them_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "__file__", str(tmp_path / "site" / "ddetr_lab" / "ops" / "build.py"))
    with pytest.raises(FileNotFoundError, match="pip install -e"):
        build.library_path()


def test_an_unknown_processor_is_named(monkeypatch, toy):
    monkeypatch.setattr(build.platform, "machine", lambda: "riscv64")
    with pytest.raises(build.BuildError, match="riscv64"):
        build.build_library()


def test_a_second_build_waits_for_the_first_and_uses_its_library(toy, monkeypatch):
    library = build.library_path()
    library.parent.mkdir(parents=True)
    done: list[object] = []
    with library.with_suffix(".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        waiting = threading.Thread(target=lambda: done.append(build.build_library()))
        waiting.start()
        time.sleep(0.3)
        assert not done
        library.write_text("by the other one")
    waiting.join(timeout=20)
    assert done == [library]
    assert calls(toy) == 0


def test_a_build_that_is_killed_blocks_nobody(toy, tmp_path):
    environment = {**os.environ, "TOY_SLEEP": "60"}
    code = "from ddetr_lab.ops.build import build_library; build_library()"
    killed = subprocess.Popen([sys.executable, "-c", code], env=environment, start_new_session=True)
    for _ in range(600):
        if calls(toy):
            break
        time.sleep(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    library = build.library_path()
    assert not library.exists()
    started = time.monotonic()
    assert build.build_library() == library
    assert time.monotonic() - started < 30


@pytest.fixture
def toolkit(toy, tmp_path, monkeypatch):
    """A CUDA toolkit whose nvcc is the toy compiler."""
    home = tmp_path / "cuda"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "nvcc").symlink_to(os.environ["CXX"])
    found = Toolkit(home, (13, 0))
    monkeypatch.setattr(build, "find_toolkit", lambda: found)
    return found


def test_asked_for_architectures_are_compiled_and_are_in_the_name(toolkit):
    lines: list[str] = []
    library = build.build_library(report=lines.append, architectures=("80", "90"))
    assert library.name.endswith("-sm80-sm90.so")
    with_nvcc = [line for line in lines if line.startswith(toolkit.nvcc)]
    assert with_nvcc and all("arch=compute_80,code=sm_80" in line for line in with_nvcc)
    assert any("-DDDETR_WITH_CUDA" in line and "registration.cpp" in line for line in lines)
    assert "-lcudart_static" in lines[-1]


def test_a_gpu_that_is_here_is_compiled_for_unless_it_is_not_wanted(toolkit, monkeypatch):
    monkeypatch.setattr(build, "gpu_architectures", lambda: ("90",))
    assert build.build_library().name.endswith("-sm90.so")
    lines: list[str] = []
    assert "-sm" not in build.build_library(report=lines.append, architectures=()).name
    assert not any(line.startswith(toolkit.nvcc) or "-DDDETR_WITH_CUDA" in line for line in lines)


def test_the_library_that_is_loaded_is_the_one_for_the_most_gpus(toolkit):
    assert build.library_path() == build.library_path(())
    alone = build.build_library(architectures=())
    assert build.library_path() == alone
    for architectures in (("80", "90"), ("90",)):
        build.build_library(architectures=architectures)
    assert build.library_path() == build.library_path(("80", "90"))


def test_without_a_toolkit_a_gpu_is_left_out_aloud_and_a_wish_is_an_error(toy, monkeypatch):
    monkeypatch.setattr(build, "find_toolkit", lambda: "there is no CUDA toolkit")
    monkeypatch.setattr(build, "gpu_architectures", lambda: ("90",))
    lines: list[str] = []
    assert "-sm" not in build.build_library(report=lines.append).name
    assert lines[0] == "For the CPU alone, although there is a GPU: there is no CUDA toolkit"
    with pytest.raises(build.BuildError, match="there is no CUDA toolkit.*--no-cuda"):
        build.build_library(architectures=("90",))


def test_the_name_follows_cuda_sources_too(tmp_path, monkeypatch):
    sources = tmp_path / "csrc"
    (sources / "cuda").mkdir(parents=True)
    monkeypatch.setattr(build, "source_folder", lambda: sources)
    names = {build.library_path()}
    for name in ("kernels.cu", "shape.cuh"):
        (sources / "cuda" / name).write_text("new")
        names.add(build.library_path())
    assert len(names) == 3
