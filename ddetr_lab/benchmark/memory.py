"""The memory of a call: how much it holds at its highest point, and what becomes of it when it is freed.

Used in chapter 9.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

__all__ = ["freed_memory_kept", "peak_memory"]

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
RESET_HIGH_WATER = "5"  # proc(5): sets VmHWM, the high-water mark of resident memory, back to what is resident now

# mallopt(3): parameters, the value that keeps what is freed, and the one that stands for what glibc does by itself.
TRIM_THRESHOLD, MMAP_MAX = -1, -4
KEEPING = ((TRIM_THRESHOLD, -1), (MMAP_MAX, 0))
USUAL = ((TRIM_THRESHOLD, 64 * 2**20), (MMAP_MAX, 65536))


def peak_memory(call: Callable[[], Any], device: str = "cpu") -> int | None:
    """Run a call once and return by how many bytes memory rose at its peak, its results included.

    On a CPU this is resident memory, as Linux counts it: memory that the allocator kept from an earlier call is handed
    back first, and code that is loaded during the call counts too. On a GPU it is what PyTorch allocated.

    Returns:
        Bytes, or None where the system does not tell (any but Linux, or a container that forbids the reset); the call
        has run even then.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    _return_freed_memory()
    known = _reset_high_water()
    start = _resident("VmRSS") if known else None
    call()
    top = _resident("VmHWM") if known else None
    return None if start is None or top is None else max(0, top - start)


def _return_freed_memory() -> None:
    """Hand what was freed back to the system (glibc keeps it); elsewhere there is nothing to ask."""
    trim = _c_library("malloc_trim")
    if trim is not None:
        trim(0)


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within, let the C library keep the memory of tensors that are freed for those that come after them.

    By itself glibc hands blocks of more than 32 MiB back to the system at once; each new one is then fetched, and
    zeroed, page by page. Code that makes many large tensors may spend half of its time so, and code that makes few
    hardly any: ratios between the two depend on a setting of the process, so a benchmark shows both.

    Raises:
        OSError: if the C library is not glibc, which alone can be told.
    """
    mallopt = _c_library("mallopt")
    if mallopt is None or not all(mallopt(*setting) for setting in KEEPING):
        raise OSError("only glibc, which most Linux systems have, can keep freed memory: run without --keep-memory")
    try:
        yield
    finally:
        for setting in USUAL:
            mallopt(*setting)
        _return_freed_memory()


def _c_library(name: str) -> Callable[..., int] | None:
    """Return a function of glibc; None where there is none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def _reset_high_water() -> bool:
    try:
        CLEAR.write_text(RESET_HIGH_WATER)
    except OSError:
        return False
    return True


def _resident(field: str) -> int | None:
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB$", STATUS.read_text(), re.M)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
