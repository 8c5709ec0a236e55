"""What a confined process can no longer do. Each test confines a process of its own: none of it can be undone."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

START = "import os, resource, signal, socket, subprocess, sys\nfrom ddetr_lab.classroom import confine\n"
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="these are calls of Linux")


def run(script: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", START + script],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_hook_refuses_the_network_and_signals_to_those_it_spares(tmp_path: Path) -> None:
    script = """
confine.refuse_by_hook({os.getppid()})
def refused(attempt):
    try:
        attempt()
    except PermissionError as error:
        return "graded" in str(error) or "not yours" in str(error)
    return False
tcp, udp, local = (socket.socket(*kind) for kind in (
    (socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET, socket.SOCK_DGRAM), (socket.AF_UNIX,)))
for attempt in (
    lambda: tcp.connect(("127.0.0.1", 9)), lambda: tcp.connect_ex(("127.0.0.1", 9)),
    lambda: tcp.bind(("127.0.0.1", 0)), lambda: udp.sendto(b"x", ("127.0.0.1", 9)),
    lambda: udp.sendmsg([b"x"], [], 0, ("127.0.0.1", 9)), lambda: local.connect("/nowhere"),
    lambda: socket.getaddrinfo("example.org", 80), lambda: socket.gethostbyname("example.org"),
    lambda: os.kill(os.getppid(), 0), lambda: os.kill(-1, 0), lambda: os.kill(-os.getppid(), 0),
    lambda: os.killpg(os.getppid(), 0),
):
    print(refused(attempt))
one, other = socket.socketpair()
one.send(b"x")
child = subprocess.Popen(["sleep", "60"])
child.kill()
print(child.wait() == -signal.SIGKILL)
"""
    assert run(script, tmp_path).split() == ["True"] * 13


@linux
def test_no_socket_can_be_made_and_pairs_and_children_still_can(tmp_path: Path) -> None:
    script = """
confine.drop_privileges()
confine.forbid_sockets()
for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK):
    try:
        socket.socket(family, socket.SOCK_DGRAM)
    except PermissionError:
        print("refused")
one, other = socket.socketpair()
one.send(b"x")
again = "import socket\\ntry: socket.socket()\\nexcept PermissionError: print('refused in a child')"
print(subprocess.run([sys.executable, "-c", again], capture_output=True, text=True).stdout)
"""
    assert run(script, tmp_path).split("\n") == ["refused"] * 4 + ["refused in a child"]


@linux
def test_a_machine_whose_calls_are_not_known_is_not_called_sealed(tmp_path: Path) -> None:
    script = """
confine.platform.machine = lambda: "pdp11"
try:
    confine.forbid_sockets()
except OSError as error:
    print(error)
"""
    assert "'pdp11' are not known" in run(script, tmp_path)


@linux
def test_privileges_are_gone_for_good(tmp_path: Path) -> None:
    script = """
confine.drop_privileges()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(*(int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapInh")), status["NoNewPrivs"].strip())
"""
    assert run(script, tmp_path) == "0 0 0 0 1"


@linux
def test_limits_hold_and_what_the_user_runs_already_is_allowed_for(tmp_path: Path) -> None:
    script = """
confine.limit(memory=512 << 20, file_size=1 << 16, cpu_seconds=60, processes=7)
try:
    bytearray(1 << 30)
except MemoryError:
    print("memory")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    open("big", "wb").write(bytes(1 << 20))
except OSError as error:
    print(error.strerror)
soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
print(soft == hard and soft > 7, resource.getrlimit(resource.RLIMIT_CPU), resource.getrlimit(resource.RLIMIT_CORE))
try:
    resource.setrlimit(resource.RLIMIT_CPU, (90, 90))
except (ValueError, PermissionError):
    print("not raised")
subprocess.run(["true"], check=True)
"""
    lines = run("confine.drop_privileges()\n" + script, tmp_path).splitlines()
    assert lines[:3] == ["memory", "File too large", "True (60, 60) (0, 0)"] and lines[3:] == ["not raised"]
    assert (tmp_path / "big").stat().st_size <= 1 << 16


@linux
def test_a_keeper_ends_what_its_child_leaves_running(tmp_path: Path) -> None:
    script = """
confine.keep_children()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "600"])
    os._exit(0)
os.wait()
"""
    assert run(script, tmp_path) == ""  # returns only when nobody holds the output any more: the sleeper is gone
