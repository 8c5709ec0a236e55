"""Compiling the operator's library from ``csrc/``: explicit, cached, and safe to interrupt.

Nothing here runs on import, and nothing compiles unless ``ddetr-lab build-ops`` (or ``make``) asks for it. The library
goes into the user's cache under a name made of a hash of the sources and torch's version, so that an edited source or
another torch never meets a stale library. The CUDA kernels are compiled into it for the GPUs that are here, or for
those that are asked for. A file lock lets a second build wait for the first; the operating system
releases it when its process ends, however that ends.

Built in chapter 8.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from ddetr_lab.files import locked
from ddetr_lab.ops.cuda_toolkit import Toolkit, cuda_commands, cuda_link_flags, find_toolkit, gpu_architectures

__all__ = ["BuildError", "build_library", "cache_folder", "compiler_command", "library_path", "source_folder"]

# The oldest torch whose stable ABI the sources use: 2.10, one byte a part.
TORCH_TARGET_VERSION = "0x020a000000000000"

# What is compiled once, beside the copies of cpu/kernels.cpp.
CPU_SOURCES = (
    "registration.cpp",
    "call.cpp",
    "cpu/dispatch.cpp",
    "cpu/plan.cpp",
    "cpu/ms_deform_attn_cpu.cpp",
    "cpu/pictures.cpp",
)

# The copies of the CPU kernels for a processor: their names, and the flags that make each what it is.
INSTRUCTION_SETS: dict[str, dict[str, list[str]]] = {
    "x86_64": {"baseline": [], "avx2": ["-march=haswell", "-mprfchw"], "avx512": ["-march=skylake-avx512"]},
    "aarch64": {"baseline": []},
    "arm64": {"baseline": []},
}


class BuildError(OSError):
    """The library could not be built; the message has the command, the compiler's last lines and the remedy."""


def source_folder() -> Path:
    """Return ``csrc/`` of the checkout that this package lies in.

    Raises:
        FileNotFoundError: if the package was installed without its checkout.
    """
    folder = Path(__file__).resolve().parents[2] / "csrc"
    if not (folder / "registration.cpp").is_file():
        raise FileNotFoundError(
            "the operator's sources (csrc/) are not beside this package: install it from a checkout with "
            "`pip install -e .`; without them the vectorised path runs"
        )
    return folder


def cache_folder() -> Path:
    """Return where libraries are kept: ``$DDETR_LAB_CACHE``, else ``ddetr_lab`` in the user's cache folder."""
    chosen = os.environ.get("DDETR_LAB_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ddetr_lab"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddetr_lab"


def extra_flags() -> list[str]:
    """Return the compiler flags in ``$DDETR_LAB_CXXFLAGS``, which come last: for sanitizers and experiments."""
    return shlex.split(os.environ.get("DDETR_LAB_CXXFLAGS", ""))


def library_path(architectures: Sequence[str] | None = None) -> Path:
    """Return the path that a library of these sources, for this torch and processor, has or would have.

    Args:
        architectures: of the GPUs that it is compiled for, such as ("80", "90"); () is a library for the CPU alone.
            None asks for the one to load: of those that are built the one for the most architectures.

    Raises:
        FileNotFoundError: if there are no sources.
    """
    digest = hashlib.sha256(f"{torch.__version__} {platform.machine()} {TORCH_TARGET_VERSION}".encode())
    digest.update(shlex.join(extra_flags()).encode())
    folder = source_folder()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".h", ".cpp", ".cu", ".cuh"):
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(path.read_bytes())
    stem = f"ddetr_ops-{digest.hexdigest()[:16]}"
    if architectures is None:
        built = sorted(cache_folder().glob(f"{stem}*.so"), key=lambda path: len(path.name))
        if built:
            return built[-1]
    return cache_folder() / ("-".join([stem, *(f"sm{number}" for number in architectures or ())]) + ".so")


def compiler_command() -> list[str]:
    """Return the C++ compiler as a command: ``$CXX``, else c++, g++ or clang++.

    Raises:
        BuildError: if there is none.
    """
    chosen = os.environ.get("CXX")
    if chosen:
        command = shlex.split(chosen)
        if not command or shutil.which(command[0]) is None:
            raise BuildError(f"CXX = {chosen!r} is no command here: set it to a C++ compiler, or unset it")
        return command
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise BuildError(
        "there is no C++ compiler (c++, g++ or clang++). Debian and Ubuntu: apt install g++; "
        "macOS: xcode-select --install. Without one the vectorised path runs"
    )


