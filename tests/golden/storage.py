"""Where golden numbers lie and how they are read and written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

__all__ = ["DATA", "read_arrays", "read_facts", "shape_text", "write_arrays", "write_facts"]

DATA = Path(__file__).parent / "data"


def shape_text(shape: list[int]) -> str:
    """Write a shape as ``64x3x7x7``; a scalar's is empty."""
    return "x".join(map(str, shape))


def read_arrays(name: str) -> dict[str, np.ndarray]:
    """Read ``data/<name>.safetensors``."""
    return load_file(DATA / f"{name}.safetensors")


def write_arrays(name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write ``data/<name>.safetensors``, keys in order, so that equal numbers give equal bytes."""
    DATA.mkdir(exist_ok=True)
    save_file({key: np.asarray(arrays[key], order="C") for key in sorted(arrays)}, DATA / f"{name}.safetensors")


def read_facts(name: str) -> dict[str, Any]:
    """Read ``data/<name>.json``."""
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


def write_facts(name: str, facts: Mapping[str, Any]) -> None:
    """Write ``data/<name>.json``."""
    DATA.mkdir(exist_ok=True)
    (DATA / f"{name}.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
