"""A student's process from outside: started under limits, asked over a wire, watched, and ended with all its children.

Used in every chapter.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from ddetr_lab.classroom.wire import WireError, pack, unpack
from ddetr_lab.ops.build import cache_folder

__all__ = ["Ended", "Limits", "Sandbox", "can_seal", "descendants"]

UNSHARE = (
    *("unshare", "--user", "--map-root-user", "--mount", "--net", "--ipc", "--uts"),
    *("--pid", "--fork", "--kill-child", "--mount-proc"),
)
SECRETS = (  # below the home folder
    *(".ssh", ".aws", ".gnupg", ".config", ".kube", ".docker", ".mozilla", ".local/share/keyrings"),
    *(".netrc", ".git-credentials", ".pypirc", ".Xauthority", ".bash_history", ".python_history"),
)
KEPT_OUTPUT = 2**20  # bytes printed by a notebook; the rest is counted and dropped
START = 300.0  # seconds for the process to load PyTorch: a busy machine is not the student's fault
MOST_FILES = 50_000  # below the working folder, where no namespace limits it


class Ended(Exception):
    """The student's process is gone; the message says why."""


@dataclass(frozen=True)
class Limits:
    """What one notebook may use.

    Attributes:
        seconds: of wall-clock time for the notebook.
        cell_seconds: for one cell, or one call of a check.
        grace: seconds beyond that for the answer to arrive, before a process that does not stop is ended.
        memory: bytes that a process may write to, and that all processes of a notebook may hold.
        file_size: bytes of the largest file; all together may have twice as many.
        processes: at most at the same time, threads not counted.
    """

    seconds: float = 600.0
    cell_seconds: float = 200.0
    grace: float = 5.0
    memory: int = 4 * 2**30
    file_size: int = 256 * 2**20
    processes: int = 64


def descendants(pid: int) -> list[int]:
    """Return the processes below a process (Linux; elsewhere none)."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat") if sys.platform.startswith("linux") else ():
        with contextlib.suppress(OSError, ValueError, IndexError):
            parents.setdefault(int(entry.read_text().rpartition(")")[2].split()[1]), []).append(int(entry.parent.name))
    found, open_ends = [], [pid]
    while open_ends:
        children = parents.get(open_ends.pop(), [])
        found += children
        open_ends += children
    return found


@lru_cache(maxsize=1)
def can_seal() -> bool:
    """Whether this system lets a user make namespaces: tried once, by starting and ending a sealed process."""
    if shutil.which("unshare") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        settings = {"workspace": folder, "sealed": True, "hidden": [], "shown": [], "file_size": 2**20, "probe": True}
        command = [*UNSHARE, *_python(settings)]
        done = subprocess.run(command, env=_environment(Path(folder)), capture_output=True, timeout=START, check=False)
        return done.returncode == 0


def _is_full(folder: Path, most: int) -> bool:
    """Whether a folder holds more bytes or files than it may; links are not followed."""
    size = count = 0
    open_ends = [str(folder)]
    while open_ends:
        try:
            with os.scandir(open_ends.pop()) as entries:
                for entry in entries:
                    count += 1
                    if entry.is_dir(follow_symlinks=False):
                        open_ends.append(entry.path)
                    else:
                        size += entry.stat(follow_symlinks=False).st_size
                    if size > most or count > MOST_FILES:
                        return True
        except OSError:  # it changes while it is read
            continue
    return False


def _remove(folder: str) -> None:
    """Remove a folder, whatever a student's process has made of it: closed to its owner, or too deep for Python."""
    for command in (("chmod", "-R", "u+rwx"), ("rm", "-rf")):
        subprocess.run([*command, "--", folder], capture_output=True, check=False)


def _python(settings: dict[str, Any]) -> list[str]:
    return [sys.executable, "-m", "ddetr_lab.classroom.inside", json.dumps(settings)]


