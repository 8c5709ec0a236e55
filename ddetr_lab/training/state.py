"""Run states: files from which a run goes on, written so that whatever happens a good one is left.

A state is two files with one number: tensors in safetensors, and a JSON with everything else and with the SHA-256 of
both. Nothing in them is ever executed. A state is there once its JSON is, and the JSON comes last:

1. the tensors are written beside their place, synced to disk, renamed, and the folder is synced;
2. the same with the JSON;
3. only now older states go; two are kept.

A process that is killed, a disk that is full and a folder that may not be written therefore leave what was there
before. Loading takes the newest state whose sums are right, and says so if that is not the last one.

Built in chapter 16.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ddetr_lab.checkpoint_files import contiguous_copy, read_safetensors, write_safetensors
from ddetr_lab.files import write_atomically

__all__ = ["RunState", "StateFolder"]

FORMAT = 1
KEPT = 2
_NAME = re.compile(r"state-(\d{6,})\.json")
_PICKLES = {b"\x80": "a pickle", b"PK": "a zip of pickles, as torch.save writes it"}


@dataclass(frozen=True)
class RunState:
    """What a state holds: tensors by name, and a dictionary of what JSON can hold."""

    tensors: dict[str, Tensor]
    content: dict[str, Any]
    path: Path


class StateFolder:
    """The states of one run, in a folder of their own.

    Args:
        folder: made by the first save.
        report: is told in a sentence when a damaged state is passed over.

    Built in chapter 16.
    """

    def __init__(self, folder: str | Path, report: Callable[[str], object] = lambda line: None) -> None:
        self.folder = Path(folder)
        self._report = report
        self._damaged: set[Path] = set()

    def paths(self) -> list[Path]:
        """Return the JSON files of the states that are there, oldest first."""
        if not self.folder.is_dir():
            return []
        found = {int(match[1]): entry for entry in self.folder.iterdir() if (match := _NAME.fullmatch(entry.name))}
        return [found[number] for number in sorted(found)]

    def save(self, tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> Path:
        """Write a state, and only then remove all but the last two.

        Args:
            tensors: by name; they are not changed.
            content: what JSON can hold, without NaN or infinity.

        Returns:
            The path of its JSON.

        Raises:
            OSError: if it cannot be written; the states that were there are as they were.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        before = self.paths()
        number = int(before[-1].stem.partition("-")[2]) + 1 if before else 1
        target = self.folder / f"state-{number:06d}.json"
        copies = {name: contiguous_copy(name, tensor, None) for name, tensor in tensors.items()}
        digest = ""

        def write_tensors(path: Path) -> None:
            nonlocal digest
            write_safetensors(copies, path)
            digest = _sha256_of_file(path)

        try:
            write_atomically(_tensors_of(target), write_tensors)
            _sync_folder(self.folder)
            body = {"format": FORMAT, "tensors_sha256": digest, "content": dict(content)}
            text = json.dumps({**body, "sha256": _sha256_of(body)}, allow_nan=False) + "\n"
            write_atomically(target, lambda path: path.write_text(text, encoding="utf-8"))
            _sync_folder(self.folder)
        except OSError as error:
            left = f"the last good state is {before[-1]}" if before else "there is no earlier state"
            text = f"could not save {target}: {error}; {left}"
            raise (OSError(text) if error.errno is None else OSError(error.errno, text)) from error
        self._tidy()
        return target

    def load(self) -> RunState:
        """Read the newest state that is whole.

        Raises:
            FileNotFoundError: if there is no state.
            ValueError: if none of them is whole; the message says what is wrong with each.
        """
        problems = []
        for path in reversed(self.paths()):
            try:
                state = self._read(path)
            except (ValueError, OSError) as error:
                problems.append(str(error))
                self._damaged.add(path)
                continue
            if problems:
                self._report(f"{'; '.join(problems)}. Going on from {path.name}, the newest state that is whole.")
            return state
        if problems:
            raise ValueError(f"no state in {self.folder} is whole: {'; '.join(problems)}")
        raise FileNotFoundError(f"{self.folder} has no state of a run; {_other_files(self.folder)}")

    def _read(self, path: Path) -> RunState:
        _refuse_pickle(path)
        try:
            stored = json.loads(path.read_bytes().decode("utf-8"))
            claimed = stored.pop("sha256")
            version, content, digest = stored["format"], stored["content"], stored["tensors_sha256"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path.name} is no run state: {type(error).__name__}: {str(error)[:100]}") from error
        if claimed != _sha256_of(stored) or not isinstance(content, dict):
            raise ValueError(f"{path.name} is damaged: its content does not give the SHA-256 that stands in it")
        if version != FORMAT:
            raise ValueError(f"{path.name} has format {version!r}, and this version of ddetr_lab reads {FORMAT}")
        weights = _tensors_of(path)
        if not weights.is_file():
            raise ValueError(f"{path.name} has lost its tensors: there is no {weights.name}")
        _refuse_pickle(weights)
        if _sha256_of_file(weights) != digest:
            raise ValueError(f"{weights.name} is damaged: it does not give the SHA-256 that stands in {path.name}")
        return RunState(read_safetensors(weights), content, path)

    def _tidy(self) -> None:
        """Remove states beyond the last good two, and what killed processes left unfinished."""
        paths = self.paths()
        kept = [path for path in paths if path not in self._damaged][-KEPT:]
        wanted = {name for path in kept for name in (path.name, _tensors_of(path).name)}
        # First the JSON, so that no state ever stands without its tensors.
        for entry in sorted(self.folder.iterdir(), key=lambda entry: entry.suffix != ".json"):
            if entry.name not in wanted and re.match(r"\.?state-\d{6,}\.", entry.name):
                entry.unlink(missing_ok=True)


def _tensors_of(path: Path) -> Path:
    return path.with_suffix(".safetensors")


def _sha256_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sha256_of(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sync_folder(folder: Path) -> None:
    """Bring a folder's names to disk: a renamed file is lost with the power until its folder is synced."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refuse_pickle(path: Path) -> None:
    with path.open("rb") as stream:
        start = stream.read(2)
    for magic, kind in _PICKLES.items():
        if start.startswith(magic):
            raise ValueError(
                f"{path.name} is {kind}, which can run any code when it is read: it is never opened. "
                "A run state is safetensors and JSON"
            )


def _other_files(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())[:5] if folder.is_dir() else []
    return f"it holds {', '.join(names)}" if names else "it is empty or missing"
