"""What there is to compile csrc/cuda with, what for, and the commands that do it.

Built in chapter 9.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = [
    "CUDA_ELEMENTS",
    "KNOWN_ARCHITECTURES",
    "Toolkit",
    "cuda_commands",
    "cuda_link_flags",
    "find_toolkit",
    "gpu_architectures",
    "parse_architectures",
]

# What the kernels are compiled for without warnings: `make cuda-compile` does it.
KNOWN_ARCHITECTURES = ("75", "80", "86", "90", "100", "120")

# The dtypes of value that csrc/cuda/kernels.cu is compiled for, and the types that it calls them by.
CUDA_ELEMENTS = {"float64": "double", "float32": "float", "float16": "Half", "bfloat16": "BFloat16"}


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit: its folder and its version, such as (13, 0)."""

    home: Path
    version: tuple[int, int]

    @property
    def nvcc(self) -> str:
        """The path of its compiler."""
        return str(self.home / "bin" / "nvcc")


def find_toolkit() -> Toolkit | str:
    """Find the CUDA toolkit: in ``$CUDA_HOME``, by nvcc on the PATH, or in /usr/local/cuda.

    Returns:
        The toolkit, or what is in the way and what to do. PyTorch and nvcc must agree in CUDA's major version: the
        two share streams and memory, and the driver that runs the one may be too old for the other.
    """
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA: install one with it (pytorch.org says how)"
    homes = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    on_path = shutil.which("nvcc")
    if on_path:
        homes.append(Path(on_path).resolve().parents[1])
    homes.append(Path("/usr/local/cuda"))
    for home in homes:
        # A script named nvcc on the PATH has no headers beside it: the next place may.
        if (home / "bin" / "nvcc").is_file() and (home / "include" / "cuda_runtime.h").is_file():
            return _toolkit_in(home)
    return (
        "there is no CUDA toolkit (nvcc with its headers) in $CUDA_HOME, on the PATH or in /usr/local/cuda: "
        "install it, or set CUDA_HOME"
    )


def _toolkit_in(home: Path) -> Toolkit | str:
    """Ask a toolkit for its version, and hold it against the one that this PyTorch is built for."""
    nvcc = str(home / "bin" / "nvcc")
    done = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"release (\d+)\.(\d+)", done.stdout)
    if found is None:
        return f"{nvcc} does not tell its version (exit code {done.returncode}): set CUDA_HOME to a whole CUDA toolkit"
    version = (int(found[1]), int(found[2]))
    wanted = str(torch.version.cuda)
    if version[0] != int(wanted.split(".")[0]):
        return (
            f"{nvcc} is of CUDA {version[0]}.{version[1]}, but this PyTorch is built for CUDA {wanted}: the major "
            "versions must agree; set CUDA_HOME to another toolkit, or install another PyTorch"
        )
    return Toolkit(home, version)


def parse_architectures(text: str) -> tuple[str, ...]:
    """Turn ``75,80,90`` or ``TORCH_CUDA_ARCH_LIST``'s ``7.5;8.0 9.0+PTX`` into ("75", "80", "90").

    Raises:
        ValueError: if a part is no architecture; the message has the part and an example.
    """
    found = set()
    for part in re.split(r"[,;\s]+", text.strip()):
        match = re.fullmatch(r"(?:sm_)?(\d{1,2})\.?(\d)[af]?(?:\+PTX)?", part)
        if match is None:
            raise ValueError(f"{part!r} in {text!r} is no CUDA architecture: write 80,90 or 8.0;9.0")
        found.add(int(match[1] + match[2]))
    return tuple(str(number) for number in sorted(found))


def gpu_architectures() -> tuple[str, ...]:
    """Name the architectures to compile for when none are asked for: ``$TORCH_CUDA_ARCH_LIST``, else the GPUs here.

    Raises:
        ValueError: if the variable is not understood.
    """
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if listed:
        return parse_architectures(listed)
    if torch.version.cuda is None or not torch.cuda.is_available():
        return ()
    capabilities: Sequence[tuple[int, int]] = [
        torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())
    ]
    return tuple(str(number) for number in sorted({10 * major + minor for major, minor in capabilities}))


def _targets(architectures: Sequence[str]) -> list[str]:
    """Ask for machine code for each, and the last one's portable code: the driver compiles that for later GPUs."""
    flags = []
    for number in architectures:
        code = f"[compute_{number},sm_{number}]" if number == architectures[-1] else f"sm_{number}"
        flags += ["-gencode", f"arch=compute_{number},code={code}"]
    return flags


def cuda_commands(
    toolkit: Toolkit,
    architectures: Sequence[str],
    compiler: Sequence[str],
    cpp_flags: Sequence[str],
    includes: Sequence[str],
    sources: Path,
    objects: Path,
    extra: Sequence[str] = (),
) -> list[list[str]]:
    """Return the commands that compile ``csrc/cuda``, each ending in its object file. Any warning is an error.

    Args:
        toolkit: from :func:`find_toolkit`.
        architectures: such as ("80", "90").
        compiler: the C++ compiler's command.
        cpp_flags: its flags, include folders among them.
        includes: include flags alone, for nvcc.
        sources: ``csrc``.
        objects: the folder for object files.
        extra: more flags for nvcc.
    """
    nvcc = [toolkit.nvcc, "-std=c++20", "-O3", "-Werror", "all-warnings", *_targets(architectures), *includes, *extra]
    nvcc += ["-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra"]
    if len(compiler) == 1:  # nvcc wants a program, and CXX may be "ccache g++"
        nvcc += ["-ccbin", compiler[0]]
    commands = []
    for name, element in CUDA_ELEMENTS.items():
        defined = [f"-DDDETR_ELEMENT={element}", f"-DDDETR_KERNELS={name}_kernels"]
        source = str(sources / "cuda" / "kernels.cu")
        commands.append([*nvcc, *defined, "-c", source, "-o", str(objects / f"cuda_{name}.o")])
    for name in ("sort", "ladder"):
        commands.append([*nvcc, "-c", str(sources / "cuda" / f"{name}.cu"), "-o", str(objects / f"cuda_{name}.o")])
    # The side that sees tensors is plain C++: only it meets PyTorch's headers, and only the C++ compiler meets it.
    host = [*compiler, *cpp_flags, "-DUSE_CUDA", "-isystem", str(toolkit.home / "include")]
    source = str(sources / "cuda" / "ms_deform_attn_cuda.cpp")
    commands.append([*host, "-c", source, "-o", str(objects / "cuda_ms_deform_attn.o")])
    return commands


def cuda_link_flags(toolkit: Toolkit) -> list[str]:
    """Return what the library links: the CUDA runtime statically, so that it runs with whichever one PyTorch brings."""
    folders = [toolkit.home / "lib64", toolkit.home / "lib"]
    return [f"-L{folder}" for folder in folders] + ["-lcudart_static", "-ltorch_cuda", "-ldl", "-lpthread", "-lrt"]
