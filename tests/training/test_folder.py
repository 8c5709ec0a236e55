"""The folder of a run: nothing is written over by accident, and one that cannot be written is told at once."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
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


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "best", "label_map.json"])
def test_what_was_saved_without_a_state_is_not_begun_over(tmp_path, name):
    (tmp_path / name).mkdir() if "." not in name else (tmp_path / name).write_text("precious")
    with pytest.raises(FileExistsError, match=f"holds {name}, but no state to resume: --overwrite .* --out"):
        RunFolder(tmp_path).check(resume=True, overwrite=False)


def test_a_run_that_was_stopped_before_it_saved_begins_anew(tmp_path):
    folder = RunFolder(tmp_path)
    folder.begin(RECIPE, 0, overwrite=False)
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "state").mkdir()
    assert folder.check(resume=True, overwrite=False) is None


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}], ids=["new", "resume", "overwrite"])
@pytest.mark.parametrize("name", ["annotations.json", "result.json"])
@pytest.mark.parametrize("trained_before", [False, True])
def test_a_data_set_is_not_taken_for_a_run(tmp_path, how, name, trained_before):
    (tmp_path / name).write_text('{"images": [], "annotations": [], "categories": []}')
    if trained_before:
        RunFolder(tmp_path).write_json("recipe.json", RECIPE.to_dict())
    with pytest.raises(ValueError, match=f"holds {name}, the file of a data set: choose another --out"):
        RunFolder(tmp_path).check(**{"resume": False, "overwrite": False, **how})


def test_the_folder_of_the_data_set_is_refused_and_a_run_s_result_is_not(tmp_path):
    with pytest.raises(ValueError, match="is the folder of the data set"):
        RunFolder(tmp_path / "sub" / "..").check(False, True, data=tmp_path)
    with pytest.raises(ValueError, match="lies among the files of out"):
        RunFolder(tmp_path).check(False, True, data=tmp_path / "best" / "pictures")
    folder = RunFolder(tmp_path)
    folder.begin(RECIPE, 0, overwrite=False)
    folder.write_json("result.json", {"steps": 3, "ap": 0.5})
    assert folder.check(False, True, data=tmp_path / "pictures") is None


def test_a_held_folder_is_left_as_it_was(tmp_path):
    with RunFolder(tmp_path / "a" / "b").held():
        assert RunFolder(tmp_path / "a" / "b").check(False, False) is None, "the lock is no run"
        with (
            pytest.raises(BlockingIOError, match="another process trains into"),
            RunFolder(tmp_path / "a" / "b").held(),
        ):
            pass
    assert list(tmp_path.iterdir()) == []
    with RunFolder(tmp_path / "a").held():
        (tmp_path / "a" / "recipe.json").write_text(json.dumps({}))
    assert [entry.name for entry in (tmp_path / "a").iterdir()] == ["recipe.json"]


def test_a_folder_that_cannot_be_written_is_not_held(tmp_path, monkeypatch):
    def refused(self, *arguments, **named):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refused)
    with RunFolder(tmp_path / "new").held(), pytest.raises(OSError, match="cannot be written .Read-only file system."):
        RunFolder(tmp_path / "new").begin(RECIPE, 0, overwrite=False)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and a lock that goes with a process")
def test_a_killed_process_holds_nothing_even_if_its_worker_lives(tmp_path):
    code = (
        "import os, sys, time\n"
        "from ddetr_lab.training.folder import RunFolder\n"
        "with RunFolder(sys.argv[1]).held():\n"
        "    worker = os.fork()\n"
        "    if worker: print(worker, flush=True)\n"
        "    time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    try:
        with pytest.raises(BlockingIOError), RunFolder(tmp_path).held():
            pass
        process.kill()
        process.wait()
        with RunFolder(tmp_path).held():
            assert RunFolder(tmp_path).check(False, False) is None
    finally:
        os.kill(worker, signal.SIGKILL)
        process.stdout.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["overwrite", "resume"])
def test_a_run_on_a_disk_that_cannot_be_written_is_left_whole(tmp_path, monkeypatch, how):
    folder = RunFolder(tmp_path)
    folder.begin(RECIPE, 0, overwrite=False)
    (tmp_path / "model.safetensors").write_text("precious")

    def refused(self, *arguments, **named):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refused)
    with pytest.raises(OSError, match="cannot be written .Read-only file system.: choose another --out"):
        folder.begin(RECIPE, 0, overwrite=True) if how == "overwrite" else folder.refuse_unwritable()
    assert (tmp_path / "model.safetensors").read_text() == "precious"


def test_a_disk_with_too_little_room_is_told_before_training(tmp_path, monkeypatch):
    told = []
    folder = RunFolder(tmp_path, told.append)
    free = shutil.disk_usage(tmp_path)._replace(free=30 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    folder.tell_room(weights=1_000_000, trained=500_000)  # 4 bytes each: 3 x 2 million for states, 3 million weights
    assert told == [
        f"{tmp_path} has room for 30 MB, and this run may need 34: make room before its first state is saved, or "
        "choose another --out"
    ]
    (tmp_path / "model.safetensors").write_bytes(bytes(5 * 2**20))  # a run that goes on: its own files make way
    folder.tell_room(weights=1_000_000, trained=500_000)
    assert len(told) == 1