def _environment(workspace: Path) -> dict[str, str]:
    """Return an environment made from nothing: no token of the teacher's is in it."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(workspace),
        "TMPDIR": str(workspace / "tmp"),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "DDETR_LAB_CACHE": str(cache_folder()),
        "MPLBACKEND": "Agg",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


class Sandbox:
    """One student's process.

    Args:
        limits: that hold for it.
        sealed: whether to use namespaces (see ``can_seal``).
        hidden: folders that hold answers or other students' work.
        shown: folders inside those that hold neither, and that notebooks read.
    """

    def __init__(self, limits: Limits, sealed: bool, hidden: Sequence[Path], shown: Sequence[Path] = ()) -> None:
        self.limits, self.printed, self.reason = limits, 0, ""
        self.closed = threading.Event()
        self.folder = tempfile.mkdtemp(prefix="ddetr-grade-")
        self.workspace = workspace = Path(self.folder).resolve()
        ours, theirs = socket.socketpair()
        self.wire = ours
        self.sealed = sealed
        self.deadline = time.monotonic() + START
        covered = [*dict.fromkeys(hidden), *(Path.home() / name for name in SECRETS), Path("/run")]
        settings = {
            "workspace": str(workspace),
            "sealed": sealed,
            "hidden": [str(folder) for folder in covered if not workspace.is_relative_to(folder)],
            "shown": [str(folder) for folder in shown],
            "memory": limits.memory,
            "file_size": limits.file_size,
            "cpu_seconds": int(limits.seconds) + 10,
            "processes": limits.processes * 4,  # the kernel counts threads too
            "descriptor": theirs.fileno(),
            "probe": False,
        }
        self.process = subprocess.Popen(
            [*(UNSHARE if sealed else ()), *_python(settings)],
            env=_environment(workspace),
            cwd=workspace,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        self.output = bytearray()
        self.threads = [
            threading.Thread(target=self._drain, args=(self.process.stdout,), daemon=True),
            threading.Thread(target=self._watch, daemon=True),
        ]
        for thread in self.threads:
            thread.start()
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        try:
            header, _ = unpack(lambda size: self._exactly(size, self.deadline))
        except (OSError, WireError) as error:
            header = {"op": str(error)}
        if header.get("op") != "ready":
            self.end()
            said = self.output.decode(errors="replace").strip()[-500:]
            raise RuntimeError(f"the sandbox did not start ({header.get('op')}); it printed: {said or 'nothing'}")
        self.deadline = time.monotonic() + self.limits.seconds

    def ask(self, header: dict[str, Any], buffers: Sequence[bytes] = ()) -> tuple[dict[str, Any], list[bytes]]:
        """Send a frame and wait for the answer.

        Raises:
            Ended: if none comes in time; the process is gone then.
        """
        seconds = self.limits.cell_seconds
        until = min(self.deadline, time.monotonic() + seconds + self.limits.grace)
        try:
            self._patience(until)
            self.wire.sendall(pack({**header, "seconds": seconds}, list(buffers)))
            return unpack(lambda size: self._exactly(size, until))
        except (OSError, WireError) as error:
            self.end(self._why(error))
            raise Ended(self.reason) from error

    def _why(self, error: Exception) -> str:
        if time.monotonic() >= self.deadline:
            return f"stopped after {self.limits.seconds:g} seconds, the limit for a notebook"
        if isinstance(error, TimeoutError):
            return f"a cell ran longer than {self.limits.cell_seconds:g} seconds and could not be interrupted"
        if isinstance(error, WireError):
            return "the process sent what no answer looks like"
        return "the process ended itself (os._exit, a crash, or a limit of memory or processor time)"

    def _patience(self, until: float) -> None:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.wire.settimeout(left)

    def _exactly(self, size: int, until: float) -> bytes:
        parts = []
        while size:
            self._patience(until)
            part = self.wire.recv(min(size, 1 << 20))
            if not part:
                raise ConnectionError("the other end was closed")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _drain(self, pipe: IO[bytes]) -> None:
        """Read what is printed, so that nothing blocks, and keep the beginning."""
        while part := os.read(pipe.fileno(), 1 << 16):
            self.printed += len(part)
            self.output += part[: max(0, KEPT_OUTPUT - len(self.output))]
        pipe.close()

    def _watch(self) -> None:
        """End the process if it and its children together hold too much memory or disk, or are too many."""
        page = os.sysconf("SC_PAGE_SIZE")
        for look in itertools.count():
            if self.closed.wait(0.2):
                return
            if not self.sealed and look % 5 == 0 and _is_full(self.workspace, 2 * self.limits.file_size):
                self.end(f"stopped with more than {2 * self.limits.file_size / 2**20:.0f} MB or {MOST_FILES} files")
                return
            everyone = descendants(self.process.pid)
            held = 0
            for pid in everyone:
                with contextlib.suppress(OSError, ValueError):
                    _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
                    held += (int(resident) - int(shared)) * page
            if len(everyone) > self.limits.processes:
                self.end(f"stopped with more than {self.limits.processes} processes")
            elif held > self.limits.memory:
                self.end(f"stopped with more than {self.limits.memory / 2**30:.1f} GB of memory")

    def end(self, reason: str = "") -> None:
        """End the process and all its children, and remove its folder. May be called again."""
        self.reason = self.reason or reason
        self.closed.set()
        for _ in range(50):  # a child may fork while its siblings are ended
            left = descendants(self.process.pid)
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            if not left:
                break
            time.sleep(0.01)
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if threading.current_thread() not in self.threads:
            for thread in self.threads:
                thread.join(timeout=5)
            self.wire.close()
            _remove(self.folder)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
