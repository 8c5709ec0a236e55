"""Read tensors from a file without running anything in it, and write them.

Built in chapter 12.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddetr_lab.files import find_file

__all__ = [
    "WEIGHT_FILES",
    "contiguous_copy",
    "read_pickle",
    "read_safetensors",
    "read_weights",
    "write_pickle",
    "write_safetensors",
]

# What a folder may call its weights, safest first; an index lists the files of a checkpoint in several parts.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def read_weights(
    name_or_path: str | os.PathLike[str], use_safetensors: bool | None = None, **hub_options: Any
) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint, in one file or several, on the CPU.

    Args:
        name_or_path: see ``ddetr_lab.files.find_file``.
        use_safetensors: True reads only safetensors, False only ``.bin``, None takes safetensors if they are there.
        **hub_options: see ``ddetr_lab.files.HubOptions``.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if one is damaged, or holds pickled code, which is never run.
    """
    wanted = {None: WEIGHT_FILES, True: WEIGHT_FILES[:2], False: WEIGHT_FILES[2:]}[use_safetensors]
    path = find_file(name_or_path, *wanted, **hub_options)
    if path.suffix != ".json":
        return _read_part(path)
    weight_map = _read_index(path)
    state: dict[str, Tensor] = {}
    for part in sorted(set(weight_map.values())):
        state |= _read_part(find_file(name_or_path, part, **hub_options))
    lost = sorted(set(weight_map) - set(state))
    if lost:
        raise ValueError(
            f"{path} lists {len(lost)} tensors that no part holds, first {lost[0]}: a part is of another run"
        )
    return state


def _read_part(path: Path) -> dict[str, Tensor]:
    return read_safetensors(path) if path.suffix == ".safetensors" else _only_tensors(read_pickle(path), path)


def _read_index(path: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        parts = set(weight_map.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no index of a checkpoint: expected JSON with a weight_map ({error})") from error
    for part in parts:
        # The index came with the weights: it may name files beside it, not files elsewhere on this machine.
        if not isinstance(part, str) or Path(part).name != part or not part.endswith((".safetensors", ".bin")):
            raise ValueError(f"{path} names the part {part!r}, expected a .safetensors or .bin file in the same folder")
    return weight_map


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a safetensors file, which can hold nothing but tensors and text.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is empty, cut off or otherwise damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    size = Path(path).stat().st_size
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} ({size} bytes) is no whole safetensors file: {error}. Copy or download it again; a download "
            "through git without git-lfs leaves a text of about 130 bytes in its place"
        ) from error


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Read what ``torch.save`` wrote, tensors and plain containers only (``weights_only=True``).

    ``argparse.Namespace`` is let through as well, as training scripts keep their options in one: it holds attributes
    and runs nothing.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or needs code to be read, which is never run.
    """
    size = Path(path).stat().st_size
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # on pickle protocols, just before the error on what they led to
            return torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
        struct.error,
    ) as error:
        # A damaged pickle fails wherever its first wrong byte leads the reader. torch's own text advises to switch the
        # protection off, so only what it found is handed on.
        code = _CODE.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if code:
            raise ValueError(
                f"{path} needs code to be read ({code[1]}), which is never run here: a checkpoint is tensors. "
                "If you trust its origin, load it elsewhere and save its state_dict as safetensors"
            ) from error
        found = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} ({size} bytes) is no whole PyTorch file: {found[:200]}") from error


_CODE = re.compile(r"(?:GLOBAL|unsupported class|unrecognized function|object of type) (\S+)")


def _only_tensors(state: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise ValueError(f"{path} holds a {type(state).__name__}, expected a dict from name to tensor")
    other = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if "model" in other:
        raise ValueError(
            f"{path} is a training script's file (it has {', '.join(list(state)[:5])}): "
            "use DeformableDetrForObjectDetection.from_authors(path)"
        )
    if other:
        raise ValueError(f"{path} has {other[0]!r}, a {type(state[other[0]]).__name__}, expected tensors only")
    return dict(state)


def contiguous_copy(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return a tensor as a file holds it: on the CPU, contiguous, with storage of its own, floats cast to ``dtype``.

    Raises:
        ValueError: if the cast turns a finite number into infinity.
    """
    copy = tensor.detach()
    if dtype is not None and copy.is_floating_point():
        copy = copy.to(dtype)
        if torch.isinf(copy).any() and not torch.isinf(tensor).any():
            raise ValueError(f"{name} has values beyond the range of {dtype}: save it as torch.float32")
    copy = copy.cpu().contiguous()
    return copy.clone() if copy.untyped_storage().nbytes() != copy.nbytes else copy


def write_safetensors(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors to a safetensors file.

    Raises:
        OSError: if the file cannot be written, for example on a full disk.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(state), path, metadata={"format": "pt"})  # readers of the hub refuse a file that has no format
    except SafetensorError as error:
        raise OSError(f"could not write {path}: {error}") from error


def write_pickle(content: Any, path: Path) -> None:
    """Write tensors and plain containers as ``torch.save`` does.

    Raises:
        OSError: if the file cannot be written, for example on a full disk.
    """
    try:
        torch.save(content, path)
    except RuntimeError as error:  # what torch's zip writer makes of a failed write
        raise OSError(f"could not write {path}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
