"""Compiles csrc/cuda's kernels for the CPU (cuda_emulation.h) and calls them with tensors, as the CUDA operators would.

Run as a script it is the sanitizers' program: random calls of every kind, under AddressSanitizer and UBSan.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from ddetr_lab.ops.build import cache_folder, compiler_command, source_folder
from ddetr_lab.ops.cuda_toolkit import CUDA_ELEMENTS

HERE = Path(__file__).resolve().parent
SANITIZE = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Arguments(ctypes.Structure):
    """``ddetr::cuda::Arguments`` of csrc/cuda/kernels.h."""

    _fields_ = [
        ("value", ctypes.c_void_p),
        ("points", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("references", ctypes.c_void_p),
        ("boxes", ctypes.c_bool),
        ("grad_output", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("grad_value", ctypes.c_void_p),
        ("grad_points", ctypes.c_void_p),
        ("grad_weights", ctypes.c_void_p),
        ("grad_references", ctypes.c_void_p),
    ]


def build(flags: Sequence[str] = ()) -> Path:
    """Compile the emulated kernels, once for these sources and flags, and return the library's path."""
    from torch.utils.cpp_extension import include_paths

    sources = source_folder()
    digest = hashlib.sha256(" ".join([torch.__version__, *flags]).encode())
    for path in sorted([*sources.rglob("*"), *HERE.glob("*.h"), *HERE.glob("*.cpp")]):
        if path.is_file():
            digest.update(path.read_bytes())
    library = cache_folder() / f"emulated-{digest.hexdigest()[:16]}.so"
    if library.is_file():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    common = [
        *compiler_command(),
        "-std=c++20",
        "-O1",
        "-fPIC",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unknown-pragmas",
        "-DDDETR_EMULATED",
    ]
    common += [*flags, "-I", str(HERE)]
    for folder in include_paths():
        common += ["-isystem", folder]
    with tempfile.TemporaryDirectory(dir=library.parent, prefix="emulating-") as folder:
        commands = [[*common, "-c", str(HERE / "emulated.cpp"), "-o", f"{folder}/emulated.o"]]
        commands.append([*common, "-c", "-x", "c++", str(sources / "cuda" / "ladder.cu"), "-o", f"{folder}/ladder.o"])
        for name, element in CUDA_ELEMENTS.items():
            defined = [f"-DDDETR_ELEMENT={element}", f"-DDDETR_KERNELS={name}_kernels"]
            kernels = ["-x", "c++", str(sources / "cuda" / "kernels.cu")]
            commands.append([*common, *defined, "-c", *kernels, "-o", f"{folder}/{name}.o"])
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        finished = Path(folder) / library.name
        _run([*compiler_command(), "-shared", *flags, "-o", str(finished), *(command[-1] for command in commands)])
        os.replace(finished, library)
    return library


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-3000:]}")