def _compile_commands(
    compiler: list[str], objects: Path, toolkit: Toolkit | None, architectures: Sequence[str]
) -> list[list[str]]:
    """Return the compile commands, which are independent of each other; each ends in its object file.

    Raises:
        BuildError: if the kernels have not been compiled for this kind of processor yet.
    """
    from torch.utils.cpp_extension import include_paths

    machine = platform.machine()
    if machine not in INSTRUCTION_SETS:
        raise BuildError(f"this processor is a {machine}, for which the kernels have not been compiled yet")
    sources = source_folder()
    flags = [
        "-std=c++20",
        "-O3",
        "-ffp-contract=fast",
        "-fno-trapping-math",
        "-fPIC",
        "-fvisibility=hidden",
        "-Wall",
        "-Wextra",
        "-Werror=return-type",
    ]
    flags.append(f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}")
    includes = [flag for folder in include_paths() for flag in ("-isystem", folder)]
    flags += extra_flags() + includes + (["-DDDETR_WITH_CUDA"] if toolkit else [])
    commands = []
    for source in CPU_SOURCES:
        target = objects / (Path(source).stem + ".o")
        commands.append([*compiler, *flags, "-c", str(sources / source), "-o", str(target)])
    for name, extra in INSTRUCTION_SETS[machine].items():
        source, target = str(sources / "cpu" / "kernels.cpp"), objects / f"kernels_{name}.o"
        commands.append([*compiler, *flags, *extra, f"-DDDETR_KERNELS={name}_kernels", "-c", source, "-o", str(target)])
    if toolkit:
        commands += cuda_commands(toolkit, architectures, compiler, flags, includes, sources, objects)
    return commands


def _link_command(compiler: list[str], objects: Sequence[str], library: Path, toolkit: Toolkit | None) -> list[str]:
    from torch.utils.cpp_extension import library_paths

    folders = [flag for folder in library_paths() for flag in ("-L", folder)]
    libraries = ["-ltorch", "-ltorch_cpu", "-lc10"] + (cuda_link_flags(toolkit) if toolkit else [])
    return [*compiler, *extra_flags(), "-shared", "-o", str(library), *objects, *folders, *libraries]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = "\n".join(done.stderr.strip().splitlines()[-15:])
        raise BuildError(
            f"the compiler failed with exit code {done.returncode}.\n  {shlex.join(command)}\n{last}\n"
            "It takes g++ 11 or clang 14 and later, for CUDA a g++ that nvcc knows. "
            "Until it is built the vectorised path runs"
        )


def _cuda_targets(asked: Sequence[str] | None, report: Callable[[str], None]) -> tuple[Toolkit | None, tuple[str, ...]]:
    """Return the toolkit and the architectures to compile CUDA with, or None and () to build for the CPU alone."""
    architectures = gpu_architectures() if asked is None else tuple(asked)
    if not architectures:
        return None, ()
    toolkit = find_toolkit()
    if isinstance(toolkit, Toolkit):
        return toolkit, architectures
    if asked is not None:
        raise BuildError(f"CUDA is asked for, but {toolkit}. `ddetr-lab build-ops --no-cuda` builds for the CPU alone")
    report(f"For the CPU alone, although there is a GPU: {toolkit}")
    return None, ()


def build_library(
    force: bool = False,
    report: Callable[[str], None] = lambda line: None,
    architectures: Sequence[str] | None = None,
) -> Path:
    """Build the library unless it is there, and return its path.

    Args:
        force: build it anew all the same.
        report: called with each command before it runs, and with what is left out.
        architectures: of the GPUs to compile the CUDA kernels for, such as ("80", "90"); () compiles none. None takes
            ``$TORCH_CUDA_ARCH_LIST``, else the GPUs that are here.

    Returns:
        The library's path. It is written beside and renamed, so that it is whole or not there.

    Raises:
        BuildError: if there is no compiler, or it fails; if CUDA is asked for and there is no toolkit.
        FileNotFoundError: if there are no sources.
        ValueError: if ``$TORCH_CUDA_ARCH_LIST`` is not understood.
        OSError: if the cache folder cannot be written.
    """
    toolkit, architectures = _cuda_targets(architectures, report)
    library = library_path(architectures)
    if library.is_file() and not force:
        return library
    if sys.platform == "win32":
        raise BuildError(
            "the operator is not built on Windows yet: use WSL, or the vectorised path, which runs as it is"
        )
    compiler = compiler_command()
    library.parent.mkdir(parents=True, exist_ok=True)
    with locked(library.with_suffix(".lock")):
        if library.is_file() and not force:  # another process was faster
            return library
        with tempfile.TemporaryDirectory(dir=library.parent, prefix="building-") as folder:
            finished = Path(folder) / library.name
            commands = _compile_commands(compiler, Path(folder), toolkit, architectures)
            link = _link_command(compiler, [command[-1] for command in commands], finished, toolkit)
            for command in [*commands, link]:
                report(shlex.join(command))
            with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
                list(pool.map(_run, commands))
            _run(link)
            os.replace(finished, library)
    return library
