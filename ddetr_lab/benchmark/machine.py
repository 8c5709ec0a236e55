"""What a time depends on: the machine, the versions, the day.

Used in chapter 9.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

import ddetr_lab

__all__ = ["describe_machine", "describe_versions", "last_level_cache", "today"]

CPU_INFO = Path("/proc/cpuinfo")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def today() -> str:
    """Return the date and time in UTC, to the second, as ISO 8601."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def describe_machine(device: str = "cpu") -> dict[str, Any]:
    """Return the processor, its cores, caches and vector width, threads in use, and the GPU if one is used."""
    machine: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "caches": dict(sorted(_caches().items())),
    }
    if torch.device(device).type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        machine["gpu"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return machine


def describe_versions(distributions: list[str]) -> dict[str, str]:
    """Return the versions of Python, ddetr-lab, torch and the named distributions that are installed."""
    versions = {"python": platform.python_version(), "ddetr-lab": ddetr_lab.__version__, "torch": torch.__version__}
    if torch.version.cuda is not None:
        versions["cuda"] = torch.version.cuda
    for name in distributions:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def last_level_cache() -> int | None:
    """Return the bytes of the largest cache that the first core sees, or None where the system does not tell."""
    return max(_caches().values(), default=None)


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", CPU_INFO.read_text(), re.M)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _caches() -> dict[str, int]:
    """Return bytes by name ("L1d", "L2", "L3") of the caches that the first core uses."""
    caches = {}
    for folder in CACHES.glob("index*"):
        try:
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        number = re.fullmatch(r"(\d+)([KMG]?)", size)
        if number and kind != "Instruction":
            unit = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[number[2]]
            caches[f"L{level}{'d' if kind == 'Data' else ''}"] = int(number[1]) * unit
    return caches
