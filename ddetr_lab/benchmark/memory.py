"""The peak memory of one call: what a process or a GPU held more at the highest point than before.

Used in chapter 9.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = ["peak_memory"]

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
RESET_HIGH_WATER = "5"  # proc(5): sets VmHWM, the high-water mark of resident memory, back to what is resident now


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
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


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