class Emulator:
    """The CUDA operators on the CPU."""

    def __init__(self, flags: Sequence[str] = ()) -> None:
        self.library = ctypes.CDLL(str(build(flags)))
        self.library.ddetr_emulate.restype = ctypes.c_char_p

    def _call(self, what: int, value: Tensor, shapes: Sequence, like: Tensor, pictures: int = 1, **tensors) -> None:
        batch, tokens, heads, channels = value.shape
        sizes = (batch, tokens, heads, channels, like.shape[1], len(shapes), like.shape[4], *value.stride()[:3])
        assert value.stride(3) == 1
        flat = [side for shape in shapes for side in shape]
        references = tensors.get("references")
        pointers = {name: tensor.data_ptr() for name, tensor in tensors.items() if tensor is not None}
        arguments = Arguments(
            value=value.data_ptr(), boxes=references is not None and references.shape[-1] == 4, **pointers
        )
        error = self.library.ddetr_emulate(
            what,
            DTYPES.index(value.dtype),
            (ctypes.c_int64 * len(sizes))(*sizes),
            (ctypes.c_int32 * len(flat))(*flat),
            int(len(shapes) <= 32),
            arguments,
            pictures,
        )
        if error:
            raise RuntimeError(error.decode())

    def forward(
        self, value: Tensor, shapes: Sequence, points: Tensor, weights: Tensor, references: Tensor | None = None
    ) -> Tensor:
        """Run the forward kernel; with references, the fused one."""
        output = torch.full((value.shape[0], points.shape[1], value.shape[2] * value.shape[3]), torch.nan).to(value)
        self._call(0, value, shapes, points, points=points, weights=weights, references=references, output=output)
        return output

    def backward(
        self,
        value: Tensor,
        shapes: Sequence,
        points: Tensor,
        weights: Tensor,
        grad_output: Tensor,
        references: Tensor | None = None,
        deterministic: bool = False,
        pictures: int = 1,
    ) -> dict[str, Tensor]:
        """Run the backward kernels and return the gradients by name."""
        real = torch.float64 if value.dtype == torch.float64 else torch.float32
        gradients = {
            "value": torch.zeros(value.shape, dtype=real),
            "points": torch.full_like(points, torch.nan),
            "weights": torch.full_like(weights, torch.nan),
        }
        if references is not None:
            gradients["references"] = torch.full_like(references, torch.nan)
        given = {"points": points, "weights": weights, "references": references, "grad_output": grad_output}
        outputs = {f"grad_{name}": tensor for name, tensor in gradients.items()}
        if deterministic:
            del outputs["grad_value"]
        self._call(1, value, shapes, points, **given, **outputs)
        if deterministic:
            gradients["value"] = torch.full(value.shape, torch.nan).to(value.dtype)
            self._call(2, value, shapes, points, pictures, **given, grad_value=gradients["value"])
        return gradients

    def ladder(
        self, value: Tensor, shapes: Sequence, locations: Tensor, weights: Tensor, grad_output: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the naive kernels: the result, and the gradients by name."""
        output = torch.full_like(grad_output, torch.nan)
        given = {"points": locations, "weights": weights}
        self._call(3, value, shapes, locations, **given, output=output)
        tensors = {"value": value, "points": locations, "weights": weights}
        gradients = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        outputs = {f"grad_{name}": tensor for name, tensor in gradients.items()}
        self._call(4, value, shapes, locations, **given, grad_output=grad_output, **outputs)
        return output, gradients


def random_call(generator: torch.Generator, dtype: torch.dtype, channels: int, spread: float = 0.4, **sizes: int):
    """Draw a call: value, shapes, locations, weights, and the gradient of the result."""

    def number(name: str, low: int, high: int) -> int:
        return sizes.get(name, int(torch.randint(low, high + 1, (), generator=generator)))

    levels = number("levels", 1, 4)
    shapes = [tuple(torch.randint(1, 7, (2,), generator=generator).tolist()) for _ in range(levels)]
    batch, queries, heads = number("batch", 1, 2), number("queries", 1, 9), number("heads", 1, 3)
    points = number("points", 1, 5)
    real = torch.float64 if dtype == torch.float64 else torch.float32
    tokens = sum(height * width for height, width in shapes)
    value = torch.randn(batch, tokens, heads, channels, generator=generator, dtype=torch.float64).to(dtype)
    grid = (batch, queries, heads, levels, points)
    locations = torch.rand(*grid, 2, generator=generator, dtype=real) * (1 + 2 * spread) - spread
    weights = torch.rand(grid, generator=generator, dtype=real)
    grad_output = torch.randn(batch, queries, heads * channels, generator=generator, dtype=torch.float64).to(dtype)
    return value, shapes, locations, weights, grad_output


def main() -> int:
    """Run random calls of every kernel; a sanitizer ends the program at its first finding."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--calls", type=int, default=60)
    calls = parser.parse_args().calls
    emulator = Emulator(SANITIZE)
    generator = torch.Generator().manual_seed(0)
    for index in range(calls):
        dtype = DTYPES[index % 4]
        channels = (1, 2, 3, 4, 8, 13, 16, 24, 32, 40)[index % 10]
        value, shapes, points, weights, grad_output = random_call(generator, dtype, channels)
        if index % 7 == 0:
            points.view(-1)[0] = float("nan")
        if index % 5 == 0:
            points *= 1e20
        references = None
        if index % 3:
            references = torch.rand(*points.shape[:2], len(shapes), 2 * (index % 3), generator=generator).to(points)
        emulator.forward(value, shapes, points, weights, references)
        for deterministic in (False, True):
            emulator.backward(value, shapes, points, weights, grad_output, references, deterministic)
    print(f"{calls} calls of each kernel, no finding")
    return 0


if __name__ == "__main__":
    sys.exit(main())
