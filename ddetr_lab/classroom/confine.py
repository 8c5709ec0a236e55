"""What a student's process may touch: called by that process before it runs a line of the student's.

In namespaces of its own (Linux, where the system lets a user make them) the process sees no network, no process but
its own, and a disk that is read-only except for one folder in memory; empty folders cover the answers, and no socket
can be made. Elsewhere an audit hook refuses sockets and signals, which stops carelessness and not malice, and the
limits below are what remains.

Used in every chapter.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

__all__ = ["drop_privileges", "forbid_sockets", "keep_children", "limit", "refuse_by_hook", "seal_disk"]

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_BIND = 1, 2, 4, 4096
MOST_FILES = 50_000  # in the folder in memory: each takes some of the kernel's memory, however empty it is
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
MOUNT_SETATTR = 442  # the number of this system call on every architecture that Python runs on
MOUNT_ATTR_RDONLY = 1
# What the audit hook refuses of the module socket; pairs of sockets, and a socket that goes nowhere, stay.
NETWORK = ("connect", "sendto", "sendmsg", "bind", "getaddrinfo", "gethostbyname", "gethostbyaddr")
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 22, 24, 36, 38
# The kernel's name of a machine, and the number of the system call that makes a socket there.
SOCKET_CALLS = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
IO_URING = 425  # a way to sockets that goes round that call; the same number on both


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def seal_disk(workspace: Path, hidden: Sequence[Path], size: int, shown: Sequence[Path] = ()) -> None:
    """Make every file read-only, cover folders and files, and put an empty folder in memory at ``workspace``.

    Args:
        workspace: the one folder that can be written.
        hidden: folders and files that are covered.
        size: bytes that the workspace holds.
        shown: folders inside covered ones that stay in sight.

    Raises:
        OSError: if the system refuses.
    """
    libc = _libc()
    # Opened before they are covered. They must be closed again: ".." of such a handle is the folder below the cover.
    handles = {folder: os.open(folder, os.O_PATH | os.O_DIRECTORY) for folder in shown}

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
        memory_at(folder, 0, f"size={size},nr_inodes={MOST_FILES},mode=700")
    for cover in hidden:
        if cover.is_dir():
            inside = [one for one in shown if one != cover and one.is_relative_to(cover)]
            memory_at(str(cover), 0 if inside else MS_RDONLY, "size=4k,mode=555")
            for one in inside:
                one.mkdir(parents=True)
                source = f"/proc/self/fd/{handles[one]}".encode()
                _checked(libc.mount(source, os.fsencode(one), None, MS_BIND, None), f"showing {one}")
        elif cover.exists():
            covered = libc.mount(b"/dev/null", os.fsencode(cover), None, MS_BIND, None)
            _checked(covered, f"covering {cover}")
    for handle in handles.values():
        os.close(handle)
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


def forbid_sockets() -> None:
    """Let no socket be made from here on. Call it after ``drop_privileges``.

    A network namespace closes the network, not the files that programs listen at: the teacher's terminal multiplexer or
    display would take commands through one. Pairs of sockets stay, which a process makes to talk to itself.

    Raises:
        OSError: if the system refuses, or the machine is of a kind that this file does not know.
    """
    machine = platform.machine()
    if machine not in SOCKET_CALLS:
        raise OSError(f"the system calls of {machine!r} are not known here")
    name, socket_call = SOCKET_CALLS[machine]
    load, equal, at_least, leave = 0x20, 0x15, 0x35, 0x06  # a program for the kernel's packet filter
    rules = [
        (load, 0, 0, 4),  # the machine that the call is meant for; a 32-bit call has other numbers
        (equal, 0, 4, name),
        (load, 0, 0, 0),  # the number of the call
        (at_least, 2, 0, 0x40000000),  # a third set of numbers, on x86 only
        (equal, 1, 0, socket_call),
        (equal, 0, 1, IO_URING),
        (leave, 0, 0, 0x00050000 | errno.EPERM),
        (leave, 0, 0, 0x7FFF0000),
    ]
    program = b"".join(struct.pack("=HBBI", *rule) for rule in rules)
    held = ctypes.create_string_buffer(program)
    header = struct.pack("@HP", len(rules), ctypes.addressof(held))
    _checked(_libc().prctl(PR_SET_SECCOMP, 2, header, 0, 0), "forbidding sockets")


def limit(memory: int, file_size: int, cpu_seconds: int, processes: int) -> None:
    """Set the limits that a process and its children inherit, and that no unprivileged process can raise.

    The memory limit is RLIMIT_DATA: what a process may write to. RLIMIT_AS would count addresses, and PyTorch maps
    several gigabytes of libraries that never take any memory. The limit on processes counts all that the user has, so
    what ran before is added: without namespaces that is the teacher's whole desktop.
    """
    limits = [
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 512),
    ]
    if hasattr(resource, "RLIMIT_NPROC"):
        limits.append((resource.RLIMIT_NPROC, processes + _threads_of_this_user()))
    for kind, value in limits:
        _, hardest = resource.getrlimit(kind)
        value = value if hardest == resource.RLIM_INFINITY else min(value, hardest)
        resource.setrlimit(kind, (value, value))


def _threads_of_this_user() -> int:
    """Count what the limit on processes counts: on Linux every thread that this process can see, elsewhere unknown."""
    found = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            found += sum(1 for _ in (entry / "task").iterdir()) if entry.stat().st_uid == os.getuid() else 0
        except OSError:  # it has ended meanwhile
            continue
    return found if sys.platform.startswith("linux") else 10_000


def refuse_by_hook(spared: Collection[int]) -> None:
    """Refuse sockets, and signals to some processes, where no namespace does it. Code that means harm gets around this.

    Args:
        spared: numbers of processes that are not the student's to signal.
    """
    forbidden = {-1, *spared, *(-pid for pid in spared)}

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith("socket.") and event.partition(".")[2] in NETWORK:
            raise PermissionError("there is no network while a notebook is graded")
        if event in ("os.kill", "os.killpg") and arguments[0] in forbidden:
            raise PermissionError("this process is not yours")

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
    os.closerange(3, 1 << 16)  # the keeper holds no end of the wire: its closing says that the child is gone
    while True:
        try:
            pid, _ = os.wait()
        except ChildProcessError:
            os._exit(0)
        if pid == child:
            for left in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
                os.kill(int(left), signal.SIGKILL)
