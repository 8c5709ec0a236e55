"""Compiles csrc/cuda for every known architecture and prints seconds, registers and spills: ``make cuda-compile``.

Needs nvcc and no GPU. Any warning is an error, and so is a spill of more than a few registers in a kernel that speed
hangs on.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ddetr_lab.ops.build import TORCH_TARGET_VERSION, source_folder
from ddetr_lab.ops.cuda_toolkit import (
    KNOWN_ARCHITECTURES,
    Toolkit,
    cuda_commands,
    find_toolkit,
    parse_architectures,
)

# Bytes: some registers, written and read once. To keep them, too, would cost a kernel a third of its warps.
FEW = 64
# Wide vectors of float32 and 16-bit values, locations given or made inside: what a detector runs.
HOT = re.compile(r"(forward|backward)_kernel<(float, 4|c10::Half, 8|c10::BFloat16, 8),")


def compile_all(architectures: tuple[str, ...], folder: Path) -> str:
    """Compile everything and return what ptxas said."""
    from torch.utils.cpp_extension import include_paths

    toolkit = find_toolkit()
    if not isinstance(toolkit, Toolkit):
        raise SystemExit(toolkit)
    includes = [flag for path in include_paths() for flag in ("-isystem", path)]
    flags = ["-std=c++20", "-O2", "-fPIC", "-Wall", "-Wextra", "-Werror", *includes]
    flags.append(f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}")
    commands = cuda_commands(
        toolkit, architectures, ["c++"], flags, includes, source_folder(), folder, ["-Xptxas", "-v"]
    )

    def run(command: list[str]) -> str:
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
        print(f"{time.perf_counter() - started:6.1f} s  {Path(command[-1]).stem}", flush=True)
        return done.stderr

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return "".join(pool.map(run, commands))


def kernels_of(log: str) -> list[tuple[str, str, int, int]]:
    """Read (architecture, kernel, registers, bytes spilled) out of ptxas's words."""
    found = re.findall(
        r"Compiling entry function '(\S+)' for '(\S+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers",
        log,
        re.DOTALL,
    )
    names = subprocess.run(
        ["c++filt"], input="\n".join(mangled for mangled, *_ in found), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    kernels = []
    for (_, architecture, stores, loads, registers), name in zip(found, names, strict=True):
        short = re.sub(r"ddetr::cuda::|\(anonymous namespace\)::|void ", "", name).split("(")[0]
        kernels.append((architecture, short, int(registers), int(stores) + int(loads)))
    return kernels


def main() -> int:
    """Compile, print the table, and return 1 if a hot kernel spills more than a few registers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuda-arch", default=",".join(KNOWN_ARCHITECTURES), metavar="LIST")
    architectures = parse_architectures(parser.parse_args().cuda_arch)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        kernels = kernels_of(compile_all(architectures, Path(folder)))
    ours = sorted(kernel for kernel in kernels if not kernel[1].startswith("cub::"))
    for architecture, name, registers, spilled in ours:
        print(f"{architecture:>7}  {registers:3} registers  {spilled:4} bytes spilled  {name}")
    spilling = [kernel for kernel in ours if kernel[3] > FEW and HOT.match(kernel[1])]
    print(
        f"{len(ours)} kernels for sm_{', sm_'.join(architectures)} without a warning in "
        f"{time.perf_counter() - started:.0f} s; {sum(1 for kernel in ours if kernel[3])} spill at all, "
        f"of the hot ones {len(spilling)} more than {FEW} bytes"
    )
    return 1 if spilling else 0


if __name__ == "__main__":
    sys.exit(main())
