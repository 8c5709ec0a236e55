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

Built in chapter 16.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ddetr_lab.data.labels import LABEL_MAP_FILE, LabelMap
from ddetr_lab.files import write_atomically
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


class RunFolder:
    """The folder of one run.

    Args:
        path: made by :meth:`claim`.
        report: is told what the reader should know.
    """

    def __init__(self, path: str | Path, report: Callable[[str], object] = lambda line: None) -> None:
        self.path = Path(path)
        self.states = StateFolder(self.path / "state", report)

    @property
    def holds_run(self) -> bool:
        """Whether a run has begun here."""
        return any((self.path / name).exists() for name in (*_FILES, *_FOLDERS))

    def check(self, resume: bool, overwrite: bool) -> RunState | None:
        """Refuse a folder that a run would be lost in; nothing is written.

        Args:
            resume: go on with the run that is here, if there is one.
            overwrite: remove the run that is here, if there is one.

        Returns:
            The state to go on from, or None where a run begins.

        Raises:
            FileExistsError: if there is a run and neither was asked for.
            ValueError: if both were, or no state that is here is whole.
        """
        if resume and overwrite:
            raise ValueError("resume and overwrite exclude each other: go on with the run, or begin anew")
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(f"out = {str(self.path)!r} is a file, expected a folder")
        if self.holds_run and not (resume or overwrite):
            raise FileExistsError(
                f"{self.path} holds a run already: --resume goes on with it, --overwrite removes it and begins anew, "
                "--out names another folder"
            )
        return self.states.load() if resume and self.states.paths() else None

    def begin(self, recipe: Recipe, seed: int, overwrite: bool) -> None:
        """Make the folder, without another run's files, and record what is trained.

        Raises:
            OSError: if it cannot be written.
        """
        if overwrite:
            for name in _FILES:
                (self.path / name).unlink(missing_ok=True)
            for name in _FOLDERS:
                shutil.rmtree(self.path / name, ignore_errors=True)
        probe = self.path / ".writable"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise OSError(
                error.errno, f"{self.path} cannot be written ({error.strerror}): choose another --out"
            ) from error
        self.write_json(RECORD, {**recipe.to_dict(), "seed": seed})

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
