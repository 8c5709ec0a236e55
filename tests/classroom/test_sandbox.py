"""A student's process from outside: how it starts, what it does not inherit, and that nothing of it stays."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddetr_lab.classroom import sandbox
from ddetr_lab.classroom.sandbox import Ended, Limits, Sandbox, can_seal, descendants
from tests.conftest import ROOT

needs_namespaces = pytest.mark.skipif(not can_seal(), reason="this system lets no user make namespaces")


@pytest.mark.parametrize("command", [["false"], ["sleep", "60"], ["echo", "no Python here"]])
def test_a_process_that_does_not_start_is_our_fault_and_told_with_what_it_printed(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_python", lambda settings: command)
    monkeypatch.setattr(sandbox, "START", 0.5)
    with pytest.raises(RuntimeError, match="did not start") as caught:
        Sandbox(Limits(), sealed=False, hidden=[])
    assert ("no Python here" in str(caught.value)) == (command[0] == "echo")


def test_where_no_program_makes_namespaces_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sandbox.shutil, "which", lambda name: None)
        can_seal.cache_clear()
        assert not can_seal()
    can_seal.cache_clear()


@needs_namespaces
def test_secrets_folders_and_files_are_covered_and_no_variable_is_inherited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ssh").mkdir()
    for secret in (".ssh/key", ".netrc", "plain"):
        (tmp_path / secret).write_text("secret", encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TOKEN", "secret")
    monkeypatch.setenv("DDETR_LAB_CACHE", str(sandbox.cache_folder()))
    code = f"""
import os
home = {str(tmp_path)!r}
assert os.listdir(home + "/.ssh") == [], "a folder is open"
assert open(home + "/.netrc").read() == "", "a file is open"
assert open(home + "/plain").read() == "secret"
assert "TOKEN" not in os.environ
"""
    with Sandbox(Limits(), sealed=True, hidden=[]) as inside:
        assert inside.ask({"op": "run", "code": code})[0] == {"op": "ran", "error": None, "sizes": []}


def test_an_ended_process_is_ended_once_and_nothing_of_it_stays() -> None:
    code = "import os\nos.makedirs('a/b')\nos.chmod('a/b', 0)\nos.chmod('a', 0)"
    deep = "for _ in range(2000):\n  os.mkdir('d')\n  os.chdir('d')"
    inside = Sandbox(Limits(), sealed=False, hidden=[])
    for step in (code, deep):
        assert inside.ask({"op": "run", "code": step})[0]["error"] is None
    assert inside.process.pid in descendants(os.getpid())
    inside.end("enough")
    inside.end("more")
    assert inside.reason == "enough" and not Path(inside.folder).exists()
    assert inside.process.pid not in descendants(os.getpid())
    with pytest.raises(Ended, match="enough"):
        inside.ask({"op": "run", "code": "1"})


def test_the_time_for_a_notebook_begins_when_the_process_is_ready() -> None:
    with Sandbox(Limits(seconds=1.0, cell_seconds=30.0), sealed=False, hidden=[]) as inside:
        assert inside.ask({"op": "name", "name": "x"})[0]["kind"] is None
        with pytest.raises(Ended, match="after 1 seconds, the limit for a notebook"):
            inside.ask({"op": "run", "code": "while True: pass"})


@pytest.mark.parametrize(("files", "each", "full"), [(2, 10, False), (3, 400, True), (30, 0, True)])
def test_a_folder_is_full_by_bytes_or_by_files(
    files: int, each: int, full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "MOST_FILES", 20)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "loop").symlink_to(tmp_path)
    for number in range(files):
        (tmp_path / "below" / str(number)).write_bytes(bytes(each))
    assert sandbox._is_full(tmp_path, most=1000) == full


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from /proc")
def test_descendants_are_found_over_generations() -> None:
    command = [sys.executable, "-S", "-c", "import subprocess; subprocess.run(['sleep', '60'])"]
    with subprocess.Popen(command, start_new_session=True) as child:
        until = time.monotonic() + 60
        while len(found := descendants(child.pid)) < 1 and time.monotonic() < until:
            time.sleep(0.02)
        assert len(found) == 1 and set(found) < set(descendants(os.getpid()))
        for pid in found:
            os.kill(pid, 9)
    assert descendants(child.pid) == []


def test_the_environment_is_made_from_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    made = sandbox._environment(tmp_path)
    assert "secret" not in made.values() and made["PYTHONPATH"] == str(ROOT)
