"""What a student's process may touch: called by that process before it runs a line of the student's.

In namespaces of its own (Linux, where the system lets a user make them) the process sees no network, no process but
its own, and a disk that is read-only except for one folder in memory; empty folders cover the answers. Elsewhere an
audit hook refuses sockets, which stops carelessness and not malice, and the limits below are what remains.

Used in every chapter.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["drop_privileges", "keep_children", "limit", "refuse_sockets", "seal_disk"]

MS_RDONLY, MS_NOSUID, MS_NODEV = 1, 2, 4
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
MOUNT_SETATTR = 442  # the number of this system call on every architecture that Python runs on
MOUNT_ATTR_RDONLY = 1
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 24, 36, 38


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def seal_disk(workspace: Path, hidden: Sequence[Path], size: int) -> None:
    """Make every file read-only, cover some folders, and put an empty folder in memory at ``workspace``.

    Raises:
        OSError: if the system refuses.
    """
    libc = _libc()

    def memory_at(folder: str, flags: int, options: str) -> None:
        made = libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags | MS_NOSUID | MS_NODEV, options.encode())
        _checked(made, f"mounting {folder}")

    def read_only(folder: str, on: bool, recursive: bool) -> None:
        bits = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY if on else 0, 0 if on else MOUNT_ATTR_RDONLY, 0, 0)
        flags = AT_RECURSIVE if recursive else 0
        done = libc.syscall(MOUNT_SETATTR, AT_FDCWD, os.fsencode(folder), flags, bits, ctypes.sizeof(bits))
        _checked(done, f"making {folder} {'read-only' if on else 'writable'}")

    writable = [str(workspace)] + (["/dev/shm"] if os.path.isdir("/dev/shm") else [])
    for folder in writable:
        memory_at(folder, 0, f"size={size},mode=700")
    for cover in hidden:
        if cover.is_dir():
            memory_at(str(cover), MS_RDONLY, "size=4k,mode=555")
    read_only("/", on=True, recursive=True)
    for folder in writable:
        read_only(folder, on=False, recursive=False)


def drop_privileges() -> None:
    """Give up what the process could do inside its own namespaces, such as uncovering folders, for good.

    Raises:
        OSError: if the system refuses.
    """
    libc = _libc()
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "giving up new privileges")
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails past the last one that the kernel knows
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _checked(libc.capset(header, nothing), "giving up capabilities")


def limit(memory: int, file_size: int, cpu_seconds: int, processes: int) -> None:
    """Set the limits that a process and its children inherit, and that no unprivileged process can raise.

    The memory limit is RLIMIT_DATA: what a process may write to. RLIMIT_AS would count addresses, and PyTorch maps
    several gigabytes of libraries that never take any memory.
    """
    limits = [
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 512),
    ]
    if hasattr(resource, "RLIMIT_NPROC"):
        limits.append((resource.RLIMIT_NPROC, processes))
    for kind, value in limits:
        _, hardest = resource.getrlimit(kind)
        value = value if hardest == resource.RLIM_INFINITY else min(value, hardest)
        resource.setrlimit(kind, (value, value))


def refuse_sockets() -> None:
    """Refuse connections to other machines, where no namespace does it. Code that means harm can get around this."""

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.sendto", "socket.bind", "socket.getaddrinfo"):
            raise PermissionError("there is no network while a notebook is graded")

    sys.addaudithook(refuse)


def keep_children() -> None:
    """Go on in a child, and leave a keeper behind that adopts and ends whatever the child's children leave running.

    Only needed without a namespace of processes, where a child that forks twice belongs to nobody.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = _libc()
    libc.prctl(PR_SET_SUBREAPER, 1, 0, 0, 0)
    child = os.fork()
    if child == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        return
    os.closerange(3, 256)  # the keeper holds no end of the wire: its closing says that the child is gone
    while True:
        try:
            pid, _ = os.wait()
        except ChildProcessError:
            os._exit(0)
        if pid == child:
            for left in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
                os.kill(int(left), signal.SIGKILL)
