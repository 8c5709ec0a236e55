"""Finding nvcc and what to compile for: each thing in the way is named with its remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddetr_lab.ops import cuda_toolkit


@pytest.fixture
def toolkit(tmp_path, monkeypatch):
    """Return a function that makes a toolkit of some version, the only one to be found."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setattr(cuda_toolkit.torch.version, "cuda", "13.0")

    def make(version: str) -> Path:
        for name in ("bin", "include"):
            (tmp_path / name).mkdir()
        nvcc = tmp_path / "bin" / "nvcc"
        nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {version}, V{version}.1'\n")
        nvcc.chmod(0o755)
        (tmp_path / "include" / "cuda_runtime.h").touch()
        monkeypatch.setenv("CUDA_HOME", str(tmp_path))
        return tmp_path

    return make


def test_a_toolkit_is_found_with_its_version(toolkit):
    home = toolkit("13.1")
    found = cuda_toolkit.find_toolkit()
    assert found == cuda_toolkit.Toolkit(home, (13, 1))
    assert found.nvcc == str(home / "bin" / "nvcc")


def test_another_major_version_than_pytorch_s_is_refused_with_both(toolkit):
    toolkit("12.8")
    problem = cuda_toolkit.find_toolkit()
    assert isinstance(problem, str)
    assert "CUDA 12.8" in problem and "CUDA 13.0" in problem and "set CUDA_HOME" in problem


def test_an_nvcc_that_tells_no_version_is_named(toolkit):
    home = toolkit("13.0")
    (home / "bin" / "nvcc").write_text("#!/bin/sh\nexit 3\n")
    problem = cuda_toolkit.find_toolkit()
    assert isinstance(problem, str) and "exit code 3" in problem and str(home) in problem


def test_without_a_toolkit_or_without_cuda_in_pytorch_the_remedy_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(cuda_toolkit.torch.version, "cuda", "13.0")
    monkeypatch.setattr(cuda_toolkit.Path, "is_file", lambda self: False)
    assert "set CUDA_HOME" in str(cuda_toolkit.find_toolkit())
    monkeypatch.setattr(cuda_toolkit.torch.version, "cuda", None)
    assert "without CUDA" in str(cuda_toolkit.find_toolkit())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", ("90",)),
        ("100,75,80", ("75", "80", "100")),
        ("7.5;8.0 9.0+PTX", ("75", "80", "90")),
        ("sm_90,9.0a", ("90",)),
        ("12.0", ("120",)),
    ],
)
def test_lists_of_architectures(text, expected, monkeypatch):
    assert cuda_toolkit.parse_architectures(text) == expected
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", text)
    assert cuda_toolkit.gpu_architectures() == expected


@pytest.mark.parametrize("text", ["Hopper", "9", "80,,x", "", "8.0.1"])
def test_what_is_no_architecture_is_named(text):
    with pytest.raises(ValueError, match="is no CUDA architecture: write 80,90"):
        cuda_toolkit.parse_architectures(text)


def test_without_a_gpu_nothing_is_compiled_for_one(monkeypatch):
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    monkeypatch.setattr(cuda_toolkit.torch.cuda, "is_available", lambda: False)
    assert cuda_toolkit.gpu_architectures() == ()


def test_gpus_of_two_kinds_are_both_compiled_for(monkeypatch):
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    monkeypatch.setattr(cuda_toolkit.torch.version, "cuda", "13.0")
    monkeypatch.setattr(cuda_toolkit.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda_toolkit.torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(cuda_toolkit.torch.cuda, "get_device_capability", lambda index: [(9, 0), (8, 0), (9, 0)][index])
    assert cuda_toolkit.gpu_architectures() == ("80", "90")


def test_the_commands_cover_every_dtype_and_treat_warnings_as_errors(tmp_path):
    commands = cuda_toolkit.cuda_commands(
        cuda_toolkit.Toolkit(tmp_path, (13, 0)), ("80", "90"), ["g++"], ["-O3"], [], tmp_path, tmp_path / "objects"
    )
    kernels = [command for command in commands if str(tmp_path / "cuda" / "kernels.cu") in command]
    assert len(kernels) == len(cuda_toolkit.CUDA_ELEMENTS) == 4
    for command in kernels:
        assert command[command.index("-Werror") + 1] == "all-warnings"
        assert "arch=compute_80,code=sm_80" in command and "arch=compute_90,code=[compute_90,sm_90]" in command
    assert len({command[-1] for command in commands}) == len(commands)
