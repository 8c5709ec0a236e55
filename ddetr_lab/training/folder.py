"""The folder of a run: what lies where, and that no run is lost to another.

::

    runs/digits/
      recipe.json               the recipe and the seed
      metrics.jsonl             a line every ten steps
      evaluations.jsonl         a line for each evaluation
      curves.png                both as curves
      config.json  model.safetensors  preprocessor_config.json  label_map.json    the last weights
      best/                     the same of the best weights so far
      state/                    the last two states that the run can go on from
      failed/                   the state before a step whose loss was not finite, if there was one
      result.json               the scores at the end

While a process trains there, ``.training.lock`` lies beside these, and keeps every other process out.

Built in chapter 16.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ddetr_lab.data.coco import ANNOTATION_FILES
from ddetr_lab.data.coco_table import read_json
from ddetr_lab.data.labels import LABEL_MAP_FILE, LabelMap
from ddetr_lab.files import locked, write_atomically
from ddetr_lab.recipe import RECORD, Recipe
from ddetr_lab.training.state import RunState, StateFolder

__all__ = ["RunFolder"]

_FILES = (
    "result.json",
    "metrics.jsonl",
    "evaluations.jsonl",
    "curves.png",
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    LABEL_MAP_FILE,
    "failure.json",
    RECORD,
)
_FOLDERS = ("state", "best", "failed")
# What a run may have left that was stopped before it saved anything: nothing is lost if it begins anew.
_BEGUN = (RECORD, "metrics.jsonl", "evaluations.jsonl", "failure.json", "state", "failed")


class RunFolder:
    """The folder of one run.

    Args:
        path: made by :meth:`claim`.
        report: is told what the reader should know.
    """

    def __init__(self, path: str | Path, report: Callable[[str], object] = lambda line: None) -> None:
        self.path = Path(path)
        self._report = report
        self.states = StateFolder(self.path / "state", report)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep every other process out, until this ends or the process does.

        What it made for that goes at the end. A folder that cannot be written is not held: :meth:`begin` says so.

        Raises:
            BlockingIOError: if another process holds it.
        """
        lock = self.path / ".training.lock"
        made = [place for place in (self.path, *self.path.parents) if not place.exists()]
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(lock, wait=False))
            except BlockingIOError as error:
                raise BlockingIOError(
                    error.errno,
                    f"another process trains into {self.path}: wait for its end, stop it, or choose another --out",
                ) from error
            except OSError as error:
                if self.path.is_dir() and os.access(self.path, os.W_OK):
                    self._report(f"{self.path} cannot be locked ({error}): let no other process train into it")
            try:
                yield
            finally:
                with suppress(OSError):  # the folder is gone, or holds a run
                    lock.unlink(missing_ok=True)
                    for place in made:
                        place.rmdir()

    def check(self, resume: bool, overwrite: bool, data: Path | None = None) -> RunState | None:
        """Refuse a folder that a run, weights or a data set would be lost in; nothing is written.

        Args:
            resume: go on with the run that is here, if there is one.
            overwrite: remove the run that is here, if there is one.
            data: folder of the data set that is trained on, if it lies in one.

        Returns:
            The state to go on from, or None where a run begins.

        Raises:
            FileExistsError: if there is a run and neither was asked for, or a run shall go on that has no state.
            ValueError: if both were, a data set lies here, or no state that is here is whole.
        """
        if resume and overwrite:
            raise ValueError("resume and overwrite exclude each other: go on with the run, or begin anew")
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(f"out = {str(self.path)!r} is a file, expected a folder")
        self._refuse_data(data)
        present = [name for name in (*_FILES, *_FOLDERS) if (self.path / name).exists()]
        if present and not (resume or overwrite):
            raise FileExistsError(
                f"{self.path} holds a run already: --resume goes on with it, --overwrite removes it and begins anew, "
                "--out names another folder"
            )
        if not resume:
            return None
        if self.states.paths():
            return self.states.load()
        saved = [name for name in present if name not in _BEGUN]
        if saved:
            raise FileExistsError(
                f"{self.path} holds {', '.join(saved)}, but no state to resume: --overwrite removes them and begins "
                "anew, --out names another folder; to start from weights, name their folder as --weights"
            )
        return None

    def _refuse_data(self, data: Path | None) -> None:
        """Refuse a folder that is or holds a data set, whose files would be taken for a run's."""
        inside = [self.path.resolve(), *((self.path / name).resolve() for name in _FOLDERS)]
        if data is not None and any(data.resolve().is_relative_to(place) for place in inside[1:]):
            raise ValueError(f"the data set {data} lies among the files of out = {self.path}: choose another --out")
        if data is not None and data.resolve() == inside[0]:
            raise ValueError(f"out = {self.path} is the folder of the data set: choose another --out")
        for name in ANNOTATION_FILES:
            if (self.path / name).is_file() and not self._is_own(name):
                raise ValueError(f"out = {self.path} holds {name}, the file of a data set: choose another --out")

    def _is_own(self, name: str) -> bool:
        """Tell whether a file was written by a run here: some annotation tools export one of the same name."""
        if name not in _FILES or not (self.path / RECORD).is_file():
            return False
        try:
            content = read_json(self.path / name)
        except ValueError:
            return False
        return isinstance(content, dict) and "images" not in content

    def begin(self, recipe: Recipe, seed: int, overwrite: bool) -> None:
        """Make the folder, without another run's files, and record what is trained.

        Raises:
            OSError: if it cannot be written.
        """
        self.refuse_unwritable()
        if overwrite:
            for name in _FILES:
                (self.path / name).unlink(missing_ok=True)
            for name in _FOLDERS:
                shutil.rmtree(self.path / name, ignore_errors=True)
        self.write_json(RECORD, {**recipe.to_dict(), "seed": seed})

    def refuse_unwritable(self) -> None:
        """Make the folder, and see to it that files can be made there.

        Raises:
            OSError: if they cannot.
        """
        probe = self.path / ".writable"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise OSError(
                error.errno, f"{self.path} cannot be written ({error.strerror}): choose another --out"
            ) from error

    def tell_room(self, weights: int, trained: int) -> None:
        """Report a disk with too little room now, not when the first state is saved.

        Args:
            weights: numbers that the model holds.
            trained: those of them that train: the optimiser keeps two more for each.
        """
        # At most at the same time: three states, and the last weights twice beside the best.
        needed = 4 * (3 * (weights + 2 * trained) + 3 * weights)
        with suppress(OSError):
            free = shutil.disk_usage(self.path).free + sum(
                entry.stat().st_size for entry in self.path.rglob("*.safetensors")
            )
            if free < needed:
                self._report(
                    f"{self.path} has room for {free / 2**20:,.0f} MB, and this run may need {needed / 2**20:,.0f}: "
                    "make room before its first state is saved, or choose another --out"
                )

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file, whole or not at all."""
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.path / name, lambda path: path.write_text(text, encoding="utf-8"))

    def write_weights(self, model: Any, processor: Any, labels: LabelMap, best: dict[str, Any] | None = None) -> None:
        """Save a detector with its processor and label map: the last one, or with the scores of the best, the best."""
        folder = self.path if best is None else self.path / "best"
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        labels.save(folder)
        if best is not None:
            shutil.copyfile(self.path / RECORD, folder / RECORD)
            self.write_json("best/result.json", best)
