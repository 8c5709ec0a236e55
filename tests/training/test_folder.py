"""The folder of a run: nothing is written over by accident, and one that cannot be written is told at once."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ddetr_lab.recipe import Recipe, load_recipe
from ddetr_lab.training.folder import RunFolder

RECIPE = Recipe("mine")


def test_a_new_folder_is_made_only_when_the_run_begins(tmp_path):
    folder = RunFolder(tmp_path / "a" / "b")
    assert folder.check(resume=False, overwrite=False) is None
    assert not folder.path.exists()
    folder.begin(RECIPE, seed=3, overwrite=False)
    assert load_recipe(folder.path) == RECIPE
    assert [entry.name for entry in folder.path.iterdir()] == ["recipe.json"]


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.jsonl", "state", "best", "recipe.json"])
def test_whatever_a_run_left_protects_its_folder(tmp_path, name):
    (tmp_path / name).mkdir() if "." not in name else (tmp_path / name).write_text("precious")
    with pytest.raises(FileExistsError, match="--resume goes on with it, --overwrite"):
        RunFolder(tmp_path).check(resume=False, overwrite=False)


def test_overwriting_removes_a_run_s_files_and_no_others(tmp_path):
    for name in ("model.safetensors", "metrics.jsonl", "notes.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "state").mkdir()
    folder = RunFolder(tmp_path)
    assert folder.check(resume=False, overwrite=True) is None
    assert (tmp_path / "model.safetensors").exists(), "nothing goes before the run can begin"
    folder.begin(RECIPE, 0, overwrite=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["notes.txt", "recipe.json"]


def test_contradictions_and_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="exclude each other"):
        RunFolder(tmp_path).check(resume=True, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file, expected a folder"):
        RunFolder(tmp_path / "file").check(resume=False, overwrite=False)


def test_a_folder_that_cannot_be_written_is_told_before_training(tmp_path, monkeypatch):
    def refused(self, *arguments, **named):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refused)
    with pytest.raises(OSError, match="cannot be written .Read-only file system.: choose another --out"):
        RunFolder(tmp_path / "new").begin(RECIPE, 0, overwrite=False)
